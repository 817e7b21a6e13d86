"""CD: collaborative distillation with soft targets on ranking-based samples."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Annotated, Any, Literal

import torch
from torch import Tensor

from recbole_kd.config.value_types import AtMost, Count, ItemCount, Number, Positive
from recbole_kd.distiller.base import DistillBatch, Distiller
from recbole_kd.losses.ranking import soft_binary_loss
from recbole_kd.ops.order_statistics import ids_at
from recbole_kd.ops.ragged import Ragged
from recbole_kd.ops.sampling import draw_better_positions
from recbole_kd.ops.topk import DotProducts, blocks, in_blocks, strike_out
from recbole_kd.scoring.base import StudentScores
from recbole_kd.teacher.base import TeacherScores


class CD(Distiller):
    r"""Collaborative distillation: soft targets on ranking-based samples.

    Lee et al., ICDM 2019. Each epoch draws from the student's best n items without training items: two ranks from
    :math:`P(k) \propto e^{-k/(nT)}, k = 1..n`, of which the better is kept, until there are ``n_samples`` items. The
    loss on them is

    .. math:: L = -\sum_{rows} \sum_j q_j \log \sigma(r^S_j) + (1 - q_j) \log(1 - \sigma(r^S_j)), \quad q_j =
    \sigma((r^T_j + t_2)/t_1)

    The source is the published RCE-KD code (github woriazzc/RCEKD, modeling/KD/baseline.py, class CD). There the
    samples are meant to be distinct but may repeat, and log(s + 1e-10) saturates. Here they are distinct, and the loss
    is computed from the logits.

    Args:
        n_samples: items drawn per user (cd_n_distill). A user with fewer items left gets all of them.
        candidates: n, length of the list (cd_sample_num). It is cut to the catalogue, and per user to the items left.
        tau: T of the sampling, relative to the length of the list.
        t1, t2: parameters of the soft target.
        guide: ``student`` draws from the student's list each epoch; ``teacher`` draws once from the teacher's list, as
            published.
    """

    requires = frozenset({"full"})
    in_threads = True
    mask_train = True

    def __init__(
        self,
        student: StudentScores,
        teacher: TeacherScores,
        *,
        n_samples: Annotated[ItemCount, AtMost("candidates")] = 2,
        candidates: Count = 3000,
        tau: Positive = 20.0,
        t1: Positive = 2.0,
        t2: Number = 0.0,
        guide: Literal["student", "teacher"] = "student",
        seed: int = 0,
    ) -> None:
        super().__init__(student, teacher, seed=seed)
        self.n_samples, self.guide, self.t1, self.t2 = n_samples, guide, t1, t2
        self.candidates = min(candidates, student.n_items - 1)
        self.tau = tau * self.candidates

    @classmethod
    def draws(cls, options: Mapping[str, Any]) -> bool:
        return bool(options["guide"] == "student")

    def begin_training(self, train_items: Ragged) -> None:
        super().begin_training(train_items)
        if self.guide == "teacher":
            self._draw(self.teacher_scores.full)

    def draw_item_sets(self, epoch: int) -> None:
        if self.guide == "student":
            with self.student_scorer.frozen():
                self._draw(self.student_scorer.catalogue())

    @torch.no_grad()
    def _draw(self, full: Callable[[Tensor], Tensor]) -> None:
        assert self.train_items is not None, "begin_training comes first"
        queries, n_items = self.all_queries(), self.student_scorer.n_items
        lengths = (n_items - 1 - self.train_items.counts()).clamp(max=self.candidates)
        places = draw_better_positions(lengths, self.n_samples, self.tau, self.generator)
        drawn = torch.empty_like(places)

        def look_up(rows: slice) -> None:
            scores = full(queries[rows])
            strike_out(scores, queries[rows], self.train_items)
            drawn[rows] = ids_at(scores, places[rows])

        in_blocks(look_up, blocks(len(queries), n_items, queries.device), queries.device, isinstance(full, DotProducts))
        self.item_sets = {"drawn": drawn}

    def forward(self, batch: DistillBatch) -> Tensor:
        drawn = batch.sets["drawn"]
        student = self.student_scorer.at(batch.queries, drawn.ids)
        return self.reduce(soft_binary_loss(student, drawn.teacher, drawn.ids > 0, self.t1, self.t2), batch.weights)
