"""Pure tensor functions of knowledge distillation: losses, sampling weights, overlaps. No RecBole import.

Conventions: ``B`` rows are queries (users, or histories), ``n`` columns are items of a row's own set. ``student``
and ``teacher`` hold the two models' raw scores at the same items, ``valid`` marks the columns that count. All sums are
taken in log space; raw scores are never exponentiated, so scores of 1e4 stay finite. Losses come back per row, ``[B]``;
the caller weights and reduces them.
"""

from __future__ import annotations

import torch
from torch import Tensor

from recbole_kd.ops import compiled


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


def is_in(items: Tensor, other: Tensor) -> Tensor:
    """Row-wise membership: is ``items[b, i]`` among ``other[b]``?

    Args:
        items: int64 ``[B, n]``, ids from 0; other: int64 ``[B, m]``, where negative ids are nobody. Rows are independent.

    Returns:
        bool ``[B, n]``. Compiled O(n + m) a row; else by one sort and one binary search, O((n + m) log m). Never ``B x n x m``.
    """
    found = compiled.is_in(items, other)
    if found is not None:
        return found
    if other.shape[1] == 0 or items.shape[1] == 0:
        return torch.zeros_like(items, dtype=torch.bool)
    ordered = other.sort(dim=1).values
    place = torch.searchsorted(ordered, items.contiguous()).clamp_(max=other.shape[1] - 1)
    return ordered.gather(1, place) == items


def counts_below(member: Tensor, *, inclusive: bool) -> Tensor:
    """How many members stand below each position of a ranked list.

    Args:
        member: bool ``[B, m]``; ``member[b, p]`` says that the item at position p (0 = best) is in the wanted set.
        inclusive: count the own position too. The published RCE-KD code does; the paper's z (section 5.3) does not.

    Returns:
        float32 ``[B, m]``.
    """
    below = member.flip(-1).cumsum(-1, dtype=torch.float32).flip(-1)
    return below if inclusive else below - member.to(below.dtype)


def counts_of_lower(scores: Tensor, wanted: Tensor, wanted_valid: Tensor) -> Tensor:
    r"""For every item j, how many wanted items the student ranks lower: :math:`z_j = \#\{i: r_i < r_j\}`.

    Args:
        scores: float ``[B, I]``, the student's scores of all items; ``-inf`` where an item is not ranked.
        wanted: float ``[B, K]``, the student's scores of the wanted items; those that do not count by ``wanted_valid``
            (bool ``[B, K]``) are left out.

    Returns:
        int32 ``[B, I]``, -1 where an item is not ranked. Equal scores count as not lower.
    """
    found = compiled.counts_of_lower(scores, wanted, wanted_valid)
    if found is not None:
        return found
    ordered = wanted.masked_fill(~wanted_valid, torch.inf).sort(dim=1).values
    return torch.searchsorted(ordered, scores.contiguous(), out_int32=True).masked_fill_(scores == -torch.inf, -1)


def sample_without_replacement(log_weights: Tensor, n: int, generator: torch.Generator | None = None) -> Tensor:
    """Draw n distinct columns a row, successively, with probability proportional to ``exp(log_weights)``.

    Gumbel top-n: adding independent Gumbel noise to the log-weights and keeping the n largest is exactly successive
    sampling without replacement, and stays in log space.

    Args:
        log_weights: float ``[B, m]``; ``-inf`` means never.
        n: columns a row, at most m.
        generator: source of randomness, on the tensor's device.

    Returns:
        int64 ``[B, n]`` column indices in the order of drawing.
    """
    keys = torch.empty_like(log_weights).exponential_(generator=generator).log_().neg_().add_(log_weights)
    found = compiled.top_k(keys, n)
    return keys.topk(n, dim=-1).indices if found is None else found[0]


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
