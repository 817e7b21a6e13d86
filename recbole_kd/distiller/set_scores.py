"""The teacher's scores of a distiller's item sets, and the batches made of them."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from recbole_kd.distiller.base import DistillBatch, Distiller, ItemSet
from recbole_kd.ops.topk import blocks
from recbole_kd.teacher.base import TeacherScores

COUNTED_PER_ROW = 64
"""Up to this many queries a row of a batch, a table of counts is faster than a sort of the rows."""


class SetScores:
    """Scores of item sets, computed once per epoch and query and not once per row of every batch.

    A set that the distiller kept is not scored again.

    Args:
        distiller: :meth:`ask_teacher` reads its ``item_sets``.
        teacher: the scores.
    """

    def __init__(self, distiller: Distiller, teacher: TeacherScores) -> None:
        self.distiller, self.teacher = distiller, teacher
        self._asked: dict[str, tuple[Tensor, Tensor]] = {}

    def let_go(self) -> None:
        """Free the sets that are about to be redrawn, so that old and new are not both in memory."""
        for name in self.distiller.drawn_sets:
            self._asked.pop(name, None)

    def ask_teacher(self) -> None:
        """Compute the teacher's scores of the current item sets, at the start of each epoch."""
        asked: dict[str, tuple[Tensor, Tensor]] = {}
        for name, ids in self.distiller.item_sets.items():
            known = self._asked.get(name)
            asked[name] = known if known is not None and known[0] is ids else (ids, self._scores_of(ids))
        self._asked = asked

    def _scores_of(self, ids: Tensor) -> Tensor:
        if not self.distiller.needs_set_scores:
            return torch.empty(len(ids), 0, device=ids.device)
        sharing, n = self.distiller.student_scorer.sharing, len(ids)
        own = slice(0, n) if sharing is None else sharing.slice_of(n)
        queries, mine = torch.arange(own.start, own.stop, device=ids.device), ids[own]
        width = self.teacher.n_items if self.teacher.store != "factors" else 8 * ids.shape[1]
        parts = [self.teacher.at(queries[rows], mine[rows]) for rows in blocks(len(mine), width, ids.device)]
        scores = torch.cat([torch.empty(0, ids.shape[1], device=ids.device), *parts])
        return scores if sharing is None else sharing.gather(scores, n)

    def batch_of(
        self,
        rows: Tensor,
        positives: Tensor | None = None,
        negatives: Tensor | None = None,
        owners: Tensor | None = None,
        terms: Tensor | None = None,
    ) -> DistillBatch:
        """Return the distillation batch for the rows of a training batch.

        Args:
            rows: int64 ``[B]``, the query of each row; 0 is left out. Queries that the teacher does not cover have no
                KD term.
            positives, negatives: int64, the items of these rows, for a distiller that needs them.
            owners: int64, the query of each positive. None if there are no positives.
            terms: int64 ``[B]``, the weight of each row. None means 1.
        """
        queries, counts = self._distinct(rows) if terms is None else _sums(rows, terms)
        real = queries != 0  # the per-user loader lists the pad
        queries, counts = queries[real], counts[real]
        n_rows, n_queries = int(counts.sum()), len(queries)
        queries, counts = self._covered(queries, counts)
        at = queries.to(self.distiller.student_scorer.device)
        sets = {name: ItemSet(ids, scores, at) for name, (ids, scores) in self._asked.items()}
        positives, negatives, owners = (
            None if ids is None else ids.to(at.device) for ids in (positives, negatives, owners)
        )
        batch = DistillBatch(at, counts.to(at.device, torch.float32), sets, positives, negatives, owners)
        if len(queries) == n_queries:
            return batch
        return replace(batch, share=int(counts.sum()) / max(1, n_rows), whole_rows_per_query=n_rows / n_queries)

    def _distinct(self, rows: Tensor) -> tuple[Tensor, Tensor]:
        """Return the distinct queries of some rows, ascending, with their counts."""
        n_queries = self.distiller.student_scorer.n_queries
        if rows.device.type != "cpu" or n_queries > COUNTED_PER_ROW * len(rows):
            return torch.unique(rows, return_counts=True)
        counts = torch.bincount(rows, minlength=n_queries)  # without the sort of torch.unique
        queries = counts.nonzero().squeeze(1)
        return queries, counts[queries]

    def _covered(self, queries: Tensor, counts: Tensor) -> tuple[Tensor, Tensor]:
        """Return the queries that the teacher knows, with their counts. The others have no KD term."""
        if self.teacher.covered is None:
            return queries, counts
        known = self.teacher.covered.to(queries.device)[queries]
        return queries[known], counts[known]


def _sums(rows: Tensor, terms: Tensor) -> tuple[Tensor, Tensor]:
    """Return the distinct queries of some rows, ascending, with the sums of their terms."""
    queries, place = torch.unique(rows, return_inverse=True)
    return queries, terms.new_zeros(len(queries)).index_add_(0, place, terms)
