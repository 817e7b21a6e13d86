"""DE: distillation experts."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from recbole_kd.distiller.base import DistillBatch
from recbole_kd.distiller.embedding import ExpertDistiller, Side
from recbole_kd.errors import ConfigError
from recbole_kd.scorer import Scorer
from recbole_kd.teacher.base import TeacherScores


class DE(ExpertDistiller):
    r"""DE, distillation experts: the student's vectors must tell the teacher's (Kang et al., CIKM 2020).

    E expert networks a side map a student vector to the teacher's space, :math:`\hat t = \sum_e z_e f_e(s)`, with weights z chosen by
    Gumbel-softmax from the teacher's vector. :math:`L = L(users) + (L(positives) + L(negatives))/2` with
    :math:`L = \sum \|t - \hat t\|^2` over the batch's distinct entities. As the official code; the experts are left behind
    after the training.

    Args:
        n_experts: E, networks a side.
        end_temperature, anneal, max_epoch: temperature of the choice, end_temperature * anneal at epoch 0 and end_temperature at max_epoch.
    """

    def __init__(
        self,
        student: Scorer,
        teacher: TeacherScores,
        *,
        n_experts: int = 5,
        end_temperature: float = 1e-10,
        anneal: float = 1e10,
        max_epoch: int = 1000,
        seed: int = 0,
    ) -> None:
        schedule: dict[str, Any] = {"end_temperature": end_temperature, "anneal": anneal, "max_epoch": max_epoch}
        super().__init__(student, teacher, n_experts=n_experts, seed=seed, **schedule)

    @classmethod
    def check(cls, n_queries: int, n_items: int, options: Mapping[str, Any]) -> None:
        super().check(n_queries, n_items, options)
        if options["n_experts"] < 1:
            raise ConfigError(f"kd_n_experts={options['n_experts']} is not possible: at least 1 network a side is needed")

    def total(self, batch: DistillBatch) -> Tensor:
        return self.expert_loss(batch, self.student_vectors())

    def expert_loss(self, batch: DistillBatch, student: dict[Side, Tensor]) -> Tensor:
        """L_DE as a sum, ``[]``. An item that is positive and negative counts in both sums, with a noise of its own, as published."""
        users = self.reconstruction_error("users", batch.queries, student).sum()
        items = torch.cat([self.positives(batch), self.negatives(batch)])
        return users + 0.5 * self.reconstruction_error("items", items, student).sum()
