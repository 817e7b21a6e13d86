"""CE: cross-entropy on a top-K list, the vanilla CE of the RCE-KD paper."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from torch import Tensor

from recbole_kd.config.value_types import ItemCount, Positive
from recbole_kd.distiller.base import DistillBatch
from recbole_kd.distiller.importance import ListWeighted, Shares, idle_list_tau, importance, log_of
from recbole_kd.distiller.student_cross_entropy import listed_cross_entropy
from recbole_kd.losses.list_cross_entropy import Lists
from recbole_kd.ops.ragged import Ragged
from recbole_kd.scoring.base import StudentScores
from recbole_kd.teacher.base import TeacherScores


class CE(ListWeighted):
    r"""Cross-entropy on the teacher's (or the student's) top-K items: vanilla CE.

    :math:`L = \sum_{rows} L_{CE}(u; Q)` (RCE-KD, Eq. 1). :math:`Q = Q^T` is the teacher's top-K and fixed. With
    ``guide=student`` it is the student's own top-K, drawn anew each epoch, which class ``KD`` of the published code
    (github woriazzc/RCEKD, modeling/KD/baseline.py) also offers. The lists hold training items there, and here unless
    ``mask_train``.

    Args:
        k: K.
        guide: the model whose list is used.
        temperature: softmax temperature of both models.
        mask_train: leave training items out. A user with fewer than K items left then has a shorter list.
        list_weights: shares of rank, confidence and agreement in the weights w of the items of the teacher's list
            (:func:`recbole_kd.losses.list_weights.list_weights`), by which its softmax is multiplied, renormalised.
        list_tau: T of the rank's term.
    """

    in_threads = True
    ranks_student = True
    weight_ratio = 0.1  # larger weights learn fast, but forget the ranking of all items outside the lists

    def __init__(
        self,
        student: StudentScores,
        teacher: TeacherScores,
        *,
        k: ItemCount = 50,
        guide: Literal["teacher", "student"] = "teacher",
        temperature: Positive = 1.0,
        mask_train: bool = False,
        list_weights: Shares | None = None,
        list_tau: Positive = 1.0,
        seed: int = 0,
    ) -> None:
        super().__init__(student, teacher, seed=seed)
        self.k, self.guide, self.temperature, self.mask_train = k, guide, temperature, mask_train
        self.shares, self.list_tau = list_weights, list_tau
        self._log_weights: Tensor | None = None
        self._lists: Lists | None = None

    @classmethod
    def idle(cls, options: Mapping[str, Any]) -> Mapping[str, str]:
        if options["guide"] == "student":
            return dict.fromkeys(("list_weights", "list_tau"), "kd_guide=student")
        return idle_list_tau(options)

    @classmethod
    def draws(cls, options: Mapping[str, Any]) -> bool:
        return cls.asks_student(options)

    @classmethod
    def asks_student(cls, options: Mapping[str, Any]) -> bool:
        return bool(options["guide"] == "student") or super().asks_student(options)

    @classmethod
    def draws_unlisted(cls, options: Mapping[str, Any]) -> bool:
        return bool(options["guide"] == "student")

    def begin_training(self, train_items: Ragged) -> None:
        super().begin_training(train_items)
        if self.guide == "teacher":
            self._list_of(self.teacher_scores)

    def draw_item_sets(self, epoch: int) -> None:
        if self.guide == "student":
            self._list_of(self.student_scorer)
        elif self.shares is not None and (self._log_weights is None or self.shares.get("agreement")):
            weights = importance(self, self.shares, self.item_sets["list"], self.list_tau)
            self._lists, self._log_weights = None, log_of(weights)

    def _list_of(self, guide: StudentScores | TeacherScores) -> None:
        self._lists = None
        listed = guide.top_k(self.all_queries(), self.k, self.train_items if self.mask_train else None)[0]
        self.item_sets = {"list": self.without_uncounted(listed)}

    def forward(self, batch: DistillBatch) -> Tensor:
        listed = batch.sets["list"]
        if self._lists is None:
            ids, teacher = listed.all_ids, listed.all_teacher
            if self._log_weights is not None:
                teacher = teacher + self.temperature * self._log_weights
            self._lists = Lists.of(ids, [teacher], ids > 0, [ids.shape[1]], None, self.temperature)
        scorer, weights = self.student_scorer, batch.weights
        return self.reduce_total(
            listed_cross_entropy(scorer, batch.queries, weights, self._lists, self.temperature), weights
        )
