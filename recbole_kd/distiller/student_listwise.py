"""A student's list-wise loss on two item sets, by the fastest path that its kind of score allows."""

from __future__ import annotations

import torch
from torch import Tensor

from recbole_kd.distiller.base import ItemSet
from recbole_kd.losses.listwise_of_vectors import listwise_of_vectors
from recbole_kd.losses.ranking import listwise_loss
from recbole_kd.scoring.base import StudentScores


def listwise_total(
    student: StudentScores,
    queries: Tensor,
    listed: ItemSet,
    rest: ItemSet,
    weights: Tensor | None = None,
    of_queries: Tensor | None = None,
) -> Tensor:
    """Return the sum over queries of the loss of an ordered list above an unordered rest.

    Args:
        queries: int64 ``[B]``. listed: ``[B, K]``, in its order. rest: ``[B, L]``. 0 fills a shorter row of both.
        weights: float32 ``[n_queries, K]``, by which each listed item's term is multiplied; None means 1.
        of_queries: float32 ``[B]``, by which each query's loss is multiplied; None means 1.

    Returns:
        float ``[]``, differentiable to the student.
    """
    if student.has_vectors and weights is None and of_queries is None:
        tables = student.query_vectors(queries), student.item_table()
        total = listwise_of_vectors(*tables, queries, listed.all_ids, rest.all_ids)
        if total is not None:
            return total
    ids, k = torch.cat([listed.ids, rest.ids], dim=1), listed.all_ids.shape[1]
    scores, valid = student.at(queries, ids), ids > 0
    own = None if weights is None else weights[queries].unsqueeze(1)
    loss = listwise_loss(scores[:, None, :k], scores[:, k:], valid[:, None, :k], valid[:, k:], own)
    return (loss if of_queries is None else loss * of_queries.view(-1, *[1] * (loss.dim() - 1))).sum()
