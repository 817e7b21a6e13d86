"""Rankings of dot products, compiled by numba: no score row is ever written to memory.

The items lie in panels, ``PANEL`` items side by side. The scores of a panel for ``TOGETHER`` queries are computed in
registers and compared there with a threshold of each query; only those that reach it are kept. The threshold comes
from a sample of the panels. It is a guess: if fewer than k scores reach it, the query is ranked again without one.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numba import njit

from recbole_kd.ops.kernels.lanes import fma, load, lowest_bit, reaching, spread, store
from recbole_kd.ops.kernels.ranking import of_key, sort_key

PANEL = 16
TOGETHER = 4
SHARE = 12
"""One panel of so many is in the sample."""

BUCKETS = 512
ROOM = 1024
"""Least number of kept scores, before those below the k-th are dropped."""


@njit(nogil=True, cache=True)
def score_of(key: Any) -> Any:
    """Return the float32 score of a :func:`recbole_kd.ops.kernels.ranking.sort_key`."""
    return of_key(np.int32(-(key >> 32)))


@njit(nogil=True, cache=True)
def put_in_order(keys: Any, n: Any, k: Any, spare: Any, counts: Any) -> None:
    """Put the k least of the first n keys in order: into equal steps of the score, then by insertion.

    The others come behind them, in any order.

    Args:
        keys, spare: int64 ``[>= n]``. counts: int32 ``[BUCKETS + 1]``, scratch memory.
    """
    top, low = score_of(keys[0]), score_of(keys[0])
    for i in range(n):
        score = score_of(keys[i])
        top, low = max(top, score), min(low, score)
    # in float64, where neither the difference nor the factor leaves the range
    highest, span = np.float64(top), np.float64(top) - np.float64(low)
    scale = (BUCKETS - 1) / span if span > 0 else 0.0
    counts[:] = 0
    for i in range(n):
        counts[np.int64((highest - score_of(keys[i])) * scale) + 1] += 1
    before, wanted = np.int32(0), n
    for bucket in range(1, BUCKETS + 1):
        before += counts[bucket]
        counts[bucket] = before
        if before >= k:
            wanted = min(wanted, np.int64(before))  # the steps up to that of the k-th
    for i in range(n):
        step = np.int64((highest - score_of(keys[i])) * scale)
        spare[counts[step]] = keys[i]
        counts[step] += 1
    for i in range(wanted, n):
        keys[i] = spare[i]
    for i in range(wanted):
        key, place = spare[i], i
        while place > 0 and keys[place - 1] > key:
            keys[place] = keys[place - 1]
            place -= 1
        keys[place] = key


@njit(nogil=True, cache=True)
def place_reached(scores: Any, n: Any, place: Any, best: Any) -> Any:
    """Return the score at a rank of ``scores[:n]``, 0 = best; -inf if there are fewer.

    ``best`` is scratch memory.
    """
    best[: place + 1] = -np.inf
    for i in range(n):
        score = scores[i]
        if score > best[place]:
            at = place
            while at > 0 and best[at - 1] < score:
                best[at] = best[at - 1]
                at -= 1
            best[at] = score
    return best[place]


@njit(nogil=True, cache=True)
def sample_scores(queries: Any, panels: Any, n_sampled: Any, scores: Any) -> None:
    """Write the scores of every SHARE-th panel: float32 ``[TOGETHER, n_sampled * PANEL]``."""
    d, n = queries.shape[1], scores.shape[1]
    for number in range(n_sampled):
        sums_0 = sums_1 = sums_2 = sums_3 = spread(np.float32(0), 16)
        for c in range(d):
            items = load(panels, (number * SHARE * d + c) * PANEL, 16)
            sums_0 = fma(spread(queries[0, c], 16), items, sums_0)
            sums_1 = fma(spread(queries[1, c], 16), items, sums_1)
            sums_2 = fma(spread(queries[2, c], 16), items, sums_2)
            sums_3 = fma(spread(queries[3, c], 16), items, sums_3)
        at = number * PANEL
        store(scores, at, sums_0)
        store(scores, at + n, sums_1)
        store(scores, at + 2 * n, sums_2)
        store(scores, at + 3 * n, sums_3)


@njit(nogil=True, cache=True)
def keep(reached: Any, scores: Any, first: Any, excluded: Any, passed: Any, ends: Any, keys: Any, found: Any) -> Any:
    """Append the keys of the scores whose bit is set and return the most keys of a query.

    Excluded items are left out.

    Args:
        reached: int64, bit ``u * PANEL + j`` for the j-th item of query u.
        scores: float32 ``[TOGETHER * PANEL]``, of the items from ``first`` on; panels come in ascending order.
        excluded: int64, sorted from ``passed[u]`` to ``ends[u]``.
    """
    bits, most = scores.view(np.int32), np.int64(0)
    while reached:  # one loop for all queries: most of them have no bit, and to ask each costs a wrong guess of the way
        place = lowest_bit(reached)
        reached &= reached - 1
        u, item = place // PANEL, first + place % PANEL
        while passed[u] < ends[u] and excluded[passed[u]] < item:
            passed[u] += 1
        if item > 0 and not (passed[u] < ends[u] and excluded[passed[u]] == item):
            keys[u, found[u]] = sort_key(scores[place], bits[place], item)
            found[u] += 1
            most = max(most, found[u])
    return most


@njit(nogil=True, cache=True)
def find_reaching(
    queries: Any, panels: Any, n_items: Any, k: Any, least: Any, excluded: Any, starts: Any, ends: Any, keys: Any,
    found: Any, spare: Any, counts: Any,
) -> None:  # fmt: skip
    """Write the keys of all scores that reach each query's threshold, or of at least the k best of them.

    Args:
        queries: float32 ``[TOGETHER, d]``. panels: float32 ``[n_panels, d, PANEL]``.
        least: float32 ``[TOGETHER]``; raised if the keys fill their room.
        keys: int64 ``[TOGETHER, n]`` and found: int64 ``[TOGETHER]``, written.
    """
    d, scores, passed = queries.shape[1], np.empty(TOGETHER * PANEL, np.float32), starts.copy()
    full = keys.shape[1] - PANEL
    found[:] = 0
    for panel in range(len(panels)):
        sums_0 = sums_1 = sums_2 = sums_3 = spread(np.float32(0), 16)
        for c in range(d):
            items = load(panels, (panel * d + c) * PANEL, 16)
            sums_0 = fma(spread(queries[0, c], 16), items, sums_0)
            sums_1 = fma(spread(queries[1, c], 16), items, sums_1)
            sums_2 = fma(spread(queries[2, c], 16), items, sums_2)
            sums_3 = fma(spread(queries[3, c], 16), items, sums_3)
        inside = (1 << min(PANEL, n_items - panel * PANEL)) - 1
        reached = reaching(sums_0, least[0]) & inside
        reached |= (reaching(sums_1, least[1]) & inside) << PANEL
        reached |= (reaching(sums_2, least[2]) & inside) << 2 * PANEL
        reached |= (reaching(sums_3, least[3]) & inside) << 3 * PANEL
        if not reached:
            continue
        store(scores, 0, sums_0)
        store(scores, PANEL, sums_1)
        store(scores, 2 * PANEL, sums_2)
        store(scores, 3 * PANEL, sums_3)
        if keep(reached, scores, panel * PANEL, excluded, passed, ends, keys, found) <= full:
            continue
        for u in range(TOGETHER):
            if found[u] > full:
                put_in_order(keys[u], found[u], k, spare, counts)
                found[u] = k
                least[u] = score_of(keys[u, k - 1])


@njit(nogil=True, cache=True)
def guess_thresholds(
    sample: Any, n_sampled: Any, place: Any, excluded: Any, starts: Any, ends: Any, best: Any, least: Any
) -> None:
    """Write the score at a rank of each query's sample, without its excluded items and item 0.

    Args:
        sample: float32 ``[TOGETHER, >= n_sampled * PANEL]``, overwritten.
        best: float32 ``[place + 1]``, scratch memory. least: float32 ``[TOGETHER]``, written.
    """
    for u in range(TOGETHER):
        sample[u, 0] = -np.inf
        for e in range(starts[u], ends[u]):
            number, rest = divmod(excluded[e] // PANEL, SHARE)
            if rest == 0 and number < n_sampled:
                sample[u, number * PANEL + excluded[e] % PANEL] = -np.inf
        least[u] = place_reached(sample[u], n_sampled * PANEL, place, best)


@njit(nogil=True, cache=True)
def rank_products(
    queries: Any, panels: Any, n_items: Any, k: Any, excluded: Any, starts: Any, ends: Any, ids: Any, values: Any
) -> None:
    """Write the k best items of each query by dot product, best first, ties by id; item 0 is never listed.

    Args:
        queries: float32 ``[B, d]``. panels: float32 ``[n_panels, d, PANEL]``, all products finite.
        excluded: int64, items that are not ranked: those of query b are ``excluded[starts[b]:ends[b]]``, sorted.
        ids: int64 ``[B, k]`` and values: float32 ``[B, k]``, written; 0 and -inf fill a short row.
    """
    room, n_sampled = max(ROOM, 4 * k), n_items // PANEL // SHARE
    keys, spare = np.empty((TOGETHER, room), np.int64), np.empty(room, np.int64)
    found, counts = np.zeros(TOGETHER, np.int64), np.empty(BUCKETS + 1, np.int32)
    least, sample = np.empty(TOGETHER, np.float32), np.empty((TOGETHER, max(1, n_sampled * PANEL)), np.float32)
    wanted = k * n_sampled * PANEL / n_items
    place = np.int64(wanted + 2.5 * math.sqrt(wanted) + 1)
    best, own = np.empty(place + 1, np.float32), np.zeros((TOGETHER, queries.shape[1]), np.float32)
    first_of, end_of = np.zeros(TOGETHER, np.int64), np.zeros(TOGETHER, np.int64)
    for first in range(0, len(queries), TOGETHER):
        n = min(TOGETHER, len(queries) - first)
        for u in range(n):  # loops: to assign one slice to another compiles its error message too
            first_of[u], end_of[u] = starts[first + u], ends[first + u]
            for c in range(queries.shape[1]):
                own[u, c] = queries[first + u, c]
        sample_scores(own, panels, n_sampled, sample)
        guess_thresholds(sample, n_sampled, place, excluded, first_of, end_of, best, least)
        least[n:] = np.inf
        unranked = n
        while unranked:
            find_reaching(own, panels, n_items, k, least, excluded, first_of, end_of, keys, found, spare, counts)
            for u in range(n):
                if least[u] == np.inf:
                    continue
                if found[u] < k and least[u] > -np.inf:
                    least[u] = -np.inf  # the guess was too high
                    continue
                least[u] = np.inf
                unranked -= 1
                if found[u]:
                    put_in_order(keys[u], found[u], k, spare, counts)
                for j in range(k):
                    there = j < found[u]
                    ids[first + u, j] = keys[u, j] & 0xFFFFFFFF if there else 0
                    values[first + u, j] = score_of(keys[u, j]) if there else -np.inf
