"""Kernels of dot products at listed items, compiled by numba: they run without the GIL.

Rows of random items are read ahead into the cache, because the wait for them is most of the time. Every sum over the
items of one query has one order. Vectors have at least WIDTH numbers.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numba import njit

from recbole_kd.ops.kernels.exp import exp_below_one
from recbole_kd.ops.kernels.lanes import WIDTH, fetch, fma, load, spread, store, store_totals

AHEAD = 16
"""Items whose rows are read ahead."""

HALF = WIDTH // 2

AT_ONCE = 4
"""Items whose products are computed at once, so that one addition does not wait for the one before."""

FETCHED = 64
"""Numbers of a row that are read ahead; the processor itself reads on."""


@njit(nogil=True, cache=True)
def into_registers(row: Any, registers: Any) -> None:
    """Lay a row out for registers that are loaded one after the other.

    The last register holds the last WIDTH numbers of the row. Those that an earlier register holds too are 0 in it.

    Args:
        row: float32 ``[d]``, d >= WIDTH. registers: float32 ``[>= d + WIDTH]``, written.
    """
    d = len(row)
    whole = d // WIDTH * WIDTH
    behind = WIDTH - (d - whole)
    for c in range(whole):  # loops: to assign one slice to another compiles its error message too, for three seconds
        registers[c] = row[c]
    if whole < d:
        registers[whole : whole + WIDTH] = 0
        for c in range(whole, d):
            registers[behind + c] = row[c]


@njit(nogil=True, cache=True)
def from_registers(registers: Any, row: Any) -> None:
    """Write the row, float32 ``[d]``, that :func:`into_registers` would lay out so."""
    d = len(row)
    whole = d // WIDTH * WIDTH
    behind = WIDTH - (d - whole)
    for c in range(whole):
        row[c] = registers[c]
    for c in range(whole, d):
        row[c] = registers[behind + c]


@njit(nogil=True, cache=True)
def products(query: Any, items: Any, chosen: Any, first: int, n: int, d: int, scores: Any) -> None:
    """Write the dot products of a query with its items.

    Args:
        query: float32, a row in registers. items: float32 ``[I, d]``.
        chosen: integers, flat; the n from ``first`` on are read.
        scores: float32 ``[>= n + AT_ONCE]``, the first n are written; what is behind them too, with anything.
    """
    zero, end, ahead = spread(np.float32(0), WIDTH), first + n - 1, min(d, FETCHED)
    for j in range(first, min(first + AHEAD, first + n)):
        fetch(items, np.int64(chosen[j]) * d, ahead)
    for j in range(first, first + n, AT_ONCE):
        for i in range(j + AHEAD, min(j + AHEAD + AT_ONCE, first + n)):
            fetch(items, np.int64(chosen[i]) * d, ahead)
        at_0, at_1 = np.int64(chosen[j]) * d, np.int64(chosen[min(j + 1, end)]) * d
        at_2, at_3 = np.int64(chosen[min(j + 2, end)]) * d, np.int64(chosen[min(j + 3, end)]) * d
        sum_0 = sum_1 = sum_2 = sum_3 = zero
        for c in range(0, d, WIDTH):
            own, offset = load(query, c, WIDTH), min(c, d - WIDTH)
            sum_0 = fma(own, load(items, at_0 + offset, WIDTH), sum_0)
            sum_1 = fma(own, load(items, at_1 + offset, WIDTH), sum_1)
            sum_2 = fma(own, load(items, at_2 + offset, WIDTH), sum_2)
            sum_3 = fma(own, load(items, at_3 + offset, WIDTH), sum_3)
        store_totals(scores, j - first, sum_0, sum_1, sum_2, sum_3)


@njit(nogil=True, cache=True)
def listed_products(queries: Any, items: Any, chosen: Any, scores: Any) -> None:
    """Write the dot product of each query with the items of its row.

    Args:
        queries: float32 ``[B, d]``. items: float32 ``[I, d]``. chosen: int64 ``[B, n]``, in [0, I).
        scores: float32 ``[B, n]``, written.
    """
    d, n = queries.shape[1], chosen.shape[1]
    query, row, flat = np.empty(d + WIDTH, np.float32), np.empty(n + AT_ONCE, np.float32), chosen.reshape(-1)
    for b in range(len(chosen)):
        into_registers(queries[b], query)
        products(query, items, flat, b * n, n, d, row)
        scores[b] = row[:n]


@njit(nogil=True, cache=True)
def add_gradients(
    query: Any, items: Any, chosen: Any, slopes: Any, first: int, n: int, d: int, d_query: Any, d_items: Any
) -> None:
    """Add the gradients of one query's scores.

    Args:
        query, d_query: float32, rows in registers.
        chosen: integers, flat; the n from ``first`` on are read.
        slopes: float32 ``[>= n + AT_ONCE]``; those from n on are overwritten with 0.
        d_items: float32 ``[I, d]``, added to.
    """
    end, whole = first + n - 1, d // WIDTH * WIDTH
    rest = whole if d - whole <= HALF else d  # up to here by whole registers
    slopes[n : n + AT_ONCE] = 0
    for j in range(first, min(first + AHEAD, first + n)):
        fetch(d_items, np.int64(chosen[j]) * d, min(d, FETCHED))
    for j in range(first, first + n, AT_ONCE):
        for i in range(j + AHEAD, min(j + AHEAD + AT_ONCE, first + n)):
            fetch(d_items, np.int64(chosen[i]) * d, min(d, FETCHED))
        at_0, at_1 = np.int64(chosen[j]) * d, np.int64(chosen[min(j + 1, end)]) * d
        at_2, at_3 = np.int64(chosen[min(j + 2, end)]) * d, np.int64(chosen[min(j + 3, end)]) * d
        slope_0, slope_1 = spread(slopes[j - first], WIDTH), spread(slopes[j - first + 1], WIDTH)
        slope_2, slope_3 = spread(slopes[j - first + 2], WIDTH), spread(slopes[j - first + 3], WIDTH)
        for c in range(0, rest, WIDTH):
            own, offset, d_own = load(query, c, WIDTH), min(c, d - WIDTH), load(d_query, c, WIDTH)
            d_own = fma(slope_0, load(items, at_0 + offset, WIDTH), d_own)
            d_own = fma(slope_1, load(items, at_1 + offset, WIDTH), d_own)
            d_own = fma(slope_2, load(items, at_2 + offset, WIDTH), d_own)
            d_own = fma(slope_3, load(items, at_3 + offset, WIDTH), d_own)
            store(d_query, c, d_own)
            store(d_items, at_0 + offset, fma(slope_0, own, load(d_items, at_0 + offset, WIDTH)))
            store(d_items, at_1 + offset, fma(slope_1, own, load(d_items, at_1 + offset, WIDTH)))
            store(d_items, at_2 + offset, fma(slope_2, own, load(d_items, at_2 + offset, WIDTH)))
            store(d_items, at_3 + offset, fma(slope_3, own, load(d_items, at_3 + offset, WIDTH)))
        if rest < d:
            # half a register: numbers that were just stored cannot be loaded again from another address at once
            half_0, half_1 = spread(slopes[j - first], HALF), spread(slopes[j - first + 1], HALF)
            half_2, half_3 = spread(slopes[j - first + 2], HALF), spread(slopes[j - first + 3], HALF)
            c, offset = rest + HALF, d - HALF
            short, d_short = load(query, c, HALF), load(d_query, c, HALF)
            d_short = fma(half_0, load(items, at_0 + offset, HALF), d_short)
            d_short = fma(half_1, load(items, at_1 + offset, HALF), d_short)
            d_short = fma(half_2, load(items, at_2 + offset, HALF), d_short)
            d_short = fma(half_3, load(items, at_3 + offset, HALF), d_short)
            store(d_query, c, d_short)
            store(d_items, at_0 + offset, fma(half_0, short, load(d_items, at_0 + offset, HALF)))
            store(d_items, at_1 + offset, fma(half_1, short, load(d_items, at_1 + offset, HALF)))
            store(d_items, at_2 + offset, fma(half_2, short, load(d_items, at_2 + offset, HALF)))
            store(d_items, at_3 + offset, fma(half_3, short, load(d_items, at_3 + offset, HALF)))


@njit(nogil=True, cache=True)
def listed_product_gradients(slopes: Any, queries: Any, items: Any, chosen: Any, d_queries: Any, d_items: Any) -> None:
    """Turn gradients in the scores into gradients in the vectors.

    Args:
        slopes: float32 ``[B, n]``. queries, items, chosen: as in :func:`listed_products`.
        d_queries: float32 ``[B, d]``, written. d_items: as in :func:`add_gradients`.
    """
    d, n = queries.shape[1], chosen.shape[1]
    query, d_query, row = (
        np.empty(d + WIDTH, np.float32),
        np.empty(d + WIDTH, np.float32),
        np.empty(n + AT_ONCE, np.float32),
    )
    flat = chosen.reshape(-1)
    for b in range(len(chosen)):
        into_registers(queries[b], query)
        d_query[:] = 0
        for j in range(n):
            row[j] = slopes[b, j]
        for j in range(b * n, (b + 1) * n):
            fetch(items, flat[j] * d, min(d, FETCHED))
        add_gradients(query, items, flat, row, b * n, n, d, d_query, d_items)
        from_registers(d_query, d_queries[b])


@njit(nogil=True, cache=True, fastmath={"reassoc", "contract"})
def part_cross_entropy(scores: Any, target: Any, n: int, weight: float, factor: float) -> Any:
    """Return the weighted cross-entropy on one list and overwrite ``scores`` with its gradient.

    ``scores`` and ``target`` are float32, of which the first n are read. Scores without a finite maximum give NaN in
    the result and in ``scores``, so that the fault stays visible.
    """
    top = scores[0]
    for j in range(n):
        top = scores[j] if scores[j] > top else top
    sum_of_exp, cross = np.float32(0), np.float32(0)
    for j in range(n):
        above = scores[j] - top
        likely = exp_below_one(above)
        cross += target[j] * above
        sum_of_exp += likely
        scores[j] = likely
    loss = np.float32(math.log(sum_of_exp)) - cross
    if not abs(loss) < np.inf:
        scores[:n] = np.float32(np.nan)
        return np.float32(np.nan)
    share, scale = np.float32(1) / sum_of_exp, np.float32(weight * factor)
    for j in range(n):
        scores[j] = (scores[j] * share - target[j]) * scale
    return np.float32(weight) * loss


@njit(nogil=True, cache=True)
def listed_cross_entropy(
    queries: Any,
    items: Any,
    rows: Any,
    starts: Any,
    chosen: Any,
    target: Any,
    shares: Any,
    weights: Any,
    factor: float,
    losses: Any,
    d_queries: Any,
    d_items: Any,
) -> None:
    """Write weighted cross-entropies on sublists, and the gradients of their sum, in one pass.

    Args:
        queries: float32 ``[B, d]``. items: float32 ``[I, d]``. rows: int64 ``[B]``, the row of each query's list.
        starts: int64 ``[U, P + 1]``, ends of the sublists in the two flat arrays.
        chosen: int32 ``[N]``, the items that count. target: float32 ``[N]``, with sum 1 over each sublist.
        shares: float32 ``[U, P]``, weights of the sublists. weights: float32 ``[B]``, of the queries.
        factor: 1 / temperature.
        losses: float32 ``[B]``, written. d_queries: float32 ``[B, d]``, written.
        d_items: as in :func:`add_gradients`.
    """
    d, n_parts, longest = queries.shape[1], shares.shape[1], 0
    for b in range(len(rows)):
        for p in range(n_parts):
            longest = max(longest, starts[rows[b], p + 1] - starts[rows[b], p])
    query, d_query, scores = (
        np.zeros(d + WIDTH, np.float32),
        np.zeros(d + WIDTH, np.float32),
        np.empty(longest + AT_ONCE, np.float32),
    )
    for b in range(len(rows)):
        row = rows[b]
        into_registers(queries[b], query)
        d_query[:] = 0
        losses[b] = 0
        for p in range(n_parts):
            first, n = starts[row, p], starts[row, p + 1] - starts[row, p]
            if n == 0:
                continue
            products(query, items, chosen, first, n, d, scores)
            for j in range(n):
                scores[j] *= factor
            weight = shares[row, p] * weights[b]
            losses[b] += part_cross_entropy(scores, target[first : first + n], n, weight, factor)
            add_gradients(query, items, chosen, scores, first, n, d, d_query, d_items)
        from_registers(d_query, d_queries[b])


@njit(nogil=True, cache=True)
def take_sum(first: Any, second: Any, found: Any) -> None:
    """Write the sum of two arrays and set both to 0: float32 ``[n]`` each."""
    for j in range(len(found)):
        found[j] = first[j] + second[j]
        first[j] = 0
        second[j] = 0
