"""Ranked lists from rows of users, items and scores or ranks, in bounded memory."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from recbole_kd.errors import TeacherError

TEMPERATURE = 10.0
"""Ranks become scores: place / temperature lower than the first item. The softmax of a list is then e^(-place / T)."""

LARGEST = float(np.finfo(np.float32).max)
REASONS = {
    "unknown_users": "name a user whom the data set does not know",
    "unknown_items": "name an item that the data set does not know",
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

    Attributes:
        counts: rows read, rows used, and rows left out by reason (:data:`REASONS`).
    """

    users: pd.Index
    items: pd.Index
    by_rank: bool
    place: str
    counts: dict[str, int] = field(default_factory=lambda: {"rows": 0, "used": 0, **dict.fromkeys(REASONS, 0)})
    _parts: list[tuple[np.ndarray, ...]] = field(default_factory=list)

    def add(self, users: pd.Series, items: pd.Series, values: np.ndarray, confidence: np.ndarray | None = None) -> None:
        """Add rows: ids as text, missing ones as NaN, and float64 values.

        Confidences, float64, are given for all rows or for none.

        Raises:
            TeacherError: a finite value or confidence is too large for float32, or a confidence is negative.
        """
        user, item = (self.users.get_indexer(users), self.items.get_indexer(items))
        finite = np.isfinite(values) & users.notna().to_numpy() & items.notna().to_numpy()
        if confidence is not None:
            finite &= np.isfinite(confidence)
            if bool((confidence[finite] < 0).any()):
                raise TeacherError(f"{self.place} has a negative confidence: expected numbers from 0")
        unknown_user, unknown_item = finite & (user < 1), finite & (user >= 1) & (item < 1)
        for name, rows in (
            ("not_finite", ~finite), ("unknown_users", unknown_user), ("unknown_items", unknown_item),
        ):  # fmt: skip
            self.counts[name] += int(rows.sum())
        self.counts["rows"] += len(values)
        used = finite & (user >= 1) & (item >= 1)
        best = values[used] * (-1.0 if self.by_rank else 1.0)
        if len(best) and float(np.abs(best).max()) > LARGEST:
            raise TeacherError(
                f"{self.place} has a score beyond 3.4e38, the largest number of float32: scale the scores"
            )
        if confidence is not None and len(best) and float(confidence[used].max()) > LARGEST:
            raise TeacherError(f"{self.place} has a confidence beyond 3.4e38, the largest number of float32")
        sure = () if confidence is None else (confidence[used].astype(np.float32),)
        self._parts.append((user[used].astype(np.int32), item[used].astype(np.int32), best.astype(np.float32), *sure))

    def lists(self, temperature: float = TEMPERATURE) -> dict[str, Tensor]:
        """Return the tensors of a list store, and count repeated pairs; of these the best row is used.

        Args:
            temperature: of the map from ranks to scores.

        Raises:
            TeacherError: no row is left.
        """
        user, item, best, *sure = (np.concatenate(column) for column in zip(*self._parts, strict=True))
        self._parts.clear()
        order = np.lexsort((item, -best, user))  # ties by id
        user, item, best, *sure = (column[order] for column in (user, item, best, *sure))
        first = np.unique(user.astype(np.int64) * len(self.items) + item, return_index=True)[1]
        first.sort()
        self.counts["duplicates"] = len(user) - len(first)
        self.counts["used"] = len(first)
        if not len(first):
            raise TeacherError(f"{self.place} has no usable row: {_said(self.counts) or 'it is empty'}")
        user, item, best, *sure = (column[first] for column in (user, item, best, *sure))
        starts = np.zeros(len(self.users) + 1, dtype=np.int64)
        np.cumsum(np.bincount(user, minlength=len(self.users)), out=starts[1:])
        if self.by_rank:
            best = (-(np.arange(len(user)) - starts[user]) / temperature).astype(np.float32)
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
