"""``recbole-kd new-users``: measure how a student serves users whom it never saw."""

from __future__ import annotations

from pathlib import Path

from tabulate import tabulate

from recbole_kd.cli.parser import SentenceParser
from recbole_kd.config.merging import merge_sources
from recbole_kd.config.parsing import parse_arguments
from recbole_kd.errors import ConfigError
from recbole_kd.experiments.held_out_users import VALID, ndcg_of_new_users, two_students
from recbole_kd.integration.compat import quiet_warnings
from recbole_kd.serving.known_interactions import TEST
from recbole_kd.storage.places import user_path

EXAMPLES = [
    "recbole-kd new-users --model=MF --teacher=LightGCN --kd=RCEKD --dataset=ml-100k --folder=new-users/MF",
    "recbole-kd new-users --model=MF --dataset=ml-100k --folder=new-users/MF-alone --part=valid",
]
PARTS = {"valid": VALID, "test": TEST}


def _parser() -> SentenceParser:
    about = "Train a student on all users and without some, and compare its NDCG@10 for these; keys are those of a run."
    parser = SentenceParser("new-users", about, EXAMPLES, "\nWithout --teacher and --kd the student is trained alone.")
    add = parser.add_argument
    add("--folder", required=True, metavar="DIR", help="both students are kept here, and read if they are there")
    add("--share", type=float, default=0.1, help="of the users to hold out (default: 0.1)")
    add("--user_seed", type=int, default=0, help="of their choice (default: 0)")
    add("--part", choices=PARTS, default="test", help="of the split that is ranked (default: test)")
    return parser


def run(words: list[str]) -> int:
    """Print the table of both students; 0.

    Raises:
        KDError: bad input.
    """
    given, rest = _parser().parse_known_args(words)
    if not 0 < given.share < 1:
        raise ConfigError(f"Invalid --share={given.share}: expected a number between 0 and 1. Try --share=0.1.")
    if given.user_seed < 0:
        raise ConfigError(f"Invalid --user_seed={given.user_seed}: expected an integer from 0. Try --user_seed=0.")
    keys = merge_sources(None, None, parse_arguments(rest))
    folder: Path = user_path(given.folder, "folder")
    with quiet_warnings():
        students = two_students(keys, folder, given.share, given.user_seed)
        found = ndcg_of_new_users(students, PARTS[given.part])
    rows = [
        [f"{given.part} NDCG@10 of {len(students.users)} users", ""],
        ["trained on them", f"{found['trained']:.4f}"],
        ["new, by their training rows", f"{found['new']:.4f}"],
        ["share", f"{100 * found['new'] / found['trained']:.0f} %" if found["trained"] else "-"],
    ]
    print(tabulate(rows, tablefmt="plain", disable_numparse=True, colalign=("left", "right")))
    return 0
