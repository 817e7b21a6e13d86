"""Histories as queries of sequential models: training, evaluation and whole histories."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from recbole.data.interaction import Interaction
from torch import Tensor

from recbole_kd.data.time_order import RAW_TIME
from recbole_kd.ops.ragged import Ragged

QUERY = "kd_query"
"""int64 field of a training row: its id as a query."""


@dataclass(frozen=True)
class RowFields:
    """Names of the columns of a row, and the maximum length of a history."""

    user: str
    item: str
    history: str
    length: str
    times: str
    max_length: int

    @classmethod
    def of(cls, config: Any) -> RowFields:
        suffix, item = config["LIST_SUFFIX"], config["ITEM_ID_FIELD"]
        length, longest = config["ITEM_LIST_LENGTH_FIELD"], config["MAX_ITEM_LIST_LENGTH"]
        return cls(config["USER_ID_FIELD"], item, item + suffix, length, RAW_TIME + suffix, longest)


@dataclass(frozen=True)
class Passes:
    """Histories to encode, shortest first, and the positions of ``B`` queries in them.

    Attributes:
        encoded: int64 ``[C]``, queries. widths: int64 ``[C]``, columns that their histories need.
        place: int64 ``[B]``, for each query the index of its history in ``encoded``.
        column: int64 ``[B]``, its position in that history.
    """

    encoded: Tensor
    widths: Tensor
    place: Tensor
    column: Tensor


@dataclass(frozen=True)
class Rows:
    """Histories by query: query q has ``items[begins[q]:ends[q]]``.

    A model sees the latest ``max_length`` items of a history.

    Attributes:
        items: int64 ``[N]``, all users' items in order. times: int64 or float64 ``[N]``.
        users, begins, ends: int64 ``[Q]``.
        targets: int64 ``[Q]``, the index in ``items`` of the next item; the history's own last index if there is none.
        with_times: whether the rows carry their times.
        n_whole: number of whole training histories, one a user; they come first.
    """

    fields: RowFields
    items: Tensor
    times: Tensor
    users: Tensor
    begins: Tensor
    ends: Tensor
    targets: Tensor
    with_times: bool
    n_whole: int = 0

    def __len__(self) -> int:
        return len(self.users)

    def take(self, queries: Tensor) -> Rows:
        """Return the rows of the given queries, int64 ``[n]``, renumbered from 0."""
        columns = ("users", "begins", "ends", "targets")
        return replace(self, **{name: getattr(self, name)[queries] for name in columns}, n_whole=0)

    def interaction(self, queries: Tensor, width: int | None = None) -> Interaction:
        """Return rows in the form of RecBole's sequential models.

        Histories are right padded. An empty history, that of the pad, counts as one pad item: RecBole's models look
        up the last position.

        Args:
            queries: int64 ``[B]``.
            width: columns of the histories, at least the longest one; None means ``max_length``.
        """
        where = queries.to(self.users.device)
        return Interaction(
            {**self._ends(where), **self._histories(where, self.fields.max_length if width is None else width)}
        )

    def _ends(self, where: Tensor) -> dict[str, Tensor]:
        """Return the columns with one number a row."""
        ends, targets = self.ends[where], self.targets[where]
        lengths = torch.minimum(ends - self.begins[where], torch.tensor(self.fields.max_length)).clamp(min=1)
        columns = {
            self.fields.user: self.users[where],
            self.fields.item: self.items[targets],
            self.fields.length: lengths,
        }
        return columns | ({RAW_TIME: self.times[targets]} if self.with_times else {})

    def _histories(self, where: Tensor, width: int) -> dict[str, Tensor]:
        """Return the columns with ``width`` numbers a row."""
        ends = self.ends[where]
        begins = torch.maximum(self.begins[where], ends - self.fields.max_length)
        across = torch.arange(width)
        past = across >= (ends - begins).unsqueeze(1)
        at = (begins.unsqueeze(1) + across).clamp(max=len(self.items) - 1)
        columns = {self.fields.history: self.items[at].masked_fill(past, 0)}
        return columns | ({self.fields.times: self.times[at].masked_fill(past, 0)} if self.with_times else {})

    def passes(self, queries: Tensor) -> Passes:
        """Return the queries to encode for the vectors of all given queries, int64 ``[B]``.

        This holds for a causal model with positions from 0: its output at a position depends only on the items before
        it in its window. So a query whose window begins where that of a longer one begins is a position of the longer
        one. Beyond ``max_length`` every window begins elsewhere and needs its own pass. So does a query that is asked
        at another time than that of the item after it.
        """
        where = queries.to(self.users.device)
        ends, targets = self.ends[where], self.targets[where]
        begins = torch.maximum(self.begins[where], ends - self.fields.max_length)
        lengths = ends - begins
        longest = torch.zeros(len(self.items) + 1, dtype=torch.int64).scatter_reduce(0, begins, lengths, "amax")[begins]
        inside = (lengths > 0) & (lengths < longest) & ((targets == ends) | (not self.with_times))
        encoded = (~inside).nonzero().squeeze(1)
        widths = lengths.masked_fill(lengths == 0, self.fields.max_length)[
            encoded
        ]  # a history encoded alone sees its padding, in SASRec
        widths, order = widths.sort(stable=True)
        encoded = encoded[order]
        number = torch.arange(len(encoded))
        carries = lengths[encoded] == longest[encoded]
        carrier = torch.zeros(len(self.items) + 1, dtype=torch.int64).scatter(
            0, begins[encoded][carries], number[carries]
        )
        place = carrier[begins].index_copy(0, encoded, number)
        return Passes(where[encoded], widths, place, lengths.clamp(min=1) - 1)

    def seen_items(self) -> Ragged:
        """Return the items of each history that a model sees, and its target."""
        begins = torch.maximum(self.begins, self.ends - self.fields.max_length)
        lengths = torch.where(self.users > 0, torch.maximum(self.ends, self.targets + 1) - begins, 0)
        row = torch.repeat_interleave(torch.arange(len(self)), lengths)
        place = torch.arange(len(row)) - (lengths.cumsum(0) - lengths)[row] + begins[row]
        return Ragged.from_pairs(np.asarray(row), np.asarray(self.items[place]), len(self))


class HistoryRows(Interaction):
    """All rows of a data set; histories are built on access.

    Stored, they would be as many lists of ``max_length`` numbers as there are prefixes.
    """

    def __init__(self, rows: Rows) -> None:
        super().__init__(rows._ends(torch.arange(len(rows))))
        self.rows = rows
        self._made = {rows.fields.history, rows.fields.times} if rows.with_times else {rows.fields.history}

    def __contains__(self, item: object) -> bool:
        return super().__contains__(item) or item in self._made

    @property
    def columns(self) -> list[str]:
        return [*super().columns, *sorted(self._made - set(self.interaction))]

    def __getitem__(self, index: Any) -> Any:
        if isinstance(index, str):
            if index in self.interaction or index not in self._made:
                return super().__getitem__(index)
            return self.rows._histories(torch.arange(len(self)), self.rows.fields.max_length)[index]
        found, where = super().__getitem__(index), torch.arange(len(self))[index]
        made = self.rows._histories(where.reshape(-1), self.rows.fields.max_length)
        for name in self._made - set(self.interaction):
            found[name] = made[name].view(*where.shape, -1)
        return found
