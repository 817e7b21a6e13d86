"""Coverage: the part of a data set that a teacher knows."""

from __future__ import annotations

from typing import Any

from recbole_kd.teacher.base import TeacherScores
from recbole_kd.teacher.stores.lists import ListScores
from recbole_kd.teacher.stores.remapped import N_USERS

LISTED_USERS = "users"
"""Key of an imported teacher's counts: the users with a list at some position."""


def coverage_of(teacher: TeacherScores) -> dict[str, Any] | None:
    """Return how many users and items a teacher covers, or None if it scores all items for all users.

    Returns:
        ``users``, ``of_users``, ``items``, ``of_items``, for a teacher of histories also ``histories`` and
        ``of_histories``, and for ranked lists ``list_length`` with the shortest, the median and the longest list,
        without empty ones.
    """
    if teacher.covered is None and teacher.complete:
        return None
    n_queries, n_items = teacher.n_queries - 1, teacher.n_items - 1
    queries = n_queries if teacher.covered is None else int(teacher.covered[1:].sum())
    found: dict[str, Any] = {"users": queries, "of_users": n_queries, "items": n_items, "of_items": n_items}
    if N_USERS in teacher.manifest:
        n_users = int(teacher.manifest[N_USERS])
        whole = n_users - 1 if teacher.covered is None else int(teacher.covered[1:n_users].sum())
        users = (teacher.manifest.get("imported") or {}).get(LISTED_USERS, whole)
        found |= {"users": users, "of_users": n_users - 1, "histories": queries, "of_histories": n_queries}
    if isinstance(teacher, ListScores):
        lengths = teacher.lengths()[1:]
        lengths = lengths[lengths > 0]
        found["items"] = int((teacher.popularity()[1:] > 0).sum())
        found["list_length"] = {
            "shortest": int(lengths.min()), "median": int(lengths.median()), "longest": int(lengths.max()),
        }  # fmt: skip
    return found
