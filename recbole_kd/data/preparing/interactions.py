"""Interactions in memory: integer codes in numpy arrays, each distinct token stored once."""

from __future__ import annotations

from array import array
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple, Protocol

import numpy as np
import numpy.typing as npt

from recbole_kd.errors import DataError

IntArray = npt.NDArray[np.int32]
FloatArray = npt.NDArray[np.float64]
Mask = npt.NDArray[np.bool_]

# RecBole reads atomic files with pandas, which reads these words as missing; [PAD] is RecBole's own id 0.
# fmt: off
_WORDS_LOST = frozenset({
    "#N/A", "#N/A N/A", "#NA", "-1.#IND", "-1.#QNAN", "-NaN", "-nan", "1.#IND", "1.#QNAN", "<NA>",
    "N/A", "NA", "NULL", "NaN", "None", "n/a", "nan", "null", "[PAD]",
})
# fmt: on
LARGEST_EXACT = 2**53
_BOTH = "the times have fractions and also numbers beyond 2^53, which no number type holds exactly: write whole numbers"
_CHARACTERS_LOST = frozenset('\t\n\r"')


class Row(NamedTuple):
    """One interaction of a raw file."""

    user: str
    item: str
    time: float
    rating: float = 0.0


class Located(Protocol):
    """A source that knows its current position, for error messages."""

    def error(self, problem: str) -> DataError:
        """Return the error with the file and the current line."""


@dataclass
class Vocabulary:
    """Tokens numbered in order of first appearance."""

    tokens: list[str] = field(default_factory=list)
    codes: dict[str, int] = field(default_factory=dict)

    def code(self, token: str, source: Located) -> int:
        """Return the code of a token; a new token is checked once."""
        code = self.codes.get(token)
        if code is None:
            if problem := token_problem(token):
                raise source.error(problem)
            code = self.codes[token] = len(self.tokens)
            self.tokens.append(token)
        return code


def token_problem(token: str) -> str | None:
    """Return the reason why RecBole could not read the token back, or None."""
    if not token:
        return "an id is empty"
    if token in _WORDS_LOST:
        return f"the id {token!r} would be read back as a missing value"
    if not _CHARACTERS_LOST.isdisjoint(token):
        return f"the id {token!r} has a tab, a line break or a double quote, which atomic files cannot hold"
    return None


@dataclass(frozen=True)
class Interactions:
    """Parallel arrays of one length, and the tokens of their codes."""

    user: IntArray
    item: IntArray
    time: npt.NDArray[Any]  # int64 if all times are whole numbers, else float64
    rating: FloatArray | None
    user_tokens: list[str]
    item_tokens: list[str]
    has_time: bool = True

    def __len__(self) -> int:
        return len(self.user)

    def take(self, rows: npt.NDArray[np.generic]) -> Interactions:
        """Return the chosen rows (a mask or positions); codes keep their meaning."""
        rating = None if self.rating is None else self.rating[rows]
        return replace(self, user=self.user[rows], item=self.item[rows], time=self.time[rows], rating=rating)

    def pairs(self) -> npt.NDArray[np.int64]:
        """Return one number for each (user, item)."""
        return self.user.astype(np.int64) * len(self.item_tokens) + self.item

    def counts(self) -> dict[str, int]:
        """Return the numbers of distinct users, distinct items and rows."""
        return {
            "users": int(np.count_nonzero(np.bincount(self.user))),
            "items": int(np.count_nonzero(np.bincount(self.item))),
            "interactions": len(self),
        }


class Collector:
    """Collector of rows in compact arrays: 16 to 24 bytes a row, whatever the tokens."""

    def __init__(self, *, with_rating: bool = False, has_time: bool = True) -> None:
        self._user, self._item = array("i"), array("i")
        self._time: array[Any] = array("q")
        self._rating = array("d")
        self._users, self._items = Vocabulary(), Vocabulary()
        self._with_rating, self._has_time = with_rating, has_time

    def __len__(self) -> int:
        return len(self._user)

    def add(self, rows: Iterable[Row], source: Located) -> Collector:
        """Add all rows; `source` makes the error for a token that cannot be stored."""
        for user, item, time, rating in rows:
            self._user.append(self._users.code(user, source))
            self._item.append(self._items.code(item, source))
            self._add_time(time, source)
            if self._with_rating:
                self._rating.append(rating)
        return self

    def _add_time(self, time: float, source: Located) -> None:
        """Store a time exactly: as int64 until the first fraction, as float64 from then on."""
        if self._time.typecode == "q" and not isinstance(time, int):
            if self._time and max(max(self._time), -min(self._time)) > LARGEST_EXACT:
                raise source.error(_BOTH)
            self._time = array("d", self._time)
        if self._time.typecode == "d" and abs(time) > LARGEST_EXACT:
            raise source.error(_BOTH)
        self._time.append(time)

    def interactions(self) -> Interactions:
        """Return the rows so far, in their order."""
        return Interactions(
            user=np.array(self._user, dtype=np.int32),
            item=np.array(self._item, dtype=np.int32),
            time=np.array(self._time, dtype=np.int64 if self._time.typecode == "q" else np.float64),
            rating=np.array(self._rating, dtype=np.float64) if self._with_rating else None,
            user_tokens=self._users.tokens,
            item_tokens=self._items.tokens,
            has_time=self._has_time,
        )
