"""Reader of atomic files: a data frame with exact values, or an error with its line.

RecBole's reader reads ids such as ``NA`` as missing, shifts the columns of rows that are wider than the header, and
reads whole numbers beyond 2^53 (nanoseconds) inexactly.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from recbole_kd.data.time_order import LARGEST_EXACT, whole_if_possible
from recbole_kd.errors import DataError

PAD = "[PAD]"
NO_NUMBER = (
    "",
    "NA",
    "N/A",
    "n/a",
    "#N/A",
    "<NA>",
    "nan",
    "NaN",
    "-nan",
    "-NaN",
    "NAN",
    "null",
    "NULL",
    "Null",
    "None",
    "none",
)
"""Texts that mean a missing number. In an id column they are ids, except the empty text."""
_LARGEST_TIME = 2**62  # so that the difference of two times is an int64 too


@dataclass(frozen=True)
class Layout:
    """The format of a file's lines: columns, separator and text encoding."""

    columns: tuple[str, ...]
    separator: str
    encoding: str | None = None


class Lines:
    """The line numbers of a table's rows, for errors."""

    def __init__(self, path: Path, numbers: npt.NDArray[np.int64]) -> None:
        self.path, self._numbers = path, numbers

    def error(self, wrong: npt.NDArray[np.bool_], problem: str) -> DataError:
        """Return the error for the rows marked in bool ``[n]``; it names the first one."""
        count = int(wrong.sum())
        rows = f" ({count:,} such rows)" if count > 1 else ""
        return DataError(f"{self.path}:{self._numbers[int(wrong.argmax())]}: {problem}{rows}")


def read_columns(
    path: Path, layout: Layout, texts: Sequence[str], numbers: Sequence[str]
) -> tuple[pd.DataFrame, Lines]:
    """Read chosen columns of an atomic file, below its header.

    Args:
        texts: columns read as text, object dtype; a missing value is an empty text.
        numbers: columns read as int64 if all their values are whole, else as float64 with NaN for a missing number.

    Raises:
        DataError: a row has more or fewer columns than the header, or a value is not a number; the message names file
            and line.
    """
    body = _body(path, layout.encoding)
    plain = b'"' not in body and len(layout.separator.encode()) == 1
    frame, lines = (_plain_table if plain else _quoted_table)(path, layout, body, [*texts, *numbers], numbers)
    for name in numbers:
        if frame[name].dtype == object or frame[name].dtype == bool or frame[name].dtype == np.uint64:
            raise _no_number(frame[name], name, lines)
        if np.isinf(frame[name]).any():
            raise lines.error(np.isinf(frame[name].to_numpy()), f"{name} is infinite: write a finite number")
    return frame, lines


def _no_number(column: pd.Series[Any], name: str, lines: Lines) -> DataError:
    texts = column.astype(str)
    number = pd.to_numeric(texts.where(~texts.isin(NO_NUMBER), "0"), errors="coerce")
    wrong = (number.isna() | texts.isin(("True", "False")) | (number.abs() > np.iinfo(np.int64).max)).to_numpy()
    text = texts[int(wrong.argmax())]
    return lines.error(
        wrong, f"{name} is {text[:80]!r}, which is not a number that can be read (`recbole-kd prepare` converts dates)"
    )


def _body(path: Path, encoding: str | None) -> bytes:
    """Return the text below the header line in UTF-8, with ``\\n`` at the end of every line."""
    data = path.read_bytes()
    if (encoding or "utf-8").lower().replace("_", "-") not in ("utf-8", "utf8", "utf-8-sig", "ascii"):
        data = data.decode(str(encoding)).encode()
    if b"\r" in data:
        data = data.replace(b"\r\n", b"\n").replace(b"\r", b"\n")
    return data.partition(b"\n")[2]


def _plain_table(
    path: Path, layout: Layout, body: bytes, chosen: Sequence[str], numbers: Sequence[str]
) -> tuple[pd.DataFrame, Lines]:
    """Read a file without double quotes, in which every separator ends a column."""
    found = _line_numbers(path, layout, body)
    if not len(found):
        empty = {name: np.array([], dtype=np.float64 if name in numbers else object) for name in chosen}
        return pd.DataFrame(empty), Lines(path, found)
    frame = pd.read_csv(
        io.BytesIO(body),
        sep=layout.separator,
        header=None,
        names=list(layout.columns),
        index_col=False,
        usecols=list(chosen),
        dtype={name: str for name in chosen if name not in numbers},
        keep_default_na=False,
        na_values={name: list(NO_NUMBER) for name in numbers},
        quoting=csv.QUOTE_NONE,
        float_precision="round_trip",
        low_memory=False,
        encoding="utf-8",
    )
    return frame[list(chosen)], Lines(path, found)


def _line_numbers(path: Path, layout: Layout, body: bytes) -> npt.NDArray[np.int64]:
    """Return the line number of each row; blank lines are skipped.

    Raises:
        DataError: a row has more or fewer columns than the header.
    """
    data = np.frombuffer(body, np.uint8)
    ends = np.flatnonzero(data == ord("\n"))
    if len(data) and data[-1] != ord("\n"):
        ends = np.append(ends, len(data))
    marks = np.flatnonzero(data == ord(layout.separator))
    widths = np.diff(np.searchsorted(marks, ends), prepend=0) + 1
    filled = np.diff(ends, prepend=-1) > 1
    lines = np.flatnonzero(filled) + 2
    _check_widths(widths[filled], len(layout.columns), Lines(path, lines))
    return lines


