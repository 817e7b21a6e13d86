"""FullCE: cross-entropy over the whole catalogue, with memory independent of the batch."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from recbole_kd.config.value_types import Positive
from recbole_kd.distiller.base import DistillBatch, Distiller
from recbole_kd.losses.catalogue_cross_entropy import full_cross_entropy, full_cross_entropy_of_rows
from recbole_kd.losses.cross_entropy import cross_entropy
from recbole_kd.ops.topk import blocks
from recbole_kd.scoring.base import StudentScores
from recbole_kd.teacher.base import TeacherScores
from recbole_kd.teacher.kept_rows import KeptRows


class FullCE(Distiller):
    r"""Cross-entropy over the whole catalogue (RCE-KD, Eq. 1 with J = I).

    :math:`L = \sum_{rows} L_{CE}(u; I)`, which bounds the full NDCG (Theorem 4.1). The published code (github
    woriazzc/RCEKD) has no class for it; its class ``KD`` with K equal to the size of the catalogue is the same loss.
    Score rows are computed for a block of queries at a time and not kept
    (:func:`recbole_kd.losses.catalogue_cross_entropy.full_cross_entropy`). If the student's score is not a dot product,
    the backward pass computes them again. One batch costs O(B I (d_T + 3 d_S)). If the base loss is a softmax over the
    catalogue, its score rows are reused and the cost is O(B I d_T). On a CPU the teacher's scores are computed once per
    query if all of them fit 1 GiB (:mod:`recbole_kd.teacher.kept_rows`); further epochs only read them.

    Args:
        temperature: softmax temperature of both models.
    """

    requires = frozenset({"full"})
    needs_set_scores = False

    def __init__(
        self, student: StudentScores, teacher: TeacherScores, *, temperature: Positive = 1.0, seed: int = 0
    ) -> None:
        super().__init__(student, teacher, seed=seed)
        self.temperature = temperature
        self._kept = KeptRows.of(teacher, student.device)

    def forward(self, batch: DistillBatch) -> Tensor:
        queries, weights, scorer = batch.queries, batch.weights, self.student_scorer
        known = scorer.known_rows(queries)
        if known is None and not scorer.has_vectors:
            slices = blocks(len(queries), scorer.n_items, queries.device)
            losses = [checkpoint(self._by_model, queries[rows], use_reentrant=False) for rows in slices]
            return self.reduce(torch.cat(losses), weights)

        if self._kept is not None:
            self._kept.compute(queries)

        def teacher(rows: slice) -> Tensor:
            if self._kept is not None:
                return self._kept.rows(queries[rows])
            return self.teacher_scores.full(queries[rows])[:, 1:]

        if known is not None:
            return self.reduce_total(full_cross_entropy_of_rows(*known, weights, teacher, self.temperature), weights)
        kept = None if self._kept is None else (self._kept.table, queries)
        vectors = scorer.query_vectors(queries), scorer.item_table()[1:]
        total = full_cross_entropy(*vectors, weights, teacher, self.temperature, kept)
        return self.reduce_total(total, weights)

    def _by_model(self, queries: Tensor) -> Tensor:
        """Return the loss of a block of queries, float ``[b]``, without the pad item.

        The backward pass calls it again.
        """
        student, teacher = (side.full(queries)[:, 1:] for side in (self.student_scorer, self.teacher_scores))
        return cross_entropy(student, teacher, None, self.temperature)
