"""PromptMM, logits only: distillation of pairs, and of lists decoupled by modality."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from recbole_kd.config.value_types import ItemCount, NonNegative, Positive
from recbole_kd.distiller.base import DistillBatch, Distiller
from recbole_kd.losses.decoupled import binary_divergence, decoupled_divergence, positive_shares
from recbole_kd.ops.ragged import Ragged
from recbole_kd.ops.sampling import Outside
from recbole_kd.ops.topk import blocks
from recbole_kd.scoring.base import StudentScores
from recbole_kd.teacher.base import TeacherScores


class PromptMM(Distiller):
    r"""PromptMM (logits only): pairs, and lists decoupled by modality.

    Wei et al., WWW 2024. Like Table 15 of the RCE-KD paper, this leaves out PromptMM's distillation of embeddings and
    keeps the rest. For each positive (u, i) the loss has two parts:

    - pair: :math:`KL(Bern(\sigma(r^T_{ui} - r^T_{uj})) || Bern(\sigma(r^S_{ui} - r^S_{uj})))`, j the batch's negative;
    - list: a decoupled divergence (:func:`recbole_kd.losses.decoupled.decoupled_divergence`) on the positive and
      ``n_negatives`` uniform negatives: :math:`D(r) = \alpha TCKD + \beta NCKD` with the teacher's own scores r, and
      :math:`\sum_m w_m D(y_m)` with the scores of its modalities.

    :math:`w_m` is modality m's probability of the positive as a share of all modalities (``positive``), or 1/M
    (``equal``).

    The source is github HKUDS/PromptMM (codes/main.py). Its decoupled loss equals ours (tested). Two defects are not
    taken
    over: the pair and modality terms there give minus log-probabilities to KLDivLoss, whose gradient RAISES the
    student's BPR loss; and the decoupled loss is only logged, on scores that already went through a softmax. No formula
    of the re-weighting is available to us, so ours is re-derived. The prompt is trained with PromptMM's own teacher. A
    teacher that is trained beforehand (BM3) has no prompt, so there is none here. The student is not initialised from
    the teacher's vectors, because their width differs. Rates published with the defective form (1e-2 to 5e9) do not
    apply here. Negatives are drawn once per query and epoch, not once per row.

    Args:
        n_negatives: negatives of the list (neg_sample_num).
        temperature: T (decouple_t).
        alpha, beta: decouple_alpha and decouple_beta.
        pair_weight, list_weight, modality_weight: weights of the three terms.
        reweight: see above.
    """

    requires = frozenset({"scores", "modalities"})
    needs_items = True
    mask_train = True
    needs_set_scores = False

    def __init__(
        self,
        student: StudentScores,
        teacher: TeacherScores,
        *,
        n_negatives: ItemCount = 10,
        temperature: Positive = 1.0,
        alpha: NonNegative = 100.0,
        beta: NonNegative = 1.0,
        pair_weight: NonNegative = 1.0,
        list_weight: NonNegative = 1.0,
        modality_weight: NonNegative = 1.0,
        reweight: Literal["positive", "equal"] = "positive",
        seed: int = 0,
    ) -> None:
        super().__init__(student, teacher, seed=seed)
        self.n_negatives, self.temperature, self.alpha, self.beta = n_negatives, temperature, alpha, beta
        self.pair_weight, self.list_weight, self.modality_weight = pair_weight, list_weight, modality_weight
        self.reweight = reweight
        self._outside: Outside | None = None
        self._drawn_positive = torch.empty(0, dtype=torch.int64)
        self._of_modality: dict[str, Tensor] = {}

    # -- item sets ----------------------------------------------------------------------------------------------------

    def begin_training(self, train_items: Ragged) -> None:
        super().begin_training(train_items)
        assert self.train_items is not None
        self._outside = Outside(self.train_items, self.student_scorer.n_items)

    def draw_item_sets(self, epoch: int) -> None:
        assert self._outside is not None and self.train_items is not None, "begin_training comes first"
        queries = self.all_queries()
        negatives = self._outside.draw_distinct(queries, self.n_negatives, self.generator)
        self.item_sets = {"negatives": negatives}
        self._drawn_positive = _one_of(self.train_items, self.generator)
        for name, scores in self.teacher_scores.modalities.items():
            parts = [
                scores.at(queries[rows], negatives[rows])
                for rows in blocks(len(negatives), 8 * self.n_negatives, queries.device)
            ]
            self._of_modality[name] = torch.cat(parts)

    # -- loss ---------------------------------------------------------------------------------------------------------

    def forward(self, batch: DistillBatch) -> Tensor:
        rows, positives, weights = self._rows(batch)
        negatives = self.item_sets["negatives"][rows]
        items = torch.cat([positives.unsqueeze(1), negatives], dim=1)
        valid = (items != 0) & (positives != 0).unsqueeze(1)
        student = self.student_scorer.at(rows, items)
        teacher = self.teacher_scores.at(rows, items)
        loss = self.list_weight * self._decoupled(student, teacher, valid)
        if self.modality_weight:
            loss = loss + self.modality_weight * self._by_modality(student, rows, positives, valid)
        if self.pair_weight:
            loss = loss + self.pair_weight * self._pairs(batch, rows, student, teacher, valid)
        return self.reduce(loss, weights)

    def _rows(self, batch: DistillBatch) -> tuple[Tensor, Tensor, Tensor]:
        """Return (query, positive, weight) of each row, ``[R]``.

        If the loader gives no positives, each distinct query is a row, with the positive that was drawn for it.
        """
        if batch.rows is None or batch.positives is None:
            return batch.queries, self._drawn_positive[batch.queries], batch.weights
        return batch.rows, batch.positives, torch.ones(len(batch.rows), device=batch.rows.device)

    def _decoupled(self, student: Tensor, teacher: Tensor, valid: Tensor) -> Tensor:
        target, rest = decoupled_divergence(student, teacher, valid, self.temperature)
        return self.alpha * target + self.beta * rest

    def _by_modality(self, student: Tensor, rows: Tensor, positives: Tensor, valid: Tensor) -> Tensor:
        first = positives.unsqueeze(1)
        modalities = self.teacher_scores.modalities
        scores = torch.stack(
            [torch.cat([modalities[name].at(rows, first), self._of_modality[name][rows]], dim=1) for name in modalities]
        )
        if self.reweight == "positive":
            shares = positive_shares(scores, valid, self.temperature)
        else:
            shares = torch.full(scores.shape[:2], 1 / len(scores), device=scores.device)
        return torch.stack(
            [share * self._decoupled(student, own, valid) for share, own in zip(shares, scores, strict=True)]
        ).sum(dim=0)

    def _pairs(self, batch: DistillBatch, rows: Tensor, student: Tensor, teacher: Tensor, valid: Tensor) -> Tensor:
        """Return the pair loss of each row, float ``[R]``.

        It uses the batch's own negatives, which are in the order of the rows. If the student's loss has none, it uses
        the negatives of the list.
        """
        positive, student_rest, teacher_rest, real = student[:, :1], student[:, 1:], teacher[:, 1:], valid[:, 1:]
        if batch.rows is not None and batch.negatives is not None:
            # RecBole puts the first negative of all rows before the second.
            drawn = batch.negatives.view(-1, len(rows)).T
            student_rest, teacher_rest = self.student_scorer.at(rows, drawn), self.teacher_scores.at(rows, drawn)
            real = torch.ones_like(drawn, dtype=torch.bool)
        divergence = binary_divergence(positive - student_rest, teacher[:, :1] - teacher_rest).masked_fill(~real, 0.0)
        return divergence.sum(dim=1) / real.sum(dim=1).clamp(min=1)


def _one_of(sets: Ragged, generator: torch.Generator) -> Tensor:
    """Draw a uniform item from each query's set, 0 if it is empty: int64 ``[n_queries]``."""
    counts = sets.counts()
    uniform = torch.rand(len(counts), generator=generator, device=counts.device)
    place = torch.minimum((uniform * counts).long(), (counts - 1).clamp(min=0))
    padded = torch.cat([sets.items, sets.items.new_zeros(1)])
    return padded[(sets.starts[:-1] + place).clamp(max=len(sets.items))].masked_fill(counts == 0, 0)
