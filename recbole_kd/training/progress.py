"""Progress of trainings, told epoch by epoch to whoever shows it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol


@dataclass(frozen=True)
class EpochReport:
    """One finished epoch, after its validation.

    Attributes:
        epoch: how many epochs are done. epochs: the most there will be.
        base_loss: the model's own loss, mean over rows. kd_loss: the unweighted KD loss, mean over queries; None for a
            model that is trained alone.
        kd_weight: lambda. grad_ratio: norm of the weighted KD gradient over that of the base loss, at the epoch's first
            batch; None if it was not measured.
        metric: name of the stopping metric. score: its value on validation. is_best: no epoch before was better.
        waited, patience: validations since the best epoch, and how many end the training.
    """

    epoch: int
    epochs: int
    base_loss: float | None
    kd_loss: float | None
    kd_weight: float | None
    grad_ratio: float | None
    metric: str
    score: float
    is_best: bool
    waited: int
    patience: int


class Progress(Protocol):
    """Shows the stages of a run and their epochs."""

    def begin(self, title: str) -> None:
        """Start the next stage."""

    def epoch(self, report: EpochReport) -> None:
        """Show a finished epoch of the stage."""

    def end(self, text: str) -> None:
        """End the stage with a line on what came out of it."""


class Silent:
    """A :class:`Progress` that shows nothing."""

    def begin(self, title: str) -> None:
        """Show nothing."""

    def epoch(self, report: EpochReport) -> None:
        """Show nothing."""

    def end(self, text: str) -> None:
        """Show nothing."""


SILENT = Silent()


def epoch_report(trainer: Any, epoch: int, score: float, n_batches: int) -> EpochReport:
    """Return the report of an epoch that a trainer has just validated.

    Args:
        trainer: RecBole's, ours or one of RecBole's own kinds. epoch: its number, from 0.
        n_batches: of an epoch; divides the loss that RecBole's own trainers have summed over batches.
    """
    means = getattr(trainer, "epoch_means", None)
    if means is None:
        loss = trainer.train_loss_dict.get(epoch)
        total = sum(loss) if isinstance(loss, tuple) else loss
        means = {"base_loss": None if total is None else float(total) / max(n_batches, 1)}
    distiller = getattr(trainer, "distiller", None)
    return EpochReport(
        epoch=epoch + 1,
        epochs=int(trainer.epochs),
        base_loss=means.get("base_loss"),
        kd_loss=means.get("kd_loss"),
        kd_weight=None if distiller is None else float(distiller.weight),
        grad_ratio=means.get("grad_ratio"),
        metric=str(trainer.config["valid_metric"]),
        score=float(score),
        is_best=trainer.cur_step == 0,
        waited=int(trainer.cur_step),
        patience=int(trainer.stopping_step),
    )
