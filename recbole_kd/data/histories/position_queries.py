"""Queries of a (user, position) pair: the history of a user's first items in training."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from recbole_kd.data.histories.recbole_rows import interactions_of, is_recboles
from recbole_kd.errors import DataError


@dataclass(frozen=True)
class PositionQueries:
    """The numbers of all histories of training data, as a sequential teacher's queries are numbered.

    Position p of a user is the history of the user's first p training interactions. The whole history of user u is
    query u; the shorter ones follow after all users (:mod:`recbole_kd.data.histories.sequence_dataset`).

    Attributes:
        n_users: number of users with the pad.
        n_queries: number of queries with the pad.
        keys: int64, sorted: ``user * step + position`` of each history. queries: int64, its query. step: above every
            position.
    """

    n_users: int
    n_queries: int
    keys: np.ndarray
    queries: np.ndarray
    step: int

    @classmethod
    def of(cls, data: Any) -> PositionQueries:
        """Return the queries of a training part, of a student of any family, or of its loader.

        Raises:
            DataError: the data are RecBole's own sequential data set.
        """
        dataset = getattr(data, "_dataset", data)
        n_users = int(dataset.user_num)
        if is_recboles(dataset):
            raise DataError(
                "Lists by position need the order of all interactions, which RecBole's own sequential data lack: "
                "make the data with recbole_kd.prepare_data, or run `recbole-kd import-teacher`"
            )
        counts = np.bincount(np.asarray(interactions_of(getattr(dataset, "split_part", dataset))[0]), minlength=n_users)
        shorter = np.maximum(counts - 1, 0)
        first = np.repeat(shorter.cumsum() - shorter, shorter)
        users = np.concatenate([np.arange(n_users), np.repeat(np.arange(n_users), shorter)])
        positions = np.concatenate([counts, np.arange(len(first)) - first + 1])
        step = int(positions.max()) + 1
        keys = users.astype(np.int64) * step + positions
        order = np.flatnonzero(positions > 0)
        order = order[np.argsort(keys[order], kind="stable")]
        return cls(n_users, len(users), keys[order], order, step)

    def query(self, users: np.ndarray, positions: np.ndarray) -> np.ndarray:
        """Return the query of each pair, int64 ``[n]``, or -1 if the user has no such position."""
        known = (users >= 1) & (positions >= 1) & (positions < self.step)
        wanted = np.where(known, users * self.step + positions, -1)
        place = np.searchsorted(self.keys, wanted).clip(max=len(self.keys) - 1)
        return np.where(self.keys[place] == wanted, self.queries[place], -1)