def _check_widths(widths: npt.NDArray[np.int64], expected: int, lines: Lines) -> None:
    wrong = widths != expected
    if wrong.any():
        found = int(widths[int(wrong.argmax())])
        raise lines.error(wrong, f"{found} {'column' if found == 1 else 'columns'}, but the header names {expected}")


def _quoted_table(
    path: Path, layout: Layout, body: bytes, chosen: Sequence[str], numbers: Sequence[str]
) -> tuple[pd.DataFrame, Lines]:
    """Read a file with double quotes, or with a separator of several characters, row by row."""
    rows, at = _quoted_rows(path, layout, body.decode())
    lines = Lines(path, np.array(at, dtype=np.int64))
    _check_widths(np.array([len(row) for row in rows], dtype=np.int64), len(layout.columns), lines)
    place = {name: number for number, name in enumerate(layout.columns)}
    columns = {name: pd.Series([row[place[name]] for row in rows], dtype=object) for name in chosen}
    return pd.DataFrame({**columns, **{name: _inferred(columns[name]) for name in numbers}}), lines


def _quoted_rows(path: Path, layout: Layout, text: str) -> tuple[list[list[str]], list[int]]:
    """Return the fields of each row and its line number."""
    if len(layout.separator) > 1:
        split = [
            (number, line.split(layout.separator)) for number, line in enumerate(text.split("\n"), start=2) if line
        ]
        return [row for _, row in split], [number for number, _ in split]
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=layout.separator, strict=True)
    rows, at, before = [], [], 0
    try:
        for row in reader:
            if reader.line_num > before + 1:
                raise csv.Error("it is closed on a later line")
            before = reader.line_num
            if row:
                rows.append(row)
                at.append(before + 1)
    except csv.Error as error:
        problem = f"a double quote opens here, and {error}: write ids without double quotes"
        raise DataError(f"{path}:{before + 2}: {problem}") from None
    return rows, at


def _inferred(texts: pd.Series[Any]) -> pd.Series[Any]:
    """Return texts as int64 or float64; unchanged if one of them is not a number."""
    if texts.str.contains("_", regex=False).any():  # Python would read 1_000 as a number
        return texts
    for kind in (int, float):
        try:
            return pd.Series(
                [np.nan if kind is float and text in NO_NUMBER else kind(text) for text in texts], dtype=kind
            )
        except (ValueError, OverflowError):
            continue
    return texts


def check_ids(frame: pd.DataFrame, ids: Collection[str], lines: Lines) -> None:
    """Refuse rows without an id.

    Raises:
        DataError: an id is empty, or is RecBole's padding; the message names file and line.
    """
    for name in ids:
        odd = [token for token in pd.unique(frame[name]) if not token.strip() or token == PAD]
        if odd:
            wrong = frame[name].isin(odd).to_numpy()
            first = frame[name][int(wrong.argmax())]
            what = (
                f"{name} is {PAD}, which is RecBole's padding: rename it"
                if first == PAD
                else f"{name} is empty: complete or delete the row"
            )
            raise lines.error(wrong, what)


def exact_times(column: pd.Series[Any], name: str, lines: Lines) -> npt.NDArray[Any]:
    """Return the times of a column as int64 or float64 ``[n]``, exactly as in the file.

    Raises:
        DataError: a time is missing, or no int64 or float64 can hold it exactly; the message names file and line.
    """
    times = column.to_numpy()
    if np.isnan(times).any():
        raise lines.error(
            np.isnan(times),
            f"{name} is empty: complete or delete the row, or split at random without load_col reading {name}",
        )
    largest = LARGEST_EXACT if times.dtype == np.float64 else _LARGEST_TIME
    beyond = (times > largest) | (times < -largest)
    if beyond.any():
        raise lines.error(
            beyond,
            f"{name} is {times[int(beyond.argmax())]}, which cannot be kept exactly: write times as whole numbers "
            "below 2^62",
        )
    return whole_if_possible(times) if times.dtype == np.float64 else times


def split_sequences(
    column: pd.Series[Any], separator: str, numbers: bool, name: str, lines: Lines
) -> list[npt.NDArray[Any]]:
    """Split each text at ``separator`` into an array of tokens or numbers.

    Raises:
        DataError: a value is not a number; the message names file and line.
    """
    tokens = [[token for token in text.split(separator) if token] for text in column]
    if not numbers:
        return [np.array(row, dtype=str) for row in tokens]
    try:
        return [np.array(row, dtype=np.float64) for row in tokens]
    except ValueError:
        wrong = np.array([not _all_numbers(row) for row in tokens])
        raise lines.error(wrong, f"{name} has a value that is not a number") from None


def _all_numbers(tokens: Sequence[str]) -> bool:
    try:
        np.array(tokens, dtype=np.float64)
    except ValueError:
        return False
    return True


def missing_numbers(frame: pd.DataFrame, names: Collection[str]) -> Mapping[str, int]:
    """Count the missing numbers of each column; columns without any are left out."""
    counts = {name: int(frame[name].isna().sum()) for name in names}
    return {name: count for name, count in counts.items() if count}
