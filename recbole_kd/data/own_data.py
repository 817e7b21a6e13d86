"""Which columns are read, and how is split, where neither the user nor a property file says so: what the files have decides."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from recbole_kd.data.atomic_file_checks import columns_of

SPLIT_FILES = ("train", "valid", "test")
"""Parts of a published split, as prepare_dataset.py names its files."""
_SPLIT_KEYS = frozenset({"split", "order", "group_by"})


def own_data_defaults(
    dataset: str, settings: Mapping[str, Any], described: Mapping[str, Any], given: Mapping[str, Any]
) -> dict[str, Any]:
    """Return ``load_col``, ``eval_args`` and ``benchmark_filename`` of a data set, as far as nothing else says them.

    A column of times is read, and decides the split within each user; data without one are split at random. A published
    split, prepared as three files, is taken. A property file of ours says nothing of data that were prepared in another
    form than it describes.

    Args:
        settings: all values of a run, RecBole's defaults included. described: those of our property files. given: those
            of the user.

    Raises:
        DataError: the first line of the interaction file is no header.
    """
    folder, defaults = Path(settings["data_path"]) / dataset, dict[str, Any]()
    names = described.get("benchmark_filename")
    if "benchmark_filename" in given:
        names = given["benchmark_filename"]
    elif names and not _are_there(folder, dataset, names) and (folder / f"{dataset}.inter").is_file():
        names = defaults["benchmark_filename"] = None
    elif "benchmark_filename" not in described and _published_split_counts(folder, dataset, given):
        names = defaults["benchmark_filename"] = list(SPLIT_FILES)
    path = folder / (f"{dataset}.{names[0]}.inter" if names else f"{dataset}.inter")
    if not path.is_file():
        return defaults
    header = columns_of(path, {"encoding": None, **settings})
    user, item, time = (settings[f"{kind}_FIELD"] for kind in ("USER_ID", "ITEM_ID", "TIME"))
    columns: Any = given["load_col"] if "load_col" in given else described.get("load_col")
    if "load_col" not in given and not _fits(columns, header):
        columns = {"inter": [name for name in (user, item, time) if name in header or name != time]}
        defaults["load_col"] = columns
    is_timed = time in header and (not columns or columns.get("inter") == "*" or time in (columns.get("inter") or ()))
    arguments = described.get("eval_args")
    if arguments is None or (arguments["order"] == "TO" and not is_timed and "LS" not in arguments["split"]):
        order = "TO" if is_timed else "RO"
        defaults["eval_args"] = {"split": {"RS": [0.8, 0.1, 0.1]}, "group_by": "user", "order": order, "mode": "full"}
    return defaults


def _are_there(folder: Path, dataset: str, names: Sequence[str]) -> bool:
    return all((folder / f"{dataset}.{name}.inter").is_file() for name in names)


def _published_split_counts(folder: Path, dataset: str, given: Mapping[str, Any]) -> bool:
    """Return whether the three files are there and the user asks for no other split, or there is nothing else to split."""
    asks = bool(_SPLIT_KEYS & set(given.get("eval_args") or {}))
    return _are_there(folder, dataset, SPLIT_FILES) and not (asks and (folder / f"{dataset}.inter").is_file())


def _fits(columns: Any, header: Mapping[str, Any]) -> bool:
    """Return whether load_col names interaction columns, and the file has all of them."""
    named: Any = (columns or {}).get("inter")
    return bool(named) and (named == "*" or all(name in header for name in named))
