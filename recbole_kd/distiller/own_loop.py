"""The KD loss in a training loop of one's own, without RecBole."""

from __future__ import annotations

import torch
from torch import Tensor

from recbole_kd.distiller.base import Distiller
from recbole_kd.distiller.set_scores import SetScores
from recbole_kd.errors import ArgumentError
from recbole_kd.ops.ragged import Ragged


class KDTerm:
    """The weighted KD loss of a distiller, to be added to a base loss.

    Args:
        distiller: any distiller. Its parameters, if it has any, must be given to the optimiser.
        train_items: the training items of each query, row 0 (the pad) empty.

    Examples:
        >>> student = TableScorer(users, items)  # two nn.Embedding, row 0 is the pad
        >>> term = KDTerm(CE(student, FactorScores(teacher_users, teacher_items), k=2), train_items)
        >>> term.begin_epoch(0)
        >>> loss = term(torch.tensor([1, 2, 2]))  # the users of a batch
        >>> loss.shape, loss.requires_grad
        (torch.Size([]), True)
    """

    def __init__(self, distiller: Distiller, train_items: Ragged) -> None:
        scorer = distiller.student_scorer
        teacher = distiller.teacher_scores
        rows = len(train_items.starts) - 1
        if (scorer.n_queries, scorer.n_items) != (teacher.n_queries, teacher.n_items) or rows != scorer.n_queries:
            raise ArgumentError(
                f"The student has {scorer.n_queries} queries and {scorer.n_items} items, the teacher "
                f"{teacher.n_queries} and {teacher.n_items}, train_items {rows} rows: expected the same numbers, pad "
                "included"
            )
        self.distiller = distiller
        self._sets = SetScores(distiller, teacher)
        self._begun = False
        distiller.begin_training(train_items)

    def begin_epoch(self, epoch: int) -> None:
        """Draw the item sets of an epoch, if they are due, and ask the teacher for their scores.

        Args:
            epoch: from 0.
        """
        due = not self._begun or self.distiller.is_due(epoch)
        if due:
            self._sets.let_go()
        self.distiller.begin_epoch(epoch, draw=due)
        self._sets.ask_teacher()
        self.distiller.train()
        self._begun = True

    def __call__(self, queries: Tensor, positives: Tensor | None = None, negatives: Tensor | None = None) -> Tensor:
        """Return ``weight * L_KD`` of a batch, ``[]``, differentiable.

        Args:
            queries: int64 ``[B]``, the users of the batch, with their repetitions.
            positives: int64 ``[B]``, the item of each row, for a method that reads them (``needs_items``).
            negatives: int64, the sampled negatives of the rows.

        Raises:
            ArgumentError: :meth:`begin_epoch` was not called, or the method needs positives.
        """
        if not self._begun:
            raise ArgumentError(
                "KDTerm draws its item sets at the beginning of an epoch: call begin_epoch(epoch) first"
            )
        if self.distiller.needs_items and positives is None:
            name = type(self.distiller).__name__
            raise ArgumentError(f"{name} reads the items of a batch: give positives (and negatives) beside the queries")
        batch = self._sets.batch_of(queries, positives, negatives, None if positives is None else queries)
        if not len(batch.queries):
            return torch.zeros((), device=batch.queries.device)
        loss: Tensor = self.distiller.weight * self.distiller(batch)
        return loss
