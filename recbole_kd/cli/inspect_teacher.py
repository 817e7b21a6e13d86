"""``recbole-kd inspect-teacher``: print figures of a teacher before it is used."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from recbole_kd.cli.import_teacher import data_of
from recbole_kd.cli.parser import SentenceParser
from recbole_kd.config.validation import invalid, try_value
from recbole_kd.evaluation.teacher_figures import teacher_figures
from recbole_kd.integration.compat import quiet_warnings
from recbole_kd.teacher.load import load_teacher

EXAMPLES = ["recbole-kd inspect-teacher lists.csv --dataset=ml-100k"]


def _parser() -> SentenceParser:
    parser = SentenceParser(
        "inspect-teacher",
        "Print what a teacher covers, its popularity bias, its overlap with the training items, and its metrics.",
        EXAMPLES,
        "other --KEY=VALUE are those of the data in `recbole-kd run`, such as --data_path, --eval_args or --setting",
    )
    add = parser.add_argument
    add("teacher", metavar="DIR", help="what --teacher_path takes: a folder, a table of lists, or a checkpoint")
    add("--dataset", required=True, metavar="NAME", help="the data set of the runs that will use the teacher")
    add("--k", type=int, default=10, help="items of each user that are looked at (default: 10)")
    add("--json", action="store_true", help="print the figures as JSON")
    return parser


def run(words: list[str]) -> int:
    """Print the figures of a teacher; return 0.

    Raises:
        KDError: bad input, or a teacher of other data.
    """
    given, rest = _parser().parse_known_args(words)
    config, splits = data_of(given.dataset, rest)
    if not 1 <= given.k <= splits.n_items:
        reason = f"expected an integer from 1 to {splits.n_items} (the number of items)"
        raise invalid("k", given.k, reason, try_value("k", 10))
    with quiet_warnings():
        teacher = load_teacher(Path(given.teacher), splits.parts[0], config["device"])
        teacher.check_data(splits.fingerprint)
        figures = {"teacher": teacher.name, "store": teacher.store, **teacher_figures(config, splits, teacher, given.k)}
    print(json.dumps(figures, indent=2) if given.json else "\n".join(_lines(figures)))
    return 0


def _lines(figures: Mapping[str, Any]) -> list[str]:
    k, coverage = figures["k"], figures["coverage"]
    lines = [f"teacher {figures['teacher']}, store {figures['store']}"]
    if coverage is None:
        lines.append("covers all users and all items")
    else:
        users, items = (f"{coverage[part]:,} of {coverage[f'of_{part}']:,} {part}" for part in ("users", "items"))
        lines.append(f"covers {users} and {items}")
        if "histories" in coverage:
            lines.append(f"has a list for {coverage['histories']:,} of {coverage['of_histories']:,} histories")
        if "list_length" in coverage:
            lines.append("list length: " + ", ".join(f"{name} {n:,}" for name, n in coverage["list_length"].items()))
    lines += [
        f"first {k} items of a user: {figures['popularity_ratio']:.2f} times as popular in training as the mean item",
        f"  {100 * figures['items_listed']:.1f} % of the catalogue is in some list",
        f"  {100 * figures['training_share']:.1f} % are training items of the user",
    ]
    for phase in ("valid", "test"):
        found = figures[phase]
        words = "not measured" if found is None else ", ".join(f"{name} {value:.4f}" for name, value in found.items())
        lines.append(f"{phase}: {words}")
    return lines
