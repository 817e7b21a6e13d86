"""The figures of a finished epoch: those of its distillation, and the metrics of ``kd_track``."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

from torch import nn

from recbole_kd.data.histories.recbole_rows import sequence_queries
from recbole_kd.data.train_items import train_items
from recbole_kd.distiller.base import Distiller
from recbole_kd.evaluation.closed_set_bound import closed_set_bound
from recbole_kd.evaluation.train_ndcg import train_ndcg
from recbole_kd.scoring.scorer import Scorer


def distillation_figures(
    distiller: Distiller, base_loss: float, kd_loss: float, grad_ratio: float | None
) -> dict[str, float]:
    """Return the losses of an epoch, the distiller's diagnostics and the recall of a candidate index.

    Args:
        distiller: the method.
        base_loss: the student's own loss, summed over batches.
        kd_loss: the unweighted KD loss, summed over batches.
        grad_ratio: ratio of the gradient norms. None if it was not measured.
    """
    index = distiller.student_scorer.index
    return {
        "base_loss": base_loss,
        "kd_loss": kd_loss,
        "weighted_kd_loss": distiller.weight * kd_loss,
        **_measured(grad_ratio),
        **distiller.diagnostics(),
        **({} if index is None else index.log_values()),
    }


def distillation_means(base_loss: float, kd_loss: float, n: float, grad_ratio: float | None) -> dict[str, float]:
    """Return the mean losses of an epoch.

    Args:
        base_loss: the student's own loss per row.
        kd_loss: the unweighted KD loss, summed over batches.
        n: the queries, or the batches if the method's loss is a mean over queries.
        grad_ratio: ratio of the gradient norms. None if it was not measured.
    """
    return {"base_loss": base_loss, "kd_loss": kd_loss / max(n, 1), **_measured(grad_ratio)}


def tracked_metrics(
    track: Collection[str], model: nn.Module, train_data: Any, distiller: Distiller | None
) -> dict[str, float]:
    """Return the metrics of ``kd_track`` that are measured after each epoch.

    Args:
        track: ``train_ndcg`` and ``bound`` count; without a distiller there is no bound.
        model: the student.
        train_data: the training loader.
        distiller: the method.
    """
    found: dict[str, float] = {}
    if "train_ndcg" in track:
        queries = sequence_queries(train_data)
        scorer = Scorer(model, None if queries is None else queries.universe)
        found["train_ndcg@10"] = train_ndcg(scorer, train_items(train_data).to(scorer.device))
    if "bound" in track and distiller is not None:
        found |= closed_set_bound(distiller.student_scorer, distiller.teacher_scores)
    return found


def _measured(grad_ratio: float | None) -> dict[str, float]:
    return {} if grad_ratio is None else {"grad_ratio": grad_ratio}
