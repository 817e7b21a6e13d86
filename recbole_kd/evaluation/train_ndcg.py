"""NDCG of a model on its training interactions (RCE-KD, Figure 5)."""

from __future__ import annotations

import torch
from torch import Tensor

from recbole_kd.ops.ragged import Ragged
from recbole_kd.scoring.scorer import Scorer


def ndcg(hits: Tensor, counts: Tensor) -> Tensor:
    """Return binary NDCG per row, 0 if nothing is relevant.

    Args:
        hits: bool ``[B, k]``, by rank.
        counts: int64 ``[B]``, number of relevant items.

    Returns:
        float64 ``[B]``.
    """
    k = hits.shape[1]
    discounts = 1.0 / torch.log2(torch.arange(2, k + 2, dtype=torch.float64, device=hits.device))
    ideal = torch.cat([discounts.new_zeros(1), discounts.cumsum(0)])[counts.clamp(max=k)]
    return (hits * discounts).sum(1) / ideal.clamp(min=float(discounts[-1]))


def train_ndcg(scorer: Scorer, train_items: Ragged, k: int = 10) -> float:
    """Return NDCG@k on the training interactions without any mask.

    It is the mean over the users that have training interactions.
    """
    users = train_items.counts().nonzero().squeeze(1)
    ids, _ = scorer.top_k(users, k)
    return float(ndcg(train_items.contains(users, ids), train_items.counts()[users]).mean())
