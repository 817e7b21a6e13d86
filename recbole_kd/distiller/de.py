"""DE: distillation experts."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from recbole_kd.config.value_types import Count
from recbole_kd.distiller.base import DistillBatch
from recbole_kd.distiller.embedding_base import AnnealFactor, EndTemperature, ExpertDistiller
from recbole_kd.scoring.base import StudentScores
from recbole_kd.teacher.base import TeacherScores


class DE(ExpertDistiller):
    r"""Distillation experts: the student's vectors must predict the teacher's.

    Kang et al., CIKM 2020. E expert networks per side map a student vector to the teacher's space,
    :math:`\hat t = \sum_e z_e f_e(s)`. The weights z come from a Gumbel-softmax on the teacher's vector.
    :math:`L = L(users) + (L(positives) + L(negatives))/2` with :math:`L = \sum \|t - \hat t\|^2` over the distinct
    entities of the batch. The experts are discarded after the training.

    The source is the published code (github SeongKu-Kang/DE-RRD_CIKM20; github woriazzc/RCEKD, modeling/KD/baseline.py,
    class DE), with two differences: the logarithm of the selection is computed in log space, and experts whose weight
    makes no difference in float32 are not evaluated.

    Args:
        n_experts: E, networks per side.
        end_temperature, anneal, max_epoch: temperature of the selection. It is end_temperature * anneal at epoch 0 and
            end_temperature at max_epoch.
    """

    def __init__(
        self,
        student: StudentScores,
        teacher: TeacherScores,
        *,
        n_experts: Count = 5,
        end_temperature: EndTemperature = 1e-10,
        anneal: AnnealFactor = 1e10,
        max_epoch: Count = 1000,
        seed: int = 0,
    ) -> None:
        schedule: dict[str, Any] = {"end_temperature": end_temperature, "anneal": anneal, "max_epoch": max_epoch}
        super().__init__(student, teacher, n_experts=n_experts, seed=seed, **schedule)

    def total(self, batch: DistillBatch) -> Tensor:
        return self.expert_loss(batch)

    def expert_loss(self, batch: DistillBatch) -> Tensor:
        """Return L_DE as a sum, ``[]``.

        An item that is both positive and negative counts in both sums, each with its own noise, as published.
        """
        users = self.reconstruction_error("users", batch.queries).sum()
        items = torch.cat([self.positives(batch), self.negatives(batch)])
        return users + 0.5 * self.reconstruction_error("items", items).sum()
