"""Log-sum-exp over the unlisted items of a catalogue, in chunks of rows.

The rest is computed directly, by a log-sum-exp over its items, never as a difference of two sums. A users x items block
exists for one chunk of rows at a time: scores, loss and both gradient products of a chunk are done before the next one.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn.functional import softplus
from torch.utils.checkpoint import checkpoint

from recbole_kd.ops import compiled_catalogue
from recbole_kd.ops.ragged import Ragged
from recbole_kd.ops.threads import halves, n_threads, side_by_side

CPU_CHUNK_BYTES = 3 * 2**20
"""Memory budget of one chunk of score rows on a CPU: a core's share of the cache (twice of it is slower)."""

CHUNK_BYTES = 256 * 2**20
"""Memory budget on other devices."""

SAFE_BITS = 60.0
"""Sums of powers of 2 with exponents within +- this bound neither overflow nor underflow float32."""


def within_safe_bits(queries: Tensor, items: Tensor) -> bool:
    """Return whether the norms bound all products by ``SAFE_BITS``, in units of ln 2.

    NaN and no rows give False.

    Args:
        queries: float ``[B, d]``. items: float ``[I, d]``.
    """
    return len(queries) > 0 and bool(queries.norm(dim=1).amax() * items.norm(dim=1).amax() / math.log(2) <= SAFE_BITS)


