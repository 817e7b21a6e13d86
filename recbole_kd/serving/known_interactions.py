"""What a student knows of its users: their items, the part of the split that each belongs to, and their histories in order."""

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
"""Number of the test part."""


@dataclass(frozen=True)
class TestedWith:
    """What the run's test masked, and what its models of histories knew.

    Attributes:
        masked: items of so many parts were left out of the ranking. known: parts whose items are in the histories.
        but_targets: was an item that is tested ranked though an earlier part has it too?
    """

    masked: int
    known: int
    but_targets: bool

    @classmethod
    def of(cls, config: Any, sequential: bool) -> TestedWith:
        """Return what RecBole's loaders, or those of ``eval_protocol: paper``, do with a model of this Config."""
        if config["eval_protocol"] == "paper":
            return cls(masked=1, known=1, but_targets=False)
        masks = not sequential and not config["repeatable"]
        return cls(masked=2 if masks else 0, known=2, but_targets=True)


def seen_columns(parts: Sequence[Any]) -> dict[str, Tensor]:
    """Return the interactions of a split's three parts by user and part, each part in order of time where the data have times.

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
        seen: as :func:`seen_columns`. n_users: the pad included. tested: what the run's test masked.
    """

    def __init__(self, seen: Mapping[str, Tensor], n_users: int, tested: TestedWith) -> None:
        self.seen, self.n_users, self.tested = seen, n_users, tested

    @cached_property
    def everything(self) -> Ragged:
        """All items of each user."""
        return self._items(self.seen["part"] >= 0)

    @cached_property
    def masked(self) -> Ragged:
        """The items of each user that the run's test left out of the ranking."""
        masked = self._items(self.seen["part"] < self.tested.masked)
        if not self.tested.but_targets:
            return masked
        rows = torch.repeat_interleave(torch.arange(self.n_users), masked.counts())
        targets = self._items(self.seen["part"] == TEST)
        kept = ~targets.contains(rows, masked.items.unsqueeze(1)).squeeze(1)
        return Ragged.from_pairs(rows[kept].numpy(), masked.items[kept].numpy(), self.n_users)

    def _items(self, chosen: Tensor) -> Ragged:
        users, items = (self.seen[name][chosen].numpy() for name in ("user", "item"))
        return Ragged.from_pairs(users, items, self.n_users)

    def histories(self, fields: RowFields, users: Tensor, with_times: bool, as_tested: bool) -> Rows:
        """Return the histories of int64 ``[B]`` users as rows of a sequential model.

        Args:
            as_tested: what the run's test gave the model, asked at the time of the test item where there is one; else
                all that is known, asked at the last item's time.
        """
        counts = torch.bincount(self.seen["user"] * 3 + self.seen["part"], minlength=3 * self.n_users).view(-1, 3)
        starts = torch.cat([counts.new_zeros(1), counts.sum(1).cumsum(0)])[users]
        counts = counts[users]
        ends = starts + counts[:, : self.tested.known if as_tested else 3].sum(1)
        targets = (ends - 1).clamp(min=0)
        if as_tested:
            targets = torch.where(counts[:, TEST] > 0, starts + counts[:, :TEST].sum(1), targets)
        return Rows(fields, self.seen["item"], self.seen["time"], users, starts, ends, targets, with_times)
