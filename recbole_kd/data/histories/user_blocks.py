"""Training rows of a sequential model in blocks of one user each."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from recbole.data.interaction import Interaction
from torch import Tensor

from recbole_kd.data.histories.history_rows import QUERY, HistoryRows, Rows


@dataclass(frozen=True)
class UserBlocks:
    """All training rows of each user, shortest history first.

    The histories of a user begin at the same item: a causal model encodes the longest of them once and has the vectors
    of all (``train_by_user``). If the longest has more than ``max_length`` items, the user's histories begin with its
    latest ``max_length``, as HSTU's do. The targets up to the first of these items are left out, and the others have
    shorter histories than RecBole's rows, whose windows move.

    Attributes:
        rows: the rows, by user. kept: int64 ``[n]``, the index of each among all prefixes.
        starts: int64 ``[B + 1]``, the first row of each block, and the number of rows.
    """

    rows: Rows
    kept: Tensor
    starts: Tensor

    @classmethod
    def of(cls, prefixes: Rows) -> UserBlocks:
        """Return the blocks of rows that lie by user, each history one item longer than the one before it."""
        n_users = int(prefixes.users.max()) + 1
        longest = torch.zeros(n_users, dtype=torch.int64).scatter_reduce(0, prefixes.users, prefixes.ends, "amax")
        begins = torch.maximum(prefixes.begins, longest[prefixes.users] - prefixes.fields.max_length)
        kept = (prefixes.ends > begins).nonzero().squeeze(1)
        rows = replace(prefixes.take(kept), begins=begins[kept])
        counts = torch.bincount(rows.users, minlength=n_users)
        return cls(rows, kept, torch.cat([torch.zeros(1, dtype=torch.int64), counts[counts > 0].cumsum(0)]))

    def __len__(self) -> int:
        return len(self.starts) - 1

    def places(self, blocks: Tensor) -> Tensor:
        """Return the rows of some blocks, one block after the other: int64 ``[B]`` -> int64 ``[n]``."""
        firsts = self.starts[blocks]
        counts = self.starts[blocks + 1] - firsts
        return torch.repeat_interleave(firsts - (counts.cumsum(0) - counts), counts) + torch.arange(int(counts.sum()))

    def columns(self) -> Interaction:
        """Return the rows as RecBole's sequential models take them; row r is query r + 1."""
        found = HistoryRows(self.rows)
        found[QUERY] = torch.arange(1, len(self.rows) + 1)
        return found


def users_per_batch(blocks: UserBlocks, n_rows: int) -> int:
    """Return the number of users whose rows are ``n_rows`` on average, at least 1."""
    return max(1, round(n_rows * len(blocks) / len(blocks.rows)))
