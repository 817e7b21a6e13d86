"""``recbole-kd convert-teacher``: store a teacher's scores in another form."""

from __future__ import annotations

from pathlib import Path

from recbole_kd.cli.parser import SentenceParser
from recbole_kd.errors import TeacherError
from recbole_kd.storage.files import SCORES, read_manifest, read_tensors
from recbole_kd.storage.targets import check_folder
from recbole_kd.teacher.convert import write_dense, write_truncated
from recbole_kd.teacher.export import DTYPES, scores_from
from recbole_kd.teacher.modalities import read_modalities

EXAMPLES = ["recbole-kd convert-teacher saved/cache/teacher/NAME --out=small --svd=64 --dtype=fp16"]


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
    teacher = scores_from(read_tensors(given.teacher / SCORES), manifest)
    teacher.modalities = read_modalities(given.teacher)
    write_dense(teacher, given.out, given.dtype) if given.dense else write_truncated(
        teacher, given.out, given.svd, given.dtype
    )
    fidelity = read_manifest(given.out).get("fidelity")
    print(
        given.out
        if fidelity is None
        else f"{given.out}: " + ", ".join(f"{name} {value:.4g}" for name, value in fidelity.items())
    )
    return 0
