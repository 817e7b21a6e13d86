"""``recbole-kd export-lists``: write a teacher's ranked lists."""

from __future__ import annotations

import argparse
from pathlib import Path

from recbole_kd.cli.parser import SentenceParser
from recbole_kd.storage.files import read_manifest
from recbole_kd.teacher.ranked_lists import export_lists

EXAMPLES = ["recbole-kd export-lists saved/cache/teacher/NAME --out=lists --k=100"]


def _parser() -> SentenceParser:
    parser = SentenceParser("export-lists", "Write a teacher's ranked lists; an interrupted export resumes.", EXAMPLES)
    add = parser.add_argument
    add(
        "teacher",
        type=Path,
        metavar="FOLDER",
        help="a teacher with a factor or dense store, as a run leaves it in its cache",
    )
    add("--out", type=Path, required=True, metavar="DIR", help="gets lists.safetensors and lists.json")
    add("--k", type=int, default=100, help="items in a list (default: 100)")
    add("--first", type=int, default=1, metavar="QUERY", help="first query id (default: 1)")
    add("--queries", type=int, metavar="N", help="number of queries (default: all)")
    add("--block", type=int, default=1024, metavar="N", help="queries in a block (default: 1024)")
    add("--ray_address", metavar="ADDRESS", help="rank on a Ray cluster (auto, local, or host:port)")
    return parser


def run(words: list[str]) -> int:
    """Write the lists and print their file; return 0.

    Raises:
        KDError: bad input.
    """
    given = _parser().parse_args(words)
    whole = given.queries is None and given.first == 1
    queries = None if whole else range(given.first, _end(given))
    print(
        export_lists(
            given.teacher, given.out, given.k, queries=queries, step=given.block, ray_address=given.ray_address
        )
    )
    return 0


def _end(given: argparse.Namespace) -> int:
    n_queries: int = read_manifest(given.teacher)["n_queries"]
    return n_queries if given.queries is None else given.first + given.queries
