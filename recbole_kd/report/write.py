"""The report of a folder: its kind is found by its files, the page is written as report.html."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from recbole_kd.errors import ConfigError, KDError
from recbole_kd.report.charts import Table, number
from recbole_kd.report.comparison_page import comparison_page
from recbole_kd.report.page import MARK, Page, html_of
from recbole_kd.report.run_page import run_page
from recbole_kd.report.search_page import search_page
from recbole_kd.storage.files import write_text_whole
from recbole_kd.storage.json_files import read_json
from recbole_kd.storage.targets import check_file, holds_text

REPORT = "report.html"
SHOWN = "shown.json"
"""Names of the results that a comparison's table shows; its folder may hold results of other settings too."""

RESULT, TRIALS, CSV, TEXT, RESULTS = "result.json", "trials.json", "table.csv", "table.txt", "results"

WRONG_SHAPE = (ValueError, KeyError, TypeError, AttributeError, IndexError, StopIteration)
"""Errors of reading a file that has another shape than a record of this project."""


def write_report(folder: Path) -> Path:
    """Write report.html into the folder of a run, a search, a comparison or a grid, and return its path.

    Raises:
        ConfigError: the folder is none of these, or a file in it is damaged.
        TargetError: another file has the report's name.
        KDError: Plotly is not installed.
    """
    target = folder / REPORT
    check_file(target, own=lambda path: holds_text(path, MARK))
    text = html_of(page_of(folder))
    write_text_whole(target, text.encode("utf-8", "replace").decode("utf-8"))
    return target


def page_of(folder: Path) -> Page:
    """Return the page of a folder.

    Raises:
        ConfigError: see :func:`write_report`.
    """
    kinds: Sequence[tuple[str, Callable[[Path], Page]]] = (
        (RESULT, _run), (TRIALS, _search), (f"{RESULTS}/*.json", _comparison), ("*-seed*.json", _grid),
    )  # fmt: skip
    for pattern, make in kinds:
        found = next(iter(sorted(folder.glob(pattern))), None)
        if found is not None:
            try:
                return make(folder)
            except WRONG_SHAPE as error:
                named = f"{type(error).__name__}: {error}"
                raise ConfigError(f"{folder} has no complete record to report ({named}): run it again") from error
    raise ConfigError(
        f"{folder} is not the folder of a run, a search, a comparison or a grid: name one that has {RESULT}, {TRIALS} "
        f"or results of a grid, such as a folder of saved/"
    )


def try_report(folder: Path) -> str | None:
    """Write the report of a folder and return None, or return why that was not possible.

    What the report is about is finished and stays, whatever happens here.
    """
    try:
        write_report(folder)
    except Exception as error:  # a result is worth more than its picture, so nothing may pass but interrupts
        words = str(error) if isinstance(error, KDError) else f"{type(error).__name__}: {error}"
        return f"no report was written ({words}); `recbole-kd report {folder}` tries again"
    return None


def _run(folder: Path) -> Page:
    return run_page(read_json(folder / RESULT))


def _search(folder: Path) -> Page:
    return search_page(folder.name, read_json(folder / TRIALS))


def _grid(folder: Path) -> Page:
    return comparison_page(f"Grid {folder.name}", _records(folder))


def _comparison(folder: Path) -> Page:
    shown = folder / SHOWN
    records = _records(folder / RESULTS, read_json(shown)["results"] if shown.is_file() else None)
    path = folder / CSV
    if not path.is_file():
        return comparison_page(f"Comparison {folder.name}", records)
    text = path.read_text(encoding="utf-8")
    notes = (folder / TEXT).read_text(encoding="utf-8") if (folder / TEXT).is_file() else ""
    return comparison_page(f"Comparison {folder.name}", records, csv_table(text), notes_of(notes), text)


def _records(folder: Path, names: Sequence[str] | None = None) -> list[Mapping[str, Any]]:
    """Return the results in a folder that a grid or a comparison wrote.

    Args:
        folder: the folder.
        names: names of the files. If None, all of the folder.
    """
    found: list[Mapping[str, Any]] = []
    for path in sorted(folder.glob("*.json")):
        content = read_json(path) if names is None or path.name in names else None
        if isinstance(content, dict) and {"run", "seed", "versions"} <= set(content):
            found.append(content)
    rows = [(record["run"], record["seed"]) for record in found]
    twice = next((row for row in rows if rows.count(row) > 1), None)
    if twice is not None:
        raise ValueError(f"two results of {twice[0]}, seed {twice[1]}")
    if not found:
        raise ValueError("no result of a run in it")
    return found


def csv_table(text: str) -> Table:
    """Return a csv as a table with rounded numbers."""
    rows = list(csv.reader(io.StringIO(text)))
    return Table(rows[0], [[_rounded(cell) for cell in row] for row in rows[1:]])


def _rounded(cell: str) -> str:
    try:
        return number(float(cell)) if "." in cell or "e-" in cell else cell
    except ValueError:
        return cell


def notes_of(text: str) -> list[str]:
    """Return the last paragraph of a comparison's table.txt, its notes, as one text."""
    paragraphs = [part for part in text.split("\n\n") if part.strip()]
    return [" ".join(paragraphs[-1].split())] if paragraphs else []
