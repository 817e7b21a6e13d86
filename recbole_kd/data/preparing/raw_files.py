"""Readers of published raw files; an error on a malformed line names its file and number."""

from __future__ import annotations

import csv
import gzip
import io
import math
import re
import zlib
from collections.abc import Iterator, Sequence
from datetime import UTC, date, datetime, time
from pathlib import Path
from typing import Any

from tqdm import tqdm

from recbole_kd.data.preparing.interactions import Located, Row
from recbole_kd.errors import ConfigError, DataError

# A header is recognised only by these words: an unknown word in a rating column is a malformed line.
_RATING_HEADERS = frozenset({"rating", "ratings", "stars", "score"})
SEPARATORS = ("::", "\t", ",", ";", "|")
"""Column separators of a .txt or .dat file; the first one found in the first line is used, else blanks."""
LARGEST_TIME = 2**62
_WHOLE = re.compile(r"[-+]?[0-9]+")
_NANOSECONDS = re.compile(r"[.,][0-9]{6}[0-9]*[1-9]")
_BAR_EVERY = 1 << 14
_BAR_DELAY = 2.0  # seconds: shorter work shows no progress bar


def there(folder: Path, name: str) -> bool:
    """Test whether :func:`find_file` would find the file."""
    return (folder / name).is_file() or (folder / f"{name}.gz").is_file()


def find_file(folder: Path, name: str) -> Path:
    """Return `folder/name`, or its gzipped version."""
    for candidate in (folder / name, folder / f"{name}.gz"):
        if candidate.is_file():
            return candidate
    raise DataError(f"{name} (or {name}.gz) is not in {folder}: give the folder that holds it as --raw=DIR.")


class Lines:
    """The lines of a text file, gzipped or not, with the number of the current one."""

    def __init__(self, path: Path) -> None:
        self.path, self.number = path, 0

    def error(self, problem: str) -> DataError:
        """Return an error that begins with file:line."""
        return DataError(f"{self.path}:{self.number}: {problem}.")

    def __iter__(self) -> Iterator[str]:
        size = self.path.stat().st_size
        with (
            open(self.path, "rb") as raw,
            tqdm(total=size, desc=self.path.name, unit="B", unit_scale=True, delay=_BAR_DELAY, disable=None) as bar,
        ):
            for line in self._decoded(raw):
                if self.number % _BAR_EVERY == 0:
                    bar.update(raw.tell() - bar.n)
                yield line

    def _decoded(self, raw: io.BufferedReader) -> Iterator[str]:
        gzipped = self.path.suffix == ".gz"
        stream = io.BufferedReader(gzip.GzipFile(fileobj=raw)) if gzipped else raw
        try:
            # Decoding line by line keeps the number exact when a byte is wrong.
            for self.number, line in enumerate(stream, start=1):
                yield line.decode("utf-8-sig" if self.number == 1 else "utf-8")
        except UnicodeDecodeError:
            raise self.error("this is not UTF-8 text") from None
        except (gzip.BadGzipFile, EOFError, zlib.error):
            raise self.error("the gzip file is damaged here") from None


class ParquetRows:
    """Chosen columns of a Parquet file, read in batches; errors name the row."""

    def __init__(self, path: Path) -> None:
        try:
            import pyarrow.parquet as parquet  # optional: only Parquet input needs it
        except ImportError:
            raise ConfigError(f"{path} is Parquet, which needs pyarrow: pip install pyarrow.") from None
        self.path, self.number = path, 0
        try:
            self._file = parquet.ParquetFile(path)
        except Exception as error:  # pyarrow raises several unrelated classes for a damaged file
            raise DataError(f"{path} is not a readable Parquet file ({type(error).__name__}).") from None
        self.columns: list[str] = list(self._file.schema_arrow.names)

    def error(self, problem: str) -> DataError:
        """Return an error that begins with the file and the row."""
        return DataError(f"{self.path}, row {self.number}: {problem}.")

    def records(self, columns: list[str]) -> Iterator[list[Any]]:
        """Yield the values of `columns`, row by row."""
        total = self._file.metadata.num_rows
        with tqdm(total=total, desc=self.path.name, unit="row", delay=_BAR_DELAY, disable=None) as bar:
            for batch in self._file.iter_batches(columns=columns):
                # By name: iter_batches keeps the file's order of columns.
                values = [batch.column(name).to_pylist() for name in columns]
                for record in zip(*values, strict=True):
                    self.number += 1
                    yield list(record)
                bar.update(batch.num_rows)


