#!/usr/bin/env python
"""Turn published raw files into RecBole atomic files: `python scripts/prepare_dataset.py NAME --raw=DIR`."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

# The script also runs from a checkout that is not installed.
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from recbole_kd.cli.script import SentenceParser, exit_code
from recbole_kd.data.preparing.prepare import KNOWN_DATASETS, prepare, summary
from recbole_kd.data.preparing.raw_layouts import FORMS, Options


def _parser() -> SentenceParser:
    known = "\n".join(f"  {name:<12}{text}" for name, text in KNOWN_DATASETS.items())
    parser = SentenceParser(
        description=__doc__,
        epilog=f"known data sets:\n{known}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    add = parser.add_argument
    add("name", metavar="NAME", help="a known data set, or any name together with --form")
    add("--raw", type=Path, default=Path(), metavar="DIR", help="folder with the raw files (default: this one)")
    add(
        "--out",
        type=Path,
        default=Path("dataset"),
        metavar="DIR",
        help="writes DIR/NAME/ (default: dataset/)",
    )
    add("--form", choices=list(FORMS), help="kind of raw file (known data sets have their own)")
    add("--file", metavar="NAME", help="name of the raw file inside --raw")
    add("--attributes", metavar="NAME", help="sequence: JSON file inside --raw, item id -> attribute ids")
    add("--user", metavar="COLUMN", help="table: column of the users")
    add("--item", metavar="COLUMN", help="table: column of the items")
    add("--time", metavar="COLUMN", help="table: column of the times (numbers or ISO dates)")
    add("--rating", metavar="COLUMN", help="table: column of the ratings")
    add("--min_rating", type=float, metavar="X", help="table, ratings: drop lower ratings (ratings: 4)")
    add("--core", type=int, metavar="K", help="table, ratings, checkins: k-core (ratings, checkins: 10)")
    add("--split", choices=["none", "ratio"], help="table, sequence: also write 8:1:1 files (default: none)")
    add("--seed", type=int, metavar="N", help="lightgcn: seed of the validation draw (default: 2020)")
    add(
        "--expect",
        choices=["published", "none"],
        default="published",
        help="check a known data set's published counts, or not",
    )
    return parser


def run(argv: list[str]) -> int:
    """Prepare the data set that the arguments name and print its counts; 0."""
    arguments = vars(_parser().parse_args(argv))
    name, out, form, expect = (arguments.pop(key) for key in ("name", "out", "form", "expect"))
    manifest = prepare(name, Options(**arguments), out, form=form, check_counts=expect == "published")
    print(summary(manifest))
    print(f"written to {out / name}")
    return 0


def main(argv: list[str] | None = None) -> int:
    """The command line: 0 when done, 2 with one sentence when the input is bad."""
    return exit_code(run, argv)


if __name__ == "__main__":
    sys.exit(main())
