"""FreqD: distillation of low frequencies on the co-occurrence graph."""

from __future__ import annotations

from typing import Annotated, Literal

import numpy as np
import scipy.sparse as sp
import torch
from annotated_types import Ge, Le
from torch import Tensor

from recbole_kd.config.value_types import Count, Number, Share
from recbole_kd.distiller.base import DistillBatch
from recbole_kd.distiller.embedding_base import SIDES, EmbeddingDistiller, Side
from recbole_kd.distiller.graph_filtered_experts import FilteredExperts, FilterRows
from recbole_kd.errors import ConfigError
from recbole_kd.losses.embedding import kept_at_random, unit_rows
from recbole_kd.ops.cooccurrence_graph import WeightedGraph, nearest_neighbours, normalised_graph
from recbole_kd.ops.ragged import Ragged
from recbole_kd.scoring.base import StudentScores
from recbole_kd.teacher.base import TeacherScores


class FreqD(EmbeddingDistiller):
    r"""FreqD: the student's vectors match the teacher's in low graph frequencies.

    Zhu & Zhang, arXiv 2411.10676. Users are neighbours if they share items, and items if they share users. Each entity
    keeps the ``n_neighbours`` that share most. The edges are made symmetric and normalised by degrees, which gives A.
    The filter :math:`H = (1 - a) I + a A` damps high frequencies of that graph. For the distinct entities e of a batch,
    :math:`L = \sum_e 1 - \cos((H P(S))_e, (H T)_e)`: users, plus half of positives and half of negatives. P is the mean
    of E two-layer networks. S are the student's own tables, before any propagation.

    The source is the published class FreqD (github woriazzc/KDs), with these differences. Only entities that share
    something are neighbours (there, a row with fewer than n such entities is filled with others, and a tie can drop a
    neighbour instead of the entity itself). Edges are drawn, and vectors projected, only for the batch's entities and
    their neighbours, which is the same loss. This is done once for positives and negatives together, which has the same
    expectation. Edges and units are dropped in training mode only.

    Args:
        n_neighbours: n.
        filter_strength: a.
        keep: share of edges kept at each call. Kept edges are scaled up by 1/keep.
        n_experts: E.
        dropout: share of inputs and hidden units dropped in P.
        distance: ``cosine``, or ``squared`` for the squared distance.
    """

    def __init__(
        self,
        student: StudentScores,
        teacher: TeacherScores,
        *,
        n_neighbours: Count = 5,
        filter_strength: Share = 0.5,
        keep: Annotated[Number, Ge(1e-4), Le(1)] = 0.5,
        n_experts: Count = 5,
        dropout: Annotated[Number, Ge(0), Le(0.99)] = 0.2,
        distance: Literal["cosine", "squared"] = "cosine",
        seed: int = 0,
    ) -> None:
        super().__init__(student, teacher, seed=seed)
        self.n_neighbours, self.strength, self.keep, self.distance = n_neighbours, filter_strength, keep, distance
        try:
            width = student.ego_tables()[0].shape[1]
        except ConfigError as error:
            raise _not_its_own(str(error)) from None
        start = torch.Generator().manual_seed(seed)
        user, item = (FilteredExperts(n_experts, width, self.teacher_width, dropout, start) for _ in SIDES)
        self.user_projector, self.item_projector = user.to(student.device), item.to(student.device)
        self.graphs: dict[Side, WeightedGraph] = {}

    @classmethod
    def check_student(cls, model: type) -> None:
        from recbole_kd.scoring.vector_models import encoder_of, no_tables  # here: a method itself needs no RecBole

        super().check_student(model)
        if encoder_of(model) is not None:
            raise _not_its_own(no_tables(model))

    def begin_training(self, train_items: Ragged) -> None:
        super().begin_training(train_items)
        items, starts = (part.cpu().numpy() for part in (train_items.items, train_items.starts))
        shape = (len(starts) - 1, self.student_scorer.n_items)
        users_by_items = sp.csr_matrix((np.ones(len(items), dtype=np.int32), items, starts), shape=shape)
        matrices: tuple[tuple[Side, sp.csr_matrix], ...] = (
            ("users", users_by_items),
            ("items", users_by_items.T.tocsr()),
        )
        for side, matrix in matrices:
            rows, columns = nearest_neighbours(matrix, self.n_neighbours)
            graph = normalised_graph(rows, columns, matrix.shape[0])
            self.graphs[side] = WeightedGraph.from_matrix(graph).to(self.student_scorer.device)

    def total(self, batch: DistillBatch) -> Tensor:
        positives, negatives = self.positives(batch), self.negatives(batch)
        items, place = torch.cat([positives, negatives]).unique(return_inverse=True)
        halves = torch.zeros(len(items), device=items.device).index_add(
            0, place, torch.full(place.shape, 0.5, device=items.device)
        )
        return self._distances("users", batch.queries).sum() + (self._distances("items", items) * halves).sum()

    def kept_edges(self, side: Side, rows: Tensor, columns: Tensor) -> Tensor:
        """Draw the edges that stay in this call: int64 ``[m]`` ids of both ends -> bool ``[m]``."""
        return kept_at_random((len(rows),), self.keep, self.generator)

    def _distances(self, side: Side, ids: Tensor) -> Tensor:
        """Return the distance of each entity: int64 ``[n]`` -> float ``[n]``."""
        columns, weights, starts = self._filter_rows(side, ids)
        table = self.student_scorer.ego_tables()[SIDES.index(side)]
        needed, local = columns.unique(return_inverse=True)
        projector = self.user_projector if side == "users" else self.item_projector
        own = projector(table[needed].float(), FilterRows(local, weights, starts), self.generator)
        other = FilterRows(columns, weights, starts).times(self.teacher_vectors[side])
        if self.distance == "squared":
            return (own - other).square().sum(dim=1)
        return 1 - (unit_rows(own) * unit_rows(other)).sum(dim=1)

    def _filter_rows(self, side: Side, ids: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return rows of H, concatenated.

        Returns:
            columns int64 ``[m]``, weights float32 ``[m]``, first entry of each row int64 ``[n]``.
        """
        position, columns, values = self.graphs[side].edges(ids)
        if self.training and self.keep < 1:
            kept = self.kept_edges(side, ids[position], columns)
            position, columns, values = position[kept], columns[kept], values[kept] / self.keep
        own = torch.arange(len(ids), device=ids.device)
        position, order = torch.cat([own, position]).sort(stable=True)
        weights = torch.cat([values.new_full((len(ids),), 1 - self.strength), values * self.strength])[order]
        sizes = torch.bincount(position, minlength=len(ids))
        return torch.cat([ids, columns])[order], weights, sizes.cumsum(0) - sizes


def _not_its_own(why: str) -> ConfigError:
    return ConfigError(f"FreqD filters the student's own tables: {why}; take MF or LightGCN")
