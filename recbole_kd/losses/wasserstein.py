"""Wasserstein distances between two distributions over items placed on a line.

Conventions as in :mod:`recbole_kd.losses.cross_entropy`: rows are queries, ``valid`` marks the columns that count, and
these come first in every row. Positions ``x`` are in [0, 1] and sorted; ``p`` and ``q`` are probabilities, 0 at columns
that do not count.
"""

from __future__ import annotations

import torch
from torch import Tensor

BLOCK_BYTES = 32 * 2**20
"""Memory budget of one block of cost matrices in Sinkhorn's iterations, in bytes."""


def rank_positions(valid: Tensor) -> Tensor:
    """Return the positions 0, 1/(n-1), ..., 1 of a row's n valid columns, float ``[B, n]``.

    Other columns get 1. ``valid`` is bool ``[B, n]``.
    """
    last = (valid.sum(dim=1, keepdim=True) - 1).clamp(min=1)
    return (torch.arange(valid.shape[1], device=valid.device) / last).clamp(max=1.0)


def score_positions(scores: Tensor, valid: Tensor) -> Tensor:
    """Return positions by score: 0 for the best (first) column, 1 for the worst valid one.

    All 0 if all scores of a row are equal; 1 at columns that do not count.

    Args:
        scores: float ``[B, n]``, sorted in descending order. valid: bool ``[B, n]``.

    Returns:
        float ``[B, n]``.
    """
    if scores.shape[1] == 0:
        return scores
    best = scores[:, :1]
    worst = scores.masked_fill(~valid, torch.inf).amin(dim=1, keepdim=True)
    spread = (best - worst).clamp(min=0)  # inf - inf of an empty row is nan, which is masked below
    positions = (best - scores) / torch.where(spread > 0, spread, 1.0)
    return positions.clamp(0.0, 1.0).masked_fill(~valid, 1.0)


def wasserstein_on_line(p: Tensor, q: Tensor, positions: Tensor) -> Tensor:
    r"""Return W1 for the cost :math:`|x_i - x_j|`, in O(n) a row.

    .. math:: W_1 = \sum_k (x_{k+1} - x_k) |F_p(k) - F_q(k)|

    Args:
        p, q, positions: float ``[B, n]``.

    Returns:
        float ``[B]`` in [0, 1].
    """
    difference = (p - q).cumsum(dim=1)[:, :-1].abs()
    return (positions.diff(dim=1) * difference).sum(dim=1)


def sinkhorn(p: Tensor, q: Tensor, positions: Tensor, epsilon: float, n_iterations: int) -> Tensor:
    r"""Return the entropic optimal transport for the cost :math:`|x_i - x_j|`, in log space.

    .. math:: OT_\epsilon = \min_\pi \langle C, \pi \rangle + \epsilon KL(\pi | p \otimes q) = \langle f, p \rangle +
    \langle g, q \rangle

    It takes O(n^2) a row and iteration. The potentials f and g come from Sinkhorn's iterations, without gradient; by
    the envelope theorem g is the gradient in q.

    Args:
        p, q, positions: float ``[B, n]``; ``p`` is a constant. epsilon: > 0. n_iterations: >= 1.

    Returns:
        float ``[B]``, differentiable in ``q``.
    """
    step = max(1, BLOCK_BYTES // (4 * max(1, p.shape[1]) ** 2))
    potentials = [
        _potentials(p[rows], q[rows].detach(), positions[rows], epsilon, n_iterations)
        for rows in (slice(start, start + step) for start in range(0, len(p), step))
    ]
    if not potentials:
        return (p + q).sum(dim=1)
    f, g = (torch.cat(side) for side in zip(*potentials, strict=True))
    return (f * p).sum(dim=1) + (g * q).sum(dim=1)


@torch.no_grad()
def _potentials(p: Tensor, q: Tensor, positions: Tensor, epsilon: float, n_iterations: int) -> tuple[Tensor, Tensor]:
    cost = (positions.unsqueeze(2) - positions.unsqueeze(1)).abs().div_(epsilon)
    log_p, log_q = p.log(), q.log()
    f, g = torch.zeros_like(p), torch.zeros_like(q)  # in units of epsilon
    for _ in range(n_iterations):
        f = -torch.logsumexp((log_q + g).unsqueeze(1) - cost, dim=2)
        g = -torch.logsumexp((log_p + f).unsqueeze(2) - cost, dim=1)
    counts = p > 0
    return epsilon * f.masked_fill(~counts, 0.0), epsilon * g.masked_fill(~(q > 0), 0.0)
