"""Ranking losses: list-wise, pair-wise and point-wise. No RecBole import.

Conventions as in :mod:`recbole_kd.losses.cross_entropy`: rows are queries, columns are items of a row's own set,
``valid`` marks the columns that count, losses are returned per row. All sums are taken in log space or relative to the
row's maximum, so scores of 1e4 stay finite.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

TINY = 1e-30
"""Sums of exponentials (relative to the row's maximum) below this are computed in log space instead."""


def listwise_loss(
    listed: Tensor,
    rest: Tensor,
    valid: Tensor | None = None,
    rest_valid: Tensor | None = None,
    weights: Tensor | None = None,
) -> Tensor:
    r"""Return the negative log-likelihood of ordered lists above an unordered rest.

    The model is a relaxed Plackett-Luce model (DE-RRD, Eq. 8; RankDistil's top-k member).

    .. math:: L_s = -\sum_{k} \Big[ r_{i_k} - \log\big( \sum_{m \ge k} e^{r_{i_m}} + \sum_{j \in rest} e^{r_j} \big)
    \Big]

    The published code clips scores at 80, which removes their gradient; this function does not clip.

    Args:
        listed: float ``[B, S, K]``, scores of S lists a row, each in its own order.
        rest: float ``[B, L]``, scores of the row's rest, shared by its lists; L may be 0.
        valid, rest_valid: bool of these shapes, False leaves an item out of every sum; None means all.
        weights: float32 ``[B, S, K]``, constants, by which the term of each k is multiplied; None means 1.

    Returns:
        float32 ``[B, S]``; 0 for a list without a valid item.
    """
    listed, rest = listed.float(), rest.float()
    if valid is not None:
        listed = listed.masked_fill(~valid, -torch.inf)
    if rest_valid is not None:
        rest = rest.masked_fill(~rest_valid, -torch.inf)
    result: Tensor = _Listwise.apply(listed, rest, weights)
    return result


class _Listwise(torch.autograd.Function):
    """The list-wise loss with its closed-form gradient.

    With b_k the k-th denominator, dL/dr_j is e^{r_j} sum_{k <= j} 1/b_k - 1 in the list and e^{r_j} sum_k 1/b_k in
    the rest. Weights w_k take the place of the ones.
    """

    @staticmethod
    def forward(ctx: Any, listed: Tensor, rest: Tensor, weights: Tensor | None) -> Tensor:
        counts = listed > -torch.inf
        top = listed.amax((1, 2))
        if rest.shape[1]:
            top = torch.maximum(top, rest.amax(1))
        top = top.masked_fill_(top == -torch.inf, 0.0)
        listed, rest = listed - top.view(-1, 1, 1), rest - top.unsqueeze(1)
        listed_exp, rest_exp = listed.exp(), rest.exp()
        below = listed_exp.flip(2).cumsum(2).flip(2).add_(rest_exp.sum(1).view(-1, 1, 1))
        # elsewhere than on a CPU the question would wait for the device, and logarithms cost little
        may_ask = listed.device.type == "cpu" and not torch.compiler.is_compiling()
        ctx.in_logs = not may_ask or bool(((below < TINY) & counts).any())
        if ctx.in_logs:
            return _Listwise.in_log_space(ctx, listed, rest, counts, weights)
        inverse = below.reciprocal() if weights is None else weights / below
        inverse = inverse.masked_fill_(~counts, 0.0).cumsum_(2)
        of_listed = listed_exp.mul_(inverse).sub_(1.0 if weights is None else weights)
        ctx.save_for_backward(of_listed, rest_exp, inverse[:, :, -1:].clone())
        terms = below.log_().sub_(listed)
        return (terms if weights is None else terms * weights).masked_fill_(~counts, 0.0).sum(2)

    @staticmethod
    def in_log_space(ctx: Any, listed: Tensor, rest: Tensor, counts: Tensor, weights: Tensor | None) -> Tensor:
        """Return the same loss if exponentials underflow: slower, but never the logarithm of 0."""
        of_rest = rest.logsumexp(1).view(-1, 1, 1) if rest.shape[1] else rest.new_full((len(rest), 1, 1), -torch.inf)
        below = torch.logaddexp(listed.flip(2).logcumsumexp(2).flip(2), of_rest)
        inverse = -below if weights is None else weights.log() - below
        inverse = inverse.masked_fill_(~counts, -torch.inf).logcumsumexp(2)
        of_listed = (listed + inverse).exp_().sub_(1.0 if weights is None else weights)
        ctx.save_for_backward(of_listed, rest, inverse[:, :, -1:].clone())
        terms = below - listed
        return (terms if weights is None else terms * weights).masked_fill_(~counts, 0.0).sum(2)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, None]:
        of_listed, rest, total = ctx.saved_tensors
        if ctx.in_logs:
            of_rest = ((rest.unsqueeze(1) + total).exp_() * grad.unsqueeze(2)).sum(1)
        else:
            of_rest = rest * (grad.unsqueeze(2) * total).sum(1)
        return of_listed * grad.unsqueeze(2), of_rest, None


def pairwise_loss(better: Tensor, worse: Tensor, valid: Tensor) -> Tensor:
    r"""Return the mean of :math:`-\log \sigma(r_{better} - r_{worse})` over a row's pairs.

    Args:
        better, worse: float ``[B, n]``. valid: bool ``[B, n]``.

    Returns:
        float ``[B]``; 0 for a row without a valid pair.
    """
    loss = -torch.nn.functional.logsigmoid(better - worse)
    return loss.masked_fill(~valid, 0.0).sum(1) / valid.sum(1).clamp(min=1)


def soft_binary_loss(student: Tensor, teacher: Tensor, valid: Tensor, t1: float, t2: float) -> Tensor:
    r"""Return the binary cross-entropy of :math:`\sigma(r^S)`, summed over a row's items.

    The target is :math:`\sigma((r^T + t_2)/t_1)`.

    Args:
        student, teacher: float ``[B, n]``. valid: bool ``[B, n]``.

    Returns:
        float ``[B]``.
    """
    target = torch.sigmoid((teacher + t2) / t1)
    loss = torch.nn.functional.binary_cross_entropy_with_logits(student, target, reduction="none")
    return loss.masked_fill(~valid, 0.0).sum(1)


def pointwise_loss(scores: Tensor, weights: Tensor) -> Tensor:
    r"""Return :math:`-\sum_k w_k \log \sigma(r_k)`, float ``[B]``, for float ``[B, n]``."""
    return -(weights * torch.nn.functional.logsigmoid(scores)).sum(1)


def share_above(scores: Tensor, others: Tensor, valid: Tensor) -> Tensor:
    """Return the share of a row's valid other scores that are higher than each score.

    Args:
        scores: float ``[B, n]``. others: float ``[B, m]``. valid: bool ``[B, m]``.

    Returns:
        float32 ``[B, n]``; 0 for a row without a valid other score.
    """
    ordered = others.masked_fill(~valid, -torch.inf).sort(dim=1).values
    above = others.shape[1] - torch.searchsorted(ordered, scores.contiguous(), right=True)
    return above / valid.sum(1, keepdim=True).clamp(min=1)


def discrepancy_weights(rank: Tensor, place: Tensor, mu: float) -> Tensor:
    r"""Return :math:`\max(\tanh(\mu (rank - place)), 0)`; floats of one shape.

    It grows with the distance by which the student ranks an item below the teacher's rank ``place``.
    """
    return torch.tanh(mu * (rank - place)).clamp_(min=0.0)
