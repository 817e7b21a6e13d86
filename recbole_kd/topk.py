"""Exact top-k with one rule for ties, in blocks of queries: never a users x items matrix."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from recbole_kd.ragged import Ragged

BLOCK_BYTES = 64 * 2**20
"""Memory budget of one block of full score rows, in bytes."""


def top_k(scores: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """The k best columns of each row, best first; equal scores are ordered by column id, also at the boundary.

    Args:
        scores: float ``[B, n]``.
        k: 1..n.

    Returns:
        ids int64 ``[B, k]`` and scores float ``[B, k]``.
    """
    extra = min(k + 1, scores.shape[1])
    values, ids = scores.topk(extra, dim=1)
    if extra > k:
        tied = values[:, k - 1] == values[:, k]
        values, ids = values[:, :k], ids[:, :k]
        if bool(tied.any()):
            rows = tied.nonzero().squeeze(1)
            ordered = scores[rows].sort(dim=1, descending=True, stable=True)
            values, ids = values.clone(), ids.clone()
            values[rows], ids[rows] = ordered.values[:, :k], ordered.indices[:, :k]
    # inside the list: by id first, then a stable sort by score
    ids, order = ids.sort(dim=1)
    values, order = values.gather(1, order).sort(dim=1, descending=True, stable=True)
    return ids.gather(1, order), values


def blocks(n_rows: int, n_columns: int, block_bytes: int | None = None) -> Iterator[slice]:
    """Row slices whose float32 score rows fit the budget, BLOCK_BYTES when None."""
    step = max(1, (BLOCK_BYTES if block_bytes is None else block_bytes) // (4 * max(n_columns, 1)))
    for start in range(0, n_rows, step):
        yield slice(start, min(start + step, n_rows))


def top_k_in_blocks(
    full: Callable[[Tensor], Tensor],
    queries: Tensor,
    n_items: int,
    k: int,
    exclude: Ragged | None = None,
) -> tuple[Tensor, Tensor]:
    """Top-k of many queries; the pad item 0 is never listed.

    Args:
        full: queries ``[b]`` -> scores of all items ``[b, n_items]``.
        queries: int64 ``[Q]``.
        exclude: items that are not ranked, by query id (the training items, say); None ranks everything.

    Returns:
        ids int64 ``[Q, k]`` and scores float ``[Q, k]``. Where a query has fewer than k items left, the rest of its row
        is id 0 with score ``-inf``.
    """
    ids = torch.zeros(len(queries), k, dtype=torch.int64, device=queries.device)
    values = torch.full((len(queries), k), -torch.inf, device=queries.device)
    width = min(k, n_items)
    for rows in blocks(len(queries), n_items):
        scores = full(queries[rows])
        scores[:, 0] = -torch.inf
        if exclude is not None:
            row, column = exclude.pairs(queries[rows])
            scores[row, column] = -torch.inf
        block_ids, block_values = top_k(scores, width)
        ids[rows, :width] = block_ids.masked_fill(block_values == -torch.inf, 0)
        values[rows, :width] = block_values.to(values.dtype)
    return ids, values
