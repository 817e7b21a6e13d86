"""``recbole-kd export``: write a finished student in forms for other programs."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tabulate import tabulate

from recbole_kd.cli.parser import SentenceParser
from recbole_kd.serving.exports.faiss_index import KINDS
from recbole_kd.serving.exports.write import FORMS, form_names
from recbole_kd.serving.student import load_student
from recbole_kd.storage.targets import check_folder

EXAMPLES = [
    "recbole-kd export saved/RUN --to=npz,onnx --out=exported",
    "recbole-kd export saved/RUN --to=faiss --index=hnsw --out=index",
]
MORE = """
npz     vectors of users and items with their external ids (NumPy)
faiss   an inner-product index of the items with its id map (needs faiss-cpu)
onnx    graphs of the query side and of the scores (needs onnx, onnxscript, onnxruntime)
int8    vectors like npz, in a quarter of the bytes

Each form is read again and compared with the student; the result is printed and stored in parity.json. A float32 form
whose scores differ from the student's is not written."""


def _parser() -> SentenceParser:
    parser = SentenceParser("export", "Write a finished student in forms for other programs.", EXAMPLES, MORE)
    add = parser.add_argument
    add("run", type=Path, metavar="RUN", help="the folder of a run, or of its student")
    add("--to", required=True, metavar="FORMS", help=f"some of {','.join(FORMS)}")
    add("--out", type=Path, required=True, metavar="DIR", help="a missing or empty folder")
    add("--index", choices=KINDS, default="flat", help="index of faiss: exact (flat, the default) or approximate")
    return parser


def run(words: list[str]) -> int:
    """Write the forms and print their comparison with the student; return 0.

    Raises:
        KDError: bad input, or a form that differs from the student. Then nothing is written.
    """
    given = _parser().parse_args(words)
    forms = form_names(given.to, option="--to")
    check_folder(given.out, option="--out", sources=[given.run])
    print(parity_table(load_student(given.run).export(forms, given.out, given.index)))
    print(given.out)
    return 0


def parity_table(content: Mapping[str, Any]) -> str:
    """Return the content of parity.json as a table, with the student first."""
    forms = content["forms"]
    first = next(iter(forms.values()))
    rows = [["student", f"{content['student']['bytes']:,}", "", _ndcg(first["student_ndcg@10"]), ""]]
    for name, found in forms.items():
        title = f"{name} {found['index']}" if "index" in found else name
        overlap, difference = f"{found['top10_overlap']:.4f}", f"{found['score_difference']:.1e}"
        rows.append([title, f"{found['bytes']:,}", overlap, _ndcg(found["ndcg@10"]), difference])
    headers = ["", "bytes", "top-10 overlap", "test NDCG@10", "largest score difference"]
    return tabulate(rows, headers=headers, disable_numparse=True, colalign=("left", *["right"] * 4))


def _ndcg(value: float | None) -> str:
    return "-" if value is None else f"{value:.4f}"
