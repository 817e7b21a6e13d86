"""Ranked lists from rows of users, items and scores or ranks, in bounded memory."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from recbole_kd.data.histories.position_queries import PositionQueries
from recbole_kd.errors import TeacherError

TEMPERATURE = 10.0
"""Ranks become scores: place / temperature lower than the first item. The softmax of a list is then e^(-place / T)."""

LARGEST = float(np.finfo(np.float32).max)
REASONS = {
    "unknown_users": "name a user whom the data set does not know",
    "unknown_items": "name an item that the data set does not know",
    "unknown_positions": "name a position that the user's training history does not have",
    "not_finite": "lack an id, or have no finite number",
    "duplicates": "repeat a pair of a user and an item",
}
"""Counts of rows that are left out, with the words for each."""


def known_ids(dataset: Any, field_name: str) -> pd.Index:
    """Return the external ids of a field by internal id; the pad is first."""
    return pd.Index([str(token) for token in dataset.field2id_token[field_name]], dtype=object)


@dataclass
class ListBuilder:
    """Collects rows and makes ranked lists of them. A row costs 12 bytes.

    Args:
        users, items: external ids by internal id, the pad first.
        by_rank: the values are ranks, of which the lowest is best, and not scores.
        place: name of the table, for errors.
        queries: the queries of users and positions, if a list belongs to such a pair; None if it belongs to a user.

    Attributes:
        counts: rows read, rows used, and rows left out by reason (:data:`REASONS`).
        known_users: bool ``[n_users]``, the users with a row that is used.
    """

    users: pd.Index
    items: pd.Index
    by_rank: bool
    place: str
    queries: PositionQueries | None = None
    counts: dict[str, int] = field(default_factory=lambda: {"rows": 0, "used": 0, **dict.fromkeys(REASONS, 0)})
    _parts: list[tuple[np.ndarray, ...]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.known_users = np.zeros(len(self.users), dtype=bool)

    @property
    def n_queries(self) -> int:
        """Number of lists, empty ones and the pad included."""
        return len(self.users) if self.queries is None else self.queries.n_queries

    def add(
        self,
        users: pd.Series,
        items: pd.Series,
        values: np.ndarray,
        confidence: np.ndarray | None = None,
        positions: np.ndarray | None = None,
    ) -> None:
        """Add rows: ids as text, missing ones as NaN, and float64 values.

        Confidences and positions, float64, are given for all rows or for none.

        Raises:
            TeacherError: a finite value or confidence is too large for float32, a confidence is negative, or a position
                is not a whole number.
        """
        user, item = (self.users.get_indexer(users), self.items.get_indexer(items))
        finite = np.isfinite(values) & users.notna().to_numpy() & items.notna().to_numpy()
        if confidence is not None:
            finite &= np.isfinite(confidence)
            if bool((confidence[finite] < 0).any()):
                raise TeacherError(f"{self.place} has a negative confidence: expected numbers from 0")
        if positions is not None:
            finite &= np.isfinite(positions)
        unknown_user, unknown_item = finite & (user < 1), finite & (user >= 1) & (item < 1)
        used = finite & (user >= 1) & (item >= 1)
        query = user if positions is None else self._queries(user, positions, used)
        unknown_position = used & (query < 0)
        for name, rows in (
            ("not_finite", ~finite), ("unknown_users", unknown_user), ("unknown_items", unknown_item),
            ("unknown_positions", unknown_position),
        ):  # fmt: skip
            self.counts[name] += int(rows.sum())
        self.counts["rows"] += len(values)
        used &= ~unknown_position
        self.known_users[user[used]] = True
        best = values[used] * (-1.0 if self.by_rank else 1.0)
        if len(best) and float(np.abs(best).max()) > LARGEST:
            raise TeacherError(
                f"{self.place} has a score beyond 3.4e38, the largest number of float32: scale the scores"
            )
        if confidence is not None and len(best) and float(confidence[used].max()) > LARGEST:
            raise TeacherError(f"{self.place} has a confidence beyond 3.4e38, the largest number of float32")
        sure = () if confidence is None else (confidence[used].astype(np.float32),)
        self._parts.append((query[used].astype(np.int32), item[used].astype(np.int32), best.astype(np.float32), *sure))

    def _queries(self, users: np.ndarray, positions: np.ndarray, used: np.ndarray) -> np.ndarray:
        """Return the query of each row, int64, -1 if it has none (TeacherError)."""
        assert self.queries is not None
        wrong = positions[used] % 1 != 0
        if bool(wrong.any()):
            raise TeacherError(
                f"{self.place} has the position {positions[used][wrong][0]:g}: expected whole numbers from 1, the "
                "number of the user's interactions before the list"
            )
        whole = np.where(used, positions, 0).clip(-1, self.queries.step).astype(np.int64)
        return self.queries.query(users.astype(np.int64), whole)

    def lists(self, temperature: float = TEMPERATURE) -> dict[str, Tensor]:
        """Return the tensors of a list store, and count repeated pairs; of these the best row is used.

        Args:
            temperature: of the map from ranks to scores.

        Raises:
            TeacherError: no row is left.
        """
        query, item, best, *sure = (np.concatenate(column) for column in zip(*self._parts, strict=True))
        self._parts.clear()
        order = np.lexsort((item, -best, query))  # ties by id
        query, item, best, *sure = (column[order] for column in (query, item, best, *sure))
        first = np.unique(query.astype(np.int64) * len(self.items) + item, return_index=True)[1]
        first.sort()
        self.counts["duplicates"] = len(query) - len(first)
        self.counts["used"] = len(first)
        if not len(first):
            raise TeacherError(f"{self.place} has no usable row: {_said(self.counts) or 'it is empty'}")
        query, item, best, *sure = (column[first] for column in (query, item, best, *sure))
        starts = np.zeros(self.n_queries + 1, dtype=np.int64)
        np.cumsum(np.bincount(query, minlength=self.n_queries), out=starts[1:])
        if self.by_rank:
            best = (-(np.arange(len(query)) - starts[query]) / temperature).astype(np.float32)
        arrays = {"starts": starts, "items": item, "scores": best, **({"confidence": sure[0]} if sure else {})}
        return {name: torch.from_numpy(array) for name, array in arrays.items()}

    def refuse(self) -> None:
        """Refuse rows that are left out (TeacherError), for ``strict``."""
        if said := _said(self.counts):
            raise TeacherError(f"{self.place} is refused, since strict is set: {said}")


def left_out(counts: dict[str, int]) -> Iterator[str]:
    """Yield words on the rows that are left out, for each reason that occurs."""
    for name, words in REASONS.items():
        if counts.get(name):
            yield f"{counts[name]:,} of {counts['rows']:,} rows {words}"


def _said(counts: dict[str, int]) -> str:
    return ", ".join(left_out(counts))


def source_rows(ids: Sequence[Any] | None, n_rows: int, known: pd.Index, what: str) -> np.ndarray:
    """Return the row of each id of the data set in a teacher's table, or -1.

    The result is int64 ``[len(known)]``.

    Args:
        ids: external ids of the rows. None if the rows are the data set's own ids, with the pad.
        n_rows: rows of the table.
        known: external ids by internal id.
        what: ``users`` or ``items``, for the error.

    Raises:
        TeacherError: the number of rows or the ids do not fit.
    """
    if ids is None:
        if n_rows != len(known):
            raise TeacherError(
                f"The teacher has {n_rows} rows of {what} and the data set {len(known)} with the pad: name their "
                f"external ids with {what.removesuffix('s')}_ids="
            )
        return np.arange(n_rows)
    own = pd.Index([str(token) for token in ids], dtype=object)
    if len(own) != n_rows or not own.is_unique:
        raise TeacherError(
            f"{what.removesuffix('s')}_ids= has {own.nunique()} distinct ids for {n_rows} rows of {what}"
        )
    rows = own.get_indexer(known)
    rows[0] = -1
    return np.asarray(rows, dtype=np.int64)
