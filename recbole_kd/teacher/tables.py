"""Tables of users, items and scores or ranks: csv, tsv, Parquet and JSON lines, read in chunks."""

from __future__ import annotations

import json
import warnings
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from recbole_kd.errors import ConfigError, TeacherError

SUFFIXES = (".csv", ".tsv", ".parquet", ".jsonl")
CHUNK = 500_000
"""Rows that are in memory as text at a time."""

USUAL = {
    "user": ("user", "user_id", "userid", "uid", "reviewerid"),
    "item": ("item", "item_id", "itemid", "iid", "movieid", "asin"),
    "score": ("score", "prediction", "pred", "relevance"),
    "rank": ("rank", "position"),
}
"""Column names that are found without an option, in lower case and without RecBole's ``:token``."""

TEXT_KINDS = ("string", "integer", "mixed-integer", "empty")
"""Kinds of columns, by pandas, whose values can be ids."""

LARGEST_FLOAT_ID = 2.0**53
"""Whole numbers from here on are rounded in a column of floats."""

BLOCK = 2**22
"""Bytes that are searched at a time."""

NO_NUMBER = ("nan", "na", "n/a", "null", "none", "")


@dataclass(frozen=True)
class Columns:
    """Names of the columns of a table of lists. Exactly one of ``score`` and ``rank`` is given."""

    user: str
    item: str
    score: str | None = None
    rank: str | None = None
    confidence: str | None = None
    position: str | None = None

    @property
    def names(self) -> list[str]:
        """All columns that are read."""
        more = (self.confidence, self.position)
        return [self.user, self.item, self.value, *(name for name in more if name is not None)]

    @property
    def value(self) -> str:
        """The column of scores or ranks."""
        return str(self.score if self.rank is None else self.rank)


def find_columns(names: Sequence[str], place: str, **given: str | None) -> Columns:
    """Return the columns of a table, those given or those with a usual name.

    Args:
        names: the columns that are there.
        place: name of the table, for the error.
        given: ``user``, ``item``, ``score``, ``rank``, and ``confidence`` and ``position``, which are read only if
            they are given. If both a score and a rank are found by name, the score is read.

    Raises:
        TeacherError: a column is missing, or a score and a rank are given.
    """
    if given.get("score") and given.get("rank"):
        raise TeacherError(
            f"score={given['score']} and rank={given['rank']} are both given for {place}: name one of the two columns"
        )
    found: dict[str, str | None] = {}
    for part, name in given.items():
        if name is not None and name not in names:
            raise TeacherError(f"{place} has no column {name!r} for {part}=: it has {_listed(names)}")
    taken = [name for name in (given.get("confidence"), given.get("position")) if name is not None]
    for part, usual in USUAL.items():
        name = given.get(part)
        near = [own for own in names if str(own).split(":")[0].lower() in usual and own not in taken]
        found[part] = name or (near[0] if near else None)
    if given.get("rank"):
        found["score"] = None
    elif found["score"]:
        found["rank"] = None
    missing = [part for part in ("user", "item") if found[part] is None]
    missing += [] if found["score"] or found["rank"] else ["score"]
    if missing:
        raise TeacherError(
            f"{place} has no column for {' and '.join(missing)}: it has {_listed(names)}; name it, such as "
            f"--{missing[0]}=COLUMN" + (" or --rank=COLUMN" if missing[0] == "score" else "")
        )
    more = {part: given.get(part) for part in ("confidence", "position")}
    return Columns(str(found["user"]), str(found["item"]), found["score"], found["rank"], **more)


def _listed(names: Sequence[str]) -> str:
    text = ", ".join(repr(str(name)) for name in names) or "no column"
    return text if len(text) <= 200 else f"{text[:200]} ..."


def names_in(path: Path) -> list[str]:
    """Return the column names of a file.

    Raises:
        TeacherError: there is no such file, or it cannot be read.
    """
    if not path.is_file():
        raise TeacherError(f"No table of a teacher's lists at {path}: check the path")
    with _reading(path):
        if path.suffix == ".parquet":
            return [str(name) for name in _parquet(path).schema_arrow.names]
        if path.suffix == ".jsonl":
            with open(path, encoding="utf-8-sig") as stream:
                first = json.loads(next((line for line in stream if line.strip()), "{}"))
            if not isinstance(first, dict):
                raise ValueError("its first line is not an object")
            return list(first)
        _refuse_nul(path)
        header = {"header": None, "nrows": 1, "dtype": str, "keep_default_na": False}
        names = (
            pd.read_csv(path, sep=_separator(path), encoding="utf-8-sig", index_col=False, **header).iloc[0].tolist()
        )
        twice = [name for name, n in Counter(names).items() if n > 1]
        if twice:
            raise ValueError(f"it has the column {twice[0]!r} twice")
        return names


