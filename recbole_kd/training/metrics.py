"""Metrics of a finished training: of its best epoch and of each epoch."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from recbole_kd.data.histories.sequence_dataset import universe_of
from recbole_kd.data.split_and_loaders import Loaders
from recbole_kd.evaluation.efficiency import inference_us_per_user, peak_rss_mb
from recbole_kd.evaluation.teacher_rank_curve import rank_curve
from recbole_kd.model.size import size_of
from recbole_kd.scoring.scorer import Scorer
from recbole_kd.teacher.base import TeacherScores
from recbole_kd.training.trainer import KDTrainer

RANKS_SHOWN = 50
"""Number of the teacher's first items that a rank curve follows."""


def best_epoch_metrics(trainer: Any, model: nn.Module, loaders: Loaders, show_progress: bool) -> dict[str, Any]:
    """Return the metrics of the best epoch.

    These are validation and test metrics, the size, and the microseconds of inference per user. ``loss`` is the one
    that HSTU took.
    """
    has_weights = bool(list(model.parameters()))
    metrics: dict[str, Any] = {}
    for index, (name, data) in enumerate((("valid", loaders.valid), ("test", loaders.test))):
        best = has_weights and index == 0
        found = trainer.evaluate(data, load_best_model=best, show_progress=show_progress)
        metrics[name] = {key: float(value) for key, value in found.items()}
    return {
        **metrics,
        **size_of(model),
        **({"loss": model.loss_name} if isinstance(getattr(model, "loss_name", None), str) else {}),
        "inference_us_per_user": inference_us_per_user(Scorer(model, universe_of(loaders.train))),
    }


def ending(trainer: KDTrainer) -> dict[str, Any]:
    """Return the number of epochs, the best epoch, and the key that ended the training."""
    return {"epochs": len(trainer.epoch_seconds), "best_epoch": trainer.best_epoch, "stopped_by": trainer.stopped_by}


def distillation_metrics(trainer: KDTrainer, teacher: TeacherScores) -> dict[str, Any]:
    """Return the metrics that only a distillation has.

    These are the KD loss of each epoch, times, peak memory, the history, and the recall of a candidate index.
    """
    assert trainer.distiller is not None
    metrics: dict[str, Any] = {}
    index = trainer.distiller.student_scorer.index
    if index is not None:
        of_teachers = [
            found.report() for member in teacher.members if (found := getattr(member, "index", None)) is not None
        ]
        metrics["candidate_index"] = {**index.report(), **({"teacher": of_teachers} if of_teachers else {})}
    return {
        **metrics,
        **ending(trainer),
        "kd_loss": trainer.kd_loss,
        "seconds_per_epoch": _mean(trainer.epoch_seconds),
        "kd_seconds_per_epoch": _mean(trainer.kd_seconds),
        "process_peak_rss_mb": peak_rss_mb(),  # of the whole process, including a teacher that it trained
        "history": _by_name(trainer.history),
    }


class RankCurves:
    """The student's mean rank of the teacher's k-th item before and after training, k = 1..50.

    Args:
        wanted: False computes nothing, and :meth:`after_training` returns nothing.
    """

    def __init__(self, student: Scorer, teacher: TeacherScores, wanted: bool) -> None:
        self.scorer, self.start = student, None
        if wanted:
            queries = torch.arange(teacher.n_queries, device=self.scorer.device)
            self.lists = teacher.top_k(queries, min(RANKS_SHOWN, teacher.n_items - 1))[0]
            self.start = rank_curve(self.scorer, self.lists)

    def after_training(self) -> dict[str, Any]:
        """Return both curves under ``teacher_ranks``."""
        return (
            {}
            if self.start is None
            else {"teacher_ranks": {"start": self.start, "end": rank_curve(self.scorer, self.lists)}}
        )


def _by_name(epochs: list[dict[str, float]]) -> dict[str, list[float | None]]:
    """Return each metric's values by epoch, None if an epoch lacks it.

    Validation may skip epochs, for instance.
    """
    return {
        name: [epoch.get(name) for epoch in epochs]
        for name in dict.fromkeys(name for epoch in epochs for name in epoch)
    }


def _mean(values: list[float]) -> float | None:
    """Return the mean, or None if no epoch was trained (epochs=0)."""
    return sum(values) / len(values) if values else None
