"""Texts that describe a split and an evaluation, built from their keys."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from fractions import Fraction
from math import lcm
from pathlib import Path
from typing import Any

from recbole_kd.data.own_data import SPLIT_FILES
from recbole_kd.data.time_order import is_split_by_time, time_order

HELD_OUT = {
    "valid_and_test": "{last} interaction of each user for test, {before} for validation",
    "valid_only": "{last} interaction of each user for validation",
    "test_only": "{last} interaction of each user for test",
}
MOST = 1000
"""Shares are printed as ratios if their denominator is at most this; others are printed unchanged."""


def split_in_words(config: Any) -> str:
    """Return a description of a split, such as ``8:1:1 by time within each user``.

    Args:
        config: only ``benchmark_filename``, ``eval_args``, ``split_seed`` and ``seed`` are read.
    """
    files = config["benchmark_filename"]
    if files:
        return "as published, by the files " + ", ".join(f"{config['dataset']}.{name}.inter" for name in files)
    arguments: Mapping[str, Any] = config["eval_args"]
    ((kind, shares),) = (arguments["split"] or {"none": None}).items()
    by_time = arguments["order"] == "TO"
    seed = "" if by_time else f", seed {config['split_seed'] if config['split_seed'] is not None else config['seed']}"
    if kind == "LS":
        words = {"last": "the last" if by_time else "a random", "before": "the one before it" if by_time else "another"}
        return f"leave one out: {HELD_OUT[shares].format(**words)}{seed}"
    if kind == "TS":
        return (
            f"{_ratio(shares)} by time: for test all interactions after one moment, the rest by time within each user"
        )
    grouped = str(arguments["group_by"]).lower() == "user"
    return (
        f"{_ratio(shares)} {'by time' if by_time else 'at random'} "
        f"{'within each user' if grouped else 'over all interactions'}{seed}"
    )


def describe_split(dataset: Any) -> str:
    """Return a sentence for the log: the split of a data set, and what decided its order.

    It also says for how many users RecBole's float32 order would give another split.

    Args:
        dataset: the data set of :func:`recbole_kd.data.split_and_loaders.split_data`, or one of its parts.
    """
    return f"Split: {split_in_words(dataset.config)}{_order_words(dataset)}{_published_words(dataset)}."


def _order_words(dataset: Any) -> str:
    """Return a clause on the order in time, and on the changes by RecBole's order."""
    config, change, users = dataset.config, dataset.order_change, dataset.user_num - 1
    if not is_split_by_time(config):
        return ""
    if not dataset.has_times:
        return "; the data have no times, the order is that of the file"
    if time_order(config) == "recbole":
        return f"; in RecBole's order by float32 {dataset.time_field} (time_order=recbole)"
    words = f"; in the order of {dataset.time_field}, equal times in that of the file (time_order=exact)"
    if change is not None and any(change):
        words += (
            f"; RecBole's float32 times (time_order=recbole) would hold out other interactions of {change.split:,} of "
            f"{users:,} users and change the order of {change.order:,}"
        )
    return words


def _published_words(dataset: Any) -> str:
    """Return a clause on the published split, if there is one."""
    if dataset.config["benchmark_filename"]:
        return " (--benchmark_filename=~ splits anew)"
    name, folder = dataset.dataset_name, Path(dataset.dataset_path)
    if not all((folder / f"{name}.{part}.inter").is_file() for part in SPLIT_FILES):
        return ""
    takes_it = f"--benchmark_filename=[{','.join(SPLIT_FILES)}]"
    return f"; the published split beside it, {name}.train.inter and so on, is not used ({takes_it} uses it)"


def ranking_in_words(config: Any) -> str:
    """Return a description of the items that an evaluation ranks, such as ``all items``."""
    mode = config["eval_args"]["mode"]
    words = {part: _one_ranking(part) for part in ([mode] if isinstance(mode, str) else mode.values())}
    text = " at validation and ".join(words.values()) + (" at test" if len(words) > 1 else "")
    return f"{text}, training items left out (the paper's protocol)" if config["eval_protocol"] == "paper" else text


def _one_ranking(mode: str) -> str:
    if mode == "full":
        return "all items"
    if mode == "labeled":
        return "the labelled items"
    drawn = "uniformly" if mode.startswith("uni") else "by popularity"
    return f"each positive item among {mode.removeprefix('uni').removeprefix('pop')} items drawn {drawn}"


def _ratio(shares: Sequence[float]) -> str:
    """Return shares as small integers: [0.8, 0.1, 0.1] -> 8:1:1."""
    parts = [Fraction(float(share)).limit_denominator(MOST) for share in shares]
    times = lcm(*(part.denominator for part in parts))
    if times > MOST:
        return ":".join(f"{share:g}" for share in shares)
    numbers = [int(part * times) for part in parts]
    return ":".join(map(str, numbers))
