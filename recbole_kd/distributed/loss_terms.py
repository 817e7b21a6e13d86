"""What a model's loss is a mean over, and what of it is no mean, so that several processes can share a batch out exactly."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from recbole.model.loss import EmbLoss
from torch import Tensor, nn

BY_ROWS = frozenset(
    {
        "BPR", "MF", "BM3", "DMF", "FISM", "GCMC", "LINE", "MultiDAE", "MultiVAE", "NAIS", "NeuMF",
        "NNCF", "Caser", "FPMC", "GCSAN", "GRU4Rec", "HRM", "LightSANs", "NARM", "NextItNet", "NPE", "RepeatNet", "SASRec", "SINE",
        "SRGNN", "STAMP",
    }
)  # fmt: skip
"""Models whose loss is a mean (MF's: a sum) over a batch's rows, and at most a term of whole tables beside it."""

WITH_NORMS = frozenset({"LightGCN", "NGCF", "SimpleX", "SpectralCF"})
"""Models whose loss has, beside a mean over rows, RecBole's EmbLoss: norms of what the batch looks up, which no sum of parts is."""


def terms_of_rows(model: nn.Module, interaction: Any) -> Tensor:
    """How many terms of the loss's mean each row of a batch has, int64 ``[B]``; one, unless the model has a method of this name."""
    own = getattr(model, "terms_of_rows", None)
    if own is not None:
        found: Tensor = own(interaction)
        return found
    return torch.ones(len(interaction), dtype=torch.int64)


def can_be_shared(kind: type) -> bool:
    """Is it known what the loss of a model class is a mean over? A model of one's own says so by a method ``terms_of_rows``."""
    return kind.__name__ in BY_ROWS | WITH_NORMS or hasattr(kind, "terms_of_rows")


class SharedNorms(nn.Module):
    """RecBole's EmbLoss of a batch that several processes share: their results, each scaled by its share of the rows, add up to its own.

    A norm of all rows needs the squares of all: they are added up, and each process gives its share of the norm and of
        its gradient.

    Args:
        add_up: the sum of a tensor over all processes.

    Attributes:
        counts: are the rows here this process's own? See :class:`recbole_kd.distributed.batch_shard.BatchShard`.
    """

    def __init__(self, add_up: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.add_up, self.counts = add_up, True

    def forward(self, *embeddings: Tensor, require_pow: bool = False) -> Tensor:
        """``[1]``, as EmbLoss with its norm of 2."""
        squares = torch.stack([(e * e).sum() for e in embeddings])
        rows = embeddings[-1].shape[0]
        if require_pow:
            return squares.sum().view(1) / (2 * rows)
        norms = self.add_up(squares.detach() * float(self.counts)).sqrt().clamp(min=torch.finfo(squares.dtype).tiny)
        slopes = squares / (2 * norms)  # the gradient of a norm is that of half its square, by the norm
        return (slopes + slopes.detach()).sum().view(1) / rows


def share_norms(model: nn.Module, add_up: Callable[[Tensor], Tensor]) -> list[SharedNorms]:
    """Put shared norms where a model of :data:`WITH_NORMS` has EmbLoss; those that were put."""
    if type(model).__name__ not in WITH_NORMS:
        return []
    found = [name for name, module in model.named_children() if isinstance(module, EmbLoss) and module.norm == 2]
    shared = {name: SharedNorms(add_up) for name in found}
    for name, norms in shared.items():
        setattr(model, name, norms)
    return list(shared.values())
