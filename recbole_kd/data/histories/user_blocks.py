"""Training rows of a sequential model in blocks that one pass of a causal model serves."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from recbole.data.interaction import Interaction
from torch import Tensor

from recbole_kd.data.histories.history_rows import QUERY, HistoryRows, Rows

TARGETS_OF_A_BLOCK = 8
"""Most targets of a history that a batch trains together.

With all of a history's targets in one batch, validation on CiteULike was behind RecBole's random rows. Why is not
isolated: such a batch has fewer users, and rows that share a dropout mask.
"""


@dataclass(frozen=True)
class UserBlocks:
    """All training rows in blocks that one pass of a causal model serves, each of one user.

    The histories of a block begin at the same item: a causal model encodes the longest of them once and has the vectors
    of all (``train_by_user``). A user whose longest history has at most ``max_length`` items has one window.

    A longer history has several windows of ``max_length`` items, half a window apart and the last at its end. Each
    trains the targets of its later half, and the first one all of its targets. So every row is in one block, and a
    history is cut to more than half of ``max_length``, where RecBole's window moves with each row.

    A window with more than :data:`TARGETS_OF_A_BLOCK` targets has several blocks, which take its targets in turn.

    Attributes:
        rows: the rows, by user, shortest history first. order: int64, the places of the rows, block by block.
        starts: int64 ``[B + 1]``, the first of ``order`` of each block, and the number of rows.
    """

    rows: Rows
    order: Tensor
    starts: Tensor

    @classmethod
    def of(cls, prefixes: Rows, most: int = TARGETS_OF_A_BLOCK) -> UserBlocks:
        """Return the blocks of rows that lie by user, each history one item longer than the one before it.

        Args:
            most: largest number of rows of a block.
        """
        n_users, length = int(prefixes.users.max()) + 1, prefixes.fields.max_length
        apart = max(1, length // 2)
        last = torch.zeros(n_users, dtype=torch.int64).scatter_reduce(0, prefixes.users, prefixes.ends, "amax")
        windows_back = (last[prefixes.users] - prefixes.ends) // apart
        begins = torch.maximum(prefixes.begins, last[prefixes.users] - length - apart * windows_back)
        window, counts = torch.stack([prefixes.users, begins]).unique_consecutive(
            dim=1, return_inverse=True, return_counts=True
        )[1:]
        parts = -(-counts // most)
        place = torch.arange(len(window)) - (counts.cumsum(0) - counts)[window]
        block = (parts.cumsum(0) - parts)[window] + place % parts[window]
        starts = torch.cat([torch.zeros(1, dtype=torch.int64), torch.bincount(block).cumsum(0)])
        return cls(replace(prefixes, begins=begins), block.argsort(stable=True), starts)

    def __len__(self) -> int:
        return len(self.starts) - 1

    def places(self, blocks: Tensor) -> Tensor:
        """Return the rows of some blocks, one block after the other: int64 ``[B]`` -> int64 ``[n]``."""
        firsts = self.starts[blocks]
        counts = self.starts[blocks + 1] - firsts
        within = torch.repeat_interleave(firsts - (counts.cumsum(0) - counts), counts) + torch.arange(int(counts.sum()))
        return self.order[within]

    def columns(self) -> Interaction:
        """Return the rows as RecBole's sequential models take them; row r is query r + 1."""
        found = HistoryRows(self.rows)
        found[QUERY] = torch.arange(1, len(self.rows) + 1)
        return found


def blocks_per_batch(blocks: UserBlocks, n_rows: int) -> int:
    """Return the number of blocks whose rows are ``n_rows`` on average, at least 1."""
    return max(1, round(n_rows * len(blocks) / len(blocks.rows)))
