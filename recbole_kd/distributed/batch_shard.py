"""A shard of a training batch: the rows that one of several processes has, and their weight in a mean over all.

A loss is a sum or a mean over terms: rows, positions of histories, queries. Sums of shards add up as they are; a mean
    over a shard
counts the shard's share of the terms. Every process knows the whole batch, so it counts the terms of all by itself.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from recbole.data.interaction import Interaction
from torch import Tensor


@dataclass(frozen=True)
class BatchShard:
    """Which rows of a batch are here.

    Attributes:
        whole: the batch of all processes. mine: bool ``[B]``, the rows of it that are here, in its order.
        counts: False where none of the batch's users is this process's: rows that are another's are here then and count
            zero times, so that every process takes the same steps and makes the same draws.
    """

    whole: Interaction
    mine: Tensor
    counts: bool = True

    def to(self, device: torch.device) -> BatchShard:
        return BatchShard(self.whole.to(device), self.mine.to(device), self.counts)

    def share(self, terms: Tensor) -> float:
        """The share of this shard in the terms of the batch: int64 ``[B]``, the terms of each row."""
        return int(terms[self.mine.to(terms.device)].sum()) / max(1, int(terms.sum())) if self.counts else 0.0


class ShardInteraction(Interaction):
    """Rows of a batch that know whether and how they are a shard of it; ``shard`` is None of a whole batch."""

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
    """Return of which batch these rows are a shard; None if they are the whole batch."""
    shard: BatchShard | None = getattr(interaction, "shard", None)
    return shard
