"""The relaxed ranking loss that DE-RRD adds to DE."""

from __future__ import annotations

import torch
from torch import Tensor

from recbole_kd.distiller.base import DistillBatch, Distiller
from recbole_kd.loss import sample_without_replacement
from recbole_kd.ragged import Ragged
from recbole_kd.scorer import Scorer
from recbole_kd.teacher.base import TeacherScores
from recbole_kd.topk import blocks

NOTHING = -1e30
"""Score of a column that does not count; with -inf the gradient of logcumsumexp is not a number."""


def relaxed_ranking_loss(interesting: Tensor, uninteresting: Tensor, valid: Tensor, valid_uninteresting: Tensor) -> Tensor:
    r""":math:`-\sum_k [r_k - \log(\sum_{m \ge k} e^{r_m} + \sum_j e^{r_j})]` per row, in log space (RRD, Kang et al., CIKM 2020).

    The published code clips scores at 80 and exponentiates them instead.

    Args:
        interesting: float ``[B, K]``, best by the teacher first. uninteresting: float ``[B, L]``. valid, valid_uninteresting: bool, same
            shapes; columns that do not count are False.

    Returns:
        float ``[B]``.
    """
    own = interesting.masked_fill(~valid, NOTHING).flip(1).logcumsumexp(1).flip(1)
    others = uninteresting.masked_fill(~valid_uninteresting, NOTHING).logsumexp(1, keepdim=True)
    terms = torch.logaddexp(own, others) - interesting
    return terms.masked_fill(~valid, 0.0).sum(dim=1)


class RelaxedRanking(Distiller):
    """RRD as DE-RRD needs it: K interesting items of the teacher's list in its order, above L uninteresting ones.

    Args:
        k: K. n_samples: L. candidates: length of the teacher's list, without training items. tau: interesting items are drawn by
            exp(-rank/tau).
    """

    needs_set_scores = False

    def __init__(self, student: Scorer, teacher: TeacherScores, *, k: int, n_samples: int, candidates: int, tau: float, seed: int) -> None:
        super().__init__(student, teacher, seed=seed)
        self.k, self.n_samples, self.candidates, self.tau = k, n_samples, candidates, tau
        self._listed = torch.empty(0, dtype=torch.int64)

    def begin_training(self, train_items: Ragged) -> None:
        super().begin_training(train_items)
        self._listed = self.teacher_scores.top_k(self.all_queries(), self.candidates, self.train_items)[0]

    def begin_epoch(self, epoch: int) -> None:
        places = torch.arange(self._listed.shape[1], device=self._listed.device)
        log_weights = (-places / self.tau).expand_as(self._listed).masked_fill(self._listed == 0, -torch.inf)
        drawn = sample_without_replacement(log_weights, self.k, self.generator).sort(dim=1).values
        self.item_sets = {"interesting": self._listed.gather(1, drawn), "uninteresting": self._draw_uninteresting()}

    def _draw_uninteresting(self) -> Tensor:
        """L items a query, uniformly from those neither trained on nor listed; id 0 where there are fewer."""
        assert self.train_items is not None, "begin_training comes first"
        queries, n_items = self.all_queries(), self.student_scorer.n_items
        drawn: list[Tensor] = []
        for rows in blocks(len(queries), n_items):
            log_weights = torch.zeros(rows.stop - rows.start, n_items, device=queries.device)
            log_weights.scatter_(1, self._listed[rows], -torch.inf)
            log_weights[self.train_items.pairs(queries[rows])] = -torch.inf
            log_weights[:, 0] = -torch.inf
            ids = sample_without_replacement(log_weights, min(self.n_samples, n_items), self.generator)
            drawn.append(ids.masked_fill(log_weights.gather(1, ids) == -torch.inf, 0))
        return torch.cat(drawn)

    def forward(self, batch: DistillBatch) -> Tensor:
        interesting, uninteresting = (batch.sets[name].ids for name in ("interesting", "uninteresting"))
        scores = self.student_scorer.at(batch.queries, torch.cat([interesting, uninteresting], dim=1))
        above, below = scores.split([interesting.shape[1], uninteresting.shape[1]], dim=1)
        total = relaxed_ranking_loss(above, below, interesting > 0, uninteresting > 0).sum()
        return total if self.reduction == "sum" else total / batch.weights.sum()
