"""Exact top-k in blocks of queries, ties by id: never a users x items matrix."""

from __future__ import annotations

import math
import threading
from collections.abc import Callable, Iterable, Iterator

import torch
from torch import Tensor

from recbole_kd.ops import compiled, compiled_ranking
from recbole_kd.ops.ragged import Ragged
from recbole_kd.ops.threads import n_threads, side_by_side

BLOCK_BYTES = 6 * 2**20
"""Memory budget of one block of score rows on a CPU, in bytes: a block that fits the cache is ranked three times
faster."""

ACCELERATOR_BLOCK_BYTES = 256 * 2**20
"""Memory budget on other devices, where small blocks only wait for their launch."""

QUERIES_AT_ONCE = 256
"""Queries of a block whose score rows are not written."""

FUSE_FROM = 2**22
"""From so many scores on, dot products are ranked without being written, if a compiled kernel can."""

PRUNE_FROM = 16
"""Catalogues of at least this many times k items are pruned by groups before the ranking."""


def top_k(scores: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """Return the k best columns of each row, best first; ties by column id.

    Column ids decide ties at the boundary of the list too.

    Args:
        scores: float ``[B, n]``.
        k: 1..n.

    Returns:
        ids int64 ``[B, k]`` and scores float ``[B, k]``.
    """
    found = compiled.top_k(scores, k)
    if found is not None:
        return found
    if scores.device.type == "cpu" and scores.shape[1] >= PRUNE_FROM * k:
        return _pruned_top_k(scores, k)
    return _plain_top_k(scores, k)


def _plain_top_k(scores: Tensor, k: int) -> tuple[Tensor, Tensor]:
    extra = min(k + 1, scores.shape[1])
    values, ids = scores.topk(extra, dim=1)
    if extra > k:
        tied = values[:, k - 1] == values[:, k]
        values, ids = values[:, :k], ids[:, :k]
        if bool(tied.any()):
            _rank_whole_rows(scores, tied, ids, values)
    # inside the list: by id first, then a stable sort by score
    ids, order = ids.sort(dim=1)
    values, order = values.gather(1, order).sort(dim=1, descending=True, stable=True)
    return ids.gather(1, order), values


def _pruned_top_k(scores: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """Rank only the k + 1 groups with the highest maxima.

    Each row is cut into groups of about sqrt(n / k) columns; the k best columns are all in the k groups with the
    highest maxima. One more group is kept: if the k-th score of a row does not exceed the maximum of that group, ties
    may be outside, and the whole row is ranked.
    """
    n = scores.shape[1]
    size = math.isqrt(n // k)
    groups = n // size
    highest, chosen = scores[:, : size * groups].unflatten(1, (size, groups)).amax(1).topk(k + 1, dim=1)
    columns = torch.arange(0, size * groups, groups, device=scores.device).view(1, size, 1) + chosen.sort(
        1
    ).values.unsqueeze(1)
    left_over = torch.arange(size * groups, n, device=scores.device).expand(len(scores), -1)
    columns = torch.cat([columns.flatten(1), left_over], dim=1)  # ascending, so that ties keep the order of the ids
    places, values = _plain_top_k(scores.gather(1, columns), k)
    ids = columns.gather(1, places)
    unsure = values[:, -1] <= highest[:, -1]
    if bool(unsure.any()):
        _rank_whole_rows(scores, unsure, ids, values)
    return ids, values


def _rank_whole_rows(scores: Tensor, rows: Tensor, ids: Tensor, values: Tensor) -> None:
    """Overwrite the lists of the given rows (bool ``[B]``) by a stable sort."""
    at = rows.nonzero().squeeze(1)
    ordered = scores[at].sort(dim=1, descending=True, stable=True)
    values[at], ids[at] = ordered.values[:, : ids.shape[1]], ordered.indices[:, : ids.shape[1]]


def blocks(
    n_rows: int, n_columns: int, device: torch.device | None = None, cpu_bytes: int | None = None
) -> Iterator[slice]:
    """Yield row slices whose float32 score rows fit the memory budget of the device.

    Args:
        device: a CPU if None. cpu_bytes: replaces the budget of a CPU.
    """
    on_cpu = device is None or device.type == "cpu"
    budget = (cpu_bytes or BLOCK_BYTES) if on_cpu else ACCELERATOR_BLOCK_BYTES
    step = max(1, budget // (4 * max(n_columns, 1)))
    for start in range(0, n_rows, step):
        yield slice(start, min(start + step, n_rows))


def strike_out(scores: Tensor, queries: Tensor, exclude: Ragged | None) -> None:
    """Set the pad item and each query's excluded items to ``-inf``, in place.

    Args:
        scores: float ``[B, n_items]``. queries: int64 ``[B]``. exclude: items by query id; None excludes none.
    """
    scores[:, 0] = -torch.inf
    if exclude is not None:
        row, column = exclude.pairs(queries)
        scores[row, column] = -torch.inf


def top_k_in_blocks(
    full: Callable[[Tensor], Tensor],
    queries: Tensor,
    n_items: int,
    k: int,
    exclude: Ragged | None = None,
) -> tuple[Tensor, Tensor]:
    """Return the top-k lists of many queries; the pad item 0 is never listed.

    Args:
        full: queries ``[b]`` -> scores of all items ``[b, n_items]``.
        queries: int64 ``[Q]``.
        exclude: items that are not ranked, by query id (the training items, say); None ranks everything.

    Returns:
        ids int64 ``[Q, k]`` and scores float ``[Q, k]``. If a query has fewer than k items left, the rest of its row
        is id 0 with score ``-inf``.
    """
    found = _ranked_products(full, queries, n_items, k, exclude) if isinstance(full, DotProducts) else None
    if found is not None:
        return found
    ids = torch.zeros(len(queries), k, dtype=torch.int64, device=queries.device)
    values = torch.full((len(queries), k), -torch.inf, device=queries.device)
    width = min(k, n_items)

    def rank(rows: slice) -> None:
        scores = full(queries[rows])
        strike_out(scores, queries[rows], exclude)
        block_ids, block_values = top_k(scores, width)
        ids[rows, :width] = block_ids.masked_fill(block_values == -torch.inf, 0)
        values[rows, :width] = block_values.to(values.dtype)

    in_blocks(rank, blocks(len(queries), n_items, queries.device), queries.device, isinstance(full, DotProducts))
    return ids, values


def _ranked_products(
    full: DotProducts, queries: Tensor, n_items: int, k: int, exclude: Ragged | None
) -> tuple[Tensor, Tensor] | None:
    """Return :func:`top_k_in_blocks` by the compiled kernel that writes no score rows, or None.

    Scores are sums in the order of the columns, which may round otherwise than a matrix product.
    """
    if n_items < PRUNE_FROM * k or len(queries) * n_items < FUSE_FROM:
        return None
    found = compiled_ranking.ProductRanking.of(full.query_vectors, full.item_vectors)
    if found is None or n_items != len(full.item_vectors):
        return None
    ids, values = torch.empty(len(queries), k, dtype=torch.int64), torch.empty(len(queries), k)

    def rank(rows: slice) -> None:
        found.rank(queries[rows], k, exclude, ids[rows], values[rows])

    in_blocks(rank, [slice(i, i + QUERIES_AT_ONCE) for i in range(0, len(queries), QUERIES_AT_ONCE)], ids.device, True)
    return ids, values


def in_blocks(work: Callable[[slice], None], rows: Iterable[slice], device: torch.device, at_once: bool) -> None:
    """Call ``work`` for every block of rows.

    On a CPU as many blocks run at once as torch has threads, if ``at_once`` is True.
    """
    parts = list(rows)
    threads = min(n_threads(), len(parts)) if device.type == "cpu" and at_once else 1
    if threads > 1:
        side_by_side(work, parts, threads)
    else:
        for part in parts:
            work(part)


class DotProducts:
    """A ``full`` for :func:`top_k_in_blocks`: queries ``[b]`` -> products ``[b, n_items]``.

    Each thread has one buffer, so a result is valid until the thread's next call. Without the buffer a fifth of the
    time goes into fresh memory pages.

    Args:
        query_vectors: float ``[n_queries, d]``.
        item_vectors: float ``[n_items, d]``, of the same type.
    """

    def __init__(self, query_vectors: Tensor, item_vectors: Tensor) -> None:
        self.query_vectors = query_vectors
        self.item_vectors = item_vectors
        self._of_thread = threading.local()

    def __call__(self, queries: Tensor) -> Tensor:
        buffer = getattr(self._of_thread, "buffer", None)
        if buffer is None or len(buffer) < len(queries):
            buffer = self.query_vectors.new_empty(len(queries), len(self.item_vectors))
            self._of_thread.buffer = buffer
        return torch.mm(self.query_vectors[queries], self.item_vectors.T, out=buffer[: len(queries)])
