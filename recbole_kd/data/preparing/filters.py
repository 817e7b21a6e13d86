"""Filters and sorting of interactions."""

from __future__ import annotations

import numpy as np

from recbole_kd.data.preparing.interactions import IntArray, Interactions, Mask


def by_user_and_time(inter: Interactions) -> Interactions:
    """Group by user (by first appearance); within a user sort by time, ties in file order."""
    return inter.take(np.lexsort((inter.time, inter.user)))


def first_per_pair(inter: Interactions) -> Mask:
    """Select the earliest row of each (user, item); ties go to the first in the file."""
    pairs = inter.pairs()
    order = np.lexsort((inter.time, pairs))
    is_first = np.ones(len(inter), dtype=np.bool_)
    is_first[1:] = pairs[order][1:] != pairs[order][:-1]
    keep = np.zeros(len(inter), dtype=np.bool_)
    keep[order[is_first]] = True
    return keep


def k_core(user: IntArray, item: IntArray, k: int) -> Mask:
    """Select the largest set of rows in which every user and item has at least k rows."""
    keep = np.ones(len(user), dtype=np.bool_)
    while True:
        users = np.bincount(user[keep], minlength=int(user.max(initial=0)) + 1)
        items = np.bincount(item[keep], minlength=int(item.max(initial=0)) + 1)
        smaller = keep & (users[user] >= k) & (items[item] >= k)
        # dropping a user can push an item below k and the other way round: repeat until nothing changes
        if np.array_equal(smaller, keep):
            return keep
        keep = smaller
