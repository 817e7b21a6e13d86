"""A student's cross-entropy on lists, by the fastest path that its kind of score allows."""

from __future__ import annotations

from torch import Tensor

from recbole_kd.losses.list_cross_entropy import Lists, cross_entropy_of_scores, cross_entropy_of_vectors
from recbole_kd.scoring.base import StudentScores


def listed_cross_entropy(
    student: StudentScores, queries: Tensor, weights: Tensor, lists: Lists, temperature: float = 1.0
) -> Tensor:
    """Return the weighted sum of some queries' cross-entropies on their lists.

    Args:
        queries: int64 ``[B]``.
        weights: float32 ``[B]``, constants.
        lists: see :class:`recbole_kd.losses.list_cross_entropy.Lists`.

    Returns:
        float ``[]``, differentiable to the student.
    """
    if student.has_vectors:
        loss = cross_entropy_of_vectors(
            student.query_vectors(queries), student.item_table(), queries, weights, lists, temperature
        )
        if loss is not None:
            return loss
    losses = cross_entropy_of_scores(student.at(queries, lists.chosen[queries].long()), queries, lists, temperature)
    return (losses * weights).sum()
