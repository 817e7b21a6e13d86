"""Weights of a ranked list's items: rank, confidence, agreement. No RecBole import."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

LEAST = 1e-8
"""Weight of an item without any confidence or agreement, as in the published code: no weight is 0."""


def list_weights(
    shares: Mapping[str, float], valid: Tensor, tau: float, confidence: Tensor | None, agreed: Tensor | None
) -> Tensor:
    r"""Return the weights of the items of ranked lists, float32 ``[U, K]``; each row adds up to 1.

    After DLLM2Rec (Cui et al., "Distillation Matters: Empowering Sequential Recommenders to Match the Performance of
    Large Language Models", RecSys 2024; published code: github istarryn/DLLM2Rec), whose teacher is not reliable
    everywhere. With a share :math:`\gamma` for each term,

    .. math:: w_k \propto \gamma_p \frac{e^{-k/T}}{\sum_m e^{-m/T}} + \gamma_c \frac{c_k}{\sum_m c_m} + \gamma_a a_k

    - ``position``: the item's rank k in the list;
    - ``confidence``: the teacher's confidence :math:`c_k \ge 0`. In the paper it is :math:`e^{-d}` with d the distance
      between the text that a language model wrote and the item;
    - ``agreement``: :math:`a_k` is 1 if the student ranks the item among its own first K too, else 0.

    Args:
        shares: :math:`\gamma` of the terms; a missing term has 0.
        valid: bool ``[U, K]``, items that count; the others have weight 0.
        tau: T.
        confidence: float ``[U, K]``, for that term.
        agreed: bool ``[U, K]``, for that term.
    """
    total = torch.zeros(valid.shape, device=valid.device)
    if shares.get("position"):
        places = torch.arange(valid.shape[1], dtype=torch.float32, device=valid.device)
        logits = (-places / tau).expand(valid.shape).masked_fill(~valid, -torch.inf)
        total += shares["position"] * logits.softmax(1).nan_to_num(0.0)
    if shares.get("confidence"):
        assert confidence is not None
        known = (confidence.double() + LEAST).masked_fill(~valid, 0.0)
        total += shares["confidence"] * (known / known.sum(1, keepdim=True).clamp(min=LEAST)).float()
    if shares.get("agreement"):
        assert agreed is not None
        total += shares["agreement"] * (agreed.float() + LEAST)
    total = total.masked_fill(~valid, 0.0)
    return total / total.sum(1, keepdim=True).clamp(min=torch.finfo(torch.float32).tiny)


def weights_at(ids: Tensor, listed: Tensor, weights: Tensor) -> Tensor:
    """Return the list weights of any items, float32 ``[U, n]``.

    An item outside the list has the smallest weight of its row.

    Args:
        ids: int64 ``[U, n]``. listed: int64 ``[U, K]``, the lists, with 0 where a list is shorter. weights: float32
            ``[U, K]``, of the lists' items.
    """
    ordered, order = listed.sort(dim=1)
    place = torch.searchsorted(ordered, ids.contiguous()).clamp_(max=listed.shape[1] - 1)
    least = weights.masked_fill(listed == 0, torch.inf).amin(1, keepdim=True).nan_to_num(posinf=1.0)
    return torch.where(ordered.gather(1, place) == ids, weights.gather(1, order.gather(1, place)), least)
