"""Pure tensor functions of knowledge distillation: losses, sampling weights, overlaps. No RecBole import.

Conventions: ``B`` rows are queries (users, or histories), ``n`` columns are items of a row's own set. ``student``
and ``teacher`` hold the two models' raw scores at the same items, ``valid`` marks the columns that count. All sums are
taken in log space; raw scores are never exponentiated, so scores of 1e4 stay finite. Losses come back per row, ``[B]``;
the caller weights and reduces them.
"""

from __future__ import annotations

import torch
from torch import Tensor


def masked_log_softmax(scores: Tensor, valid: Tensor | None = None) -> Tensor:
    """Log-softmax over the valid columns of each row.

    Args:
        scores: float ``[B, n]``.
        valid: bool ``[B, n]``; all columns count when None.

    Returns:
        float ``[B, n]``, 0 at columns that do not count. A row without a valid column is all 0 and has zero gradient.
    """
    if valid is None:
        return torch.log_softmax(scores, dim=-1)
    filled = scores.masked_fill(~valid, -torch.inf)
    # an empty row would be log(0) - log(0): give it finite logits, its columns are zeroed below
    filled = filled.masked_fill(~valid.any(dim=-1, keepdim=True), 0.0)
    return torch.log_softmax(filled, dim=-1).masked_fill(~valid, 0.0)


def teacher_probabilities(teacher: Tensor, valid: Tensor | None = None, temperature: float = 1.0) -> Tensor:
    """Softmax of the teacher over the valid columns, ``[B, n]``; 0 at columns that do not count."""
    probabilities = masked_log_softmax(teacher / temperature, valid).exp()
    return probabilities if valid is None else probabilities.masked_fill(~valid, 0.0)


def cross_entropy(student: Tensor, teacher: Tensor, valid: Tensor | None = None, temperature: float = 1.0) -> Tensor:
    r"""Cross-entropy between teacher and student on an item set J (RCE-KD, Eq. 1).

    .. math:: L_{CE}(u;J) = -\sum_{i \in J} softmax_J(r^T_u/\tau)_i \, \log softmax_J(r^S_u/\tau)_i

    The published code has no :math:`\tau^2` factor; neither has this.

    Args:
        student, teacher: float ``[B, n]``, scores at the same items.
        valid: bool ``[B, n]``, the columns that are in J; all when None.
        temperature: softmax temperature, > 0.

    Returns:
        float ``[B]``; 0 for a row whose J is empty.
    """
    target = teacher_probabilities(teacher, valid, temperature)
    return -(target * masked_log_softmax(student / temperature, valid)).sum(dim=-1)


def rce_weight(overlap: Tensor, beta: float) -> Tensor:
    r""":math:`\gamma_u = \exp(-\beta o_u)` (RCE-KD, Eq. 10). ``overlap`` in [0, 1], any shape."""
    return torch.exp(-beta * overlap)


def ndcg_on_set(ranks: Tensor, gains: Tensor) -> Tensor:
    r"""Partial NDCG on a set J (RCE-KD, Eqs. 3 to 5): DCG by the ranks in the FULL order over J's own ideal DCG.

    Args:
        ranks: int ``[B, n]``, the student's rank of each item of J among all items, 1 = best.
        gains: float ``[B, n]``, :math:`2^{y_i} - 1`, which is the teacher's softmax over all items.

    Returns:
        float ``[B]`` in (0, 1].
    """
    discount = 1.0 / torch.log2(1.0 + ranks.to(gains.dtype))
    ideal_ranks = torch.arange(1, gains.shape[1] + 1, dtype=gains.dtype, device=gains.device)
    ideal = (gains.sort(dim=1, descending=True).values / torch.log2(1.0 + ideal_ranks)).sum(1)
    return (gains * discount).sum(1) / ideal


def is_closed(ranks: Tensor) -> Tensor:
    """Closure of a set (RCE-KD, Assumption 4.3): it is exactly the student's top-|J|. ``ranks`` int ``[B, n]`` -> bool ``[B]``."""
    return ranks.max(dim=1).values == ranks.shape[1]
