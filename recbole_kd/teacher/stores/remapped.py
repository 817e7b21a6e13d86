"""A teacher with other query ids, for a sequential student's training rows."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from recbole_kd.errors import TeacherError
from recbole_kd.ops.ragged import Ragged
from recbole_kd.ops.topk import top_k_in_blocks
from recbole_kd.teacher.base import TeacherScores
from recbole_kd.teacher.stores.ensemble import SeveralTeachers
from recbole_kd.teacher.stores.lists import ListScores

N_USERS = "n_users"
"""Manifest key of a sequential teacher: the number of users, its first queries, with their whole training history."""


class MappedScores(TeacherScores):
    """The scores of a teacher for queries with other ids, without copies for repeated ids.

    Args:
        teacher: the scores.
        ids: int64 ``[n_queries]``, the teacher's id of each query.
    """

    store = "mapped"

    def __init__(self, teacher: TeacherScores, ids: Tensor) -> None:
        super().__init__(len(ids), teacher.n_items, teacher.manifest)
        self.store, self.complete = teacher.store, teacher.complete  # it costs the same to ask
        self.masks, self.has_confidence = teacher.masks, teacher.has_confidence
        self._teacher, self._ids = teacher, ids
        self.earlier = _mapped(teacher.earlier, ids)
        self.covered = None if teacher.covered is None else teacher.covered[ids.to(teacher.covered.device)]
        self.modalities = {name: MappedScores(scores, ids) for name, scores in teacher.modalities.items()}

    def _of(self, queries: Tensor) -> Tensor:
        self._ids = self._ids.to(queries.device)
        return self._ids[queries]

    @property
    def indexes(self) -> bool:
        return self._teacher.indexes

    def full(self, queries: Tensor) -> Tensor:
        return self._teacher.full(self._of(queries))

    def at(self, queries: Tensor, items: Tensor) -> Tensor:
        return self._teacher.at(self._of(queries), items)

    def confidence(self, queries: Tensor, items: Tensor) -> Tensor:
        return self._teacher.confidence(self._of(queries), items)

    def counted(self, queries: Tensor, items: Tensor) -> Tensor | None:
        return self._teacher.counted(self._of(queries), items)

    @torch.no_grad()
    def top_k(self, queries: Tensor, k: int, exclude: Ragged | None = None) -> tuple[Tensor, Tensor]:
        if exclude is not None:  # its rows belong to these queries, not to the teacher's
            return self._masked_top_k(queries, k, exclude)
        distinct, place = self._of(queries).unique(return_inverse=True)
        ids, scores = self._teacher.top_k(distinct, k)
        return ids[place], scores[place]

    def _masked_top_k(self, queries: Tensor, k: int, exclude: Ragged) -> tuple[Tensor, Tensor]:
        """Return the best items of queries without excluded items, by the teacher's index if any."""
        if isinstance(self._teacher, ListScores):
            return self._teacher.first(self._of(queries), k, exclude.of_rows(queries))
        index = getattr(self._teacher, "index", None)
        vectors = None if index is None else self.embeddings()
        if index is None or vectors is None:
            return top_k_in_blocks(self.full, queries, self.n_items, k, exclude)
        own, items = (table.to(queries.device) for table in vectors)
        found: tuple[Tensor, Tensor] = index.top_k(own, items, queries, k, exclude)
        index.close()
        return found

    def embeddings(self) -> tuple[Tensor, Tensor] | None:
        found = self._teacher.embeddings()
        return None if found is None else (found[0][self._ids.to(found[0].device)], found[1])


def _mapped(earlier: Callable[[], list[TeacherScores]] | None, ids: Tensor) -> Callable[[], list[TeacherScores]] | None:
    return None if earlier is None else lambda: [MappedScores(teacher, ids) for teacher in earlier()]


def asked_as(teacher: TeacherScores, users: Tensor, histories: Tensor) -> TeacherScores:
    """Return a teacher with the ids of a student's queries.

    Args:
        teacher: the scores.
        users: int64 ``[n_queries]``, the user of each query, for a general teacher.
        histories: int64 ``[n_queries]``, the id of each query in the universe (see :mod:`recbole_kd.scoring.scorer`),
            for a sequential teacher.

    Raises:
        TeacherError: the teacher has fewer queries.
    """
    if len(teacher.members) > 1:
        return SeveralTeachers([asked_as(member, users, histories) for member in teacher.members])
    ids = histories if N_USERS in teacher.manifest else users
    if len(ids) and int(ids.max()) >= teacher.n_queries:
        raise TeacherError(
            f"The teacher {teacher.name} answers about {teacher.n_queries} queries and the student asks about query "
            f"{int(ids.max())}: they were made on different data or filters"
        )
    mapped = MappedScores(teacher, ids)
    mapped.taught_by = None if teacher.taught_by is None else asked_as(teacher.taught_by, users, histories)
    return mapped
