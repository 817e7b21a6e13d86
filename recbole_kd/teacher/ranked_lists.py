"""A file of a teacher's ranked lists: the k best items of every query.

The lists are computed block by block, in one process or on Ray workers.
"""

from __future__ import annotations

import json
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from recbole_kd.errors import ConfigError, TargetError, TeacherError
from recbole_kd.storage.digests import file_digest, settings_digest
from recbole_kd.storage.files import SCORES, read_manifest, read_tensors, write_json
from recbole_kd.storage.targets import check_folder
from recbole_kd.teacher.block_writer import BlockFile, Layout, make_blocks
from recbole_kd.teacher.export import scores_from
from recbole_kd.teacher.stores.lists import ListScores
from recbole_kd.teacher.stores.remapped import N_USERS

LISTS, ABOUT = "lists.safetensors", "lists.json"


def export_lists(
    folder: Path, out: Path, k: int, *, queries: range | None = None, step: int = 1024, ray_address: str | None = None
) -> Path:
    """Write the ids and scores of the k best items of each query.

    The ids are int32 ``[Q, k]``, filled up with 0, and the scores float32 ``[Q, k]``. An interrupted export of the same
    lists is resumed; any other is started from the beginning.

    Args:
        folder: folder of a teacher with a factor or dense store.
        out: missing, empty, or a folder of such lists. It gets ``lists.safetensors`` and ``lists.json``.
        k: length of the lists.
        queries: consecutive ids. If None, all without the pad.
        step: queries per block.
        ray_address: address of a cluster whose workers rank. Its nodes get the teacher's tables through Ray's object
            store.

    Raises:
        ConfigError: k is larger than the catalogue, or the range of queries is invalid.
        TeacherError: there is no such teacher, or it has no stored scores.
        TargetError: ``out`` holds anything else, or finished lists that differ from the ones asked for.
    """
    manifest = read_manifest(folder)
    if manifest["store"] == "online":
        raise TeacherError(
            f"{folder} keeps a model and no scores: export the teacher with teacher_store=factors or dense first"
        )
    if manifest["store"] == "lists":
        raise TeacherError(f"{folder} has ranked lists and no other scores: give the folder itself as --teacher_path")
    n_queries, n_items = manifest["n_queries"], manifest["n_items"]
    queries = range(1, n_queries) if queries is None else queries
    if not 1 <= k < n_items:
        raise ConfigError(f"k={k} is not possible: it must be between 1 and {n_items - 1}, the size of the catalogue")
    if queries.step != 1 or not 0 <= queries.start < queries.stop <= n_queries or step < 1:
        raise ConfigError(
            f"queries {queries.start} to {queries.stop} in blocks of {step} are not possible: the teacher has "
            f"{n_queries - 1}"
        )
    about = {
        "k": k, "first_query": queries.start, "n_queries": len(queries),
        "teacher": {key: manifest.get(key) for key in ("model", "settings", "data", "store", "dtype", "svd")},
        "scores": file_digest(folder / SCORES),
        **({N_USERS: manifest[N_USERS], "of_queries": n_queries} if N_USERS in manifest else {}),
    }  # fmt: skip
    _check_out(out, folder, about)
    layout = Layout({"ids": (torch.int32, k), "scores": (torch.float32, k)}, len(queries), step)
    out.mkdir(parents=True, exist_ok=True)
    tables = {name: table.numpy() for name, table in read_tensors(folder / SCORES).items()}
    file = BlockFile(out / LISTS, layout, settings_digest(about))
    make_blocks(file, ListRows(tables, queries.start, k), ray_address)
    write_json(out / ABOUT, about)  # before the lists, because lists without it count as foreign
    file.finish()
    return out / LISTS


def _check_out(out: Path, folder: Path, about: Mapping[str, Any]) -> None:
    """Refuse a folder that holds anything except lists of ours, complete or partial.

    Raises:
        TargetError: it does.
    """
    known = (LISTS, ABOUT, f"{LISTS}.partial", f"{LISTS}.blocks")
    there = {path.name for path in out.iterdir()} if out.is_dir() else set()
    foreign = set() if ABOUT in there else {LISTS}  # an export writes lists.json first
    foreign |= set() if f"{LISTS}.blocks" in there else {f"{LISTS}.partial"}

    def own(path: Path) -> bool:
        return path.name in known and path.name not in foreign and not path.is_symlink()

    check_folder(out, own=own, option="--out", sources=[folder])
    if LISTS in there and about_of(out) != json.loads(json.dumps(about, default=str)):
        raise TargetError(
            f"Invalid --out={out}: it holds other lists, or lists of another teacher. Name a missing or empty folder."
        )


def about_of(out: Path) -> Any:
    """Return the content of ``lists.json``, or None if it is missing or damaged."""
    try:
        return json.loads((out / ABOUT).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None


@dataclass(frozen=True)
class ListRows:
    """Blocks of ranked lists.

    Attributes:
        tables: tables of the store, as arrays, which Ray's workers read without a copy.
        first: the query of the first row.
        k: length of the lists.
    """

    tables: Mapping[str, Any]
    first: int
    k: int

    def __call__(self, rows: slice) -> dict[str, Tensor]:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # the arrays are read-only, and are only read
            tables = {name: torch.from_numpy(table) for name, table in self.tables.items()}
        ids, values = scores_from(tables, {}).top_k(
            torch.arange(self.first + rows.start, self.first + rows.stop), self.k
        )
        return {"ids": ids.to(torch.int32), "scores": values}


def is_export(folder: Path) -> bool:
    """Test whether a folder holds finished lists of :func:`export_lists`."""
    return (folder / LISTS).is_file() and (folder / ABOUT).is_file()


def exported_lists(folder: Path) -> ListScores:
    """Return the lists of :func:`export_lists` as a teacher.

    Queries that were not exported are not covered.

    Raises:
        TeacherError: the files are damaged or do not belong together.
    """
    about, again = about_of(folder), "delete the folder and export the lists again"
    try:
        teacher, first = about["teacher"], int(about["first_query"])
        n_queries, n_items = int(about.get("of_queries", teacher["data"]["n_users"])), int(teacher["data"]["n_items"])
        shape = (int(about["n_queries"]), int(about["k"]))
    except (TypeError, KeyError, ValueError, AttributeError):
        raise TeacherError(f"{folder / ABOUT} is damaged; {again}") from None
    tables = read_tensors(folder / LISTS)
    if {name: tuple(table.shape) for name, table in tables.items()} != {"ids": shape, "scores": shape}:
        raise TeacherError(f"{folder / LISTS} is not what {ABOUT} says; {again}")
    ids, scores = tables["ids"], tables["scores"]
    counts = torch.zeros(n_queries + 1, dtype=torch.int64)
    if not 0 <= first <= n_queries - shape[0]:
        raise TeacherError(f"{folder / ABOUT} is damaged; {again}")
    counts[first + 1 : first + 1 + shape[0]] = (ids != 0).sum(1)
    manifest = {
        "model": teacher["model"], "store": ListScores.store, "dtype": "fp32", "data": teacher["data"], "report": {},
        "n_queries": n_queries, "n_items": n_items,
        **({N_USERS: about[N_USERS]} if N_USERS in about else {}),
    }  # fmt: skip
    return ListScores(counts.cumsum(0), ids[ids != 0], scores[ids != 0], n_items, manifest)