@dataclass(frozen=True)
class ListedRows:
    """Rows of a batch, with the items that do not belong to each row's rest.

    The pad item 0 never belongs to it.

    Attributes:
        queries: int64 ``[B]``, query ids. listed: int64 ``[B, n]``; 0 fills a shorter list.
        excluded: further items by query id (training items).
        most: largest number of excluded items of a query. With it nothing is read from a device other than a CPU.
    """

    queries: Tensor
    listed: Tensor
    excluded: Ragged
    most: int | None = None

    def chunks(self, n_items: int) -> Iterator[tuple[slice, Tensor, Tensor]]:
        """Yield row slices with the (row in the slice, item) pairs of their excluded items, or the pad item."""
        device = self.queries.device
        size = CPU_CHUNK_BYTES if device.type == "cpu" else CHUNK_BYTES
        step = max(1, size // (4 * n_items))
        if self.most is not None and device.type != "cpu":
            yield from self._padded_chunks(step, self.most)
            return
        position, items = self.excluded.pairs(self.queries)
        starts = list(range(0, len(self.queries), step))
        bounds = torch.searchsorted(position, torch.tensor([*starts, len(self.queries)], device=device)).tolist()
        for start, first, last in zip(starts, bounds, bounds[1:], strict=False):
            yield slice(start, min(start + step, len(self.queries))), position[first:last] - start, items[first:last]

    def _padded_chunks(self, step: int, most: int) -> Iterator[tuple[slice, Tensor, Tensor]]:
        """Yield :meth:`chunks` of ``step`` rows with ``most`` pairs for each row, filled up with the pad item."""
        for part in map(slice, range(0, len(self.queries), step), range(step, len(self.queries) + step, step)):
            items = self.excluded.first(self.queries[part], most)
            row = torch.arange(len(items), device=items.device).unsqueeze(1).expand_as(items)
            yield part, row.flatten(), items.flatten()


def rest_above(queries: Tensor, items: Tensor, rows: ListedRows, below: Tensor, factors: Tensor) -> Tensor:
    r"""Return the contribution of the rest to log-likelihoods, for dot-product scores.

    .. math:: \sum_{b,k} c_{bk} [\log(e^{\beta_{bk}} + E_b) - \beta_{bk}], \quad E_b = \sum_{j \in rest_b} e^{q_b \cdot
    v_j}

    Gradients are computed together with the sum, chunk by chunk: one exponential and three matrix products each.
    Nothing of the size of a chunk is kept for the backward pass.

    Args:
        queries: float ``[B, d]``. items: float ``[I, d]``. Runs in float32 under autocast too.
        below: float ``[B, n]``, beta: logs of the denominators without the rest.
        factors: float ``[B, n]``, c; a constant.

    Returns:
        ``[]``, differentiable once in ``queries``, ``items`` and ``below``.
    """
    result: Tensor = _RestAbove.apply(queries.float(), items.float(), below.float(), factors, rows)
    return result


def rest_above_rows(scores: Tensor, places: Tensor, rows: ListedRows, below: Tensor, factors: Tensor) -> Tensor:
    """Return :func:`rest_above` for score rows that are computed already.

    It needs no matrix product, and memory for one more tensor of the size of the scores: their gradient.

    Args:
        scores: float ``[R, n_items]``, the pad item's first.
        places: int64 ``[B]``, the row of each of ``rows.queries``.

    Returns:
        ``[]``, differentiable once in ``scores`` and ``below``.
    """
    result: Tensor = _RestAboveRows.apply(scores, places, below.float(), factors, rows)
    return result


def rest_above_of(
    full: Callable[[Tensor], Tensor], n_items: int, rows: ListedRows, below: Tensor, factors: Tensor
) -> Tensor:
    """Return :func:`rest_above` for scores of any kind, differentiable in them and ``below``.

    Args:
        full: queries ``[b]`` -> scores of all items ``[b, n_items]``; called again in the backward pass.
    """
    total = torch.zeros((), device=rows.queries.device)
    for part, row, item in rows.chunks(n_items):
        total = total + checkpoint(
            _plain_chunk, full, rows, part, row, item, below[part], factors[part], use_reentrant=False
        )
    return total


def _plain_chunk(
    full: Callable[[Tensor], Tensor],
    rows: ListedRows,
    part: slice,
    row: Tensor,
    item: Tensor,
    below: Tensor,
    factors: Tensor,
) -> Tensor:
    scores = full(rows.queries[part]).float()
    apart = torch.zeros_like(scores, dtype=torch.bool)
    apart[:, 0] = True
    apart[row, item] = True
    apart.scatter_(1, rows.listed[part], True)
    empty = apart.all(dim=1, keepdim=True)  # the gradient of these rows would be 0 / 0
    rest = torch.logsumexp(scores.masked_fill(apart, -torch.inf).masked_fill(empty, 0.0), dim=1, keepdim=True)
    return (factors * softplus(rest.masked_fill(empty, -torch.inf) - below)).sum()


class _RestAbove(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, queries: Tensor, items: Tensor, below: Tensor, factors: Tensor, rows: ListedRows) -> Tensor:
        with torch.autocast(device_type=queries.device.type, enabled=False):
            total, *gradients = _sum_and_gradients(queries, items, below, factors, rows)
        ctx.save_for_backward(*gradients)
        return total

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        d_queries, d_items, d_below = (gradient * grad for gradient in ctx.saved_tensors)
        return d_queries, d_items, d_below, None, None


class _RestAboveRows(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, scores: Tensor, places: Tensor, below: Tensor, factors: Tensor, rows: ListedRows) -> Tensor:
        d_scores, rest, d_below = torch.zeros_like(scores), below.new_empty(len(below), 1), torch.empty_like(below)
        for part, row, item in rows.chunks(scores.shape[1]):
            some = scores.index_select(0, places[part]).float() / math.log(2)
            _strike_out(some, row, item, rows.listed[part])
            rest[part], shares, scale = _exponentials(some, below[part], factors[part], shifts=True)
            d_below[part] = -shares
            d_scores.index_add_(0, places[part], some.mul_(scale).to(scores.dtype))
        ctx.save_for_backward(d_scores, d_below)
        return (factors * softplus(rest - below)).sum()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        d_scores, d_below = (gradient * grad for gradient in ctx.saved_tensors)
        return d_scores, None, d_below, None, None


def _sum_and_gradients(
    queries: Tensor, items: Tensor, below: Tensor, factors: Tensor, rows: ListedRows
) -> tuple[Tensor, ...]:
    """Return the sum and its gradients in ``queries``, ``items`` and ``below``."""
    # a bound from the norms of the vectors: within it no power of 2 leaves float32, which saves two passes over a chunk
    # (elsewhere than on a CPU the question would wait for the device)
    shifts = queries.device.type != "cpu" or (len(queries) > 0 and not within_safe_bits(queries, items))
    found = None
    if not shifts:
        found = compiled_catalogue.rest_above(queries, items, rows.queries, rows.listed, rows.excluded, below, factors)
    rest, *gradients = found or _rest_and_gradients(queries, items, below, factors, rows, shifts)
    return (factors * softplus(rest - below)).sum(), *gradients


def _rest_and_gradients(
    queries: Tensor, items: Tensor, below: Tensor, factors: Tensor, rows: ListedRows, shifts: bool
) -> tuple[Tensor, ...]:
    """Return log E and the sum's gradients in ``queries``, ``items`` and ``below``, by matrix products.

    On a CPU the rows are done in two halves, in parallel if torch has two threads: the products of a chunk are too
    small to be split. The halves do not depend on the number of threads, so the gradients do not either.
    """
    on_cpu = queries.device.type == "cpu"
    parts = halves(len(queries)) if on_cpu else (slice(0, len(queries)),)
    rest, d_queries, d_below = below.new_empty(len(below), 1), torch.empty_like(queries), torch.empty_like(below)
    d_by_factor = [items.new_zeros(items.shape[::-1]) for _ in parts]

    def work(part: slice) -> None:
        some = ListedRows(rows.queries[part], rows.listed[part], rows.excluded, rows.most)
        rest[part], d_queries[part], d_below[part] = _of_rows(
            queries[part], items, below[part], factors[part], some, shifts, d_by_factor[1 if part.start > 0 else 0]
        )

    if on_cpu and n_threads() > 1:
        side_by_side(work, parts, len(parts))
    else:
        for part in parts:
            work(part)
    return rest, d_queries, sum(d_by_factor[1:], d_by_factor[0]).T, d_below


def _of_rows(
    queries: Tensor, items: Tensor, below: Tensor, factors: Tensor, rows: ListedRows, shifts: bool, d_by_factor: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Return log E ``[B, 1]`` and the gradients in ``queries`` and ``below``.

    The gradient in the items is added to ``d_by_factor``, float ``[d, I]``. Scores are held in units of ln 2: exp2 is
    three times as fast as exp.
    """
    n_items, rest = len(items), below.new_empty(len(below), 1)
    in_bits = queries / math.log(2)
    d_queries, d_below = torch.empty_like(queries), torch.empty_like(below)
    buffer: Tensor | None = None
    for part, row, item in rows.chunks(n_items):
        own = in_bits[part]
        buffer = own.new_empty(len(own), n_items) if buffer is None else buffer[: len(own)]
        scores = torch.mm(own, items.T, out=buffer)
        _strike_out(scores, row, item, rows.listed[part])
        rest[part], d_below[part], scale = _exponentials(scores, below[part], factors[part], shifts)
        torch.mm(scores, items, out=d_queries[part]).mul_(scale)
        d_by_factor.addmm_((queries[part] * scale).T, scores)
    return rest, d_queries, d_below.neg_()


def _strike_out(scores: Tensor, row: Tensor, item: Tensor, listed: Tensor) -> None:
    """Set the scores outside the rest to -inf, in place.

    These are the pad item, the pairs (row, item) and the listed items, int64 ``[b, n]``.
    """
    scores[:, 0] = -torch.inf
    scores[row, item] = -torch.inf
    scores.scatter_(1, listed, -torch.inf)


def _exponentials(scores: Tensor, below: Tensor, factors: Tensor, shifts: bool) -> tuple[Tensor, Tensor, Tensor]:
    """Return log E, minus the gradient in ``below``, and the scale of the exponentials.

    The exponentials replace the scores ``[b, I]``, which are in units of ln 2. Times the scale ``[b, 1]`` they are the
    gradient in the scores. log E is ``[b, 1]``.
    """
    if shifts:
        least = torch.finfo(scores.dtype).min
        top = scores.amax(dim=1, keepdim=True).clamp_(min=least)  # an empty rest gives 2 ** (-inf - a number) = 0
        scores.sub_(top)
    sums = torch.exp2(scores, out=scores).sum(dim=1, keepdim=True)
    rest = (top + sums.log2() if shifts else sums.log2()) * math.log(2)
    shares = torch.sigmoid(rest - below) * factors
    return rest, shares, shares.sum(dim=1, keepdim=True) / sums.clamp_(min=torch.finfo(scores.dtype).tiny)
