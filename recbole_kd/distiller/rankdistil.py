"""RankDistil: the order of the teacher's top-k, learnt from sampled permutations."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

import torch
from annotated_types import Le
from torch import Tensor

from recbole_kd.config.value_types import Count, ItemCount, NonNegative, Positive
from recbole_kd.distiller.base import DistillBatch, Distiller
from recbole_kd.losses.ranking import listwise_loss
from recbole_kd.ops.ragged import Ragged
from recbole_kd.ops.sampling import Outside, sample_without_replacement
from recbole_kd.ops.topk import blocks
from recbole_kd.scoring.base import StudentScores
from recbole_kd.teacher.base import TeacherScores


class RankDistil(Distiller):
    r"""RankDistil: Plackett-Luce likelihood of permutations of the teacher's top-k.

    Reddi et al., AISTATS 2021.

    .. math:: L = \sum_{rows} \frac{1}{S} \sum_{s=1}^S -\log P_k(\pi_s | r^S), \quad
        P_k(\pi | r) = \prod_{m=1}^k \frac{e^{r_{\pi(m)}}}{\sum_{j \ge m} e^{r_{\pi(j)}} + \sum_{j \in V} e^{r_j}}

    The denominators push down what the teacher ranks low. No code for recommenders is published. This is the member of
    the family that TensorFlow-Ranking implements (CoupledRankDistilLoss: permutations by the order of r^T + Gumbel
    noise, S = 8). The list is our choice: the teacher's top k without training items, and V, m items drawn uniformly
    from the rest each epoch. The permutations are also drawn anew each epoch.

    Args:
        k: length of the top list and of the permutations.
        n_samples: m.
        permutations: S.
        tau: scale of the noise in the SAMPLING. With 0 the permutation is always the teacher's own order; then one
            permutation is enough, and the loss is RRD's with ``sampling=none``.
        temperature: of the student's SOFTMAX.
    """

    mask_train = True
    needs_set_scores = False

    def __init__(
        self,
        student: StudentScores,
        teacher: TeacherScores,
        *,
        k: Annotated[ItemCount, Le(2**15)] = 50,
        n_samples: ItemCount = 100,
        permutations: Count = 8,
        tau: NonNegative = 1.0,
        temperature: Positive = 1.0,
        seed: int = 0,
    ) -> None:
        super().__init__(student, teacher, seed=seed)
        self.k, self.n_samples, self.permutations, self.tau, self.temperature = (
            k,
            n_samples,
            permutations,
            tau,
            temperature,
        )
        self._top = torch.empty(0, dtype=torch.int64)
        self._top_scores = torch.empty(0)
        self._orders = torch.empty(0, dtype=torch.int16)
        self._outside: Outside | None = None

    @classmethod
    def draws_unlisted(cls, options: Mapping[str, Any]) -> bool:
        return True

    @classmethod
    def idle(cls, options: Mapping[str, Any]) -> Mapping[str, str]:
        return {"permutations": "kd_tau=0"} if options["tau"] == 0 else {}

    def begin_training(self, train_items: Ragged) -> None:
        super().begin_training(train_items)
        assert self.train_items is not None
        n_items = self.student_scorer.n_items
        self._top, self._top_scores = self.teacher_scores.top_k(self.all_queries(), self.k, self.train_items)
        self._outside = Outside(self.train_items, n_items, self._top)

    def draw_item_sets(self, epoch: int) -> None:
        assert self._outside is not None, "begin_training comes first"
        drawn = self._outside.draw_distinct(self.all_queries(), self.n_samples, self.generator)
        self.item_sets = {"top": self._top, "drawn": self.without_uncounted(drawn)}
        self._orders = self._draw_orders()

    def _draw_orders(self) -> Tensor:
        """Draw permutations of the ranks of the top list, int16 ``[U, S, k]``.

        Empty ranks of a short list come last.
        """
        n, shape = len(self._top), (self.permutations, self.k)
        orders = torch.empty(n, *shape, dtype=torch.int16, device=self._top.device)
        if self.tau == 0:
            orders[:] = torch.arange(self.k, device=orders.device)
            return orders
        for rows in blocks(n, self.permutations * self.k, orders.device):
            scores = (self._top_scores[rows] / self.tau).unsqueeze(1).expand(-1, *shape).reshape(-1, self.k)
            orders[rows] = sample_without_replacement(scores, self.k, self.generator).view(-1, *shape).to(torch.int16)
        return orders

    def forward(self, batch: DistillBatch) -> Tensor:
        ids = torch.cat([batch.sets["top"].ids, batch.sets["drawn"].ids], dim=1)
        scores, valid = self.student_scorer.at(batch.queries, ids) / self.temperature, ids > 0
        orders = self._orders[batch.queries].long()
        top, top_valid = (table[:, None, : self.k].expand_as(orders).gather(2, orders) for table in (scores, valid))
        loss = listwise_loss(top, scores[:, self.k :], top_valid, valid[:, self.k :])
        return self.reduce(loss.mean(1), batch.weights)
