"""The teacher-aware loader: RecBole's training batches with the teacher's scores."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import torch
from recbole.data.interaction import Interaction
from torch import Tensor

from recbole_kd.data.histories.recbole_rows import query_field
from recbole_kd.data.recbole_split import fingerprint_of
from recbole_kd.data.vectorised_batches import batches_of
from recbole_kd.distiller.base import DistillBatch, Distiller
from recbole_kd.distiller.set_scores import SetScores
from recbole_kd.distributed.batch_shard import BatchShard, ShardInteraction, shard_of
from recbole_kd.distributed.loss_terms import terms_of_rows
from recbole_kd.teacher.base import TeacherScores


class KDInteraction(ShardInteraction):
    """An Interaction that carries a DistillBatch through ``to(device)``."""

    kd: DistillBatch

    @classmethod
    def attach(cls, interaction: Interaction, kd: DistillBatch) -> KDInteraction:
        result = cls(interaction.interaction)
        result.kd, result.shard = kd, shard_of(interaction)
        return result

    def to(self, device: Any, selected_field: Any = None) -> KDInteraction:
        return KDInteraction.attach(super().to(device, selected_field), self.kd.to(torch.device(device)))


def check_teacher_of(teacher: TeacherScores, train_data: Any) -> None:
    """Refuse a teacher that was made on another split than the training data (TeacherError).

    Of several teachers each is checked.
    """
    for member in teacher.members:
        own = member.manifest.get("data")
        if own is not None:
            member.check_data(fingerprint_of(train_data, histories="histories" in own))


class TeacherAwareLoader:
    """A RecBole training loader whose batches are yielded as :class:`KDInteraction`.

    Its item sets are scored by :class:`recbole_kd.distiller.set_scores.SetScores`.

    Args:
        loader: any RecBole training loader (pairwise, pointwise, or per user).
        distiller: :meth:`ask_teacher` reads its ``item_sets``.
        teacher: the scores.
    """

    def __init__(self, loader: Any, distiller: Distiller, teacher: TeacherScores) -> None:
        self.loader = loader
        self.distiller = distiller
        self.teacher = teacher
        self._query_field = query_field(loader)
        self._by_user = getattr(loader._dataset, "user_rows", None) is not None
        self._item_field = getattr(loader._dataset, "iid_field", None)
        self._sets = SetScores(distiller, teacher)

    def __len__(self) -> int:
        return len(self.loader)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.loader, name)

    def __iter__(self) -> Iterator[KDInteraction]:
        for interaction in batches_of(self.loader):
            yield KDInteraction.attach(interaction, self.batch_for(interaction))

    def batch_for(self, interaction: Interaction) -> DistillBatch:
        """Return the distillation batch for a training batch of the loader."""
        queries, shard = interaction[self._query_field], shard_of(interaction)
        items = self._items_of(interaction, queries) if self.distiller.needs_items else ()
        positives, negatives, owners = (*items, None, None, None)[:3]
        batch = self.batch_of(queries, positives, negatives, owners, self._terms_of(interaction))
        return batch if shard is None else self._in_whole(batch, shard)

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
            rows: int64 ``[B]``, the queries as the loader yields them.
            positives, negatives: int64, the items of these rows, for a distiller that needs them.
            owners: int64, the query of each positive. If None, each row has one positive.
            terms: int64 ``[B]``, the weight of each row. None means 1.
        """
        queries = self._positive_rows(rows)
        owners = queries if positives is not None and owners is None else owners
        terms = None if terms is None else self._positive_rows(terms)
        return self._sets.batch_of(queries, positives, negatives, owners, terms)

    def _terms_of(self, interaction: Interaction) -> Tensor | None:
        """Return how many terms of the student's own loss each row has; None if each has one."""
        model = getattr(self.distiller.student_scorer, "model", None)
        if self.distiller.weight_scale != "rows" or model is None or not hasattr(model, "terms_of_rows"):
            return None
        return terms_of_rows(model, interaction).to(interaction[self._query_field].device)

    def _in_whole(self, batch: DistillBatch, shard: BatchShard) -> DistillBatch:
        """Return the batch of a shard, with its share of the whole batch."""
        rows = self._positive_rows(shard.whole[self._query_field])
        terms = self._terms_of(shard.whole)
        n_terms = int((rows != 0).sum() if terms is None else self._positive_rows(terms)[rows != 0].sum())
        rows = rows[rows != 0]
        share = float(batch.weights.sum()) / n_terms if shard.counts and n_terms else 0.0
        return replace(batch, share=share, whole_rows_per_query=n_terms / max(1, len(rows.unique())))

    def _positive_rows(self, rows: Tensor) -> Tensor:
        """Return the rows without the repetitions of negative sampling.

        Negative sampling repeats every row: once more per negative for a pointwise model, once per negative for a
        pairwise one.
        """
        times = getattr(self.loader, "times", 1)
        return rows[: len(rows) // times]

    def _items_of(self, interaction: Interaction, queries: Tensor) -> tuple[Tensor | None, ...]:
        """Return the positive and negative items of a batch.

        A pairwise loader has a column of negatives. A pointwise loader appends them as further rows. A model that
        trains by
        user learns from all items of a history at once: these are the positives, and their queries are the third value.
        """
        n_rows = len(queries)
        if self._by_user and self.distiller.train_items is not None:
            seen = self.distiller.train_items
            place, items = seen.pairs(queries.to(seen.items.device))
            return items, None, queries.to(place.device)[place]
        if self._item_field not in interaction:  # the per-user loader
            return ()
        items = interaction[self._item_field]
        n_positive = n_rows // getattr(self.loader, "times", 1)
        column = getattr(self.loader, "neg_item_id", None)
        if column is not None and column in interaction:
            return items[:n_positive], interaction[column]
        return items[:n_positive], items[n_positive:] if n_positive < n_rows else None

    def let_go(self) -> None:
        """Free the sets that are about to be redrawn."""
        self._sets.let_go()

    def ask_teacher(self) -> None:
        """Compute the teacher's scores of the current item sets, at the start of each epoch."""
        self._sets.ask_teacher()
