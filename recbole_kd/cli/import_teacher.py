"""``recbole-kd import-teacher``: make a teacher of another system's ranked lists or vectors."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from recbole_kd.cli.parser import SentenceParser
from recbole_kd.config.merging import merge_sources
from recbole_kd.config.parsing import parse_arguments, split_config_files
from recbole_kd.data.split_and_loaders import Splits, split_data
from recbole_kd.errors import ConfigError
from recbole_kd.integration.compat import quiet_warnings
from recbole_kd.pipeline.request import make_request
from recbole_kd.storage.targets import check_folder
from recbole_kd.teacher.base import TeacherScores
from recbole_kd.teacher.coverage import coverage_of
from recbole_kd.teacher.external import teacher_from_file, teacher_from_vectors, write_teacher
from recbole_kd.teacher.list_builder import TEMPERATURE, left_out
from recbole_kd.teacher.ranked_lists import exported_lists, is_export
from recbole_kd.teacher.stores.lists import FLOOR, MASK, treat_unlisted
from recbole_kd.teacher.tables import SUFFIXES
from recbole_kd.teacher.vector_files import VECTOR_SUFFIXES, read_vectors

EXAMPLES = [
    "recbole-kd import-teacher lists.csv --dataset=ml-100k --user=user --item=item --score=score --out=teacher",
    "recbole-kd import-teacher lists.jsonl --dataset=ml-100k --rank=rank --out=teacher",
    "recbole-kd import-teacher vectors.npz --dataset=ml-100k --out=teacher",
    "recbole-kd import-teacher users.npy --item_vectors=items.npy --user_ids=users.txt --item_ids=items.txt "
    "--dataset=ml-100k --out=teacher",
]
FILES_OF_VECTORS = ("item_vectors", "user_ids", "item_ids")
COLUMNS = ("user", "item", "score", "rank", "confidence", "position")
STAND_IN = {"general": "MF", "sequential": "SASRec"}
"""A model whose settings of the data are those of every run."""


def _parser() -> SentenceParser:
    parser = SentenceParser(
        "import-teacher",
        "Make a teacher of ranked lists or of vectors with external ids, for --teacher_path.",
        EXAMPLES,
        "other --KEY=VALUE are those of the data in `recbole-kd run`, such as --data_path, --eval_args or --setting",
    )
    add = parser.add_argument
    forms = f"a table ({', '.join(SUFFIXES)}), a folder of export-lists, or vectors ({', '.join(VECTOR_SUFFIXES)})"
    add("file", type=Path, metavar="FILE", help=forms)
    add("--dataset", required=True, metavar="NAME", help="the data set of the runs that will use the teacher")
    add("--user", metavar="COLUMN", help="column of users (default: user, user_id ...)")
    add("--item", metavar="COLUMN", help="column of items (default: item, item_id ...)")
    add("--item_vectors", type=Path, metavar="FILE", help="vectors of the items, where FILE is a .npy of the users")
    add("--user_ids", type=Path, metavar="FILE", help="of vectors: an id a line; not for .npz that holds them")
    add("--item_ids", type=Path, metavar="FILE", help="the same of the items")
    value = parser.add_mutually_exclusive_group()
    value.add_argument("--score", metavar="COLUMN", help="column of scores, of which the highest is best")
    value.add_argument("--rank", metavar="COLUMN", help="column of ranks, of which the lowest is best")
    add("--confidence", metavar="COLUMN", help="column of the teacher's confidence, from 0, for kd_list_weights")
    add("--position", metavar="COLUMN", help="column of the number of a user's interactions before the list, from 1")
    add(
        "--temperature",
        type=float,
        default=TEMPERATURE,
        help=f"T of the scores that ranks become, -place / T (default: {TEMPERATURE:g})",
    )
    add("--unlisted", choices=(FLOOR, MASK), help="items outside a list: one score below it (default), or in no loss")
    add("--strict", action="store_true", help="refuse rows that would be left out")
    add("--out", type=Path, required=True, metavar="DIR", help="a missing or empty folder that gets the teacher")
    return parser


def run(words: list[str]) -> int:
    """Import the lists and print their folder and counts; return 0.

    Raises:
        KDError: bad input. Nothing is written.
    """
    given, rest = _parser().parse_known_args(words)
    check_folder(given.out, option="--out", sources=[given.file])
    splits = data_of(given.dataset, rest)[1]
    if is_export(given.file):
        _refuse(given, (*COLUMNS, *FILES_OF_VECTORS), "a folder of export-lists")
        lists = exported_lists(given.file)
        lists.check_data(splits.fingerprint)
        treat_unlisted(lists, given.unlisted)
        write_teacher(given.out, lists.tensors(), lists.manifest)
        teacher: TeacherScores = lists
    elif given.file.suffix in VECTOR_SUFFIXES:
        teacher = _from_vectors(given, splits)
    else:
        _refuse(given, FILES_OF_VECTORS, "a table of lists")
        if given.file.suffix not in SUFFIXES:
            raise ConfigError(
                f"Invalid FILE {given.file}: expected a name that ends in "
                f"{', '.join((*SUFFIXES, *VECTOR_SUFFIXES))}, or a folder of `recbole-kd export-lists`"
            )
        names = {name: getattr(given, name) for name in COLUMNS}
        more = {
            "temperature": given.temperature, "unlisted": given.unlisted or FLOOR, "strict": given.strict,
            "out": given.out,
        }  # fmt: skip
        teacher = teacher_from_file(given.file, splits.parts[0], **names, **more)
    print(_report(given.out, teacher))
    return 0


def data_of(dataset: str, words: list[str]) -> tuple[Any, Splits]:
    """Return a Config and the data of the runs that will use a teacher.

    Args:
        dataset: its name.
        words: further ``--KEY=VALUE`` arguments of the data.

    Raises:
        KDError: as by a run.
    """
    values: dict[str, Any] = parse_arguments([f"--dataset={dataset}", *words])
    files = split_config_files(values.pop("config_files", None))
    merged = merge_sources(files, None, values)
    model = STAND_IN.get(str(merged.get("setting", "general")), STAND_IN["general"])
    request = make_request({"model": model, "teacher": model, "kd": "CE", "state": "ERROR", **merged})
    with quiet_warnings():
        config = request.student_config()[0]
        return config, split_data(config)


def _from_vectors(given: argparse.Namespace, splits: Splits) -> TeacherScores:
    """Return the teacher of vector files, written to ``--out``."""
    _refuse(given, (*COLUMNS, "unlisted"), "vectors")
    found = read_vectors(given.file, given.item_vectors, given.user_ids, given.item_ids)
    ids = {"user_ids": found.user_ids, "item_ids": found.item_ids}
    return teacher_from_vectors(found.users, found.items, splits.parts[0], **ids, out=given.out)


def _refuse(given: argparse.Namespace, names: Sequence[str], source: str) -> None:
    """Refuse options that a source does not read (ConfigError)."""
    for name in names:
        if getattr(given, name) is not None:
            raise ConfigError(f"--{name}={getattr(given, name)} has no effect on {source}: leave it out")


def _report(out: Path, teacher: TeacherScores) -> str:
    found, counts = coverage_of(teacher), teacher.manifest.get("imported", {})
    if found is None or teacher.complete:
        users = f"all {teacher.n_queries - 1:,}" if found is None else f"{found['users']:,} of {found['of_users']:,}"
        return f"{out}: vectors of {users} users and all {teacher.n_items - 1:,} items"
    lines = [
        f"{out}: lists of {found['users']:,} of {found['of_users']:,} users, with {found['items']:,} of "
        f"{found['of_items']:,} items",
        *([f"for {found['histories']:,} of {found['of_histories']:,} histories"] if "histories" in found else []),
        *(f"left out: {words}" for words in left_out(counts)),
    ]
    return "\n".join(lines)
