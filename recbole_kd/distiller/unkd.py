"""UnKD: unbiased knowledge distillation by popularity groups."""

from __future__ import annotations

from typing import Annotated

import torch
from annotated_types import Ge
from torch import Tensor

from recbole_kd.config.value_types import Count, ItemCount, NonNegative, Number
from recbole_kd.distiller.base import DistillBatch, Distiller
from recbole_kd.distiller.popularity_groups import group_sizes, popularity_groups
from recbole_kd.losses.ranking import pairwise_loss
from recbole_kd.ops.ragged import Ragged
from recbole_kd.ops.sampling import draw_unequal_positions, reach
from recbole_kd.ops.topk import blocks, strike_out, top_k
from recbole_kd.scoring.base import StudentScores
from recbole_kd.teacher.base import TeacherScores

LEAST_TAU = 0.2
"""Smallest T. At .1 one pair in some ten thousand has two different ranks and below .06 none, so the draw would never
end."""


class UnKD(Distiller):
    r"""Unbiased distillation: the teacher's order within groups of equally popular items.

    Chen et al., WSDM 2023. Items are cut into groups of about equal total popularity
    (:func:`recbole_kd.distiller.popularity_groups.popularity_groups`). Each epoch draws pairs of different ranks for
    each user and group from the teacher's ranking of the group's items without training items, by
    :math:`P(k) \propto e^{-k/T}`. :math:`L = -\sum_{rows} mean_{pairs} \log \sigma(r_{better} - r_{worse})`.

    The source is the published code (github chengang95/UnKD, UnKD/sample.py; github woriazzc/RCEKD,
    modeling/KD/baseline.py, class UnKD). That code computes the user's own group weights and does not use them, never
    ends on a group with one candidate, and saturates in log(s + 1e-10). Here a group with fewer than two candidates has
    no pair for that user, and the mean is over the existing pairs.

    Args:
        groups: G.
        n_samples: pairs per user over all groups (unkd_n_distill).
        lamda: 0 gives every group the same number of pairs. A larger value favours unpopular groups.
        candidates: length of each group's list.
        tau: T.
    """

    requires = frozenset({"full"})
    in_threads = True
    mask_train = True
    needs_set_scores = False

    def __init__(
        self,
        student: StudentScores,
        teacher: TeacherScores,
        *,
        groups: ItemCount = 4,
        n_samples: Count = 30,
        lamda: NonNegative = 0.0,
        candidates: Annotated[int, Ge(2)] = 1000,
        tau: Annotated[Number, Ge(LEAST_TAU)] = 20.0,
        seed: int = 0,
    ) -> None:
        super().__init__(student, teacher, seed=seed)
        self.groups, self.n_samples, self.lamda, self.candidates, self.tau = groups, n_samples, lamda, candidates, tau
        self._sizes: list[int] = []
        self._lists: list[Tensor] = []
        self._lengths: list[Tensor] = []

    def begin_training(self, train_items: Ragged) -> None:
        super().begin_training(train_items)
        assert self.train_items is not None
        popularity = torch.bincount(self.train_items.items, minlength=self.student_scorer.n_items)
        members = popularity_groups(popularity, self.groups)
        self._sizes = group_sizes([popularity[items] for items in members], self.n_samples, self.lamda)
        self._rank_groups(members)

    @torch.no_grad()
    def _rank_groups(self, members: list[Tensor]) -> None:
        """Rank the items of each group by the teacher, without training items.

        Sets the lists, int32 ``[U, width]``, and the number of candidates of each user, int64 ``[U]``. A list is only
        as wide as
        a draw can reach: 1000 ranks at T = 20 are cut at 334.
        """
        queries, n_items = self.all_queries(), self.student_scorer.n_items
        widths = [min(self.candidates, reach(self.tau), len(items)) for items in members]
        self._lists = [torch.zeros(len(queries), width, dtype=torch.int32, device=queries.device) for width in widths]
        self._lengths = [torch.zeros(len(queries), dtype=torch.int64, device=queries.device) for _ in members]
        for rows in blocks(len(queries), n_items, queries.device):
            scores = self.teacher_scores.full(queries[rows])
            strike_out(scores, queries[rows], self.train_items)
            for items, ranked, lengths in zip(members, self._lists, self._lengths, strict=True):
                own = scores[:, items]
                lengths[rows] = (own > -torch.inf).sum(1).clamp(max=self.candidates)
                places, values = top_k(own, ranked.shape[1])
                ranked[rows] = items[places].masked_fill(values == -torch.inf, 0).to(torch.int32)

    def draw_item_sets(self, epoch: int) -> None:
        better: list[Tensor] = []
        worse: list[Tensor] = []
        for size, ranked, lengths in zip(self._sizes, self._lists, self._lengths, strict=True):
            places = draw_unequal_positions(lengths, size, self.tau, self.generator)
            for ids, place in zip((better, worse), places, strict=True):
                ids.append(ranked.gather(1, place).masked_fill_((lengths < 2).unsqueeze(1), 0).long())
        self.item_sets = {"better": torch.cat(better, dim=1), "worse": torch.cat(worse, dim=1)}

    def forward(self, batch: DistillBatch) -> Tensor:
        ids = torch.cat([batch.sets["better"].ids, batch.sets["worse"].ids], dim=1)
        better, worse = self.student_scorer.at(batch.queries, ids).chunk(2, dim=1)
        return self.reduce(pairwise_loss(better, worse, batch.sets["better"].ids > 0), batch.weights)
