"""Partial NDCG on closed item sets and its cross-entropy bound (RCE-KD, Theorem 4.4)."""

from __future__ import annotations

import torch
from torch import Tensor

from recbole_kd.errors import ConfigError
from recbole_kd.evaluation.teacher_rank_curve import ranks_of
from recbole_kd.losses.cross_entropy import cross_entropy, is_closed, ndcg_on_set, teacher_probabilities
from recbole_kd.ops.topk import blocks
from recbole_kd.scoring.base import StudentScores
from recbole_kd.teacher.base import TeacherScores

SET_SIZE = 50
"""Size of both item sets. It is the same for all methods, so that their curves can be compared."""
MOST_QUERIES = 1000
"""Number of queries that are measured, evenly spaced over all."""


@torch.no_grad()
def closed_set_bound(student: StudentScores, teacher: TeacherScores) -> dict[str, float]:
    r"""Return the partial NDCG of the student on its own and on the teacher's top list, and the bound.

    The student's own top list J is closed, so that :math:`NDCG_J \ge \exp(-L_{CE}(u;J))` for each query. The teacher's
    top list is closed only if the student ranks exactly these items first. The values are means over at most 1,000
    queries. No random number is drawn, and training masks are not applied.

    Args:
        student: scorer of the student.
        teacher: its teacher, with the same queries.

    Returns:
        ``closed_ndcg``, ``closed_bound`` and their difference ``closed_gap`` on the student's first 50 items;
        ``teacher_list_ndcg`` and ``teacher_list_closed``, the share of closed sets, on the teacher's. All are in
        [0, 1].

    Raises:
        ConfigError: the teacher leaves items without a score.
    """
    if teacher.masks:
        raise ConfigError(
            "kd_track=bound needs a score for each item of the student's list, and teacher_unlisted=mask leaves items "
            "out: set teacher_unlisted=floor, or leave bound out"
        )
    queries, size = _measured(student, teacher), min(SET_SIZE, student.n_items - 1)
    total = torch.zeros(len(NAMES), dtype=torch.float64, device=student.device)
    with student.frozen():
        for rows in blocks(len(queries), 4 * student.n_items, student.device):
            scores = student.full(queries[rows])
            scores[:, 0] = -torch.inf
            total += _sums(scores, queries[rows], teacher, size)
    return dict(zip(NAMES, (total / len(queries)).tolist(), strict=True))


NAMES = ("closed_ndcg", "closed_bound", "closed_gap", "teacher_list_ndcg", "teacher_list_closed")


def _measured(student: StudentScores, teacher: TeacherScores) -> Tensor:
    """Return the ids of the measured queries, int64 ``[Q]``.

    The pad is left out, and so are queries that the teacher knows nothing about.
    """
    known = torch.arange(1, student.n_queries, device=student.device)
    if teacher.covered is not None:
        known = known[teacher.covered.to(known.device)[known]]
    n = min(MOST_QUERIES, len(known))
    return known[torch.arange(n, device=known.device) * len(known) // max(n, 1)]


def _sums(scores: Tensor, queries: Tensor, teacher: TeacherScores, size: int) -> Tensor:
    """Return the sums of the measures over a block of queries, float64 ``[5]`` in the order of ``NAMES``.

    Args:
        scores: the student's scores at all items, float ``[B, n_items]``.
        queries: int64 ``[B]``.
        teacher: the teacher's scores.
        size: size of both sets.
    """
    scores = scores.double()
    own_scores, own = scores.topk(size, dim=1)
    ranks = torch.arange(1, size + 1, device=own.device).expand_as(own)
    own_teacher = teacher.at(queries, own).double()
    # NDCG is a ratio: the softmax over J has the same as that over all items, and does not underflow as a whole
    ndcg = ndcg_on_set(ranks, teacher_probabilities(own_teacher))
    bound = (-cross_entropy(own_scores, own_teacher)).exp()
    listed, listed_scores = teacher.top_k(queries, size)
    listed_ranks = ranks_of(scores, listed)
    listed_ndcg = ndcg_on_set(listed_ranks, teacher_probabilities(listed_scores.double()))
    closed = is_closed(listed_ranks).double()
    return torch.stack([ndcg, bound, ndcg - bound, listed_ndcg, closed]).sum(1)
