"""Ranking kernels compiled by numba: arrays in, arrays out, without the GIL.

They need the extra ``fast``; :mod:`recbole_kd.ops.compiled` calls them.
"""
# Over 300 lines: kernels that call each other stay in one module, where numba can inline them.

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numba import njit

from recbole_kd.ops.kernels.exp import exp_below_one

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


@njit(nogil=True, cache=True, fastmath={"reassoc", "contract"})
def listed_scores(queries: Any, items: Any, rows: Any, chosen: Any, factor: float, scores: Any) -> None:
    """Write ``factor`` times the dot product of each query with the items of its row.

    :func:`listed_cross_entropy` explains the arguments.
    """
    for b in range(len(rows)):
        query = queries[b]
        for j in range(chosen.shape[1]):
            item = items[chosen[rows[b], j]]
            product = np.float32(0)
            for c in range(len(query)):
                product += query[c] * item[c]
            scores[b, j] = product * factor


@njit(nogil=True, cache=True)
def highest_valid(scores: Any, valid: Any) -> Any:
    """Return the highest valid score of float32 ``[n]``: -inf without any, NaN if one is NaN."""
    bits, best = scores.view(np.int32), MINUS_INFINITE_KEY
    for j in range(len(scores)):
        best = max(best, order_key(bits[j]) if valid[j] else LOWEST_KEY)
    return of_key(best)


@njit(nogil=True, cache=True, fastmath={"reassoc", "contract"})
def part_cross_entropy(scores: Any, target: Any, valid: Any) -> Any:
    """Return the cross-entropy on one list and overwrite ``scores`` with softmax minus target.

    ``scores`` is float32 ``[n]``; it becomes 0 where not valid. An empty list gives 0. Scores without a finite maximum
    give NaN in the result and in ``scores``, so that the fault stays visible.
    """
    if not valid.any():
        scores[:] = 0
        return np.float32(0)
    top = highest_valid(scores, valid)
    total, cross = np.float32(0), np.float32(0)
    for j in range(len(scores)):
        above = scores[j] - top if valid[j] else np.float32(0)
        likely = exp_below_one(above) if valid[j] else np.float32(0)
        cross += target[j] * above
        total += likely
        scores[j] = likely
    loss = np.float32(math.log(total)) - cross
    if not abs(loss) < np.inf:
        scores[:] = np.float32(np.nan)
        return np.float32(np.nan)
    share = np.float32(1) / total
    for j in range(len(scores)):
        scores[j] = scores[j] * share - target[j]
    return loss


@njit(nogil=True, cache=True)
def listed_cross_entropy(
    queries: Any,
    items: Any,
    rows: Any,
    chosen: Any,
    target: Any,
    valid: Any,
    ends: Any,
    shares: Any,
    factor: float,
    loss: Any,
    slopes: Any,
) -> None:
    """Write weighted cross-entropies on sublists of each query's list, and gradients.

    Args:
        queries: float32 ``[B, d]``. items: float32 ``[I, d]``. rows: int64 ``[B]``, the row of each query's list.
        chosen: int64 ``[U, n]``, items of the lists. valid: bool ``[U, n]``.
        target: float32 ``[U, n]``, 0 where not valid, with sum 1 over each sublist.
        ends: int64 ``[P]``, the end of each sublist. shares: float32 ``[U, P]``, weights of the sublists.
        factor: 1 / temperature.
        loss: float32 ``[B]``, written. slopes: float32 ``[B, n]``, written: gradients in the scores.
    """
    listed_scores(queries, items, rows, chosen, factor, slopes)
    for b in range(len(rows)):
        row, start = rows[b], 0
        loss[b] = 0
        for p in range(len(ends)):
            part = slopes[b, start : ends[p]]
            loss[b] += shares[row, p] * part_cross_entropy(
                part, target[row, start : ends[p]], valid[row, start : ends[p]]
            )
            for j in range(len(part)):
                part[j] *= shares[row, p] * factor
            start = ends[p]


@njit(nogil=True, cache=True, fastmath={"reassoc", "contract"})
def listed_gradients(
    queries: Any, items: Any, rows: Any, chosen: Any, slopes: Any, weights: Any, d_queries: Any, d_items: Any
) -> None:
    """Turn the gradients in the scores into gradients in the vectors.

    Args:
        slopes: float32 ``[B, n]`` from :func:`listed_cross_entropy`. weights: float32 ``[B]``.
        d_queries: float32 ``[B, d]``, written. d_items: float32 ``[I, d]``, added to.
    """
    for b in range(len(rows)):
        query, d_query = queries[b], d_queries[b]
        d_query[:] = 0
        for j in range(chosen.shape[1]):
            slope, column = slopes[b, j] * weights[b], chosen[rows[b], j]
            item, d_item = items[column], d_items[column]
            for c in range(len(query)):
                d_query[c] += slope * item[c]
                d_item[c] += slope * query[c]
