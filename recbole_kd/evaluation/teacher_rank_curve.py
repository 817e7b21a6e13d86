"""The student's ranks of the teacher's first items (RCE-KD, Figures 2 and 4)."""

from __future__ import annotations

import torch
from torch import Tensor

from recbole_kd.ops.topk import blocks
from recbole_kd.scoring.scorer import Scorer


def ranks_of(scores: Tensor, items: Tensor) -> Tensor:
    """Return the ranks of chosen items among all, 1 = best.

    Equal scores share the better rank.

    Args:
        scores: float ``[B, I]``.
        items: int64 ``[B, K]``.

    Returns:
        int64 ``[B, K]``.
    """
    ordered, order = scores.gather(1, items).sort(dim=1)
    place = torch.searchsorted(ordered, scores.contiguous())  # for each item, the number of lower chosen items
    counts = torch.zeros(len(scores), items.shape[1] + 1, dtype=torch.int64, device=scores.device)
    counts.scatter_add_(1, place, torch.ones_like(place))
    above = counts[:, 1:].flip(1).cumsum(1).flip(1)  # items above the m-th lowest chosen item
    return torch.empty_like(items).scatter_(1, order, above + 1)


@torch.no_grad()
def rank_curve(student: Scorer, teacher_lists: Tensor) -> list[float]:
    """Return for each k the student's rank of the teacher's k-th item, averaged over users.

    Users whose list is shorter do not count, and the curve ends at the longest list.

    Args:
        student: scorer of the student.
        teacher_lists: int64 ``[n_queries, K]``, best first; row 0 is the pad's. Ranks are among all items without the
            pad. Id 0 fills up a shorter list.
    """
    queries = torch.arange(1, student.n_queries, device=student.device)
    total = torch.zeros(teacher_lists.shape[1], dtype=torch.float64, device=student.device)
    with student.frozen():
        for rows in blocks(len(queries), 4 * student.n_items, student.device):
            scores = student.full(queries[rows])
            scores[:, 0] = -torch.inf
            listed = teacher_lists[queries[rows]]
            total += ranks_of(scores, listed).masked_fill(listed == 0, 0).sum(0)
    counts = (teacher_lists[1:] != 0).sum(0)
    curve: list[float] = (total[counts > 0] / counts[counts > 0]).tolist()
    return curve
