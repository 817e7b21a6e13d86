"""A part of a training batch: what one of several processes has of it, and what a mean over the part counts in the mean over all.

A loss is a sum or a mean over terms: rows, positions of histories, queries. Sums of parts add up as they are; a mean over a part counts the
part's share of the terms. Every process knows the whole batch, so it counts the terms of all by itself.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from recbole.data.interaction import Interaction
from torch import Tensor


@dataclass(frozen=True)
class Part:
    """Which rows of a batch are here.

    Attributes:
        whole: the batch of all processes. mine: bool ``[B]``, the rows of it that are here, in its order.
        counts: False where none of the batch's users is this process's: rows that are another's are here then and count zero times, so
            that every process takes the same steps and makes the same draws.
    """

    whole: Interaction
    mine: Tensor
    counts: bool = True

    def to(self, device: torch.device) -> Part:
        return Part(self.whole.to(device), self.mine.to(device), self.counts)

    def share(self, terms: Tensor) -> float:
        """The share of this part in the terms of the batch: int64 ``[B]``, the terms of each row."""
        return int(terms[self.mine.to(terms.device)].sum()) / max(1, int(terms.sum())) if self.counts else 0.0


class PartInteraction(Interaction):
    """Rows of a batch that know whether and how they are a part of it; ``part`` is None of a whole batch."""

    part: Part | None = None

    @classmethod
    def of(cls, interaction: Interaction, part: Part | None) -> PartInteraction:
        result = cls(interaction.interaction)
        result.part = part
        return result

    def to(self, device: Any, selected_field: Any = None) -> PartInteraction:
        part = None if self.part is None else self.part.to(torch.device(device))
        return PartInteraction.of(super().to(device, selected_field), part)


def part_of(interaction: Interaction) -> Part | None:
    """Of which batch these rows are a part; None where they are the whole."""
    part: Part | None = getattr(interaction, "part", None)
    return part
