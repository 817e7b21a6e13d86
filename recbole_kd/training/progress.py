"""The progress of trainings, reported epoch by epoch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol


@dataclass(frozen=True)
class EpochReport:
    """One finished epoch, after its validation.

    Attributes:
        epoch: number of finished epochs.
        epochs: maximum number of epochs.
        base_loss: the model's own loss, mean over rows.
        kd_loss: the unweighted KD loss, mean over queries. None without a distiller.
        kd_weight: lambda.
        grad_ratio: norm of the weighted KD gradient over that of the base loss, at the epoch's first
            batch; None if it was not measured.
        metric: name of the stopping metric.
        score: its value on validation.
        is_best: whether this epoch is the best so far.
        waited: validations since the best epoch.
        patience: number of such validations after which the training ends.
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
    """The interface of a display of a run's stages and epochs."""

    def begin(self, title: str) -> None:
        """Start the next stage."""

    def epoch(self, report: EpochReport) -> None:
        """Show a finished epoch of the stage."""

    def end(self, text: str) -> None:
        """End the stage with a line on its result."""


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
        trainer: a KDTrainer or a special trainer of RecBole.
        epoch: number of the epoch, from 0.
        score: its validation score.
        n_batches: batches of an epoch, which divide the loss that RecBole's own trainers sum over batches.
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
