#!/usr/bin/env python
"""Write a teacher's ranked lists: `python scripts/export_lists.py saved/cache/teacher/NAME --out=lists --k=100`; resumable."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import NoReturn

# The script also runs from a checkout that is not installed.
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from recbole_kd.errors import ConfigError, KDError
from recbole_kd.teacher.lists import export_lists


class _Parser(argparse.ArgumentParser):
    """argparse, but an error is one sentence without the usage text."""

    def error(self, message: str) -> NoReturn:
        raise ConfigError(f"{message[:1].upper()}{message[1:]} (--help lists what is allowed)")


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(description=__doc__, allow_abbrev=False)
    add = parser.add_argument
    add("teacher", type=Path, metavar="FOLDER", help="a teacher with a factor or dense store, as a run leaves it in its cache")
    add("--out", type=Path, required=True, metavar="DIR", help="gets lists.safetensors and lists.json")
    add("--k", type=int, default=100, help="items in a list (default: 100)")
    add("--first", type=int, default=1, metavar="QUERY", help="first query id (default: 1)")
    add("--queries", type=int, metavar="N", help="how many (default: all)")
    add("--block", type=int, default=1024, metavar="N", help="queries in a block (default: 1024)")
    add("--ray_address", metavar="ADDRESS", help="rank on a Ray cluster (auto, local, or host:port)")
    return parser


def main(argv: list[str] | None = None) -> int:
    """The command line: 0 when done, 2 with one sentence when the input is bad."""
    try:
        given = _parser().parse_args(sys.argv[1:] if argv is None else argv)
        whole = given.queries is None and given.first == 1
        queries = None if whole else range(given.first, _end(given))
        print(export_lists(given.teacher, given.out, given.k, queries=queries, step=given.block, ray_address=given.ray_address))
    except (KDError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


def _end(given: argparse.Namespace) -> int:
    from recbole_kd.teacher.files import read_manifest

    n_queries: int = read_manifest(given.teacher)["n_queries"]
    return n_queries if given.queries is None else given.first + given.queries


if __name__ == "__main__":
    sys.exit(main())
