"""Wasserstein distances between two distributions over the same items of a row, which stand on a line. Pure tensor functions.

Conventions as in :mod:`recbole_kd.losses.cross_entropy`: rows are queries, ``valid`` marks the columns that count, and
these come first in every row.
Positions ``x`` are in [0, 1] and sorted; ``p`` and ``q`` are probabilities, 0 where a column does not count.
"""

from __future__ import annotations

import torch
from torch import Tensor

BLOCK_BYTES = 32 * 2**20
"""Of one block of the cost matrices that Sinkhorn's iterations hold."""


def rank_positions(valid: Tensor) -> Tensor:
    """Columns at 0, 1/(n-1), ..., 1, n being the row's valid columns: bool ``[B, n]`` -> float ``[B, n]``, 1 beyond them."""
    last = (valid.sum(dim=1, keepdim=True) - 1).clamp(min=1)
    return (torch.arange(valid.shape[1], device=valid.device) / last).clamp(max=1.0)


def score_positions(scores: Tensor, valid: Tensor) -> Tensor:
    """Columns by their score, best (first) at 0 and worst at 1: float ``[B, n]``, sorted downwards -> float ``[B, n]``.

    All 0 where all scores are equal; 1 at columns that do not count.
    """
    if scores.shape[1] == 0:
        return scores
    best = scores[:, :1]
    worst = scores.masked_fill(~valid, torch.inf).amin(dim=1, keepdim=True)
    spread = (best - worst).clamp(min=0)  # inf - inf of an empty row is nan, and of no account
    positions = (best - scores) / torch.where(spread > 0, spread, 1.0)
    return positions.clamp(0.0, 1.0).masked_fill(~valid, 1.0)


def wasserstein_on_line(p: Tensor, q: Tensor, positions: Tensor) -> Tensor:
    r"""W1 for the cost :math:`|x_i - x_j|`: :math:`\sum_k (x_{k+1} - x_k) |F_p(k) - F_q(k)|`, O(n).

    Args:
        p, q, positions: float ``[B, n]``.

    Returns:
        float ``[B]`` in [0, 1].
    """
    difference = (p - q).cumsum(dim=1)[:, :-1].abs()
    return (positions.diff(dim=1) * difference).sum(dim=1)


def sinkhorn(p: Tensor, q: Tensor, positions: Tensor, epsilon: float, n_iterations: int) -> Tensor:
    r"""Entropic optimal transport for the cost :math:`|x_i - x_j|`, in the log domain, O(n^2) a row and iteration.

    .. math:: OT_\epsilon = \min_\pi \langle C, \pi \rangle + \epsilon KL(\pi | p \otimes q) = \langle f, p \rangle +
    \langle g, q \rangle

    The potentials f and g come from Sinkhorn's iterations without gradient; by the envelope theorem g then is the
    gradient in q.

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
