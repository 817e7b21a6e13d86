"""The losses of a distillation's batch, the student's own and the weighted KD loss, both finite."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from recbole_kd.distiller.base import DistillBatch, Distiller
from recbole_kd.errors import DivergedError
from recbole_kd.training.base_loss import BaseLoss
from recbole_kd.training.gradient_ratio import gradient_ratio


def check_finite(loss: Tensor, term: str, model: nn.Module, distils: bool, epoch: int) -> None:
    """Refuse a loss that is inf or nan.

    Args:
        loss: ``[]``.
        term: what the message calls it.
        model: the student.
        distils: whether there is a distiller, whose keys the message then names.
        epoch: from 0.

    Raises:
        DivergedError: the loss is not finite.
    """
    if torch.isfinite(loss):
        return
    fix = "learning_rate or kd_weight, raise kd_temperature" if distils else "learning_rate"
    raise DivergedError(
        f"The {term} of {type(model).__name__} is {loss.item()} in epoch {epoch}: lower {fix}, or set "
        f"clip_grad_norm={{'max_norm': 1.0}}"
    )


class JointLoss:
    """The two losses of each batch of a distillation, and what adds up over an epoch.

    Args:
        model: the student.
        base_loss: its own loss.
        distiller: the method.
        device: of the sums.

    Attributes:
        kd_sum: sum of the unweighted KD losses since :meth:`begin_epoch`, float64 ``[]``.
        queries: number of queries since then.
        grad_ratio: ratio of the gradient norms at the epoch's first batch, ``[]``. None if it is not measured.
    """

    def __init__(self, model: nn.Module, base_loss: BaseLoss, distiller: Distiller, device: torch.device) -> None:
        self.model, self.base_loss, self.distiller = model, base_loss, distiller
        self.kd_sum = torch.zeros((), dtype=torch.float64, device=device)
        self.queries = 0
        self.grad_ratio: Tensor | None = None
        self._measures_gradients = False
        self._epoch = 0

    def begin_epoch(self, epoch: int, measures_gradients: bool) -> None:
        """Set all sums to 0.

        Args:
            epoch: from 0.
            measures_gradients: measure the ratio of gradient norms at the first batch, by two more backward passes.
        """
        self.kd_sum.zero_()
        self.queries, self.grad_ratio = 0, None
        self._epoch, self._measures_gradients = epoch, measures_gradients

    def __call__(self, interaction: Any) -> tuple[Tensor, Tensor]:
        """Return (base loss, weighted KD loss) of a batch, both ``[]``.

        Both come from one step of the student's Scorer, so that the model encodes once.

        Raises:
            DivergedError: a loss is not finite.
        """
        distiller = self.distiller
        with distiller.student_scorer.step(interaction):
            base = self.base_loss(interaction)
            if isinstance(base, tuple):
                base = torch.stack(base).sum()
            check_finite(base, "base loss", self.model, True, self._epoch)
            unweighted = self._kd_loss(interaction.kd)
            self.kd_sum += unweighted.detach()
            kd = distiller.weight * unweighted
            check_finite(kd, f"KD loss ({type(distiller).__name__})", self.model, True, self._epoch)
            if self._measures_gradients and not self.queries:
                self.grad_ratio = gradient_ratio(base, kd, self.model.parameters())
            self.queries += len(interaction.kd.queries) if interaction.kd.share else 0
        return base, kd

    def _kd_loss(self, batch: DistillBatch) -> Tensor:
        """Return the unweighted KD loss. Losses of shards are scaled so that they add up."""
        if not batch.share or not len(batch.queries):  # a batch of the per-user loader may hold only the pad
            return torch.zeros((), device=self.kd_sum.device)
        loss: Tensor = self.distiller(batch)
        return loss if self.distiller.reduction == "sum" else loss * batch.share
