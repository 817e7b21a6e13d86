"""Kernels compiled by numba (extra ``fast``): plain arrays in, plain arrays out, no lock held. See :mod:`recbole_kd.fast`."""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import njit

BUCKETS = 1024


@njit(nogil=True, cache=True)
def threshold(highest: Any, k: int, counts: Any, where: Any) -> Any:
    """A score that at least k of the group maxima reach, as high as ``BUCKETS`` equal steps between them tell.

    Args:
        highest: float32 ``[G]``, G >= k, no NaN, no +inf. counts: int32 ``[BUCKETS]`` and where: int16 ``[G]``, scratch.
    """
    low, top = np.float32(np.inf), np.float32(-np.inf)
    for g in range(len(highest)):
        if highest[g] > -np.inf:
            low = min(low, highest[g])
        top = max(top, highest[g])
    scale = np.float32(BUCKETS - 1) / (top - low) if top > low else np.float32(0)
    counts[:] = 0
    for g in range(len(highest)):
        step = (highest[g] - low) * scale
        bucket = np.int16(step) if step > 0 else np.int16(0)  # -inf, and -inf * 0, come first
        where[g] = bucket
        counts[bucket] += 1
    lowest, reached = BUCKETS - 1, counts[BUCKETS - 1]
    while reached < k and lowest > 0:
        lowest -= 1
        reached += counts[lowest]
    if lowest == 0:
        return np.float32(-np.inf)
    least = np.float32(np.inf)
    for g in range(len(highest)):
        if where[g] >= lowest:
            least = min(least, highest[g])
    return least


@njit(nogil=True, cache=True, inline="always")
def sort_key(score: float, bits: int, column: int) -> Any:
    """int64 that orders (score descending, column ascending); ``bits`` are those of the float32. -0.0 counts as 0.0."""
    key = np.int64(bits) if score != 0 else np.int64(0)
    if key < 0:
        key = np.int64(-(2**31)) - key
    return ((-key) << 32) | column


@njit(nogil=True, cache=True)
def top_rows(scores: Any, highest: Any, size: int, k: int, ids: Any, values: Any) -> None:
    """The k best columns of each row, best first, equal scores by column.

    Group g holds the columns g, g + G, ... g + (size - 1) G; what stands at the end of a row is in no group. The k best are all among
    the scores that reach the threshold of the maxima.

    Args:
        scores: float32 ``[B, n]``. highest: float32 ``[B, G]``, maxima of groups, G >= k, ``size * G`` <= n; no NaN, no +inf.
        ids: int64 ``[B, k]`` and values: float32 ``[B, k]``, written.
    """
    n, n_groups = scores.shape[1], highest.shape[1]
    keys = np.empty(n, np.int64)
    counts, where = np.empty(BUCKETS, np.int32), np.empty(n_groups, np.int16)
    bits = scores.view(np.int32)
    for row in range(len(scores)):
        least = threshold(highest[row], k, counts, where)
        found = 0
        for g in range(n_groups):
            if highest[row, g] >= least:
                for column in range(g, size * n_groups, n_groups):
                    if scores[row, column] >= least:
                        keys[found] = sort_key(scores[row, column], bits[row, column], column)
                        found += 1
        for column in range(size * n_groups, n):
            if scores[row, column] >= least:
                keys[found] = sort_key(scores[row, column], bits[row, column], column)
                found += 1
        best = keys[:found]
        best.sort()
        for place in range(k):
            column = best[place] & 0xFFFFFFFF
            ids[row, place] = column
            values[row, place] = scores[row, column]


@njit(nogil=True, cache=True)
def members(items: Any, other: Any, n_ids: int, found: Any) -> None:
    """Row-wise membership: is ``items[b, i]`` among ``other[b]``?

    Args:
        items: int64 ``[B, n]``, ids below n_ids. other: int64 ``[B, m]``, ids below n_ids; negative ones are nobody.
        found: bool ``[B, n]``, written.
    """
    seen = np.full(n_ids, -1, np.int32)
    for row in range(len(items)):
        for i in range(other.shape[1]):
            if other[row, i] >= 0:
                seen[other[row, i]] = row
        for i in range(items.shape[1]):
            found[row, i] = items[row, i] >= 0 and seen[items[row, i]] == row
