"""RRD: relaxed ranking distillation."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

import torch
from torch import Tensor

from recbole_kd.config.value_types import AtMost, Count, ItemCount, Positive
from recbole_kd.distiller.base import DistillBatch, Distiller
from recbole_kd.losses.ranking import listwise_loss
from recbole_kd.ops.ragged import Ragged
from recbole_kd.ops.sampling import Outside, sample_without_replacement, union_of
from recbole_kd.scoring.base import StudentScores
from recbole_kd.teacher.base import TeacherScores


class RRD(Distiller):
    r"""Relaxed ranking distillation: the teacher's order on top, other items below.

    Kang et al., CIKM 2020. Each epoch draws K interesting items from the teacher's best ``candidates`` (without
    training items) by :math:`P(k) \propto e^{-k/T}` without replacement and puts them into the teacher's order. It also
    draws L uninteresting items uniformly from those that are neither training items nor among these candidates. For
    each distinct user of a batch

    .. math:: L_u = -\sum_{k=1}^K \Big[ r_{i_k} - \log\big( \sum_{m=k}^K e^{r_{i_m}} + \sum_{j \in V} e^{r_j} \big)
    \Big]

    The source is the published code (github SeongKu-Kang/DE-RRD_CIKM20; github woriazzc/RCEKD, modeling/KD/baseline.py,
    class RRD). That code clips scores at 80 before it exponentiates them, so that higher scores get no gradient. Here
    sums are computed in log space instead.

    Args:
        k: K.
        n_samples: L.
        candidates: length of the teacher's list (rrd_mxK).
        tau: T.
        sampling: ``rank`` as above; ``score`` by softmax(r^T/T); ``none`` takes the first K.
        sort: put the interesting items into the teacher's order. False leaves them in the random order of the draw.
    """

    mask_train = True
    needs_set_scores = False
    weight_ratio = 1.5

    def __init__(
        self,
        student: StudentScores,
        teacher: TeacherScores,
        *,
        k: Annotated[Count, AtMost("candidates")] = 100,
        n_samples: ItemCount = 200,
        candidates: ItemCount = 500,
        tau: Positive = 10.0,
        sampling: Literal["rank", "score", "none"] = "rank",
        sort: bool = True,
        seed: int = 0,
    ) -> None:
        super().__init__(student, teacher, seed=seed)
        self.k, self.n_samples, self.candidates, self.tau = k, n_samples, candidates, tau
        self.sampling, self.sort = sampling, sort
        self._listed = torch.empty(0, dtype=torch.int64)
        self._log_weights = torch.empty(0)
        self._outside: Outside | None = None

    @classmethod
    def draws_unlisted(cls, options: Mapping[str, Any]) -> bool:
        return True

    @classmethod
    def idle(cls, options: Mapping[str, Any]) -> Mapping[str, str]:
        first = options["sampling"] == "none"
        return dict.fromkeys(("tau", "sort"), "kd_sampling=none") if first else {}

    def begin_training(self, train_items: Ragged) -> None:
        super().begin_training(train_items)
        assert self.train_items is not None
        n_items = self.student_scorer.n_items
        self._listed, scores = self.teacher_scores.top_k(self.all_queries(), self.candidates, self.train_items)
        self._outside = Outside(union_of(self.train_items, self._listed, n_items), n_items)
        if self.sampling == "score":
            self._log_weights = scores / self.tau
        elif self.sampling == "rank":
            by_place = -torch.arange(self.candidates, dtype=torch.float32, device=scores.device) / self.tau
            self._log_weights = by_place.expand_as(scores).masked_fill(self._listed == 0, -torch.inf)

    def draw_item_sets(self, epoch: int) -> None:
        assert self._outside is not None, "begin_training comes first"
        uninteresting = self._outside.draw_distinct(self.all_queries(), self.n_samples, self.generator)
        self.item_sets = {
            "interesting": self._interesting(), "uninteresting": self.without_uncounted(uninteresting),
        }  # fmt: skip

    def _interesting(self) -> Tensor:
        if self.sampling == "none":
            return self._listed[:, : self.k]
        places = sample_without_replacement(self._log_weights, self.k, self.generator)
        return self._listed.gather(1, places.sort(dim=1).values if self.sort else places)

    def forward(self, batch: DistillBatch) -> Tensor:
        ids = torch.cat([batch.sets["interesting"].ids, batch.sets["uninteresting"].ids], dim=1)
        scores, valid = self.student_scorer.at(batch.queries, ids), ids > 0
        loss = listwise_loss(
            scores[:, None, : self.k], scores[:, self.k :], valid[:, None, : self.k], valid[:, self.k :]
        )
        return self.reduce_distinct(loss, batch.weights)
