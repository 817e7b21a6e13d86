"""Default columns and split, for data that neither user nor property files describe."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from recbole_kd.data.atomic_file_checks import columns_of

SPLIT_FILES = ("train", "valid", "test")
"""Parts of a published split, as `recbole-kd prepare` names its files."""
_SPLIT_KEYS = frozenset({"split", "order", "group_by"})


def own_data_defaults(
    dataset: str, settings: Mapping[str, Any], described: Mapping[str, Any], given: Mapping[str, Any]
) -> dict[str, Any]:
    """Return the data keys that neither the user nor a property file sets.

    They are ``load_col``, ``eval_args`` and ``benchmark_filename``. A column of times is read and decides the split
    within each user; data without one are split at random. A published split, prepared as three files, is used. A
    property file of ours does not apply to data that were prepared in another form than it describes.

    Args:
        settings: all values of a run, RecBole's defaults included. described: the values of our property files.
        given: the values of the user.

    Raises:
        DataError: the first line of the interaction file is not a header.
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
    """Test whether to use a published split.

    Its three files exist, and the user does not ask for another split or there is no other file to split.
    """
    asks = bool(_SPLIT_KEYS & set(given.get("eval_args") or {}))
    return _are_there(folder, dataset, SPLIT_FILES) and not (asks and (folder / f"{dataset}.inter").is_file())


def _fits(columns: Any, header: Mapping[str, Any]) -> bool:
    """Test whether load_col names interaction columns and the file has all of them."""
    named: Any = (columns or {}).get("inter")
    return bool(named) and (named == "*" or all(name in header for name in named))
