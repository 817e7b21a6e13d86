"""Which interactions to keep, in which order."""

from __future__ import annotations

import numpy as np

from recbole_kd.data.preparing.interactions import IntArray, Interactions, Mask


def by_user_and_time(inter: Interactions) -> Interactions:
    """Group by user (in order of first appearance), by time inside a user, file order among equal times."""
    return inter.take(np.lexsort((inter.time, inter.user)))


def first_per_pair(inter: Interactions) -> Mask:
    """Keep the earliest row of each (user, item), the first in the file among equal times."""
    pairs = inter.pairs()
    order = np.lexsort((inter.time, pairs))
    is_first = np.ones(len(inter), dtype=np.bool_)
    is_first[1:] = pairs[order][1:] != pairs[order][:-1]
    keep = np.zeros(len(inter), dtype=np.bool_)
    keep[order[is_first]] = True
    return keep


def k_core(user: IntArray, item: IntArray, k: int) -> Mask:
    """Keep the rows of the largest set in which every user and every item has at least k rows."""
    keep = np.ones(len(user), dtype=np.bool_)
    while True:
        users = np.bincount(user[keep], minlength=int(user.max(initial=0)) + 1)
        items = np.bincount(item[keep], minlength=int(item.max(initial=0)) + 1)
        smaller = keep & (users[user] >= k) & (items[item] >= k)
        # Dropping a user can push an item below k and the other way round, so go on until nothing moves.
        if np.array_equal(smaller, keep):
            return keep
        keep = smaller
