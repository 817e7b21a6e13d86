"""``recbole-kd report``: write the report.html of finished folders anew."""

from __future__ import annotations

from pathlib import Path

from recbole_kd.cli.parser import SentenceParser
from recbole_kd.report.write import write_report


def run(words: list[str]) -> int:
    """Write the report of each folder; return 0.

    Raises:
        KDError: a folder is none of a run, a search, a comparison or a grid, or its files are damaged.
    """
    parser = SentenceParser(
        "report",
        "Write report.html of a run, a search, a comparison or a grid anew: charts and tables, in one file.",
        ["recbole-kd report saved/tune-MF-LightGCN-RCEKD-ml-100k"],
    )
    parser.add_argument("folders", nargs="+", type=Path, metavar="FOLDER", help="a folder of saved/ or of results/")
    for folder in parser.parse_args(words).folders:
        print(f"wrote {write_report(folder)}")
    return 0
