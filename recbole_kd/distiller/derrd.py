"""DE-RRD: distillation experts and relaxed ranking together."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

import torch
from torch import Tensor

from recbole_kd.config.value_types import AtMost, Count, ItemCount, NonNegative, Positive
from recbole_kd.distiller.base import DistillBatch
from recbole_kd.distiller.de import DE
from recbole_kd.distiller.embedding_base import AnnealFactor, EndTemperature
from recbole_kd.distiller.rrd import RRD
from recbole_kd.ops.ragged import Ragged
from recbole_kd.scoring.base import StudentScores
from recbole_kd.teacher.base import TeacherScores


class DERRD(DE):
    r"""DE-RRD: distillation of the teacher's vectors and ranking (Kang et al., CIKM 2020).

    :math:`L = \lambda_{DE} L_{DE} + \lambda_{RRD} L_{RRD}`, see DE and RRD. L_DE is a sum over the distinct entities of
    the batch, L_RRD over its distinct users. kd_weight multiplies both and can stay 1. The source is the published code
    (github SeongKu-Kang/DE-RRD_CIKM20), with the differences that DE and RRD state.

    Args:
        lambda_de, lambda_rrd: weights of the two losses.
        k, n_samples, candidates, tau: options of RRD: interesting and uninteresting items per user, length of the
            teacher's list, temperature of the SAMPLING.
        n_experts, end_temperature, anneal, max_epoch: options of DE.
    """

    mask_train = True
    needs_set_scores = False

    def __init__(
        self,
        student: StudentScores,
        teacher: TeacherScores,
        *,
        lambda_de: NonNegative = 0.005,
        lambda_rrd: NonNegative = 0.005,
        k: Annotated[Count, AtMost("candidates")] = 100,
        n_samples: ItemCount = 200,
        candidates: ItemCount = 500,
        tau: Positive = 10.0,
        n_experts: Count = 5,
        end_temperature: EndTemperature = 1e-10,
        anneal: AnnealFactor = 1e10,
        max_epoch: Count = 1000,
        seed: int = 0,
    ) -> None:
        schedule: dict[str, Any] = {"end_temperature": end_temperature, "anneal": anneal, "max_epoch": max_epoch}
        super().__init__(student, teacher, n_experts=n_experts, seed=seed, **schedule)
        self.lambda_de, self.lambda_rrd = lambda_de, lambda_rrd
        self.ranking = RRD(student, teacher, k=k, n_samples=n_samples, candidates=candidates, tau=tau, seed=seed)

    def begin_training(self, train_items: Ragged) -> None:
        super().begin_training(train_items)
        self.ranking.begin_training(train_items)

    def draw_item_sets(self, epoch: int) -> None:
        self.ranking.draw_item_sets(epoch)
        self.item_sets = self.ranking.item_sets

    def forward(self, batch: DistillBatch) -> Tensor:
        self.ranking.reduction, self.ranking.weight_scale = self.reduction, self.weight_scale
        experts = super().forward(batch) if self.lambda_de else torch.zeros((), device=batch.queries.device)
        return self.lambda_de * experts + self.lambda_rrd * self.ranking(batch)

    def sampling_state(self) -> dict[str, Any]:
        return {**super().sampling_state(), "ranking_generator": self.ranking.sampling_state()["generator"]}

    def restore_sampling(self, state: Mapping[str, Any]) -> None:
        super().restore_sampling(state)
        self.ranking.restore_sampling({"generator": state["ranking_generator"]})
