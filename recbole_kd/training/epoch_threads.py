"""Torch's number of threads in an epoch."""

from __future__ import annotations

from torch import nn

from recbole_kd.distiller.base import Distiller

SMALL_MODEL = 2**20
"""Up to this many parameters one thread is faster than two in torch's own part of a step (BPR, Adam, batch 2048)."""


def one_is_enough(model: nn.Module, distiller: Distiller | None) -> bool:
    """Return whether torch needs only one thread.

    The distiller's threads then do nearly all of the work.

    Args:
        model: the student.
        distiller: None without a teacher, where torch does all of the work.
    """
    if distiller is None or not distiller.in_threads or not distiller.student_scorer.looks_up:
        return False
    return sum(parameter.numel() for parameter in model.parameters()) <= SMALL_MODEL