class DelimitedRows:
    """Chosen columns of a text file.

    Args:
        delimiter: text between two columns; None for any blanks.
        columns: their names; None if the first line names them.
    """

    def __init__(self, path: Path, delimiter: str | None, columns: Sequence[str] | None = None) -> None:
        self._lines = Lines(path)
        if delimiter is not None and len(delimiter) == 1:
            self._reader: Iterator[list[str]] = csv.reader(iter(self._lines), delimiter=delimiter)
        else:  # the csv module does not support such delimiters
            self._reader = (line.rstrip("\r\n").split(delimiter) if line.strip() else [] for line in self._lines)
        self.columns: list[str] = next(self._rows(), []) if columns is None else list(columns)

    def error(self, problem: str) -> DataError:
        """Return an error that begins with file:line."""
        return self._lines.error(problem)

    def records(self, columns: list[str]) -> Iterator[list[Any]]:
        """Yield the values of `columns`, row by row."""
        chosen = [self.columns.index(name) for name in columns]
        for row in self._rows():
            if len(row) != len(self.columns):
                raise self.error(f"expected {len(self.columns)} columns, found {len(row)}")
            yield [row[position] for position in chosen]

    def _rows(self) -> Iterator[list[str]]:
        try:
            yield from (row for row in self._reader if row)
        except csv.Error as error:
            raise self.error(str(error)) from None


def open_table(path: Path, columns: Sequence[str] | None = None) -> ParquetRows | DelimitedRows:
    """Return a table reader chosen by the file's name.

    In .txt and .dat files the first line shows the separator.

    Args:
        columns: names of the columns of a text file without a header line.
    """
    name = path.name.removesuffix(".gz")
    if name.endswith((".parquet", ".pq")):
        if columns is not None:
            raise ConfigError(
                f"--columns has no effect on {path.name}, a Parquet file, which names its columns: leave it out."
            )
        return ParquetRows(path)
    if name.endswith((".csv", ".tsv")):
        return DelimitedRows(path, "," if name.endswith(".csv") else "\t", columns)
    if name.endswith((".txt", ".dat")):
        return DelimitedRows(path, _separator_of(path), columns)
    raise ConfigError(
        f"{path.name} is not a known kind of table: use a name that ends in .csv, .tsv, .txt, .dat or .parquet."
    )


def _separator_of(path: Path) -> str | None:
    """Return the separator in the first line; None for blanks."""
    first = next(iter(Lines(path)), "")
    return next((mark for mark in SEPARATORS if mark in first), None)


def finite(value: Any) -> float:
    """Return the value as a finite number.

    Raises:
        ValueError, TypeError: it is not a finite number.
    """
    number = float(value)
    if not math.isfinite(number):
        raise ValueError(value)
    return number


def seconds(value: Any) -> float:
    """Return a time in seconds, from a number, an ISO date or a date-time (UTC by default).

    A whole number stays an int.

    Raises:
        ValueError, TypeError: it is none of these, or a date-time with nanoseconds.
    """
    if isinstance(value, str):
        value = value.strip()
        if _WHOLE.fullmatch(value):
            return int(value)
        try:
            return finite(value)
        except ValueError:
            if _NANOSECONDS.search(value):
                raise
            value = datetime.fromisoformat(value)
    if isinstance(value, int) and not isinstance(value, bool):
        return value
    if getattr(value, "nanosecond", 0):
        raise ValueError(value)
    if isinstance(value, date) and not isinstance(value, datetime):
        value = datetime.combine(value, time())
    if isinstance(value, datetime):
        return (value if value.tzinfo else value.replace(tzinfo=UTC)).timestamp()
    return finite(value)


