"""A teacher's scores of all items, computed once per query and kept."""

from __future__ import annotations

import torch
from torch import Tensor

from recbole_kd.teacher.base import TeacherScores

KEPT_BYTES = 2**30
"""Memory budget of the scores that are kept, in bytes. A larger table is not kept."""

QUERIES_AT_ONCE = 256
"""Queries that are scored at a time: a matrix product of few rows spends most of its time on laying out the items."""


class KeptRows:
    """The scores of a teacher whose rows cost more to compute than to read, in float32.

    Args:
        teacher: the scores.
        device: that of the queries.
    """

    def __init__(self, teacher: TeacherScores, device: torch.device) -> None:
        self.teacher = teacher
        self._known = torch.zeros(teacher.n_queries, dtype=torch.bool, device=device)
        self._scores: Tensor | None = None  # of all queries, from the first row on

    @classmethod
    def of(cls, teacher: TeacherScores, device: torch.device) -> KeptRows | None:
        """Return the kept scores, or None if they would exceed the budget, or are in memory already."""
        fits = 4 * teacher.n_queries * (teacher.n_items - 1) <= KEPT_BYTES
        return cls(teacher, device) if fits and device.type == "cpu" and teacher.store != "dense" else None

    def compute(self, queries: Tensor) -> None:
        """Compute the rows of those queries that are not known yet: int64 ``[Q]``."""
        if self._scores is None:
            self._scores = torch.empty(self.teacher.n_queries, self.teacher.n_items - 1, device=queries.device)
        for some in queries[~self._known[queries]].split(QUERIES_AT_ONCE):
            self._scores[some] = self.teacher.full(some)[:, 1:]
            self._known[some] = True

    @property
    def table(self) -> Tensor:
        """The scores of all queries, float32 ``[n_queries, n_items - 1]``; rows not computed hold anything."""
        assert self._scores is not None, "compute() comes first"
        return self._scores

    def rows(self, queries: Tensor) -> Tensor:
        """Return the scores without the pad item's: int64 ``[b]`` -> float32 ``[b, n_items - 1]``.

        The queries must have been given to :meth:`compute`.
        """
        return self.table[queries]
