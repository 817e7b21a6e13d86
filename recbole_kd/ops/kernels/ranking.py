"""Ranking kernels compiled by numba: arrays in, arrays out, without the GIL.

They need the extra ``fast``; :mod:`recbole_kd.ops.compiled` calls them.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import njit

BUCKETS = 1024

LOWEST_KEY = np.int32(-(2**31))
INFINITE_KEY = np.int32(0x7F800000)
MINUS_INFINITE_KEY = np.int32(-(2**31) + 2**23)
"""Values of :func:`order_key`."""


@njit(nogil=True, cache=True)
def order_key(bits: Any) -> Any:
    """Return an int32 that sorts as the float32 with the given bits.

    Negative and positive zero get the same key; NaN lie beyond the infinities. A minimum or maximum of integers
    compiles to vector instructions. One of floats does not, because of the rules for NaN (eight times slower).
    """
    return bits if bits >= 0 else np.int32(LOWEST_KEY - bits)


@njit(nogil=True, cache=True)
def of_key(key: Any) -> Any:
    """Return the float32 of an :func:`order_key`."""
    bits = key
    if key < 0:
        bits = np.int32(LOWEST_KEY - key)
    return np.int32(bits).view(np.float32)


@njit(nogil=True, cache=True)
def span(scores: Any) -> tuple[Any, Any]:
    """Return the lowest score of a row and the factor from a score difference to a bucket.

    :func:`bucket_of` uses both. -inf and NaN are ignored.
    """
    bits = scores.view(np.int32)
    low, top = INFINITE_KEY, MINUS_INFINITE_KEY
    for column in range(len(scores)):
        key = order_key(bits[column])
        ranked = MINUS_INFINITE_KEY < key < INFINITE_KEY
        low = min(low, key if ranked else INFINITE_KEY)
        top = max(top, key if ranked else MINUS_INFINITE_KEY)
    if top <= low:
        return of_key(low), np.float32(0)
    return of_key(low), np.float32(BUCKETS - 1) / (of_key(top) - of_key(low))


@njit(nogil=True, cache=True)
def bucket_of(score: Any, low: Any, scale: Any) -> Any:
    """Return the bucket of a score, 0 to BUCKETS - 1, never lower for a higher score.

    A score outside the :func:`span` gets the first or the last bucket.
    """
    step = (score - low) * scale
    if not step > 0:  # inf * 0, if the span exceeds float32, ends here
        return np.int16(0)
    return np.int16(min(step, np.float32(BUCKETS - 1)))


@njit(nogil=True, cache=True)
def into_buckets(scores: Any, counts: Any, where: Any) -> None:
    """Cut a row into ``BUCKETS`` equal steps from its lowest to its highest score.

    A higher bucket has higher scores.

    Args:
        scores: float32 ``[n]``, no +inf.
        counts: int32 ``[BUCKETS]``, written: scores in each bucket.
        where: int16 ``[n]``, written: each score's bucket; -1 for -inf and NaN.
    """
    low, scale = span(scores)
    counts[:] = 0
    for column in range(len(scores)):
        if scores[column] > -np.inf:
            bucket = bucket_of(scores[column], low, scale)
            where[column] = bucket
            counts[bucket] += 1
        else:
            where[column] = -1


@njit(nogil=True, cache=True)
def threshold(highest: Any, k: int, counts: Any, where: Any) -> Any:
    """Return a score that at least k of the group maxima reach.

    It is the highest such score that ``BUCKETS`` equal steps between the maxima can tell.

    Args:
        highest: float32 ``[G]``, G >= k, no NaN, no +inf.
        counts: int32 ``[BUCKETS]`` and where: int16 ``[G]``, scratch memory.
    """
    into_buckets(highest, counts, where)
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
    """Return an int64 that sorts by (score descending, column ascending).

    ``bits`` are those of the float32 score; -0.0 counts as 0.0.
    """
    key = np.int64(bits) if score != 0 else np.int64(0)
    if key < 0:
        key = np.int64(-(2**31)) - key
    return ((-key) << 32) | column


@njit(nogil=True, cache=True)
def top_rows(scores: Any, highest: Any, size: int, k: int, ids: Any, values: Any) -> None:
    """Write the k best columns of each row, best first, ties by column.

    Group g holds the columns g, g + G, ... g + (size - 1) G; the last columns of a row may be in no group. All k best
    columns are among the scores that reach the threshold of the maxima.

    Args:
        scores: float32 ``[B, n]``, no NaN, no +inf.
        highest: float32 ``[B, G]``, maxima of the groups, G >= k, ``size * G`` <= n.
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
def columns_at(scores: Any, places: Any, ids: Any) -> None:
    """Write the columns at given ranks of each row (by score, then column); 0 for none.

    Args:
        scores: float32 ``[B, n]``, no +inf; -inf and NaN are not ranked.
        places: int64 ``[B, p]`` ranks, 0 = best, negative for none.
        ids: int64 ``[B, p]``, written.
    """
    n, bits = scores.shape[1], scores.view(np.int32)
    counts, where, keys = np.empty(BUCKETS, np.int32), np.empty(n, np.int16), np.empty(n, np.int64)
    for row in range(len(scores)):
        into_buckets(scores[row], counts, where)
        ranked = counts.sum()
        for p in range(places.shape[1]):
            place = places[row, p]
            ids[row, p] = 0
            if place < 0 or place >= ranked:
                continue
            bucket, above = BUCKETS - 1, 0
            while above + counts[bucket] <= place:
                above += counts[bucket]
                bucket -= 1
            found = 0
            for column in range(n):
                if where[column] == bucket:
                    keys[found] = sort_key(scores[row, column], bits[row, column], column)
                    found += 1
            best = keys[:found]
            best.sort()
            ids[row, p] = best[place - above] & 0xFFFFFFFF


