"""TARec: distillation through a teacher assistant, by Wasserstein distance."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal, NamedTuple

import torch
from torch import Tensor

from recbole_kd.config.value_types import AtMost, Count, ItemCount, Natural, NonNegative, Positive, Share
from recbole_kd.distiller.base import DistillBatch, Distiller
from recbole_kd.errors import TeacherError
from recbole_kd.losses.cross_entropy import masked_log_softmax, teacher_probabilities
from recbole_kd.losses.wasserstein import rank_positions, score_positions, sinkhorn, wasserstein_on_line
from recbole_kd.ops.ragged import Ragged
from recbole_kd.ops.sampling import Outside
from recbole_kd.ops.topk import blocks
from recbole_kd.scoring.base import StudentScores
from recbole_kd.teacher.base import TeacherScores

Distance = Literal["rank", "score", "sinkhorn"]


class Target(NamedTuple):
    """One teacher's distribution over every query's candidates, in that teacher's order.

    Attributes:
        share: weight of this teacher in the loss.
        order: int64 ``[U, n]``, indices into the candidates, best first.
        probabilities, positions: float ``[U, n]``, in that order.
        valid: bool ``[U, n]``.
    """

    share: float
    order: Tensor
    probabilities: Tensor
    positions: Tensor
    valid: Tensor


class TARec(Distiller):
    r"""TARec (logits only, re-derived): a teacher assistant and the Wasserstein distance.

    Zhuang, WWW 2025. Only the abstract of this paper was available, and no code. It describes two-stage distillation
    teacher -> teacher assistant -> student, by the Wasserstein distance of logits in place of KL (and a contrastive
    loss of embeddings, left out here). Everything else is re-derived and not the authors'.

    The candidates C of a query are the upstream model's top-K without training items, and ``n_negatives`` items drawn
    uniformly from the rest, anew each epoch. Let :math:`p = softmax_C(r^T/\tau)` and :math:`q = softmax_C(r^S/\tau)`,
    with the candidates at positions x on a line in the upstream model's order. The loss is W(p, q):

    - ``rank``: positions 0, 1/(n-1), ..., 1: :math:`\frac{1}{n-1} \sum_k |F_p(k) - F_q(k)|`, bounded by 1;
    - ``score``: the upstream scores as positions, min-max scaled: :math:`\sum_k (x_{k+1} - x_k) |F_p(k) - F_q(k)|`;
    - ``sinkhorn``: the same positions, entropic transport with the cost :math:`|x_i - x_j|`, O(n^2).

    A run first distils the assistant from the teacher with this same loss (see :mod:`recbole_kd.pipeline.assistant`),
    then the student from the assistant. A TARec built by hand (:func:`recbole_kd.build_distiller`) distils from the
    teacher that it is given, so give it the assistant.

    Args:
        k: K.
        n_negatives: m.
        temperature: tau.
        distance: see above. epsilon and n_iterations are options of ``sinkhorn``.
        teacher_share: s in the loss (1 - s) W(assistant, student) + s W(teacher, student). 0.5 is the mean of the two.
        assistant_size: embedding_size of the assistant. If empty, the geometric mean of the student's and the
            teacher's. If both are the same model of the same width, n_layers of the assistant instead.
        assistant_epochs, assistant_stopping_step, assistant_learning_rate, assistant_weight: options of the assistant's
            training. If empty, those of the student.
    """

    assistant = True
    mask_train = True
    needs_set_scores = False

    def __init__(
        self,
        student: StudentScores,
        teacher: TeacherScores,
        *,
        k: ItemCount = 100,
        n_negatives: Annotated[Natural, AtMost("n_items")] = 100,
        temperature: Positive = 1.0,
        distance: Distance = "rank",
        epsilon: Positive = 0.05,
        n_iterations: Count = 50,
        teacher_share: Share = 0.0,
        assistant_size: Count | None = None,
        assistant_epochs: Count | None = None,
        assistant_stopping_step: Natural | None = None,
        assistant_learning_rate: Positive | None = None,
        assistant_weight: NonNegative | None = None,
        seed: int = 0,
    ) -> None:
        super().__init__(student, teacher, seed=seed)
        if teacher_share and teacher.taught_by is None:
            raise TeacherError(
                f"kd_teacher_share={teacher_share} needs an assistant as the teacher and {teacher.name} is not one: "
                "set kd_teacher_share=0"
            )
        self.k, self.n_negatives, self.temperature = k, n_negatives, temperature
        self.distance, self.epsilon, self.n_iterations = distance, epsilon, n_iterations
        self.teacher_share = teacher_share
        self._top = torch.empty(0, 0, dtype=torch.int64)
        self._outside: Outside | None = None
        self._targets: list[Target] = []
        self._figures: dict[str, float] = {}

    @classmethod
    def draws_unlisted(cls, options: Mapping[str, Any]) -> bool:
        return True

    @classmethod
    def idle(cls, options: Mapping[str, Any]) -> Mapping[str, str]:
        line = options["distance"] != "sinkhorn"
        return dict.fromkeys(("epsilon", "n_iterations"), f"kd_distance={options['distance']}") if line else {}

    # -- candidates ---------------------------------------------------------------------------------------------------

    def begin_training(self, train_items: Ragged) -> None:
        super().begin_training(train_items)
        assert self.train_items is not None
        self._top = self.teacher_scores.top_k(self.all_queries(), self.k, self.train_items)[0]
        n_items = self.student_scorer.n_items
        self._outside = Outside(self.train_items, n_items, self._top)

    def draw_item_sets(self, epoch: int) -> None:
        assert self._outside is not None, "begin_training comes first"
        drawn = self._outside.draw_distinct(self.all_queries(), self.n_negatives, self.generator)
        candidates = torch.cat([self._top, drawn], dim=1)
        self.item_sets = {"candidates": candidates}
        teachers = [(1.0 - self.teacher_share, self.teacher_scores)]
        if self.teacher_share:
            assert self.teacher_scores.taught_by is not None
            teachers.append((self.teacher_share, self.teacher_scores.taught_by))
        self._targets = [self._target(share, teacher, candidates) for share, teacher in teachers if share]
        counted = (candidates[1:] != 0).sum(dim=1)
        mass = self._targets[0].probabilities[1:, : self.k].sum(dim=1)
        self._figures = {
            "candidates_mean": float(counted.double().mean()),
            "top_mass_mean": float(mass.double().mean()),
        }

    def _target(self, share: float, teacher: TeacherScores, ids: Tensor) -> Target:
        """Return a teacher's distribution over the candidates, int64 ``[U, n]``."""
        queries = self.all_queries()
        counted = teacher.counted(queries, ids)
        ids = ids if counted is None else ids.masked_fill(~counted, 0)
        scores = torch.cat(
            [teacher.at(queries[rows], ids[rows]) for rows in blocks(len(ids), self.student_scorer.n_items, ids.device)]
        )
        scores, order = scores.masked_fill(ids == 0, -torch.inf).sort(dim=1, descending=True, stable=True)
        valid = ids.gather(1, order) != 0
        scores = scores.masked_fill(~valid, 0.0)
        positions = rank_positions(valid) if self.distance == "rank" else score_positions(scores, valid)
        return Target(share, order, teacher_probabilities(scores, valid, self.temperature), positions, valid)

    # -- loss ---------------------------------------------------------------------------------------------------------

    def forward(self, batch: DistillBatch) -> Tensor:
        queries = batch.queries
        scores = self.student_scorer.at(queries, batch.sets["candidates"].ids) / self.temperature
        loss = torch.zeros(len(queries), device=queries.device)
        for target in self._targets:
            p, positions, valid = target.probabilities[queries], target.positions[queries], target.valid[queries]
            ordered = masked_log_softmax(scores.gather(1, target.order[queries]), valid)
            q = ordered.exp().masked_fill(~valid, 0.0)
            loss = loss + target.share * self._distance(p, q, positions)
        return self.reduce(loss, batch.weights)

    def _distance(self, p: Tensor, q: Tensor, positions: Tensor) -> Tensor:
        if self.distance == "sinkhorn":
            return sinkhorn(p, q, positions, self.epsilon, self.n_iterations)
        return wasserstein_on_line(p, q, positions)

    def diagnostics(self) -> dict[str, float]:
        return self._figures
