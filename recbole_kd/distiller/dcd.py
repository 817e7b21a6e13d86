"""DCD: dual correction distillation, the user side."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Annotated, Any, Literal

import torch
from torch import Tensor

from recbole_kd.config.validation import invalid, try_value
from recbole_kd.config.value_types import AtMost, Count, ItemCount, Positive
from recbole_kd.distiller.base import DistillBatch, Distiller
from recbole_kd.distiller.student_listwise import listwise_total
from recbole_kd.losses.cross_entropy import cross_entropy
from recbole_kd.ops.order_statistics import counts_above
from recbole_kd.ops.ragged import Ragged
from recbole_kd.ops.sampling import sample_without_replacement
from recbole_kd.ops.topk import blocks, in_blocks, strike_out
from recbole_kd.scoring.base import StudentScores
from recbole_kd.teacher.base import TeacherScores

LEAST_WEIGHT = 1e-5
"""Weight of an item that is not mis-estimated, so that there are always enough items to draw."""

SATURATION = 9.2
"""tanh(SATURATION) is 1 in float32: a rank error beyond SATURATION * T has the same weight and need not be exact."""


class DCD(Distiller):
    r"""Dual correction distillation of under- and over-estimated items (Lee & Kim, CIKM 2021).

    With t_k the teacher's k-th item and :math:`d_k = rank_S(t_k) - k`, each epoch draws from the teacher's best
    ``candidates`` without replacement: K under-estimated items with weights :math:`\tanh(\max(d_k/T, 0))` and K
    over-estimated ones with weights :math:`\tanh(\max(-d_k/T, 0))`, both at least 1e-5. The loss is that of RRD, with
    the under-estimated items as the interesting ones and the over-estimated items as the uninteresting ones. Each
    distinct user of a batch counts once.

    The source is the published code (github woriazzc/RCEKD, modeling/KD/baseline.py, class DCD), which has the user
    side only, like this class. Three details there look like slips; set the named option to False to get them back:

    - ``sort``: the list is in the order of the draw, not in the teacher's;
    - ``mask_student``: training items are left out of the teacher's list but not of the student's ranking, where they
      raise every d;
    - ``disjoint``: an item can be drawn on both sides.

    Args:
        k: K, items drawn on each side.
        candidates: length of the teacher's list (dcd_mxK).
        tau: T.
        loss: ``relaxed``, or ``ce`` on both samples together (the ablation flag of the code).
        temperature: softmax temperature of that cross-entropy.
    """

    in_threads = True
    mask_train = True
    weight_ratio = 0.2

    def __init__(
        self,
        student: StudentScores,
        teacher: TeacherScores,
        *,
        k: Annotated[Count, AtMost("candidates")] = 100,
        candidates: ItemCount = 500,
        tau: Positive = 10.0,
        sort: bool = True,
        mask_student: bool = True,
        disjoint: bool = True,
        loss: Literal["relaxed", "ce"] = "relaxed",
        temperature: Positive = 1.0,
        seed: int = 0,
    ) -> None:
        super().__init__(student, teacher, seed=seed)
        self.k, self.candidates, self.tau, self.temperature = k, candidates, tau, temperature
        self.sort, self.mask_student, self.disjoint, self.loss = sort, mask_student, disjoint, loss
        self.needs_set_scores = loss == "ce"
        self.depth = min(student.n_items - 1, candidates + math.ceil(SATURATION * tau))
        self._listed = torch.empty(0, dtype=torch.int64)

    @classmethod
    def check(cls, n_queries: int, n_items: int, options: Mapping[str, Any]) -> None:
        if options["disjoint"] and 2 * options["k"] > options["candidates"]:
            reason = (
                "kd_disjoint=True draws two samples of kd_k items that do not overlap, which requires "
                f"kd_candidates >= 2 * kd_k, and kd_candidates is {options['candidates']}"
            )
            raise invalid("kd_k", options["k"], reason, try_value("kd_k", options["candidates"] // 2))

    @classmethod
    def idle(cls, options: Mapping[str, Any]) -> Mapping[str, str]:
        return {} if options["loss"] == "ce" else {"temperature": f"kd_loss={options['loss']}"}

    def begin_training(self, train_items: Ragged) -> None:
        super().begin_training(train_items)
        self._listed = self.teacher_scores.top_k(self.all_queries(), self.candidates, self.train_items)[0]

    def draw_item_sets(self, epoch: int) -> None:
        place = torch.arange(self.candidates, device=self._listed.device)
        off = (self._student_ranks() - place) / self.tau
        listed = self._listed > 0
        under, too_low = self._draw(off, listed)
        over, _ = self._draw(-off, listed.scatter(1, too_low, False) if self.disjoint else listed)
        self.item_sets = {"under": under, "over": over}

    def _draw(self, off: Tensor, candidates: Tensor) -> tuple[Tensor, Tensor]:
        """Draw one side without replacement and return ids and ranks, int64 ``[U, K]`` each.

        Args:
            off: float ``[U, candidates]``, rank error over T.
            candidates: bool ``[U, candidates]``, whether an item can be drawn.
        """
        log_weights = torch.tanh(off).clamp_(min=LEAST_WEIGHT).log_().masked_fill_(~candidates, -torch.inf)
        places = sample_without_replacement(log_weights, self.k, self.generator)
        if self.sort:
            places = places.sort(dim=1).values
        return self._listed.gather(1, places).masked_fill_(~candidates.gather(1, places), 0), places

    @torch.no_grad()
    def _student_ranks(self) -> Tensor:
        """Return how many items the student scores above each item of the teacher's list.

        Returns:
            int64 ``[U, candidates]``, cut at ``depth``.
        """
        queries, scorer = self.all_queries(), self.student_scorer
        ranks = torch.empty_like(self._listed)
        with scorer.frozen():
            full = scorer.catalogue()

            def count(rows: slice) -> None:
                scores = full(queries[rows])
                strike_out(scores, queries[rows], self.train_items if self.mask_student else None)
                ranks[rows] = counts_above(scores, self._listed[rows], self.depth)

            in_blocks(count, blocks(len(queries), scorer.n_items, queries.device), queries.device, scorer.has_vectors)
        return ranks

    def forward(self, batch: DistillBatch) -> Tensor:
        under, over = batch.sets["under"], batch.sets["over"]
        if self.loss != "ce":
            of_queries = self.distinct_weights(batch.weights)
            total = listwise_total(self.student_scorer, batch.queries, under, over, of_queries=of_queries)
            return self.reduce_total(total, batch.weights)
        ids, teacher = torch.cat([under.ids, over.ids], dim=1), torch.cat([under.teacher, over.teacher], dim=1)
        loss = cross_entropy(self.student_scorer.at(batch.queries, ids), teacher, ids > 0, self.temperature)
        return self.reduce_distinct(loss, batch.weights)
