"""Item sets from a student's and a teacher's list, compiled by numba."""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import njit

from recbole_kd.ops.kernels.exp import exp_below_one


@njit(nogil=True, cache=True)
def value_at(values: Any, n: int, place: int) -> Any:
    """Return the value at a rank of ``values[:n]``, 0 = highest, without NaN. The values are reordered."""
    low, high = 0, n - 1
    while low < high:
        pivot, left, right = values[(low + high) // 2], low, high
        while left <= right:
            while values[left] > pivot:
                left += 1
            while values[right] < pivot:
                right -= 1
            if left <= right:
                values[left], values[right] = values[right], values[left]
                left += 1
                right -= 1
        if place <= right:
            high = right
        elif place >= left:
            low = left
        else:
            break
    return values[place]


@njit(nogil=True, cache=True)
def keys_of(
    ranked: Any, n: int, taught: Any, row: int, k: int, noise: Any, tau: Any, most: Any, from_own: bool, keys: Any
) -> None:
    """Write the key of each candidate: noise plus its count over tau; -inf from the n-th on.

    The count is that of the teacher's items at or below the candidate, at most ``most``. If ``from_own`` is False it
    leaves out the candidate itself and those among the first k.

    Args:
        taught: int32, ``row`` at the teacher's items. noise: float32 ``[width]``. keys: float32 ``[width]``, written.
    """
    keys[n:] = -np.inf
    count = np.float32(0)
    for place in range(n - 1, -1, -1):
        member = taught[ranked[place]] == row
        if from_own:
            count += np.float32(member)
            keys[place] = noise[place] + min(count, most) / tau
        else:
            keys[place] = noise[place] + count / tau
            count += np.float32(member and place >= k)


@njit(nogil=True, cache=True)
def draw_sets(
    ranked: Any, lengths: Any, listed: Any, listed_valid: Any, noise: Any, k: int, n_drawn: int, tau: Any, most: Any,
    from_own: bool, n_ids: int, drawn: Any, valid: Any, shares: Any,
) -> None:  # fmt: skip
    """Draw items of each query's ranking, and tell which items of its three lists count.

    :func:`recbole_kd.ops.compiled_lists.draw_sets` says what they are.

    Args:
        ranked: int64 ``[R, depth]``, the first ``lengths[r]`` of a row are ranked. lengths: int64 ``[R]``.
        listed: int64 and listed_valid: bool, ``[R, K]``, the teacher's lists. All ids are below n_ids.
        noise: float32 ``[R, width]``, width <= depth.
        k: length of the student's list. n_drawn: at most width. tau, most: float32. from_own: see :func:`keys_of`.
        drawn: int64 ``[R, n_drawn]``, valid: bool ``[R, k + n_drawn + K]`` and shares: float32 ``[R, 3]``, written.
    """
    taught, own, chosen = (np.full(n_ids, -1, np.int32), np.full(n_ids, -1, np.int32), np.full(n_ids, -1, np.int32))
    width, n_listed, depth = noise.shape[1], listed.shape[1], ranked.shape[1]
    keys, spare, counts = np.empty(width, np.float32), np.empty(width, np.float32), np.full(n_ids, -1, np.int32)
    for row in range(len(ranked)):
        n = lengths[row]
        for j in range(n_listed):
            if listed_valid[row, j]:
                taught[listed[row, j]] = row
        for j in range(k):
            valid[row, j] = j < n
            if j < n:
                own[ranked[row, j]] = row
        keys_of(ranked[row], min(n, width), taught, row, k, noise[row], tau, most, from_own, keys)
        for place in range(width):
            spare[place] = keys[place]
        least, found, in_draw = value_at(spare, width, n_drawn - 1), 0, 0
        equal = n_drawn
        for place in range(width):
            equal -= keys[place] > least
        for place in range(width):
            if keys[place] < least or (keys[place] == least and equal == 0):
                continue
            equal -= keys[place] == least
            item = ranked[row, place]
            drawn[row, found] = item
            valid[row, k + found] = place < n
            if place < n:
                chosen[item] = row
                counts[item] = row
                in_draw += taught[item] == row
            found += 1
        both, size, total = 0, min(n, n_drawn), 0
        for j in range(n_listed):
            item, there = listed[row, j], listed_valid[row, j]
            both += there and own[item] == row
            total += there
            rest = there and own[item] != row and chosen[item] != row
            valid[row, k + n_drawn + j] = rest
            if rest:
                counts[item] = row
                size += 1
        closed = 0
        for j in range(min(size, depth)):
            closed += j < n and counts[ranked[row, j]] == row
        shares[row, 0] = np.float32(both if not from_own else in_draw) / np.float32(max(total, 1))
        shares[row, 1] = np.float32(both) / np.float32(max(total, 1))
        shares[row, 2] = np.float32(closed) / np.float32(max(size, 1))


@njit(nogil=True, cache=True)
def close_up(
    chosen: Any, teacher: Any, valid: Any, ends: Any, factor: Any, starts: Any, items: Any, target: Any
) -> None:
    """Write the items that count one after the other, with the teacher's softmax over each sublist.

    Args:
        chosen: int64 or int32, teacher: float32, valid: bool, ``[U, n]``. ends: int64 ``[P]``, end columns of the
            sublists.
        factor: float32, 1 / temperature.
        starts: int64 ``[U, P + 1]``, items: int32 ``[N]`` and target: float32 ``[N]``, written; N items count.
    """
    at = 0
    for row in range(len(chosen)):
        starts[row, 0], first = at, 0
        for p in range(len(ends)):
            start, top = at, np.float32(-np.inf)
            for j in range(first, ends[p]):
                if valid[row, j]:
                    score = teacher[row, j] * factor
                    items[at], target[at] = chosen[row, j], score
                    top = score if score > top or score != score else top
                    at += 1
            total = np.float32(0)
            for place in range(start, at):
                below = target[place] - top
                target[place] = exp_below_one(below) if below == below else below
                total += target[place]
            for place in range(start, at):
                target[place] /= total
            starts[row, p + 1], first = at, ends[p]
