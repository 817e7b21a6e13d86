"""The known interactions of a student's users: their items, split parts and histories."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor

from recbole_kd.data.histories.history_rows import RowFields, Rows
from recbole_kd.data.histories.sequence_dataset import UserSequences
from recbole_kd.ops.ragged import Ragged

TEST = 2
"""Number of the test part in the column ``part``."""


@dataclass(frozen=True)
class TestedWith:
    """The masks and histories that the run's test used.

    Attributes:
        masked: items of this many parts were left out of the ranking.
        known: parts whose items are in the histories.
        but_targets: whether a test item was ranked even if an earlier part contains it.
    """

    masked: int
    known: int
    but_targets: bool

    @classmethod
    def of(cls, config: Any, sequential: bool) -> TestedWith:
        """Return the rule of RecBole's loaders, or of ``eval_protocol: paper``, for a Config."""
        if config["eval_protocol"] == "paper":
            return cls(masked=1, known=1, but_targets=False)
        masks = not sequential and not config["repeatable"]
        return cls(masked=2 if masks else 0, known=2, but_targets=True)


def seen_columns(parts: Sequence[Any]) -> dict[str, Tensor]:
    """Return the interactions of a split's three parts, by user and part.

    Each part is in the order of time if the data have times.

    Args:
        parts: the training, validation and test part.

    Returns:
        user, item, part int64 ``[N]``, and time, int64 or float64 ``[N]``.
    """
    found = UserSequences.of(parts)
    part = np.repeat(np.tile(np.arange(len(parts)), found.counts.shape[1]), found.counts.T.ravel())
    columns = {"user": found.users, "item": found.items, "part": part}
    return {name: torch.from_numpy(column.astype(np.int64)) for name, column in columns.items()} | {
        "time": torch.tensor(found.times)
    }


class KnownInteractions:
    """The interactions of a student's users.

    Args:
        seen: see :func:`seen_columns`.
        n_users: number of users with the pad.
        tested: the masks of the run's test.
    """

    def __init__(self, seen: Mapping[str, Tensor], n_users: int, tested: TestedWith) -> None:
        self.seen, self.n_users, self.tested = seen, n_users, tested

    @cached_property
    def everything(self) -> Ragged:
        """All items of each user."""
        return self._items(self.seen["part"] >= 0)

    @cached_property
    def trained(self) -> Ragged:
        """The training items of each user."""
        return self._items(self.seen["part"] == 0)

    @cached_property
    def masked(self) -> Ragged:
        """The items of each user that the run's test left out of the ranking."""
        masked = self._items(self.seen["part"] < self.tested.masked)
        if not self.tested.but_targets:
            return masked
        rows = torch.repeat_interleave(torch.arange(self.n_users), masked.counts())
        kept = ~self.test_items.contains(rows, masked.items.unsqueeze(1)).squeeze(1)
        return Ragged.from_pairs(rows[kept].numpy(), masked.items[kept].numpy(), self.n_users)

    @cached_property
    def test_items(self) -> Ragged:
        """The items of each user that the run tested."""
        return self._items(self.seen["part"] == TEST)

    def _items(self, chosen: Tensor) -> Ragged:
        users, items = (self.seen[name][chosen].numpy() for name in ("user", "item"))
        return Ragged.from_pairs(users, items, self.n_users)

    def histories(self, fields: RowFields, users: Tensor, with_times: bool, as_tested: bool) -> Rows:
        """Return the histories of int64 ``[B]`` users as rows of a sequential model.

        Args:
            fields: names of the columns.
            users: the users.
            with_times: whether the rows have times.
            as_tested: True gives the histories of the run's test, queried at the time of the test item, if any.
                False gives all known items, queried at the last item's time.
        """
        counts = torch.bincount(self.seen["user"] * 3 + self.seen["part"], minlength=3 * self.n_users).view(-1, 3)
        starts = torch.cat([counts.new_zeros(1), counts.sum(1).cumsum(0)])[users]
        counts = counts[users]
        ends = starts + counts[:, : self.tested.known if as_tested else 3].sum(1)
        targets = (ends - 1).clamp(min=0)
        if as_tested:
            targets = torch.where(counts[:, TEST] > 0, starts + counts[:, :TEST].sum(1), targets)
        return Rows(fields, self.seen["item"], self.seen["time"], users, starts, ends, targets, with_times)
