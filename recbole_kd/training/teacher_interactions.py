"""RecBole's training batches with the teacher's ranked lists as additional columns."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from recbole.data.interaction import Interaction
from torch import Tensor

from recbole_kd.config.argument_kinds import LOADER, PATH, takes
from recbole_kd.data.histories.recbole_rows import query_field, sequence_queries
from recbole_kd.data.vectorised_batches import batches_of
from recbole_kd.errors import ConfigError, TeacherError
from recbole_kd.ops.topk import blocks
from recbole_kd.teacher.base import TEACHER, TeacherScores
from recbole_kd.teacher.load import load_teacher
from recbole_kd.teacher.stores.remapped import N_USERS, asked_as
from recbole_kd.training.teacher_loader import check_teacher_of

TEACHER_ITEMS, TEACHER_SCORES = "teacher_items", "teacher_scores"
"""Columns of a batch: item ids, int64 ``[B, k]``, best first, and the teacher's scores of them, float32 ``[B, k]``."""

KEPT_BYTES = 2**28
"""Up to this size the lists of all queries are computed once and kept; larger ones are computed batch by batch."""


@takes(train_data=LOADER, teacher=TEACHER.or_else(PATH))
def teacher_loader(train_data: Any, teacher: TeacherScores | str | Path, k: int = 50) -> TeacherListLoader:
    """Return a loader that yields RecBole's training batches with the teacher's k best items.

    Each batch is a RecBole ``Interaction`` of B rows, the same rows from the same random numbers as ``train_data``
    yields. It has two more columns, both on the CPU. ``teacher_items``, int64 ``[B, k]``, holds the ids of the items
    that the teacher ranks highest for the row's user, best first. ``teacher_scores``, float32 ``[B, k]``, holds their
    scores. For a sequential student a sequential teacher ranks for the row's history, and a general teacher for the
    row's user. Items of the user's history are not left out. The pad, user 0, which the per-user loaders list, has
    zeros. Everything else (length, ``get_model``, the data set) comes from ``train_data``, so RecBole's ``Trainer.fit``
    accepts the loader.

    Args:
        train_data: a training loader of RecBole's ``data_preparation``, or of ours.
        teacher: its scores (:func:`recbole_kd.load_teacher`), or the path of a saved teacher.
        k: length of the lists, from 1 to the number of items.

    Raises:
        ConfigError: k is out of range.
        TeacherError: the teacher was made on other data.
    """
    scores = teacher if isinstance(teacher, TeacherScores) else load_teacher(teacher, train_data)
    n_items = scores.n_items - 1
    if isinstance(k, bool) or not isinstance(k, int) or not 1 <= k <= n_items:
        raise ConfigError(
            f"Invalid k={k!r}: expected an integer from 1 to {n_items} (the number of items). Try k={min(50, n_items)}."
        )
    check_teacher_of(scores, train_data)
    return TeacherListLoader(train_data, asked_about(train_data, scores), k)


def asked_about(train_data: Any, teacher: TeacherScores) -> TeacherScores:
    """Return the teacher with the query ids of some training data.

    See :mod:`recbole_kd.scoring.scorer`.

    Raises:
        TeacherError: teacher and data have different numbers of queries or items.
    """
    dataset = getattr(train_data, "_dataset", train_data)
    queries = sequence_queries(dataset)
    if queries is not None:
        users, histories = queries.training_rows().users, queries.query_ids
        n_queries = len(users)
    else:
        users = histories = torch.arange(dataset.user_num)
        n_queries = int(dataset.user_num)
    if queries is not None or any(N_USERS in member.manifest for member in teacher.members):
        teacher = asked_as(teacher, users, histories)
    if (teacher.n_queries, teacher.n_items) != (n_queries, int(dataset.item_num)):
        raise TeacherError(
            f"The teacher {teacher.name} answers about {teacher.n_queries - 1} queries and {teacher.n_items - 1} "
            f"items, the training data have {n_queries - 1} and {int(dataset.item_num) - 1}: they were made on "
            "different data or filters"
        )
    return teacher


class TeacherListLoader:
    """The loader that :func:`teacher_loader` returns.

    Args:
        loader: RecBole's loader.
        teacher: the scores, with the query ids of the loader.
        k: length of the lists.
    """

    def __init__(self, loader: Any, teacher: TeacherScores, k: int) -> None:
        self.loader = loader
        self.teacher = teacher
        self.k = k
        self._query_field = query_field(loader)
        self._lists: tuple[Tensor, Tensor] | None = None

    def __len__(self) -> int:
        return len(self.loader)

    def __getattr__(self, name: str) -> Any:
        if name == "loader":  # unpickling asks for it before it is set
            raise AttributeError(name)
        return getattr(self.loader, name)

    def __iter__(self) -> Iterator[Interaction]:
        for interaction in batches_of(self.loader):
            items, scores = self._lists_of(interaction[self._query_field])
            yield Interaction({**interaction.interaction, TEACHER_ITEMS: items, TEACHER_SCORES: scores})

    def _lists_of(self, queries: Tensor) -> tuple[Tensor, Tensor]:
        """Return ids and scores, ``[B, k]`` each, for int64 ``[B]`` queries."""
        if self._lists is None and 12 * self.k * self.teacher.n_queries <= KEPT_BYTES:
            self._lists = self._asked(torch.arange(self.teacher.n_queries))
        if self._lists is not None:
            return self._lists[0][queries], self._lists[1][queries]
        distinct, place = queries.unique(return_inverse=True)
        items, scores = self._asked(distinct)
        return items[place], scores[place]

    def _asked(self, queries: Tensor) -> tuple[Tensor, Tensor]:
        """Compute the teacher's lists of distinct queries, block by block."""
        items = torch.zeros(len(queries), self.k, dtype=torch.int64)
        scores = torch.zeros(len(queries), self.k)
        for rows in blocks(len(queries), self.teacher.n_items, queries.device):
            found = self.teacher.top_k(queries[rows], self.k)
            items[rows], scores[rows] = (part.cpu() for part in found)
        pad = queries == 0
        items[pad], scores[pad] = 0, 0.0
        return items, scores
