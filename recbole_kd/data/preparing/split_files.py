"""Published splits as three tables: train, valid and test, with users and items.

FreeRec publishes such folders: ``train.txt``, ``valid.txt`` and ``test.txt``, tab-separated, with the header
``User Item`` or ``USER ITEM RATING TIMESTAMP`` (https://github.com/MTandHJ/freerec, Zenodo records 7683693 and
10998102).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from recbole_kd.data.preparing.interactions import Collector, Interactions, Row
from recbole_kd.data.preparing.multimodal_layouts import PARTS, Codes
from recbole_kd.data.preparing.raw_files import DelimitedRows, ParquetRows, find_file, open_table, table_rows, there
from recbole_kd.errors import DataError

ENDINGS = (".txt", ".csv", ".tsv")
COLUMNS = {"user": ("user", "userid", "uid"), "item": ("item", "itemid", "iid"), "time": ("timestamp", "time")}
"""Option -> names by which its column is found, in lower case and without underscores."""


def split_rows(
    folder: Path, user: str | None = None, item: str | None = None, time: str | None = None
) -> tuple[Interactions, Codes, list[Path], int]:
    """Return the interactions of train, valid and test files, sorted by user and time.

    Without a column of times the order of the rows stands for them, train before valid before test.

    Args:
        folder: holds ``train``, ``valid`` and ``test`` with one of the endings .txt, .csv, .tsv, gzipped or not.
        user, item, time: names of the columns; by default those that are called so in the header.

    Returns:
        the rows, the part of each row (0, 1, 2 for train, valid, test), the files, and the number of rows left out
        because an earlier row, train first, has the same user and item.

    Raises:
        DataError: a file or a column is missing, or a line is malformed.
    """
    paths = [_file(folder, part) for part in PARTS]
    collector, sizes = Collector(), [0]
    for path in paths:
        table = open_table(path)
        names = [_column(table, path, option, given) for option, given in zip(COLUMNS, (user, item, time), strict=True)]
        collector.add(_rows(table, names, sizes[-1]), table)
        sizes.append(len(collector))
    inter = collector.interactions()
    part = np.repeat(np.arange(len(PARTS), dtype=np.int8), np.diff(sizes))
    _, first = np.unique(inter.pairs(), return_index=True)
    kept = np.sort(first)  # the earliest row of each pair, in the order of the files
    repeats = len(inter) - len(kept)
    inter, part = inter.take(kept), part[kept]
    order = np.lexsort((inter.time, inter.user))
    return inter.take(order), part[order], paths, repeats


def _file(folder: Path, part: str) -> Path:
    found = next((f"{part}{ending}" for ending in ENDINGS if there(folder, f"{part}{ending}")), f"{part}.txt")
    return find_file(folder, found)


def _column(table: ParquetRows | DelimitedRows, path: Path, option: str, given: str | None) -> str | None:
    """Return the name of a column, None for times that are not there."""
    if given is not None:
        if given not in table.columns:
            raise DataError(f"{path} has no column {given!r}: it has {', '.join(table.columns)}.")
        return given
    plain = {name.partition(":")[0].lower().replace("_", "").strip(): name for name in reversed(table.columns)}
    found = next((plain[name] for name in COLUMNS[option] if name in plain), None)
    if found is None and option != "time":
        raise DataError(
            f"{path} has no column that is called {' or '.join(COLUMNS[option])}: it has "
            f"{', '.join(table.columns[:6])}; name it with --{option}=COLUMN."
        )
    return found


def _rows(table: ParquetRows | DelimitedRows, names: Sequence[str | None], before: int) -> Iterator[Row]:
    user, item, time = names
    assert user is not None and item is not None
    for place, row in enumerate(table_rows(table, user, item, time, None, None), start=before):
        yield row if time else row._replace(time=place)
