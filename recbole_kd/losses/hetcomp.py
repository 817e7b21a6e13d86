r"""HetComp's losses, and the distance that drives its schedule.

Sources: Kang, WWW 2023; github SeongKu-Kang/HetComp_WWW23 and woriazzc/RCEKD.

Both losses have the form :math:`\sum_k c_k [\log(e^{\beta_k} + E) - r_k]` with factors c, logs beta of the denominators
over listed items, and E, the sum of exp over the rest of the catalogue: all items that are neither training items nor
in the teacher's list. They are returned as :class:`Terms`; :func:`recbole_kd.losses.unlisted_logsumexp.rest_above` adds
E. The published code computes E as the difference of two sums of clamped scores (to [-40, 40]) and clamps the
difference at 1e-5; in log space neither is needed.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from recbole_kd.ops.membership import is_in

DECAY = 10.0
"""Decay of the weight of a list position: position k (from 0) has weight exp(-k / DECAY)."""

NOTHING = -1e30
"""Log of a weight that does not count; finite, so that no gradient becomes 0 / 0."""


class Terms(NamedTuple):
    r"""A loss without its rest.

    The loss is ``constant`` plus :math:`\sum_k c_k [\log(e^{\beta_k} + E) - \beta_k]`.

    Attributes:
        constant: float ``[B]``. below: float ``[B, n]``, beta.
        factors: float ``[B, n]``, c; 0 for a term that does not count.
    """

    constant: Tensor
    below: Tensor
    factors: Tensor

    def loss(self, rest: Tensor) -> Tensor:
        """Return the whole loss, float ``[B]``, given ``rest`` ``[B]`` = log E."""
        return self.constant + (self.factors * torch.nn.functional.softplus(rest.unsqueeze(1) - self.below)).sum(dim=1)


def coarse_terms(positives: Tensor, tops: Tensor, positive_valid: Tensor, top_valid: Tensor) -> Terms:
    r"""Return the loss of the overall relations: every listed item above the rest, unordered.

    .. math:: L = -2 \sum_{i \in P} [r_i - \log(e^{r_i} + E)]

    The factor 2 comes from woriazzc/RCEKD; the original does not have it.

    Args:
        positives: float ``[B, m]``. tops: float ``[B, K]``, the teacher's list, best first.
        positive_valid, top_valid: bool ``[B, m]`` and ``[B, K]``.
    """
    scores, valid = torch.cat([positives, tops], dim=1), torch.cat([positive_valid, top_valid], dim=1)
    return Terms(scores.new_zeros(len(scores)), scores.masked_fill(~valid, 0.0), 2.0 * valid.to(scores.dtype))


def fine_terms(positives: Tensor, tops: Tensor, positive_valid: Tensor, top_valid: Tensor) -> Terms:
    r"""Return the loss of the fine-grained order: three ListMLE terms.

    They are ListMLE of the positives, plus half of ListMLE of the teacher's first K/2 and half of that of its first
    K/10. ListMLE is :math:`-\sum_k [r_k - \log(\sum_{m \ge k} e^{r_m} + E')]`. E' is E plus the exponentials of the
    teacher's list below its first K/2 (for the last term: below its first K/10). Arguments as in
    :func:`coarse_terms`.
    """
    half, tenth = tops.shape[1] // 2, tops.shape[1] // 10
    counted = tops.masked_fill(~top_valid, NOTHING)
    below_half = torch.logsumexp(counted[:, half:], dim=1, keepdim=True)
    below_tenth = torch.logsumexp(counted[:, tenth:], dim=1, keepdim=True)
    parts = [
        _list_terms(positives, positive_valid, below_half, 1.0),
        _list_terms(tops[:, :half], top_valid[:, :half], below_half, 0.5),
        _list_terms(tops[:, :tenth], top_valid[:, :tenth], below_tenth, 0.5),
    ]
    constants, below, factors = zip(*parts, strict=True)
    return Terms(torch.stack(constants).sum(dim=0), torch.cat(below, dim=1), torch.cat(factors, dim=1))


def _list_terms(scores: Tensor, valid: Tensor, others: Tensor, factor: float) -> tuple[Tensor, Tensor, Tensor]:
    """Return ListMLE of one list as (constant, below, factors) of :class:`Terms`.

    ``others`` ``[B, 1]`` is the log-sum-exp of the teacher's items below the whole list, without the rest.
    """
    factors = factor * valid.to(scores.dtype)
    below = scores.masked_fill(~valid, NOTHING).flip(1).logcumsumexp(dim=1).flip(1)
    below = torch.logaddexp(below, others)
    return (factors * (below - scores).masked_fill(~valid, 0.0)).sum(dim=1), below, factors


def list_distance(own: Tensor, other: Tensor) -> Tensor:
    r"""Return 1 - NDCG of each list, with the other list as the relevant set.

    .. math:: d = 1 - \sum_k 1[own_k \in other] g_k / \sum_k g_k, \quad g_k = (2^{e^{-(k-1)/10}} - 1) / \log_2(k + 1)

    The weight of the position is the gain. The NDCG is rounded to 4 decimals, as published.

    Args:
        own, other: int64 ``[Q, K]``, ids best first; 0 fills a shorter list and does not count.

    Returns:
        float64 ``[Q]`` in [0, 1]; 0 for an empty list.
    """
    place = torch.arange(own.shape[1], device=own.device, dtype=torch.float64)
    gains = (torch.exp2(torch.exp(-place / DECAY)) - 1) / torch.log2(place + 2) * (own != 0)
    ideal = gains.sum(dim=1)
    share = (gains * is_in(own, other)).sum(dim=1) / ideal.clamp(min=torch.finfo(ideal.dtype).tiny)
    return 1 - torch.where(ideal > 0, share, 1.0).mul(1e4).round().div(1e4)


def merged_lists(lists: Tensor) -> Tensor:
    """Merge the lists of several teachers into one, by the sum of position weights.

    Each list gives the item at position k (from 0) the weight exp(-k / 10).

    Args:
        lists: int64 ``[M, Q, K]``, 0 fills a shorter list.

    Returns:
        int64 ``[Q, K]``, best first, ties by id.
    """
    m, n, k = lists.shape
    ids, order = lists.permute(1, 0, 2).reshape(n, m * k).sort(dim=1, stable=True)
    worth = torch.exp(-torch.arange(k, device=lists.device) / DECAY).repeat(m).expand(n, -1).gather(1, order)
    worth = worth.masked_fill(ids == 0, 0.0)
    first = torch.ones_like(ids, dtype=torch.bool)
    first[:, 1:] = ids[:, 1:] != ids[:, :-1]
    group = first.cumsum(dim=1) - 1
    sums = torch.zeros_like(worth).scatter_add_(1, group, worth)
    items = torch.zeros_like(ids).scatter_(1, group, ids)  # all ids of a group are equal
    best = sums.sort(dim=1, descending=True, stable=True).indices[:, :k]  # groups are in the order of ids
    return items.gather(1, best)
