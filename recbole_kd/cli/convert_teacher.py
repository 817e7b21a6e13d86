"""``recbole-kd convert-teacher``: store a teacher's scores in another form."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from recbole_kd.cli.parser import SentenceParser
from recbole_kd.errors import KDError, TeacherError
from recbole_kd.storage.files import FILES, SCORES, read_manifest, read_tensors
from recbole_kd.storage.integrity import OWN_SHA256
from recbole_kd.storage.targets import check_folder
from recbole_kd.teacher.convert import write_dense, write_truncated
from recbole_kd.teacher.export import DTYPES, scores_from
from recbole_kd.teacher.modalities import read_modalities

EXAMPLES = ["recbole-kd convert-teacher saved/cache/teacher/NAME --out=small --svd=64 --dtype=fp16"]


SOURCE = "converted_from"
"""Manifest key of a converted teacher: the SHA-256 of its source's manifest, which holds those of its files."""


def _parser() -> SentenceParser:
    parser = SentenceParser(
        "convert-teacher", "Store a teacher as factors of another width, or as a score matrix.", EXAMPLES
    )
    add = parser.add_argument
    add(
        "teacher",
        type=Path,
        metavar="FOLDER",
        help="a teacher with a factor or dense store, as a run leaves it in its cache",
    )
    add(
        "--out",
        type=Path,
        required=True,
        metavar="DIR",
        help="a missing or empty folder that gets the teacher; give it as --teacher_path",
    )
    how = parser.add_mutually_exclusive_group(required=True)
    how.add_argument("--svd", type=int, metavar="WIDTH", help="as factors of this width, by truncated SVD")
    how.add_argument("--dense", action="store_true", help="as a score matrix")
    add("--dtype", choices=sorted(DTYPES), default="fp32")
    return parser


def run(words: list[str]) -> int:
    """Convert the teacher and print its folder and fidelity; return 0.

    Raises:
        KDError: bad input.
    """
    given = _parser().parse_args(words)
    if _is_made(given):
        print(f"{given.out} is this teacher in this form already, and is kept")
    else:
        _make(given)
    fidelity = read_manifest(given.out).get("fidelity")
    print(
        given.out
        if fidelity is None
        else f"{given.out}: " + ", ".join(f"{name} {value:.4g}" for name, value in fidelity.items())
    )
    return 0


def _is_made(given: argparse.Namespace) -> bool:
    """Return whether the output is there already, whole: a command that was killed at its end is repeated."""
    if given.out.is_symlink() or given.out.resolve() == given.teacher.resolve():
        return False
    try:
        source, made = read_manifest(given.teacher), read_manifest(given.out)
    except (KDError, OSError):  # said below, if it matters
        return False
    how = {"store": "dense"} if given.dense else {"store": "factors", "svd": given.svd}
    return _identity(made) == _identity({**source, **how, "dtype": given.dtype, SOURCE: source.get(OWN_SHA256)})


def _identity(manifest: Mapping[str, Any]) -> dict[str, Any]:
    """Return the part of a manifest that says which teacher it is, in which form."""
    return {key: value for key, value in manifest.items() if key not in (FILES, OWN_SHA256, "trajectory", "fidelity")}


def _make(given: argparse.Namespace) -> None:
    """Write the converted teacher.

    Raises:
        KDError: the output cannot be written, or the teacher cannot be converted.
    """
    check_folder(given.out, option="--out", sources=[given.teacher])
    if given.teacher.suffix == ".pth":
        raise TeacherError(
            f"{given.teacher} is a RecBole checkpoint, which holds a model and no scores: give it as --teacher_path "
            "unchanged, or let a run train the model (--teacher=NAME, with --teacher_svd and --teacher_dtype) and give "
            "the folder that it leaves in the cache"
        )
    manifest = read_manifest(given.teacher)
    if manifest["store"] == "online":
        raise TeacherError(
            f"{given.teacher} keeps a model and no scores: export the teacher with teacher_store=factors or dense first"
        )
    if manifest["store"] == "lists":
        raise TeacherError(
            f"{given.teacher} has ranked lists and no other scores: give the folder itself as --teacher_path"
        )
    teacher = scores_from(read_tensors(given.teacher / SCORES), {**manifest, SOURCE: manifest.get(OWN_SHA256)})
    teacher.modalities = read_modalities(given.teacher)
    write_dense(teacher, given.out, given.dtype) if given.dense else write_truncated(
        teacher, given.out, given.svd, given.dtype
    )
