"""A shard of a training batch: the rows of one process, and their weight in a mean.

A loss is a sum or a mean over terms: rows, positions of histories, queries. Sums over shards add up. A mean over a
shard is weighted by the shard's share of the terms. Every process has the whole batch, so it counts all terms by
itself.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from recbole.data.interaction import Interaction
from torch import Tensor


@dataclass(frozen=True)
class BatchShard:
    """The rows of a batch that belong to this process.

    Attributes:
        whole: the batch of all processes. mine: bool ``[B]``, this process's rows of it, in its order.
        counts: False if no user of the batch belongs to this process. It then has rows of another process with weight
            zero, so that every process takes the same steps and makes the same draws.
    """

    whole: Interaction
    mine: Tensor
    counts: bool = True

    def to(self, device: torch.device) -> BatchShard:
        return BatchShard(self.whole.to(device), self.mine.to(device), self.counts)

    def share(self, terms: Tensor) -> float:
        """Return the share of this shard in the terms of the batch.

        Args:
            terms: int64 ``[B]``, the number of terms of each row.
        """
        return int(terms[self.mine.to(terms.device)].sum()) / max(1, int(terms.sum())) if self.counts else 0.0


class ShardInteraction(Interaction):
    """Rows of a batch with their shard; ``shard`` is None for a whole batch."""

    shard: BatchShard | None = None

    @classmethod
    def of(cls, interaction: Interaction, shard: BatchShard | None) -> ShardInteraction:
        result = cls(interaction.interaction)
        result.shard = shard
        return result

    def to(self, device: Any, selected_field: Any = None) -> ShardInteraction:
        shard = None if self.shard is None else self.shard.to(torch.device(device))
        return ShardInteraction.of(super().to(device, selected_field), shard)


def shard_of(interaction: Interaction) -> BatchShard | None:
    """Return the shard of the batch that these rows are, or None if they are the whole batch."""
    shard: BatchShard | None = getattr(interaction, "shard", None)
    return shard
