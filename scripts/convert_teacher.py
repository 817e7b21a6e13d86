#!/usr/bin/env python
"""Keep a teacher in another way: `python scripts/convert_teacher.py saved/cache/teacher/NAME --out=small --svd=64 --dtype=fp16`."""

from __future__ import annotations

import sys
from pathlib import Path

# The script also runs from a checkout that is not installed.
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from recbole_kd.cli.script import SentenceParser, exit_code
from recbole_kd.errors import TeacherError
from recbole_kd.storage.files import SCORES, read_manifest, read_tensors
from recbole_kd.storage.targets import check_folder
from recbole_kd.teacher.convert import write_dense, write_truncated
from recbole_kd.teacher.export import DTYPES, scores_from
from recbole_kd.teacher.modalities import read_modalities


def _parser() -> SentenceParser:
    parser = SentenceParser(description=__doc__, allow_abbrev=False)
    add = parser.add_argument
    add("teacher", type=Path, metavar="FOLDER", help="a teacher with a factor or dense store, as a run leaves it in its cache")
    add("--out", type=Path, required=True, metavar="DIR", help="a missing or empty folder that gets the teacher; give it as --teacher_path")
    how = parser.add_mutually_exclusive_group(required=True)
    how.add_argument("--svd", type=int, metavar="WIDTH", help="as factors of this width, by truncated SVD")
    how.add_argument("--dense", action="store_true", help="as a score matrix")
    add("--dtype", choices=sorted(DTYPES), default="fp32")
    return parser


def run(argv: list[str]) -> int:
    """Write the teacher as the arguments ask for and print where it is, with what it keeps; 0."""
    given = _parser().parse_args(argv)
    check_folder(given.out, option="--out", sources=[given.teacher])
    if given.teacher.suffix == ".pth":
        raise TeacherError(
            f"{given.teacher} is a RecBole checkpoint, which holds a model and no scores: give it as --teacher_path as it is, or let a "
            "run train the model (--teacher=NAME, with --teacher_svd and --teacher_dtype) and give the folder that it leaves in the cache"
        )
    manifest = read_manifest(given.teacher)
    if manifest["store"] == "online":
        raise TeacherError(f"{given.teacher} keeps a model and no scores: export the teacher with teacher_store=factors or dense first")
    teacher = scores_from(read_tensors(given.teacher / SCORES), manifest)
    teacher.modalities = read_modalities(given.teacher)
    write_dense(teacher, given.out, given.dtype) if given.dense else write_truncated(teacher, given.out, given.svd, given.dtype)
    fidelity = read_manifest(given.out).get("fidelity")
    print(given.out if fidelity is None else f"{given.out}: " + ", ".join(f"{name} {value:.4g}" for name, value in fidelity.items()))
    return 0


def main(argv: list[str] | None = None) -> int:
    """The command line: 0 when done, 2 with one sentence when the input is bad."""
    return exit_code(run, argv)


if __name__ == "__main__":
    sys.exit(main())