def _time(value: Any, source: Located) -> float:
    try:
        when = seconds(value)
    except (ValueError, TypeError, OverflowError):
        raise source.error(f"the time {value!r} is neither a number nor an ISO date (to the microsecond)") from None
    if abs(when) > LARGEST_TIME:
        raise source.error(f"the time {value!r} is beyond 2^62")
    return when


def _rating(value: Any, source: Located) -> float:
    try:
        return finite(value)
    except (ValueError, TypeError, OverflowError):
        raise source.error(f"the rating {value!r} is not a number") from None


def counted_lists(lines: Lines, min_items: int) -> Iterator[Row]:
    """Yield rows of lines "n item item ...", one a user, counted from 0.

    Users below `min_items` are left out. The position is the time. An item that a user lists twice counts once, at
    its first position.
    """
    for user, line in enumerate(lines):
        count, *listed = line.split() or [""]
        if not count.isdecimal() or int(count) != len(listed):
            raise lines.error(f"expected a count and that many items, found {count!r} and {len(listed)} items")
        items = dict.fromkeys(listed)
        if len(items) >= min_items:
            yield from (Row(str(user), item, position) for position, item in enumerate(items))


def sequences(lines: Lines, *, repeats: bool, empty: bool) -> Iterator[Row]:
    """Yield rows of lines "user item item ..."; the position is the time.

    `repeats` keeps an item that occurs twice in a line; `empty` accepts a user without items.
    """
    seen: set[str] = set()
    for line in lines:
        if not (fields := line.split()):
            continue
        user, *items = fields
        if user in seen:
            raise lines.error(f"user {user!r} already has a line")
        if not items and not empty:
            raise lines.error(f"user {user!r} has no items")
        seen.add(user)
        kept = items if repeats else dict.fromkeys(items)
        yield from (Row(user, item, position) for position, item in enumerate(kept))


def check_ins(lines: Lines) -> Iterator[Row]:
    """Yield rows of tab-separated lines: user, ISO time, latitude, longitude, location."""
    for line in lines:
        fields = line.rstrip("\r\n").split("\t")
        if len(fields) != 5:
            raise lines.error(f"expected user, time, latitude, longitude, location; found {len(fields)} fields")
        yield Row(fields[0], fields[4], _time(fields[1], lines))


def ratings(lines: Lines, min_rating: float) -> Iterator[Row]:
    """Yield rows of lines: user, item, rating, time; low ratings are left out.

    Fields are separated by commas, tabs or blanks.
    """
    delimiter: str | None = None
    for line in lines:
        text = line.strip()
        if lines.number == 1:
            delimiter = next((mark for mark in (",", "\t") if mark in text), None)
        if not text:
            continue
        fields = [part.strip() for part in text.split(delimiter, 3)]
        if len(fields) != 4:
            raise lines.error(f"expected user, item, rating, time; found {len(fields)} fields")
        if lines.number == 1 and fields[2].lower() in _RATING_HEADERS:
            continue
        rating, when = _rating(fields[2], lines), _time(fields[3], lines)
        if rating >= min_rating:
            yield Row(fields[0], fields[1], when, rating)


def table_rows(
    table: ParquetRows | DelimitedRows,
    user: str,
    item: str,
    time_column: str | None,
    rating_column: str | None,
    min_rating: float | None,
) -> Iterator[Row]:
    """Yield the rows of a table; without a time column the row number is the time."""
    columns = [user, item] + [name for name in (time_column, rating_column) if name]
    for place, (user_id, item_id, *rest) in enumerate(table.records(columns)):
        if user_id is None or item_id is None:
            raise table.error("an id is empty")
        when = _time(rest[0], table) if time_column else float(place)
        rating = _rating(rest[-1], table) if rating_column else 0.0
        if min_rating is None or rating >= min_rating:
            yield Row(str(user_id), str(item_id), when, rating)
