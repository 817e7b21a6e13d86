"""Cross-entropies on item sets, and measures of the sets themselves. No RecBole import.

Conventions: ``B`` rows are queries (users, or histories), ``n`` columns are items of a row's own set. ``student``
and ``teacher`` hold the raw scores of both models at the same items; ``valid`` marks the columns that count. All sums
are taken in log space. Raw scores are never exponentiated, so scores of 1e4 stay finite. Losses are returned per row,
``[B]``; the caller weights and reduces them.
"""

from __future__ import annotations

import torch
from torch import Tensor


def masked_log_softmax(scores: Tensor, valid: Tensor | None = None) -> Tensor:
    """Return the log-softmax over the valid columns of each row.

    Args:
        scores: float ``[B, n]``.
        valid: bool ``[B, n]``; None means all columns.

    Returns:
        float ``[B, n]``, 0 at columns that do not count. A row without a valid column is all 0 and has zero gradient.
    """
    if valid is None:
        return torch.log_softmax(scores, dim=-1)
    filled = scores.masked_fill(~valid, -torch.inf)
    # the softmax of an empty row would be log(0) - log(0): give it finite logits, its columns are zeroed below
    filled = filled.masked_fill(~valid.any(dim=-1, keepdim=True), 0.0)
    return torch.log_softmax(filled, dim=-1).masked_fill(~valid, 0.0)


def teacher_probabilities(teacher: Tensor, valid: Tensor | None = None, temperature: float = 1.0) -> Tensor:
    """Return the teacher's softmax over the valid columns, ``[B, n]``; 0 at other columns."""
    probabilities = masked_log_softmax(teacher / temperature, valid).exp()
    return probabilities if valid is None else probabilities.masked_fill(~valid, 0.0)


def cross_entropy(student: Tensor, teacher: Tensor, valid: Tensor | None = None, temperature: float = 1.0) -> Tensor:
    r"""Return the cross-entropy between teacher and student on an item set J (RCE-KD, Eq. 1).

    .. math:: L_{CE}(u;J) = -\sum_{i \in J} softmax_J(r^T_u/\tau)_i \, \log softmax_J(r^S_u/\tau)_i

    The published code has no factor :math:`\tau^2`, so this function has none either.

    Args:
        student, teacher: float ``[B, n]``, scores at the same items.
        valid: bool ``[B, n]``, the columns in J; None means all.
        temperature: softmax temperature, > 0.

    Returns:
        float ``[B]``; 0 for a row whose J is empty.
    """
    target = teacher_probabilities(teacher, valid, temperature)
    return -(target * masked_log_softmax(student / temperature, valid)).sum(dim=-1)


def rce_weight(overlap: Tensor, beta: float) -> Tensor:
    r"""Return :math:`\gamma_u = \exp(-\beta o_u)` (RCE-KD, Eq. 10); ``overlap`` is in [0, 1]."""
    return torch.exp(-beta * overlap)


def ndcg_on_set(ranks: Tensor, gains: Tensor) -> Tensor:
    r"""Return the partial NDCG on a set J (RCE-KD, Eqs. 3 to 5).

    It is the DCG by the ranks among ALL items, over the ideal DCG of J alone.

    Args:
        ranks: int ``[B, n]``, the student's rank of each item of J among all items, 1 = best.
        gains: float ``[B, n]``, :math:`2^{y_i} - 1`, which equals the teacher's softmax over all items.

    Returns:
        float ``[B]`` in (0, 1].
    """
    discount = 1.0 / torch.log2(1.0 + ranks.to(gains.dtype))
    ideal_ranks = torch.arange(1, gains.shape[1] + 1, dtype=gains.dtype, device=gains.device)
    ideal = (gains.sort(dim=1, descending=True).values / torch.log2(1.0 + ideal_ranks)).sum(1)
    return (gains * discount).sum(1) / ideal


def is_closed(ranks: Tensor) -> Tensor:
    """Test whether a set is closed (RCE-KD, Assumption 4.3): exactly the student's top-|J|.

    Args:
        ranks: int ``[B, n]``, the student's rank of each item of J, 1 = best.

    Returns:
        bool ``[B]``.
    """
    return ranks.max(dim=1).values == ranks.shape[1]
