"""Sampling kernels compiled by numba: arrays in, arrays out, without the GIL."""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import njit

from recbole_kd.ops.kernels.ranking import BUCKETS, bucket_of, span


@njit(nogil=True, cache=True)
def counts_of_lower(scores: Any, wanted: Any, wanted_valid: Any, counts: Any) -> None:
    """Count the wanted scores below each score of a row; -1 if the score is -inf.

    The bucket decides for all but the scores that share a bucket with a wanted score: those are compared.

    Args:
        scores: float32 ``[B, n]``, no +inf and no NaN.
        wanted: float32 ``[B, k]``, finite where wanted_valid, bool ``[B, k]``.
        counts: int32 ``[B, n]``, written.
    """
    first, end = np.empty(BUCKETS, np.int32), np.empty(BUCKETS, np.int32)
    for row in range(len(scores)):
        ordered = wanted[row][wanted_valid[row]]
        ordered.sort()
        low, scale = span(scores[row])
        below = np.int32(0)
        for bucket in range(BUCKETS):
            first[bucket] = below
            while below < len(ordered) and bucket_of(ordered[below], low, scale) <= bucket:
                below += np.int32(1)
            end[bucket] = below
        for column in range(scores.shape[1]):
            score = scores[row, column]
            if score == -np.inf:
                counts[row, column] = -1
                continue
            bucket = bucket_of(score, low, scale)
            count = first[bucket]
            while count < end[bucket] and ordered[count] < score:
                count += np.int32(1)
            counts[row, column] = count


@njit(nogil=True, cache=True)
def place_now(levels: Any, places: Any, moved: Any, drawn: int, level: int, place: int) -> Any:
    """Return the index of the item at a position of a level after the draws before.

    Each earlier draw moved the last item of its level to the position that it emptied.
    """
    for earlier in range(drawn - 1, -1, -1):
        if levels[earlier] == level and places[earlier] == place:
            return moved[earlier]
    return place


@njit(nogil=True, cache=True)
def draw_levels(left: Any, uniform: Any, discounts: Any, levels: Any, chosen: Any) -> None:
    """Draw levels and positions in them, successively, without replacement.

    An item of level c weighs ``discounts[top - c]``, if top is the highest level that has items left.

    Args:
        left: int64 ``[C]``, the number of items of each level; reduced in place to those that stay.
        uniform: float64 ``[n, 2]`` in [0, 1). discounts: float64 ``[C]``, falling from 1.
        levels: int64 ``[n]``, written; -1 once nothing is left. chosen: int64 ``[n]``, written.
    """
    n, top = len(uniform), len(left) - 1
    places, moved, sums = np.empty(n, np.int64), np.empty(n, np.int64), np.empty(len(left), np.float64)
    for drawn in range(n):
        while top >= 0 and left[top] == 0:
            top -= 1
        if top < 0:
            levels[drawn:] = -1
            return
        total = 0.0
        for level in range(top, -1, -1):
            total += left[level] * discounts[top - level]
            sums[level] = total
        level = top
        while level > 0 and sums[level] <= uniform[drawn, 0] * total:
            level -= 1
        place = min(np.int64(uniform[drawn, 1] * left[level]), left[level] - 1)
        chosen[drawn] = place_now(levels, places, moved, drawn, level, place)
        moved[drawn] = place_now(levels, places, moved, drawn, level, left[level] - 1)
        levels[drawn], places[drawn] = level, place
        left[level] -= 1


@njit(nogil=True, cache=True)
def draw_by_count(counts: Any, uniform: Any, discounts: Any, ids: Any) -> None:
    """Draw columns of each row by their counts.

    :func:`recbole_kd.ops.sampling_by_count.draw_by_count` gives the distribution.

    Args:
        counts: int32 ``[B, n]``, below C, negative for never. uniform: float64 ``[B, m, 2]`` in [0, 1).
        discounts: float64 ``[C]``. ids: int64 ``[B, m]``, written; -1 once nothing is left.
    """
    n_columns, n = counts.shape[1], uniform.shape[1]
    left, starts, ends = (
        np.empty(len(discounts), np.int64),
        np.empty(len(discounts), np.int64),
        np.empty(len(discounts), np.int64),
    )
    columns, levels, chosen = np.empty(n_columns, np.int32), np.empty(n, np.int64), np.empty(n, np.int64)
    for row in range(len(counts)):
        left[:] = 0
        for column in range(n_columns):
            if counts[row, column] >= 0:
                left[counts[row, column]] += 1
        start = 0
        for level in range(len(left)):
            starts[level] = ends[level] = start
            start += left[level]
        for column in range(n_columns):
            level = counts[row, column]
            if level >= 0:
                columns[ends[level]] = column
                ends[level] += 1
        draw_levels(left, uniform[row], discounts, levels, chosen)
        for drawn in range(n):
            ids[row, drawn] = columns[starts[levels[drawn]] + chosen[drawn]] if levels[drawn] >= 0 else -1


@njit(nogil=True, cache=True)
def first_distinct(drawn: Any, n_values: int, found: Any, counts: Any) -> None:
    """Write the first different values of each row, in their order.

    Args:
        drawn: int64 ``[R, m]``, in [0, n_values).
        found: int64 ``[R, n]``, written; -1 after the last value of a row with fewer.
        counts: int64 ``[R]``, written: the number found in each row.
    """
    seen = np.full(n_values, -1, np.int32)
    for row in range(len(drawn)):
        count = 0
        for value in drawn[row]:
            if count == found.shape[1]:
                break
            if seen[value] != row:
                seen[value] = row
                found[row, count] = value
                count += 1
        found[row, count:] = -1
        counts[row] = count


@njit(nogil=True, cache=True)
def items_outside(keys: Any, starts: Any, queries: Any, numbers: Any, ids: Any) -> None:
    """Write the item ids of the given numbers, as :class:`recbole_kd.ops.sampling.Outside`.

    Args:
        keys: int32, sorted in each query. starts: int64, the first key of each query. queries: int64 ``[R]``.
        numbers: int64 ``[R, n]``, negative: none. ids: int64 ``[R, n]``, written.
    """
    for row in range(len(queries)):
        query = queries[row]
        first, end = starts[query], starts[query + 1]
        for column in range(numbers.shape[1]):
            number = numbers[row, column]
            low, high = first, end
            while low < high:
                middle = (low + high) // 2
                if keys[middle] <= number:
                    low = middle + 1
                else:
                    high = middle
            ids[row, column] = number + 1 + low - first if number >= 0 else 0
