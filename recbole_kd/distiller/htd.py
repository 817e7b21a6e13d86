"""HTD: hierarchical topology distillation."""

from __future__ import annotations

from typing import Any, Literal

import torch
from torch import Tensor

from recbole_kd.config.value_types import Count, Share
from recbole_kd.distiller.base import DistillBatch
from recbole_kd.distiller.embedding_base import SIDES, AnnealFactor, EndTemperature, ExpertDistiller, Side
from recbole_kd.losses.embedding import cosine_distance_to, group_means, grouped_topology_distance
from recbole_kd.ops.threads import same_on_any_threads
from recbole_kd.scoring.base import StudentScores
from recbole_kd.teacher.base import TeacherScores


class HTD(ExpertDistiller):
    r"""Hierarchical topology distillation: cosines within groups, and to the groups.

    Kang et al., KDD 2021. An entity's group is the most likely of G by a linear layer on its teacher vector, separately
    for users and items. :math:`L = \alpha L_{TD} + (1 - \alpha) L_{GA}`. L_TD compares the cosines of all pairs in a
    group that the teacher finds similar (cosine above 0), and those of the group means over the batch (prototypes).
    L_GA trains the
    assignment: it is DE's loss with one network per group, over the distinct users and the distinct items.

    The official code (github SeongKu-Kang/Topology_Distillation_KDD21; the same in github woriazzc/RCEKD, class HTD)
    computes the prototypes without gradient. In its variant ``first`` the prototype term is therefore a constant. In
    ``prototypes`` here the student's prototypes have a gradient. In ``entities`` (its ``second``) they have none, as
    published.

    Args:
        alpha: weight of L_TD.
        n_groups: G, groups per side.
        topology: upper level, prototypes against all ``entities`` or against each other (``prototypes``).
        end_temperature, anneal, max_epoch: temperature of the assignment in L_GA, as in DE.
    """

    def __init__(
        self,
        student: StudentScores,
        teacher: TeacherScores,
        *,
        alpha: Share = 0.9,
        n_groups: Count = 30,
        topology: Literal["entities", "prototypes"] = "entities",
        end_temperature: EndTemperature = 1e-10,
        anneal: AnnealFactor = 1e10,
        max_epoch: Count = 1000,
        seed: int = 0,
    ) -> None:
        schedule: dict[str, Any] = {"end_temperature": end_temperature, "anneal": anneal, "max_epoch": max_epoch}
        super().__init__(student, teacher, n_experts=n_groups, seed=seed, **schedule)
        self.alpha, self.n_groups, self.topology = alpha, n_groups, topology

    def total(self, batch: DistillBatch) -> Tensor:
        entities: dict[Side, Tensor] = {"users": batch.queries, "items": self.items(batch)}
        total = self.alpha * self._topology_loss(entities)
        if self.alpha < 1:
            assignment = sum(self.reconstruction_error(side, entities[side]).sum() for side in SIDES)
            total = total + (1 - self.alpha) * assignment
        return total

    @torch.no_grad()
    def groups(self, side: Side, ids: Tensor) -> Tensor:
        """Return the group of each entity, int64 ``[n]`` -> ``[n]``: users 0..G-1, items G..2G-1."""
        group = self.experts(side).logits(self.teacher_vectors[side][ids]).argmax(dim=1)
        return group if side == "users" else group + self.n_groups

    def _topology_loss(self, entities: dict[Side, Tensor]) -> Tensor:
        """Return L_TD as a sum over pairs, ``[]``."""
        own = torch.cat([self.student_vectors(side, entities[side]) for side in SIDES])
        other = torch.cat([self.teacher_vectors[side][entities[side]] for side in SIDES])
        groups = torch.cat([self.groups(side, entities[side]) for side in SIDES])
        own_means, other_means = (group_means(vectors, groups, 2 * self.n_groups) for vectors in (own, other))
        within = grouped_topology_distance(own, other, groups)
        # A group without an entity has a zero mean, so its cosines are 0 in both models.
        if self.topology == "prototypes":
            return within + same_on_any_threads(_between_prototypes, own_means, other_means)
        return within + same_on_any_threads(cosine_distance_to, own, other, own_means.detach(), other_means)


def _between_prototypes(own: Tensor, other: Tensor) -> Tensor:
    """Return the summed squared cosine differences between all pairs of prototypes, ``[]``."""
    return cosine_distance_to(own, other, own, other)
