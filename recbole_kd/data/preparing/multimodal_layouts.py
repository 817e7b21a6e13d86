"""The two public layouts of multi-modal data, with features in ``.npy`` files.

One has JSON files of users, the other a table with the split as a column.
"""

from __future__ import annotations

import codecs
import gzip
import math
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from recbole_kd.data.item_features.aligned import ItemFeatures
from recbole_kd.data.item_features.matrix_files import FeatureMatrix, read_matrix
from recbole_kd.data.preparing.interactions import Collector, Interactions, Mask, Row
from recbole_kd.data.preparing.raw_files import DelimitedRows, find_file
from recbole_kd.errors import DataError
from recbole_kd.storage.json_files import parse_json

PARTS = ("train", "valid", "test")
FEATURE_FILES = {"visual": "image_feat.npy", "text": "text_feat.npy", "audio": "audio_feat.npy"}
JSON_FILES = {"train": "train.json", "valid": "val.json", "test": "test.json"}
LABEL = "x_label"

Codes = npt.NDArray[np.int8]


def masks(part: Codes) -> dict[str, Mask]:
    """Return the mask of each part; codes 0, 1, 2 mean train, valid, test."""
    return {name: part == code for code, name in enumerate(PARTS)}


def features_of(folder: Path, items: Sequence[str]) -> tuple[dict[str, FeatureMatrix], list[Path]]:
    """Return the features in a folder, checked against the items: item number r has row r.

    Raises:
        DataError: there are none, or one is wrong (see :class:`recbole_kd.data.item_features.aligned.ItemFeatures`).
    """
    found = {name: folder / file for name, file in FEATURE_FILES.items() if (folder / file).is_file()}
    if not found:
        raise DataError(f"{folder} has no features: one of {', '.join(FEATURE_FILES.values())} must be there")
    matrices = {name: read_matrix(name, path) for name, path in found.items()}
    for name, matrix in matrices.items():
        ItemFeatures(name, matrix, ["[PAD]", *items])
    return matrices, list(found.values())


# -- json
# ----------------------------------------------------------------------------------------------------------------


def json_splits(folder: Path) -> tuple[Interactions, Codes, list[Path], int]:
    """Return the interactions of train.json, val.json and test.json, sorted by user.

    The times are the positions in a user's lists.

    Returns:
        the rows, the part of each row, the files, and the number of rows left out because an earlier row has the same
        user and item.
    """
    paths = [find_file(folder, name) for name in JSON_FILES.values()]
    histories: dict[str, dict[str, int]] = {}
    repeats = 0
    for code, path in enumerate(paths):
        for user, items in _users(path):
            history = histories.setdefault(user, {})
            before = len(history)
            for item in items:
                history.setdefault(item, code)
            repeats += len(items) - (len(history) - before)
    order = sorted(histories, key=lambda user: (len(user), user))  # numeric order for numbers
    rows = [(user, item, code) for user in order for item, code in histories[user].items()]
    places = [place for user in order for place in range(len(histories[user]))]
    source = _Json(folder)
    entries = (Row(user, item, place) for (user, item, _), place in zip(rows, places, strict=True))
    return (
        Collector().add(entries, source).interactions(),
        np.array([code for *_, code in rows], dtype=np.int8),
        paths,
        repeats,
    )


class _Json:
    """The files as a source of tokens, for error messages."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def error(self, problem: str) -> DataError:
        return DataError(f"{self.folder}: {problem}.")


def _users(path: Path) -> Iterator[tuple[str, list[str]]]:
    """Yield user and items of one file; numbers become text."""
    try:
        raw = path.read_bytes()
        content = parse_json((gzip.decompress(raw) if path.suffix == ".gz" else raw).removeprefix(codecs.BOM_UTF8))
    except (ValueError, OSError, EOFError, zlib.error) as error:
        raise DataError(f"{path} is not JSON: {error}.") from None
    if not isinstance(content, dict):
        raise DataError(f"{path} must be a JSON object: user -> list of items.")
    for user, items in content.items():
        if not isinstance(items, list) or not all(type(item) in (int, str) for item in items):
            raise DataError(f"{path}: the items of user {user!r} are not a list of numbers or texts.")
        yield user, [str(item) for item in items]


# -- a table with the split as a column
# ------------------------------------------------------------------------------------


def labelled_rows(path: Path, user: str | None, item: str | None, time: str | None) -> tuple[Interactions, Codes]:
    """Return the rows of a tab-separated table, sorted by user and time, and the part of each.

    Args:
        user, item, time: names of the columns; by default userID, itemID and, if present, timestamp.

    Raises:
        DataError: a column is missing or a line is malformed; the message names file and line.
    """
    table = DelimitedRows(path, "\t")
    names = [name.partition(":")[0] for name in table.columns]
    wanted = [user or "userID", item or "itemID", LABEL]
    when = time or ("timestamp" if "timestamp" in names else None)
    for name in filter(None, [*wanted, when]):
        if name not in names:
            raise DataError(f"{path} has no column {name!r}: it has {', '.join(names)}.")
    columns = [table.columns[names.index(name)] for name in [*wanted, *([when] if when else [])]]
    labels: list[int] = []
    inter = Collector().add(_labelled(table, columns, labels), table).interactions()
    order = np.lexsort((inter.time, inter.user))
    return inter.take(order), np.array(labels, dtype=np.int8)[order]


def _labelled(table: DelimitedRows, columns: list[str], labels: list[int]) -> Iterator[Row]:
    seen: set[tuple[str, str]] = set()
    for place, (user, item, label, *when) in enumerate(table.records(columns)):
        if label not in ("0", "1", "2"):
            raise table.error(f"{LABEL} is {label!r}, but must be 0, 1 or 2 (train, valid, test)")
        if (user, item) in seen:
            raise table.error(f"item {item!r} of user {user!r} already has a row")
        seen.add((user, item))
        labels.append(int(label))
        yield Row(user, item, _number(when[0], table) if when else place)


def _number(text: str, source: Any) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise source.error(f"the time {text!r} is not a finite number")
    return value
