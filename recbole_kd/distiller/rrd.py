"""RRD: relaxed ranking distillation."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

import torch
from torch import Tensor

from recbole_kd.config.value_types import AtMost, Count, ItemCount, Positive
from recbole_kd.distiller.base import DistillBatch
from recbole_kd.distiller.importance import ListWeighted, Shares, idle_list_tau, importance
from recbole_kd.distiller.student_listwise import listwise_total
from recbole_kd.ops.ragged import Ragged
from recbole_kd.ops.sampling import ROWS_AT_A_TIME, Outside, sample_without_replacement
from recbole_kd.scoring.base import StudentScores
from recbole_kd.teacher.base import TeacherScores

LISTS_AT_A_TIME = 2**15
"""Queries whose lists the teacher makes in one call."""


class RRD(ListWeighted):
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
        list_weights: shares of rank, confidence and agreement in the weights of the candidates
            (:func:`recbole_kd.losses.list_weights.list_weights`), by which the terms of the interesting items are
            multiplied. They have mean 1 over the items drawn, so that lambda keeps its meaning.
        list_tau: T of the rank's term.
    """

    ranks_student = True

    mask_train = True
    needs_set_scores = False
    drawn_sets = ("interesting", "uninteresting")
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
        list_weights: Shares | None = None,
        list_tau: Positive = 1.0,
        seed: int = 0,
    ) -> None:
        super().__init__(student, teacher, seed=seed)
        self.k, self.n_samples, self.candidates, self.tau = k, n_samples, candidates, tau
        self.sampling, self.sort = sampling, sort
        self.shares, self.list_tau = list_weights, list_tau
        self._importance: Tensor | None = None
        self._term_weights: Tensor | None = None
        self._listed = torch.empty(0, dtype=torch.int32)
        self._scores = torch.empty(0)
        self._outside: Outside | None = None

    @classmethod
    def draws_unlisted(cls, options: Mapping[str, Any]) -> bool:
        return True

    @classmethod
    def idle(cls, options: Mapping[str, Any]) -> Mapping[str, str]:
        first = options["sampling"] == "none"
        return {**idle_list_tau(options), **(dict.fromkeys(("tau", "sort"), "kd_sampling=none") if first else {})}

    def begin_training(self, train_items: Ragged) -> None:
        super().begin_training(train_items)
        assert self.train_items is not None
        queries = self.all_queries()
        # By block and as int32: with a long list for each training row of a sequential student, the lists and what is
        # outside of them are most of the memory of a training.
        self._listed = queries.new_empty(len(queries), self.candidates, dtype=torch.int32)
        if self.sampling == "score":
            self._scores = torch.empty(len(queries), self.candidates, device=queries.device)
        for rows in queries.split(max(1, len(queries)) if self.teacher_scores.indexes else LISTS_AT_A_TIME):
            self._listed[rows], scores = self._ranked(rows)
            if self.sampling == "score":
                self._scores[rows] = scores
        self._outside = Outside(self.train_items, self.student_scorer.n_items, self._listed)

    def _ranked(self, rows: Tensor) -> tuple[Tensor, Tensor]:
        """Return the candidates of some queries and their scores: int32 and float32 ``[R, candidates]``."""
        ids, scores = self.teacher_scores.top_k(rows, self.candidates, self.train_items)
        return ids.int(), scores

    def draw_item_sets(self, epoch: int) -> None:
        assert self._outside is not None, "begin_training comes first"
        self.item_sets = {}  # the old sets are freed before new ones are drawn
        queries = self.all_queries()
        uninteresting, interesting = (self._listed.new_empty(len(queries), n) for n in (self.n_samples, self.k))
        kept = []
        for rows in queries.split(ROWS_AT_A_TIME):
            drawn = self._outside.draw_distinct(rows, self.n_samples, self.generator)
            uninteresting[rows] = self.without_uncounted(drawn, rows).int()
            places = self._places(rows)
            interesting[rows] = self._listed[rows].gather(1, places)
            if self.shares is not None:
                kept.append(places)
        if self.shares is not None:
            self._weigh(self.shares, torch.cat(kept))
        self.item_sets = {"interesting": interesting, "uninteresting": uninteresting}

    def _places(self, rows: Tensor) -> Tensor:
        """Return the places of the interesting items among some queries' candidates, int64 ``[R, K]``."""
        if self.sampling == "none":
            return torch.arange(self.k, device=rows.device).expand(len(rows), -1)
        if self.sampling == "score":
            log_weights = self._scores[rows] / self.tau
        else:
            by_place = -torch.arange(self.candidates, dtype=torch.float32, device=rows.device) / self.tau
            log_weights = by_place.masked_fill(self._listed[rows] == 0, -torch.inf)
        places = sample_without_replacement(log_weights, self.k, self.generator)
        return places.sort(dim=1).values if self.sort else places

    def _weigh(self, shares: Shares, places: Tensor) -> None:
        """Set the weights of the items drawn, float32 ``[n_queries, K]``, of mean 1 over a row."""
        if self._importance is None or shares.get("agreement"):
            self._importance = importance(self, shares, self._listed.long(), self.list_tau)
        weights = self._importance.gather(1, places)
        counts = (self._listed.gather(1, places) > 0).sum(1, keepdim=True)
        total = weights.sum(1, keepdim=True).clamp(min=torch.finfo(torch.float32).tiny)
        self._term_weights = weights * (counts / total)

    def forward(self, batch: DistillBatch) -> Tensor:
        sets = batch.sets["interesting"], batch.sets["uninteresting"]
        of_queries = self.distinct_weights(batch.weights)
        total = listwise_total(self.student_scorer, batch.queries, *sets, self._term_weights, of_queries)
        return self.reduce_total(total, batch.weights)
