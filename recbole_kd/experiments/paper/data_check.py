"""A check that prepared data are the paper's, before anything is run on them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path

from recbole_kd.data.prepared_files import MANIFEST
from recbole_kd.data.preparing.prepare import not_prepared
from recbole_kd.errors import DataError
from recbole_kd.experiments.paper.cells import Cell, DataSet
from recbole_kd.experiments.paper.matching import same_counts, without_test
from recbole_kd.storage.json_files import read_json


def check_data(cells: Iterable[Cell], data_path: Path, *, other_data: bool = False) -> None:
    """Refuse cells whose prepared data set is missing or has other counts than the paper's.

    A folder without ``prepared.json`` is a user's own and is not compared; the results record its counts.

    Args:
        cells: the cells that would be run.
        data_path: folder of the prepared data sets.
        other_data: accept data that are not the paper's.

    Raises:
        DataError: a data set is missing, damaged, or not the paper's.
    """
    seen = set()
    for cell in cells:
        general = cell.settings["setting"] == "general"
        if (cell.data.key, general) in seen:
            continue
        seen.add((cell.data.key, general))
        folder = data_path / cell.data.key
        if not folder.is_dir():
            raise not_prepared(cell.data.key, folder) or DataError(f"There is no data set {cell.data.key} in {folder}")
        if (folder / MANIFEST).is_file() and not other_data:
            _compare(cell.data, folder, general)


def _compare(data: DataSet, folder: Path, general: bool) -> None:
    try:
        counts = read_json(folder / MANIFEST)["counts"]
        of_test = {"test": counts["test"]["interactions"]} if "test" in counts else {}
        found = {**counts["all"], **of_test}
    except (ValueError, KeyError, TypeError) as error:
        raise DataError(f"{folder / MANIFEST} is damaged ({error}): prepare the data set again") from None
    expected = data.counts if general else without_test(data.counts)
    if not same_counts(expected, found):
        ours, theirs = _in_words(found, expected), _in_words(expected, expected)
        raise DataError(
            f"{folder} has {ours}, the paper's {data.name} {theirs}: move it away and run `{data.prepare}`, or add "
            "--other_data to run on it; such results are marked"
        )


def _in_words(counts: Mapping[str, int], names: Iterable[str]) -> str:
    return ", ".join(f"{counts[name]:,} {name}{' rows' if name == 'test' else ''}" for name in names if name in counts)