@njit(nogil=True, cache=True)
def counts_above(scores: Any, columns: Any, most: int, above: Any) -> None:
    """Count the scores of a row that are higher than those at given columns, at most ``most``.

    Args:
        scores: float32 ``[B, n]``, no +inf and no NaN; -inf is not counted. columns: int64 ``[B, m]``.
        above: int64 ``[B, m]``, written.
    """
    n = scores.shape[1]
    counts, where = np.empty(BUCKETS, np.int32), np.empty(n, np.int16)
    higher, end, kept = np.empty(BUCKETS, np.int64), np.empty(BUCKETS, np.int64), np.empty(n, np.float32)
    for row in range(len(scores)):
        into_buckets(scores[row], counts, where)
        lowest, total = BUCKETS, np.int64(0)
        while lowest > 0 and total < most:
            lowest -= 1
            higher[lowest] = end[lowest] = total
            total += counts[lowest]
        for column in range(n):
            bucket = where[column]
            if bucket >= lowest:
                kept[end[bucket]] = scores[row, column]
                end[bucket] += 1
        for m in range(columns.shape[1]):
            score, bucket = scores[row, columns[row, m]], where[columns[row, m]]
            if bucket < lowest:
                above[row, m] = min(total, most)
                continue
            count = higher[bucket]
            for place in range(higher[bucket], end[bucket]):
                count += kept[place] > score
            above[row, m] = min(count, most)


@njit(nogil=True, cache=True)
def members(items: Any, other: Any, n_ids: int, found: Any) -> None:
    """Test row by row whether ``items[b, i]`` is among ``other[b]``.

    Args:
        items: int64 ``[B, n]``, ids below n_ids. other: int64 ``[B, m]``, ids below n_ids. Negative ids never match.
        found: bool ``[B, n]``, written.
    """
    seen = np.full(n_ids, -1, np.int32)
    for row in range(len(items)):
        for i in range(other.shape[1]):
            if other[row, i] >= 0:
                seen[other[row, i]] = row
        for i in range(items.shape[1]):
            found[row, i] = items[row, i] >= 0 and seen[items[row, i]] == row
