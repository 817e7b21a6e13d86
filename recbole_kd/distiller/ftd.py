"""FTD: full topology distillation."""

from __future__ import annotations

import torch
from torch import Tensor

from recbole_kd.distiller.base import DistillBatch
from recbole_kd.distiller.embedding_base import SIDES, EmbeddingDistiller, Side
from recbole_kd.losses.embedding import full_topology_distance
from recbole_kd.scoring.base import StudentScores
from recbole_kd.teacher.base import TeacherScores


class FTD(EmbeddingDistiller):
    r"""Full topology distillation: all cosines between a batch's entities.

    Kang et al., KDD 2021. :math:`L = \|\cos(T, T) - \cos(S, S)\|_F^2` over the distinct users and items of the batch
    together, a sum as published (github SeongKu-Kang/Topology_Distillation_KDD21, model.py). The published code stores
    the matrices of all pairs. This class does not, and gives the same loss
    (:func:`recbole_kd.losses.embedding.full_topology_distance`). The student needs no extra network. The number of
    pairs grows with the square of the batch, so use a small kd_weight.
    """

    def __init__(self, student: StudentScores, teacher: TeacherScores, *, seed: int = 0) -> None:
        super().__init__(student, teacher, seed=seed)
        self._inverse_lengths = {
            side: 1 / table.norm(dim=1).clamp_min(1e-12) for side, table in self.teacher_vectors.items()
        }

    def total(self, batch: DistillBatch) -> Tensor:
        ids: dict[Side, Tensor] = {"users": batch.queries, "items": self.items(batch)}
        own = torch.cat([self.student_vectors(side, ids[side]) for side in SIDES])
        # One array, gathered and scaled in place, because it is the largest of the step.
        other = own.new_empty(len(own), self.teacher_width)
        lengths: list[Tensor] = []
        for side, part in zip(SIDES, other.split([len(ids[side]) for side in SIDES]), strict=True):
            torch.index_select(self.teacher_vectors[side], 0, ids[side], out=part)
            lengths.append(self._inverse_lengths[side][ids[side]])
        return full_topology_distance(own, other.mul_(torch.cat(lengths).unsqueeze(1)))
