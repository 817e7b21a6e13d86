"""The list-wise loss of dot products at listed items, with its gradients, compiled by numba."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numba import njit

from recbole_kd.ops.kernels.exp import exp_below_one
from recbole_kd.ops.kernels.lanes import WIDTH
from recbole_kd.ops.kernels.listed import AT_ONCE, add_gradients, from_registers, into_registers, products

TINY = np.float32(1e-30)
"""Sums of exponentials (relative to the row's maximum) below this are computed in log space instead."""

FACTORS = 8
"""So many sums, each from TINY to the length of a row, are multiplied in float64 before one logarithm is taken."""


@njit(nogil=True, cache=True)
def log_of_sum(first: Any, second: Any) -> Any:
    """Return log(exp(first) + exp(second)); either may be -inf."""
    top = max(first, second)
    return top + math.log1p(math.exp(-abs(first - second))) if min(first, second) > -math.inf else top


@njit(nogil=True, cache=True)
def in_log_space(scores: Any, n_listed: int, n: int) -> Any:
    """Return the loss of :func:`part_listwise` if exponentials underflow.

    ``scores`` are relative to their maximum; they are overwritten with the gradient.
    """
    below = np.empty(n_listed, np.float64)
    total, loss, inverse = -math.inf, 0.0, -math.inf
    for j in range(n_listed, n):
        total = log_of_sum(total, np.float64(scores[j]))
    for j in range(n_listed - 1, -1, -1):
        total = log_of_sum(total, np.float64(scores[j]))
        below[j] = total
        loss += total - scores[j]
    for j in range(n_listed):
        inverse = log_of_sum(inverse, -below[j])
        scores[j] = math.exp(scores[j] + inverse) - 1
    for j in range(n_listed, n):
        scores[j] = math.exp(scores[j] + inverse)
    return loss


@njit(nogil=True, cache=True)
def part_listwise(scores: Any, n_listed: int, n: int, likely: Any) -> Any:
    """Return the list-wise loss of one row and overwrite its scores with the gradient.

    Scores without a finite maximum give NaN in the result and in ``scores``, so that the fault stays visible.

    Args:
        scores: float32 ``[>= n]``, first the list in its order, at least one item, then the rest.
        likely: float32 ``[>= n]``, scratch memory.
    """
    top, sum_of_all, below = scores[0], np.float32(0), np.float32(0)
    for j in range(n):
        top = scores[j] if scores[j] > top else top
    for j in range(n):
        scores[j] -= top
        sum_of_all += scores[j]
        likely[j] = exp_below_one(scores[j])
    if not abs(sum_of_all) < np.inf:
        scores[:n] = np.float32(np.nan)
        return np.nan
    for j in range(n_listed, n):
        below += likely[j]
    if below + likely[n_listed - 1] < TINY:  # the smallest of the sums
        return in_log_space(scores, n_listed, n)
    loss, product, inverse = 0.0, 1.0, np.float32(0)
    for j in range(n_listed - 1, -1, -1):
        below += likely[j]
        loss -= scores[j]
        product *= below
        scores[j] = np.float32(1) / below
        if j % FACTORS == 0:
            loss += math.log(product)
            product = 1.0
    for j in range(n_listed):
        inverse += scores[j]
        scores[j] = likely[j] * inverse - np.float32(1)
    for j in range(n_listed, n):
        scores[j] = likely[j] * inverse
    return loss


@njit(nogil=True, cache=True)
def listed_ranking(
    queries: Any, items: Any, rows: Any, listed: Any, rest: Any, losses: Any, d_queries: Any, d_items: Any
) -> None:
    """Write the list-wise loss of each query, and the gradients of their sum, in one pass.

    Args:
        queries: float32 ``[B, d]``. items: float32 ``[I, d]``. rows: int64 ``[B]``, the row of each query's lists.
        listed: int64 ``[U, K]``, items in their order. rest: int64 ``[U, L]``. 0 fills a shorter row of both.
        losses: float32 ``[B]``, written; 0 without a listed item. d_queries: float32 ``[B, d]``, written.
        d_items: float32 ``[I, d]``, added to.
    """
    d, longest = queries.shape[1], listed.shape[1] + rest.shape[1]
    query, d_query = np.empty(d + WIDTH, np.float32), np.empty(d + WIDTH, np.float32)
    scores, likely = np.empty(longest + AT_ONCE, np.float32), np.empty(longest, np.float32)
    chosen = np.zeros(longest, np.int32)
    for b in range(len(rows)):
        row, n = rows[b], 0
        for j in range(listed.shape[1]):
            if listed[row, j] > 0:
                chosen[n] = listed[row, j]
                n += 1
        n_listed = n
        for j in range(rest.shape[1]):
            if rest[row, j] > 0:
                chosen[n] = rest[row, j]
                n += 1
        losses[b] = 0
        d_query[:] = 0
        if n_listed:
            into_registers(queries[b], query)
            products(query, items, chosen, 0, n, d, scores)
            losses[b] = part_listwise(scores, n_listed, n, likely)
            add_gradients(query, items, chosen, scores, 0, n, d, d_query, d_items)
        from_registers(d_query, d_queries[b])
