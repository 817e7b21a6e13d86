"""Softmax terms over a catalogue of dot products with their gradients, compiled by numba.

The items lie in panels as in :mod:`recbole_kd.ops.kernels.product_ranking`. ``TOGETHER`` queries are scored at once;
the exponentials of ``AT_ONCE`` queries are held until both gradients are summed.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numba import njit

from recbole_kd.ops.kernels.lanes import WIDTH, fma, load, power_of_two, spread, store
from recbole_kd.ops.kernels.ranking import INFINITE_KEY, MINUS_INFINITE_KEY, of_key, order_key
from recbole_kd.ops.kernels.softmax import row_slopes

PANEL = 2 * WIDTH
TOGETHER = 4
AT_ONCE = 32
"""Queries whose exponentials are held at a time: so often are the panels read from the outer cache fewer times."""

NUMBERS_AT_ONCE = 192
"""Panels of so many rows of PANEL numbers are multiplied at a time: they and their gradients fit the first cache."""

SUMMED = 1024
"""This many numbers are summed in float32 before they are added to a float64 sum."""

LOG2_E = np.float32(1.4426950408889634)


@njit(nogil=True, cache=True)
def score_items(queries: Any, panels: Any, as_powers: bool, scores: Any) -> None:
    """Write the product of each query with each item, or 2 to the power of it.

    Args:
        queries: float32 ``[b, d]``, b a multiple of TOGETHER. panels: float32 ``[n_panels, d, PANEL]``.
        as_powers: write powers of 2; products are from -126 to 127.
        scores: float32 ``[b, n_panels * PANEL]``, written.
    """
    d, n = queries.shape[1], scores.shape[1]
    step = max(1, NUMBERS_AT_ONCE // d)
    for first in range(0, len(panels), step):
        for b in range(0, len(queries), TOGETHER):
            for panel in range(first, min(first + step, len(panels))):
                sums_0 = sums_1 = sums_2 = sums_3 = spread(np.float32(0), 16)
                for c in range(d):
                    items = load(panels, (panel * d + c) * PANEL, 16)
                    sums_0 = fma(spread(queries[b, c], 16), items, sums_0)
                    sums_1 = fma(spread(queries[b + 1, c], 16), items, sums_1)
                    sums_2 = fma(spread(queries[b + 2, c], 16), items, sums_2)
                    sums_3 = fma(spread(queries[b + 3, c], 16), items, sums_3)
                if as_powers:
                    sums_0, sums_1 = power_of_two(sums_0), power_of_two(sums_1)
                    sums_2, sums_3 = power_of_two(sums_2), power_of_two(sums_3)
                at = b * n + panel * PANEL
                store(scores, at, sums_0)
                store(scores, at + n, sums_1)
                store(scores, at + 2 * n, sums_2)
                store(scores, at + 3 * n, sums_3)


@njit(nogil=True, cache=True)
def add_products(slopes: Any, panels: Any, factors: Any, d_queries: Any, d_panels: Any) -> None:
    """Add the products of slopes with the items, and those with the queries.

    Args:
        slopes: float32 ``[b, n_panels * PANEL]``. factors: float32 ``[b, d]``, the queries.
        d_queries: float32 ``[b, d, WIDTH]``, added to; the sum over its last axis is the product.
        d_panels: float32 ``[n_panels, d, PANEL]``, added to.
    """
    d, n = factors.shape[1], slopes.shape[1]
    step, one = max(1, NUMBERS_AT_ONCE // d), spread(np.float32(1), 8)
    for first in range(0, len(panels), step):
        for b in range(0, len(factors), TOGETHER):
            for c in range(d):
                # two sums a query, of the left and the right half of a panel: an addition waits for the one before
                place_0, place_1 = (b * d + c) * WIDTH, ((b + 1) * d + c) * WIDTH
                place_2, place_3 = ((b + 2) * d + c) * WIDTH, ((b + 3) * d + c) * WIDTH
                left_0, left_1 = load(d_queries, place_0, 8), load(d_queries, place_1, 8)
                left_2, left_3 = load(d_queries, place_2, 8), load(d_queries, place_3, 8)
                right_0 = right_1 = right_2 = right_3 = spread(np.float32(0), 8)
                factor_0, factor_1 = spread(factors[b, c], 8), spread(factors[b + 1, c], 8)
                factor_2, factor_3 = spread(factors[b + 2, c], 8), spread(factors[b + 3, c], 8)
                for panel in range(first, min(first + step, len(panels))):
                    at, place = b * n + panel * PANEL, (panel * d + c) * PANEL
                    items, d_items = load(panels, place, 8), load(d_panels, place, 8)
                    slope = load(slopes, at, 8)
                    left_0, d_items = fma(slope, items, left_0), fma(factor_0, slope, d_items)
                    slope = load(slopes, at + n, 8)
                    left_1, d_items = fma(slope, items, left_1), fma(factor_1, slope, d_items)
                    slope = load(slopes, at + 2 * n, 8)
                    left_2, d_items = fma(slope, items, left_2), fma(factor_2, slope, d_items)
                    slope = load(slopes, at + 3 * n, 8)
                    left_3, d_items = fma(slope, items, left_3), fma(factor_3, slope, d_items)
                    store(d_panels, place, d_items)
                    at, place = at + WIDTH, place + WIDTH
                    items, d_items = load(panels, place, 8), load(d_panels, place, 8)
                    slope = load(slopes, at, 8)
                    right_0, d_items = fma(slope, items, right_0), fma(factor_0, slope, d_items)
                    slope = load(slopes, at + n, 8)
                    right_1, d_items = fma(slope, items, right_1), fma(factor_1, slope, d_items)
                    slope = load(slopes, at + 2 * n, 8)
                    right_2, d_items = fma(slope, items, right_2), fma(factor_2, slope, d_items)
                    slope = load(slopes, at + 3 * n, 8)
                    right_3, d_items = fma(slope, items, right_3), fma(factor_3, slope, d_items)
                    store(d_panels, place, d_items)
                store(d_queries, place_0, fma(right_0, one, left_0))
                store(d_queries, place_1, fma(right_1, one, left_1))
                store(d_queries, place_2, fma(right_2, one, left_2))
                store(d_queries, place_3, fma(right_3, one, left_3))


@njit(nogil=True, cache=True, fastmath={"reassoc", "contract"})
def sum_of(numbers: Any) -> Any:
    """Return the float64 sum of float32 numbers."""
    total: Any = 0.0
    for first in range(0, len(numbers), SUMMED):
        part = np.float32(0)
        for j in range(first, min(first + SUMMED, len(numbers))):
            part += numbers[j]
        total += part
    return total


@njit(nogil=True, cache=True)
def shares_of_rest(below: Any, factors: Any, rest: float, d_below: Any) -> Any:
    """Write minus the derivatives of softplus(rest - below) times factors, and return their sum."""
    total = 0.0
    for k in range(len(below)):
        share = factors[k] / (1 + math.exp(min(below[k] - rest, 700.0)))
        d_below[k] = -share
        total += share
    return total


@njit(nogil=True, cache=True)
def rest_above(
    queries: Any, panels: Any, n_items: int, rows: Any, listed: Any, excluded: Any, starts: Any, below: Any,
    factors: Any, rest: Any, d_queries: Any, d_below: Any, d_panels: Any,
) -> None:  # fmt: skip
    """Write the log-sum-exp over each query's rest, and the gradients of the terms above it.

    The function is :func:`recbole_kd.losses.unlisted_logsumexp.rest_above`.

    Args:
        queries: float32 ``[B, d]``. panels: float32 ``[n_panels, d, PANEL]``, the products within SAFE_BITS.
        rows: int64 ``[B]``, query ids. listed: int64 ``[B, n]``. excluded: int64, items by query id, those of query u
            are ``excluded[starts[u]:starts[u + 1]]``. None of these items, nor item 0, belongs to a rest.
        below, factors: float32 ``[B, m]``.
        rest: float32 ``[B, 1]``, d_queries: float32 ``[B, d]`` and d_below: float32 ``[B, m]``, written.
        d_panels: float32 ``[n_panels, d, PANEL]``, added to.
    """
    d, n = queries.shape[1], len(panels) * PANEL
    in_bits, scaled = np.zeros((AT_ONCE, d), np.float32), np.zeros((AT_ONCE, d), np.float32)
    likely, sums = np.empty((AT_ONCE, n), np.float32), np.empty((AT_ONCE, d, WIDTH), np.float32)
    scales = np.zeros(AT_ONCE, np.float32)
    for first in range(0, len(queries), AT_ONCE):
        some = min(AT_ONCE, len(queries) - first)
        whole = (some + TOGETHER - 1) // TOGETHER * TOGETHER
        in_bits[:some] = queries[first : first + some] * LOG2_E
        score_items(in_bits[:whole], panels, True, likely[:whole])
        scaled[:], sums[:] = 0, 0
        for u in range(some):
            b, row = first + u, likely[u]
            row[0] = 0
            row[n_items:] = 0
            for place in range(starts[rows[b]], starts[rows[b] + 1]):
                row[excluded[place]] = 0
            for place in range(listed.shape[1]):
                row[listed[b, place]] = 0
            total = sum_of(row)
            rest[b, 0] = math.log(total) if total > 0 else -np.inf
            share = shares_of_rest(below[b], factors[b], rest[b, 0], d_below[b])
            scales[u] = share / total if total > 0 else 0.0
            scaled[u] = queries[b] * scales[u]
        add_products(likely[:whole], panels, scaled[:whole], sums[:whole], d_panels)
        for u in range(some):
            for c in range(d):
                d_queries[first + u, c] = scales[u] * sums[u, c].sum()


@njit(nogil=True, cache=True)
def target_cross_entropy(
    queries: Any, panels: Any, n_items: int, targets: Any, losses: Any, d_queries: Any, d_panels: Any
) -> None:
    """Write the cross-entropies over all items of one target a query, and the gradients of their sum.

    Args:
        queries: float32 ``[B, d]``. panels: float32 ``[n_panels, d, PANEL]``, the products within SAFE_BITS; the first
            n_items count. targets: int64 ``[B]``.
        losses: float32 ``[B]`` and d_queries: float32 ``[B, d]``, written. d_panels: float32 ``[n_panels, d, PANEL]``,
            added to.
    """
    d, n = queries.shape[1], len(panels) * PANEL
    in_bits, scaled = np.zeros((AT_ONCE, d), np.float32), np.zeros((AT_ONCE, d), np.float32)
    likely, sums = np.empty((AT_ONCE, n), np.float32), np.empty((AT_ONCE, d, WIDTH), np.float32)
    scales = np.zeros(AT_ONCE, np.float32)
    for first in range(0, len(queries), AT_ONCE):
        some = min(AT_ONCE, len(queries) - first)
        whole = (some + TOGETHER - 1) // TOGETHER * TOGETHER
        in_bits[:some] = queries[first : first + some] * LOG2_E
        score_items(in_bits[:whole], panels, True, likely[:whole])
        scaled[:], sums[:] = 0, 0
        for u in range(some):
            b, row = first + u, likely[u]
            row[n_items:] = 0
            total, panel, lane = sum_of(row), targets[b] // PANEL, targets[b] % PANEL
            of_target = 0.0
            for c in range(d):
                of_target += queries[b, c] * panels[panel, c, lane]
                d_panels[panel, c, lane] -= queries[b, c]
            losses[b] = math.log(total) - of_target
            scales[u] = 1.0 / total
            scaled[u] = queries[b] * scales[u]
        add_products(likely[:whole], panels, scaled[:whole], sums[:whole], d_panels)
        for u in range(some):
            b = first + u
            panel, lane = targets[b] // PANEL, targets[b] % PANEL
            for c in range(d):
                d_queries[b, c] = scales[u] * sums[u, c].sum() - panels[panel, c, lane]


@njit(nogil=True, cache=True)
def highest(numbers: Any) -> Any:
    """Return the maximum of float32 numbers, NaN if one is NaN."""
    bits, top = numbers.view(np.int32), MINUS_INFINITE_KEY
    fault = False
    for j in range(len(bits)):
        top = max(top, order_key(bits[j]))
        fault |= (bits[j] & np.int32(0x7FFFFFFF)) > INFINITE_KEY
    return np.float32(np.nan) if fault else of_key(top)


@njit(nogil=True, cache=True)
def full_cross_entropy(
    queries: Any, panels: Any, n_items: int, teacher: Any, rows: Any, weights: Any, factor: Any, losses: Any,
    d_queries: Any, d_panels: Any,
) -> None:  # fmt: skip
    """Write weighted cross-entropies over all items, and the gradients of their sum.

    Args:
        queries: float32 ``[B, d]``. panels: float32 ``[n_panels, d, PANEL]``, the first n_items count.
        teacher: float32 ``[U, n_items]``, scores. rows: int64 ``[B]``, the row of each query.
        weights: float32 ``[B]``. factor: float32, 1 / temperature.
        losses: float32 ``[B]`` and d_queries: float32 ``[B, d]``, written. d_panels: float32 ``[n_panels, d, PANEL]``,
            added to.
    """
    d, n = queries.shape[1], len(panels) * PANEL
    own, scaled = np.zeros((AT_ONCE, d), np.float32), np.zeros((AT_ONCE, d), np.float32)
    slopes, sums = np.empty((AT_ONCE, n), np.float32), np.empty((AT_ONCE, d, WIDTH), np.float32)
    likely = np.empty(n_items, np.float32)
    for first in range(0, len(queries), AT_ONCE):
        some = min(AT_ONCE, len(queries) - first)
        whole = (some + TOGETHER - 1) // TOGETHER * TOGETHER
        own[:], sums[:] = 0, 0
        own[:some] = queries[first : first + some]
        scaled[:] = own * factor
        score_items(scaled[:whole], panels, False, slopes[:whole])
        for u in range(whole):
            row = slopes[u]
            row[n_items:] = 0
            if u >= some:
                row[:] = 0
                continue
            other, weight = teacher[rows[first + u]], weights[first + u]
            top, top_other = highest(row[:n_items]), highest(other)
            losses[first + u] = row_slopes(row[:n_items], other, top, top_other, weight, factor, likely)
        add_products(slopes[:whole], panels, own[:whole], sums[:whole], d_panels)
        for u in range(some):
            for c in range(d):
                d_queries[first + u, c] = sums[u, c].sum()
