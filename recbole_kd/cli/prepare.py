"""``recbole-kd prepare``: turn published raw files into RecBole's atomic files."""

from __future__ import annotations

from functools import partial
from pathlib import Path

from recbole_kd.cli.parser import SentenceParser
from recbole_kd.data.preparing.known_datasets import KNOWN_DATASETS
from recbole_kd.data.preparing.prepare import OUT, next_command, prepare, prepare_published, summary
from recbole_kd.data.preparing.raw_layouts import FORMS, Options
from recbole_kd.integration.safe_load import load_pickle

EXAMPLES = [
    "recbole-kd prepare mine --form=table --file=log.csv --user=uid --item=sku --time=ts",
    "recbole-kd prepare gowalla --download",
    "recbole-kd prepare citeulike --raw=<folder with users.dat>",
    "recbole-kd prepare yelp2018 --form=split --raw=<folder with train.txt, valid.txt, test.txt>",
]
USAGE = """\
recbole-kd prepare NAME --form=table --file=FILE --user=COLUMN --item=COLUMN [--time=COLUMN] [options]
       recbole-kd prepare NAME --download
       recbole-kd prepare NAME --raw=DIR [options]"""


def _parser() -> SentenceParser:
    known = "\n".join(f"  {name:<12}{text}" for name, text in KNOWN_DATASETS.items())
    parser = SentenceParser(
        "prepare", "Turn published raw files into RecBole's atomic files.", EXAMPLES, f"\nknown data sets:\n{known}"
    )
    parser.usage = USAGE
    add = parser.add_argument
    add("name", metavar="NAME", help="a known data set, or any name together with --form")
    download = "download the raw files of a known data set into --raw (default: OUT/raw/NAME)"
    add("--download", action="store_true", help=download)
    add("--raw", type=Path, metavar="DIR", help="folder with the raw files (default: this one)")
    add("--out", type=Path, default=OUT, metavar="DIR", help="writes DIR/NAME/ (default: dataset/)")
    add("--form", choices=list(FORMS), help="kind of raw file (known data sets have their own)")
    add("--file", metavar="NAME", help="name of the raw file inside --raw")
    add("--attributes", metavar="NAME", help="sequence: JSON file inside --raw, item id -> attribute ids")
    add("--user", metavar="COLUMN", help="table, split: column of the users")
    add("--item", metavar="COLUMN", help="table, split: column of the items")
    add("--time", metavar="COLUMN", help="table, split: column of the times (numbers or ISO dates)")
    add("--rating", metavar="COLUMN", help="table: column of the ratings")
    add("--columns", metavar="A,B,...", help="table: names of the columns of a file without a header line")
    add("--min_rating", type=float, metavar="X", help="table, ratings: drop lower ratings (ratings: 4)")
    add("--core", type=int, metavar="K", help="table, ratings, checkins: k-core (ratings, checkins: 10)")
    add("--split", choices=["none", "ratio"], help="table, sequence: also write 8:1:1 files (default: none)")
    add("--seed", type=int, metavar="N", help="lightgcn: seed of the validation draw (default: 2020)")
    expect = "check a known data set's published counts, or not"
    add("--expect", choices=["published", "none"], default="published", help=expect)
    return parser


def run(words: list[str]) -> int:
    """Prepare the named data set, print its counts and the next command, and return 0.

    Raises:
        KDError: bad input.
    """
    arguments = vars(_parser().parse_args(words))
    name, out, form, expect, download, raw = (
        arguments.pop(key) for key in ("name", "out", "form", "expect", "download", "raw")
    )
    check_counts = expect == "published"
    options = Options(raw=raw or (out / "raw" / name if download else Path()), **arguments)
    if download:
        manifest = prepare_published(
            name, out, partial(print, flush=True), load_pickle, options, form=form, check_counts=check_counts
        )
    else:
        manifest = prepare(name, options, out, form=form, check_counts=check_counts)
    print(summary(manifest))
    print(f"written to {out / name}")
    print(f"next: {next_command(name, out)}")
    return 0
