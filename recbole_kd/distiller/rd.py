"""RD: ranking distillation with position weights and discrepancy weights."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

import torch
from torch import Tensor

from recbole_kd.config.value_types import Count, ItemCount, Natural, NonNegative, Positive
from recbole_kd.distiller.base import DistillBatch
from recbole_kd.distiller.importance import ListWeighted, Shares, importance
from recbole_kd.losses.ranking import discrepancy_weights, pointwise_loss, share_above
from recbole_kd.ops.ragged import Ragged
from recbole_kd.ops.sampling import Outside
from recbole_kd.scoring.base import StudentScores
from recbole_kd.teacher.base import TeacherScores


class RD(ListWeighted):
    r"""Ranking distillation: the teacher's top-K as additional positives.

    Tang & Wang, KDD 2018. :math:`L = -\sum_{rows} \sum_{k=1}^K w_k \log \sigma(r_{t_k})`, with t_k the teacher's k-th
    item without training items. The position weight is :math:`a_k \propto e^{-k/T}`, normalised. From ``start_epoch``
    on it is multiplied by :math:`b_k = \max(\tanh(\mu (\hat{rank}(t_k) - k_0)), 0)`, with k_0 = k - 1. The student's
    rank is
    estimated from n items drawn uniformly each epoch: :math:`\hat{rank} = \lfloor (I-1) \cdot` share of them that score
    above t_k :math:`\rfloor`.

    There are two published forms. ``code`` (github woriazzc/RCEKD, modeling/KD/baseline.py, class RD, after
    chengang95/UnKD) counts the estimated rank from 1 and divides the product by its sum. ``original`` (github
    graytowne/rank_distill) does neither. The mean over rows in graytowne/rank_distill corresponds to the student's
    reduction here.

    Args:
        k: K. A user with fewer items left has fewer, with unchanged weights.
        tau: T.
        n_samples: n.
        mu, start_epoch, form: see above.
        list_weights: shares of rank, confidence and agreement in weights that take the place of a
            (:func:`recbole_kd.losses.list_weights.list_weights`), as in DLLM2Rec.
    """

    ranks_student = True

    mask_train = True
    needs_set_scores = False

    def __init__(
        self,
        student: StudentScores,
        teacher: TeacherScores,
        *,
        k: ItemCount = 30,
        tau: Positive = 1.0,
        n_samples: Count = 100,
        mu: NonNegative = 0.1,
        start_epoch: Natural = 100,
        form: Literal["code", "original"] = "code",
        list_weights: Shares | None = None,
        seed: int = 0,
    ) -> None:
        super().__init__(student, teacher, seed=seed)
        self.k, self.n_samples, self.mu, self.start_epoch, self.form = k, n_samples, mu, start_epoch, form
        place = torch.arange(k, dtype=torch.float32, device=student.device)
        self._place = place
        self._position_weights = torch.softmax(-place / tau, dim=0)
        self.tau, self.shares = tau, list_weights
        self._importance: Tensor | None = None
        self._outside: Outside | None = None

    @classmethod
    def idle(cls, options: Mapping[str, Any]) -> Mapping[str, str]:
        shares = options.get("list_weights")
        without_rank = shares is not None and not shares.get("position")
        return {"tau": "kd_list_weights without a position"} if without_rank else {}

    def begin_training(self, train_items: Ragged) -> None:
        super().begin_training(train_items)
        assert self.train_items is not None
        self.item_sets = {"top": self.teacher_scores.top_k(self.all_queries(), self.k, self.train_items)[0]}
        self._outside = Outside(self.train_items, self.student_scorer.n_items)

    def is_due(self, epoch: int) -> bool:
        return super().is_due(epoch) or (epoch >= self.start_epoch and "drawn" not in self.item_sets)

    def draw_item_sets(self, epoch: int) -> None:
        assert self._outside is not None, "begin_training comes first"
        if self.shares is not None and (self._importance is None or self.shares.get("agreement")):
            self._importance = importance(self, self.shares, self.item_sets["top"], self.tau)
        if epoch >= self.start_epoch:
            drawn = self._outside.draw(self.all_queries(), self.n_samples, self.generator)
            self.item_sets = {"top": self.item_sets["top"], "drawn": drawn}

    def forward(self, batch: DistillBatch) -> Tensor:
        top = batch.sets["top"].ids
        scores = self.student_scorer.at(batch.queries, top)
        weights = self._position_weights if self._importance is None else self._importance[batch.queries]
        weights = weights * (top > 0)
        if "drawn" in batch.sets:
            drawn = batch.sets["drawn"].ids
            with torch.no_grad():
                share = share_above(scores, self.student_scorer.at(batch.queries, drawn), drawn > 0)
                weights = weights * self._discrepancy(share)
                if self.form == "code":
                    weights = torch.nn.functional.normalize(weights, p=1, dim=1)
        return self.reduce(pointwise_loss(scores, weights), batch.weights)

    def _discrepancy(self, share: Tensor) -> Tensor:
        """Return b of the teacher's items, ``[Q, K]``, from the share of drawn items above each."""
        rank = torch.floor((self.student_scorer.n_items - 2) * share) + (1 if self.form == "code" else 0)
        return discrepancy_weights(rank, self._place, self.mu)
