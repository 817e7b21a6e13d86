"""Terms over which a model's loss is a mean, so that processes can split a batch exactly."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from recbole.model.loss import EmbLoss
from torch import Tensor, nn

BY_ROWS = frozenset(
    {
        "BPR", "MF", "BM3", "DMF", "FISM", "GCMC", "LINE", "MultiDAE", "MultiVAE", "NAIS", "NeuMF", "NNCF",
        "Caser", "FPMC", "GCSAN", "GRU4Rec", "HRM", "LightSANs", "NARM", "NextItNet", "NPE", "RepeatNet", "SASRec",
        "SINE", "SRGNN", "STAMP",
    }
)  # fmt: skip
"""Models whose loss is a mean (MF's: a sum) over a batch's rows, plus at most a term on whole tables."""

WITH_NORMS = frozenset({"LightGCN", "NGCF", "SimpleX", "SpectralCF"})
"""Models whose loss also has RecBole's EmbLoss: norms over the rows of a batch, which are not sums over shards."""


def terms_of_rows(model: nn.Module, interaction: Any) -> Tensor:
    """Return the number of terms of each row in the loss's mean, int64 ``[B]``.

    It is one, unless the model has a method ``terms_of_rows``.
    """
    own = getattr(model, "terms_of_rows", None)
    if own is not None:
        found: Tensor = own(interaction)
        return found
    return torch.ones(len(interaction), dtype=torch.int64)


def can_be_shared(kind: type) -> bool:
    """Test whether the terms of a model class's loss are known.

    A user's own model declares them by a method ``terms_of_rows``.
    """
    return kind.__name__ in BY_ROWS | WITH_NORMS or hasattr(kind, "terms_of_rows")


class SharedNorms(nn.Module):
    """RecBole's EmbLoss for a batch that several processes share.

    The results of the processes, each scaled by its share of the rows, sum to the loss of the whole batch. A norm
    over all rows needs the squares of all rows: they are summed over the processes, and each process returns its
    share of the norm and of its gradient.

    Args:
        add_up: returns the sum of a tensor over all processes.

    Attributes:
        counts: whether the rows here are this process's own, see
            :class:`recbole_kd.distributed.batch_shard.BatchShard`.
    """

    def __init__(self, add_up: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.add_up, self.counts = add_up, True

    def forward(self, *embeddings: Tensor, require_pow: bool = False) -> Tensor:
        """Return EmbLoss with its norm of 2, ``[1]``."""
        squares = torch.stack([(e * e).sum() for e in embeddings])
        rows = embeddings[-1].shape[0]
        if require_pow:
            return squares.sum().view(1) / (2 * rows)
        norms = self.add_up(squares.detach() * float(self.counts)).sqrt().clamp(min=torch.finfo(squares.dtype).tiny)
        slopes = squares / (2 * norms)  # the gradient of a norm is that of half its square, divided by the norm
        return (slopes + slopes.detach()).sum().view(1) / rows


def share_norms(model: nn.Module, add_up: Callable[[Tensor], Tensor]) -> list[SharedNorms]:
    """Replace EmbLoss by shared norms in a model of :data:`WITH_NORMS`, and return them."""
    if type(model).__name__ not in WITH_NORMS:
        return []
    found = [name for name, module in model.named_children() if isinstance(module, EmbLoss) and module.norm == 2]
    shared = {name: SharedNorms(add_up) for name in found}
    for name, norms in shared.items():
        setattr(model, name, norms)
    return list(shared.values())