def _refuse_nul(path: Path) -> None:
    """Refuse a text file with a NUL byte (ValueError): pandas would end the value there, without a word."""
    with open(path, "rb") as stream:
        while block := stream.read(BLOCK):
            if b"\0" in block:
                raise ValueError("it has a NUL byte")


def chunks_of(path: Path, columns: Columns) -> Iterator[pd.DataFrame]:
    """Yield a file's rows, in parts of at most :data:`CHUNK`, with the given columns.

    Raises:
        TeacherError: the file cannot be read.
    """
    names = columns.names
    with _reading(path):
        reader = _reader(path, names)
    while True:
        with _reading(path):
            chunk = next(reader, None)
        if chunk is None:
            return
        absent = [name for name in names if name not in chunk]
        if absent:
            raise TeacherError(f"{path} cannot be read: some of its rows have no {absent[0]!r}")
        yield chunk[names]


def _reader(path: Path, names: list[str]) -> Iterator[pd.DataFrame]:
    if path.suffix == ".parquet":
        batches = _parquet(path).iter_batches(batch_size=CHUNK, columns=names)
        return (batch.to_pandas() for batch in batches)
    if path.suffix == ".jsonl":
        options: dict[str, Any] = {"dtype": False, "convert_dates": False, "encoding": "utf-8"}
        return iter(pd.read_json(path, lines=True, chunksize=CHUNK, **options))
    return iter(
        pd.read_csv(
            path, sep=_separator(path), dtype=str, keep_default_na=False, na_values=[""],
            encoding="utf-8-sig", index_col=False, chunksize=CHUNK,
        )
    )  # fmt: skip


def _separator(path: Path) -> str:
    return "\t" if path.suffix == ".tsv" else ","


def _parquet(path: Path) -> Any:
    try:
        import pyarrow.parquet as parquet
    except ImportError:
        raise ConfigError(f"{path} needs pyarrow, `pip install pyarrow`, or give a .csv file") from None
    return parquet.ParquetFile(path)


@contextmanager
def _reading(path: Path) -> Iterator[None]:
    """Turn the errors of pandas and pyarrow into one sentence (TeacherError)."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", pd.errors.ParserWarning)  # a row with too many fields, in silence
            yield
    except (TeacherError, ConfigError):
        raise
    # pandas has no kind of its own for lines of JSON that are no objects: AttributeError and TypeError.
    except (
        ValueError, OSError, OverflowError, RecursionError, AttributeError, TypeError, pd.errors.ParserWarning
    ) as error:  # fmt: skip
        detail = " ".join(str(error).split())[:160]
        raise TeacherError(f"{path} cannot be read as {path.suffix.removeprefix('.')}: {detail}") from None


def texts_of(column: pd.Series, place: str) -> pd.Series:
    """Return a column of ids as text, missing ones as NaN. Whole floats are written as integers.

    Raises:
        TeacherError: it holds lists, dates or fractions.
    """
    if pd.api.types.is_float_dtype(column):
        known = column.dropna()
        if not bool(np.isfinite(known).all()) or bool((known % 1 != 0).any()):
            raise TeacherError(
                f"{place} has ids with a fraction in the column {column.name!r}: expected text or integers"
            )
        if len(known) and float(known.abs().max()) >= LARGEST_FLOAT_ID:
            raise TeacherError(f"{place} has rounded ids in the column {column.name!r}: write them as text")
        column = column.astype("Int64")
    kind = pd.api.types.infer_dtype(column, skipna=True)
    if kind not in TEXT_KINDS:
        raise TeacherError(
            f"{place} has {kind} values in the column {column.name!r}: expected ids, as text or integers"
        )
    return column.astype(object).where(column.notna(), None).map(str, na_action="ignore")


def numbers_of(column: pd.Series, place: str) -> np.ndarray:
    """Return a column of scores or ranks as float64, missing ones as NaN.

    Raises:
        TeacherError: a value is not a number.
    """
    if pd.api.types.infer_dtype(column, skipna=True) == "boolean":
        raise TeacherError(f"{place} has true or false in the column {column.name!r}: expected a number")
    numbers = pd.to_numeric(column, errors="coerce")
    wrong = numbers.isna() & column.notna()
    if bool(wrong.any()):
        texts = column[wrong].map(str).str.strip()
        texts = texts[~texts.str.lower().isin(NO_NUMBER)]
        if len(texts):
            raise TeacherError(f"{place} has {texts.iloc[0][:60]!r} in the column {column.name!r}: expected a number")
    return numbers.to_numpy(dtype=np.float64, na_value=np.nan)
