"""The list-wise ranking loss from vectors, in one compiled pass over the lists.

No RecBole import.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
from torch import Tensor

from recbole_kd.ops.fused_loss import applies, fused_loss

PAIRS_FROM = 2**14
"""From so many query-item pairs on the kernels are loaded."""


@cache
def _kernels() -> Any:
    """Return the module of kernels; call only if kernels apply."""
    from recbole_kd.ops.kernels import listwise as compiled

    return compiled


def listwise_of_vectors(vectors: Tensor, items: Tensor, queries: Tensor, listed: Tensor, rest: Tensor) -> Tensor | None:
    """Return the sum over queries of :func:`recbole_kd.losses.ranking.listwise_loss` of dot products.

    One compiled pass computes the scores, the loss and the gradients of both tables. The plain path's sums are in
    another order: losses agree to 2e-6, gradients to 1e-4 of their size.

    Args:
        vectors: float32 ``[B, d]``, of the queries. items: float32 ``[n_items, d]``. queries: int64 ``[B]``.
        listed: int64 or int32 ``[U, K]``, one ordered list a row of all queries. rest: of the same type ``[U, L]``.
            Both are ids of items, 0 fills a shorter row.

    Returns:
        float32 ``[]``, differentiable once in vectors and items; None if the kernel does not apply.
    """
    n_pairs = len(queries) * (listed.shape[1] + rest.shape[1])
    if n_pairs < max(1, PAIRS_FROM) or not applies(vectors, items):
        return None
    rows, *lists = (table.contiguous().numpy() for table in (queries, listed, rest))

    def work(
        part: slice, own: np.ndarray, table: np.ndarray, losses: np.ndarray, d_own: np.ndarray, d_items: np.ndarray
    ) -> None:
        _kernels().listed_ranking(own, table, rows[part], *lists, losses, d_own, d_items)

    return fused_loss(vectors, items, n_pairs, work)
