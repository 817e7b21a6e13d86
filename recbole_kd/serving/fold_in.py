"""Vectors of new users from their histories, with the student's item vectors fixed."""

from __future__ import annotations

import torch
from torch import Tensor

from recbole_kd.ops.ragged import Ragged

RIDGE = 1e-4
"""Weight of the map's squared length, relative to the mean square of each input; it settles what is free.

It and the inputs (the mean of the item vectors and a constant) are the best of 36 choices by validation NDCG@10 on
ml-100k, for MF alone and MF distilled by RCE-KD together, over the users that were trained on in five folds. For
LightGCN they are the best of seven rules on the validation rows of held-out users, propagation from the history
among them. results/new-users.md has the figures.
"""


def user_map(items: Tensor, users: Tensor, histories: Ragged) -> Tensor:
    r"""Return the map from a history to a user's vector that the trained users show.

    With :math:`m_u = |H_u|^{-1} \sum_{i \in H_u} q_i` the mean vector of a user's items and p the trained vectors, the
    map (W, b) minimises

    .. math:: \frac{1}{U} \sum_u | W m_u + b - p_u |^2 + \lambda \sum_{kl} s_k W_{lk}^2 + \lambda |b|^2

    with :math:`\lambda` = ``RIDGE`` and :math:`s_k` the mean square of entry k of :math:`m_u`, so that it means the
    same at any scale. Whatever loss trained the users' vectors, a new user gets the one that such a history leads to.

    Args:
        items: float ``[n_items, d]``. users: float ``[n_users, d]``. histories: items of all users, of which those
            without any do not count.

    Returns:
        float64 ``[d + 1, d]``: the transposed W and, below it, b.
    """
    there = torch.where(histories.counts() > 0)[0]
    inputs, wanted = _inputs(items, histories.of_rows(there)), users[there].detach().double()
    scale = inputs.square().mean(0).sqrt().clamp(min=torch.finfo(torch.float64).tiny)
    inputs = inputs / scale
    n, width = inputs.shape
    gram = inputs.T @ inputs / n + RIDGE * torch.eye(width, dtype=torch.float64)
    return torch.linalg.solve(gram, inputs.T @ wanted / n) / scale.unsqueeze(1)


def mapped(table: Tensor, items: Tensor, histories: Ragged) -> Tensor:
    """Return the vectors of new users by :func:`user_map`, float ``[B, d]``."""
    return (_inputs(items, histories) @ table).to(items.dtype)


def _inputs(items: Tensor, histories: Ragged) -> Tensor:
    """Return the mean vector of each history and a 1, float64 ``[B, d + 1]``."""
    means = _sums(items.detach().double(), histories) / histories.counts().unsqueeze(1)
    return torch.cat([means, means.new_ones(len(means), 1)], dim=1)


def _sums(table: Tensor, histories: Ragged) -> Tensor:
    counts = histories.counts()
    rows = torch.repeat_interleave(torch.arange(len(counts)), counts)
    return table.new_zeros(len(counts), table.shape[1]).index_add_(0, rows, table[histories.items])
