"""Base classes of the methods that pull the student's vectors towards the teacher's."""

from __future__ import annotations

from abc import abstractmethod
from typing import Annotated, Literal

import torch
from annotated_types import Ge
from torch import Tensor

from recbole_kd.config.value_types import Number
from recbole_kd.distiller.base import DistillBatch, Distiller
from recbole_kd.distiller.expert_networks import ExpertMixture
from recbole_kd.errors import ConfigError
from recbole_kd.losses.embedding import annealed_temperature, gumbel_noise, gumbel_selection
from recbole_kd.ops.threads import same_on_any_threads
from recbole_kd.scoring.base import StudentScores
from recbole_kd.teacher.base import TeacherScores

Side = Literal["users", "items"]
SIDES: tuple[Side, Side] = ("users", "items")


class EmbeddingDistiller(Distiller):
    """The base class of methods on the vectors of a batch's distinct users and items.

    The loss is a sum over distinct entities. If the student's own loss is a mean, the sum is divided by the number of
    batch ROWS, so that lambda keeps its meaning.

    Raises:
        ConfigError: the student's score is not a dot product of vectors.
        TeacherError: the teacher's score is not one either.
    """

    requires = frozenset({"embeddings"})
    needs_items = True

    def __init__(self, student: StudentScores, teacher: TeacherScores, *, seed: int = 0) -> None:
        super().__init__(student, teacher, seed=seed)
        if not student.has_vectors:
            raise self._no_vectors(type(getattr(student, "model", student)))
        found = teacher.embeddings()
        assert found is not None  # the base class has refused
        self.teacher_vectors: dict[Side, Tensor] = {
            side: t.to(student.device).float() for side, t in zip(SIDES, found, strict=True)
        }
        with student.frozen():
            self.student_width = student.item_table().shape[1]
        self.teacher_width = found[0].shape[1]

    @classmethod
    def check_student(cls, model: type) -> None:
        from recbole_kd.scoring.vector_models import has_vectors  # here: a method itself needs no RecBole

        if not has_vectors(model):
            raise cls._no_vectors(model)

    @classmethod
    def _no_vectors(cls, model: type) -> ConfigError:
        return ConfigError(
            f"{cls.__name__} needs the vectors of the student and {model.__name__} has none that it could read; "
            "take a student whose score is a dot product, such as MF or LightGCN"
        )

    @abstractmethod
    def total(self, batch: DistillBatch) -> Tensor:
        """Return the loss as a sum over the batch's entities, ``[]``."""

    def forward(self, batch: DistillBatch) -> Tensor:
        with torch.autocast(device_type=batch.queries.device.type, enabled=False):
            total = self.total(batch)
        return self.reduce_total(total, batch.weights)

    def student_vectors(self, side: Side, ids: Tensor) -> Tensor:
        """Return student vectors, after propagation or encoding if the model has one.

        Args:
            ids: int64 ``[n]``.

        Returns:
            float32 ``[n, d_s]``, differentiable.
        """
        found = self.student_scorer.query_vectors(ids) if side == "users" else self.student_scorer.item_table()[ids]
        return found.float()

    @staticmethod
    def positives(batch: DistillBatch) -> Tensor:
        """Return the distinct positive items of the batch, int64 ``[n]``."""
        return _distinct(batch.positives, batch.queries)

    @staticmethod
    def negatives(batch: DistillBatch) -> Tensor:
        """Return the distinct negative items of the batch, int64 ``[n]``."""
        return _distinct(batch.negatives, batch.queries)

    def items(self, batch: DistillBatch) -> Tensor:
        """Return the distinct items of the batch, int64 ``[n]``."""
        return torch.cat([self.positives(batch), self.negatives(batch)]).unique()


EndTemperature = Annotated[Number, Ge(1e-30)]
"""The temperature of the expert selection at the end of the schedule."""

AnnealFactor = Annotated[Number, Ge(1)]
"""The factor between the temperature at epoch 0 and the end temperature."""


def _distinct(items: Tensor | None, like: Tensor) -> Tensor:
    return like.new_empty(0) if items is None else items.unique()


class ExpertDistiller(EmbeddingDistiller):
    r"""The base class of methods with expert networks, selected per entity by Gumbel-softmax.

    The experts map student vectors to the teacher's space. The temperature of the selection falls geometrically, from
    ``end_temperature * anneal`` at epoch 0 to ``end_temperature`` at ``max_epoch``.

    Args:
        n_experts: E, networks per side.
        end_temperature, anneal, max_epoch: the schedule.
    """

    def __init__(
        self,
        student: StudentScores,
        teacher: TeacherScores,
        *,
        n_experts: int,
        end_temperature: float,
        anneal: float,
        max_epoch: int,
        seed: int = 0,
    ) -> None:
        super().__init__(student, teacher, seed=seed)
        self.schedule: tuple[float, float, int] = (end_temperature, anneal, max_epoch)
        self.temperature = end_temperature * anneal
        start = torch.Generator().manual_seed(seed)  # a CPU generator: the same start on every device
        self.user_experts = ExpertMixture(n_experts, self.student_width, self.teacher_width, start)
        self.item_experts = ExpertMixture(n_experts, self.student_width, self.teacher_width, start)
        self.to(student.device)

    def follow_epoch(self, epoch: int) -> None:
        self.temperature = annealed_temperature(epoch, *self.schedule)

    def experts(self, side: Side) -> ExpertMixture:
        return self.user_experts if side == "users" else self.item_experts

    def noise(self, side: Side, ids: Tensor) -> Tensor:
        """Draw Gumbel noise once per entity: int64 ``[n]`` -> float ``[n, E]``."""
        return gumbel_noise(len(ids), self.experts(side).n_experts, self.generator)

    def project(self, side: Side, ids: Tensor, vectors: Tensor) -> Tensor:
        """Map vectors to the teacher's space: int64 ``[n]``, float ``[n, d_s]`` -> ``[n, d_t]``."""
        experts = self.experts(side)
        if experts.n_experts == 1:
            selection = vectors.new_ones(len(ids), 1)
        else:
            teacher, noise = self.teacher_vectors[side][ids], self.noise(side, ids)

            def choose(weight: Tensor, bias: Tensor) -> Tensor:
                return gumbel_selection(torch.addmm(bias, teacher, weight), noise, self.temperature)

            selection = same_on_any_threads(choose, experts.choice_weight, experts.choice_bias)
        return experts(vectors, selection)

    def reconstruction_error(self, side: Side, ids: Tensor) -> Tensor:
        """Return the squared error of each entity's projection: int64 ``[n]`` -> float ``[n]``."""
        found = self.project(side, ids, self.student_vectors(side, ids))
        return (self.teacher_vectors[side][ids] - found).square().sum(dim=1)

    def diagnostics(self) -> dict[str, float]:
        return {"expert_temperature": self.temperature}
