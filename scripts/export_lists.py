#!/usr/bin/env python
"""Write a teacher's ranked lists: `python scripts/export_lists.py saved/cache/teacher/NAME --out=lists --k=100`; resumable."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

# The script also runs from a checkout that is not installed.
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from recbole_kd.cli.script import SentenceParser, exit_code
from recbole_kd.teacher.ranked_lists import export_lists


def _parser() -> SentenceParser:
    parser = SentenceParser(description=__doc__, allow_abbrev=False)
    add = parser.add_argument
    add("teacher", type=Path, metavar="FOLDER", help="a teacher with a factor or dense store, as a run leaves it in its cache")
    add("--out", type=Path, required=True, metavar="DIR", help="gets lists.safetensors and lists.json")
    add("--k", type=int, default=100, help="items in a list (default: 100)")
    add("--first", type=int, default=1, metavar="QUERY", help="first query id (default: 1)")
    add("--queries", type=int, metavar="N", help="how many (default: all)")
    add("--block", type=int, default=1024, metavar="N", help="queries in a block (default: 1024)")
    add("--ray_address", metavar="ADDRESS", help="rank on a Ray cluster (auto, local, or host:port)")
    return parser


def run(argv: list[str]) -> int:
    """Write the lists that the arguments ask for and print their file; 0."""
    given = _parser().parse_args(argv)
    whole = given.queries is None and given.first == 1
    queries = None if whole else range(given.first, _end(given))
    print(export_lists(given.teacher, given.out, given.k, queries=queries, step=given.block, ray_address=given.ray_address))
    return 0


def main(argv: list[str] | None = None) -> int:
    """The command line: 0 when done, 2 with one sentence when the input is bad."""
    return exit_code(run, argv)


def _end(given: argparse.Namespace) -> int:
    from recbole_kd.storage.files import read_manifest

    n_queries: int = read_manifest(given.teacher)["n_queries"]
    return n_queries if given.queries is None else given.first + given.queries


if __name__ == "__main__":
    sys.exit(main())
