"""PCKD: preference-consistent knowledge distillation."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from recbole_kd.config.validation import invalid, try_value
from recbole_kd.config.value_types import AtMost, Count, ItemCount, NonNegative, Positive
from recbole_kd.distiller.base import DistillBatch
from recbole_kd.distiller.de import DE
from recbole_kd.distiller.embedding_base import AnnealFactor, EndTemperature
from recbole_kd.losses.cross_entropy import cross_entropy
from recbole_kd.ops.gathered_dot import gathered_dot
from recbole_kd.ops.ragged import Ragged
from recbole_kd.ops.sampling import sample_without_replacement
from recbole_kd.scoring.base import StudentScores
from recbole_kd.teacher.base import TeacherScores


class PCKD(DE):
    r"""PCKD: DE whose projections must keep the student's own preferences.

    Zhu & Zhang, arXiv 2311.04549. :math:`L = L_{DE} + \alpha L_{reg}`. Each epoch draws ``n_samples`` items per user
    from the guide's top ``candidates`` without replacement, training items included. Rank k has a probability
    proportional to :math:`\exp(-k/\tau)`. L_reg has two forms:

    - ``list``: cross-entropy between the student's scores of these items (the target) and the scores of the projected
      vectors, at softmax temperature ``temperature``;
    - ``pair``: :math:`-\log\sigma((f_1 - f_2)(p_1 - p_2))` of the first two items, with f the projected and p the
      unprojected scores.

    Student vectors are constants in L_reg, so it moves the experts only. L_reg is a sum over the batch's rows and L_DE
    a sum over its distinct entities, both as published (class CPD of github woriazzc/KDs).

    In the published code every row and every listed item draws its own Gumbel noise. Here a user and an item draw once
    per batch, which has the same expectation. The paper's hybrid of both forms has no published formula and is left
    out.

    Args:
        alpha: weight of L_reg.
        regulariser: ``list`` or ``pair``.
        guide: the model whose ranking is sampled. The student's ranking is computed anew each epoch.
        n_samples: |Q|, items per user.
        candidates: length of the ranking, at most the catalogue.
        tau: temperature of the SAMPLING.
        temperature: temperature of the SOFTMAX.
        n_experts, end_temperature, anneal, max_epoch: options of DE.
    """

    ranks_student = True

    needs_set_scores = False

    def __init__(
        self,
        student: StudentScores,
        teacher: TeacherScores,
        *,
        alpha: NonNegative = 0.5,
        regulariser: Literal["list", "pair"] = "list",
        guide: Literal["teacher", "student"] = "teacher",
        n_samples: Annotated[ItemCount, AtMost("candidates")] = 5,
        candidates: Count = 100,
        tau: Positive = 10.0,
        temperature: Positive = 0.1,
        n_experts: Count = 5,
        end_temperature: EndTemperature = 1e-10,
        anneal: AnnealFactor = 1e10,
        max_epoch: Count = 1000,
        seed: int = 0,
    ) -> None:
        schedule: dict[str, Any] = {"end_temperature": end_temperature, "anneal": anneal, "max_epoch": max_epoch}
        super().__init__(student, teacher, n_experts=n_experts, seed=seed, **schedule)
        self.alpha, self.regulariser, self.guide = alpha, regulariser, guide
        self.n_samples, self.tau, self.softmax_temperature = n_samples, tau, temperature
        self.candidates = min(candidates, student.n_items - 1)
        self._ranked = torch.empty(0, dtype=torch.int64)

    @classmethod
    def check(cls, n_queries: int, n_items: int, options: Mapping[str, Any]) -> None:
        if options["regulariser"] == "pair" and options["n_samples"] < 2:
            n_samples = options["n_samples"]
            raise invalid(
                "kd_n_samples", n_samples, "kd_regulariser=pair compares two items", try_value("kd_n_samples", 2)
            )

    @classmethod
    def idle(cls, options: Mapping[str, Any]) -> Mapping[str, str]:
        pair = options["regulariser"] == "pair"
        return {"temperature": "kd_regulariser=pair"} if pair else {}

    @classmethod
    def asks_student(cls, options: Mapping[str, Any]) -> bool:
        return bool(options["guide"] == "student")

    # -- items --------------------------------------------------------------------------------------------------------

    def begin_training(self, train_items: Ragged) -> None:
        super().begin_training(train_items)
        if self.guide == "teacher":
            self._ranked = self.teacher_scores.top_k(self.all_queries(), self.candidates)[0]

    def draw_item_sets(self, epoch: int) -> None:
        if self.guide == "student":
            self._ranked = self.student_scorer.top_k(self.all_queries(), self.candidates)[0]
        log_weights = -torch.arange(1, self.candidates + 1, device=self._ranked.device) / self.tau
        places = sample_without_replacement(log_weights.expand(len(self._ranked), -1), self.n_samples, self.generator)
        self.item_sets = {"sampled": self._ranked.gather(1, places)}

    # -- loss ---------------------------------------------------------------------------------------------------------

    def total(self, batch: DistillBatch) -> Tensor:
        regulariser = (self._regulariser(batch.queries, batch.sets["sampled"].ids) * batch.weights).sum()
        return self.expert_loss(batch) + self.alpha * regulariser

    def _regulariser(self, users: Tensor, listed: Tensor) -> Tensor:
        """Return L_reg per user: int64 users ``[Q]``, sampled items ``[Q, n]`` -> float ``[Q]``."""
        items, place = listed.unique(return_inverse=True)
        own_users, own_items = (
            self.student_vectors("users", users).detach(),
            self.student_vectors("items", items).detach(),
        )
        before = gathered_dot(own_users, own_items, place)
        after = gathered_dot(self.project("users", users, own_users), self.project("items", items, own_items), place)
        if self.regulariser == "list":
            return cross_entropy(after, before, None, self.softmax_temperature)
        return -F.logsigmoid((after[:, 0] - after[:, 1]) * (before[:, 0] - before[:, 1]))
