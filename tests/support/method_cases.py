"""Small options and teachers for every distillation method."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from recbole_kd.distiller.base import Distiller
from recbole_kd.distiller.registry import DISTILLERS, distiller_class, distiller_options, resolve_options
from recbole_kd.teacher.stores.factors import FactorScores

METHODS = sorted(DISTILLERS)


SMALL_INT = 4


OPTIONS: dict[str, dict[str, Any]] = {
    "RCEKD": {"n_samples": 4, "candidates": 8, "gamma_epochs": 3},
    "DCD": {"candidates": 8},
    "RRD": {"candidates": 8},
    "CD": {"candidates": 20, "n_samples": 2},
    "RD": {"start_epoch": 0},
}
"""Where a whole number of 4 is not a small setting that works."""


def _with_trajectory(teacher: FactorScores, others: list[FactorScores]) -> None:
    teacher.earlier = lambda: list(others)


def _with_modalities(teacher: FactorScores, others: list[FactorScores]) -> None:
    teacher.modalities = {f"modality{number}": other for number, other in enumerate(others)}


FURTHER_TEACHERS: dict[str, Callable[[FactorScores, list[FactorScores]], None]] = {
    "trajectory": _with_trajectory,
    "modalities": _with_modalities,
}
"""What a teacher must offer beside scores and embeddings -> what gives it to one, out of two others."""


def small_options(
    name: str, whole: int = SMALL_INT, exceptions: Mapping[str, Mapping[str, Any]] = OPTIONS
) -> dict[str, Any]:
    """Options with every whole number above ``whole`` set to it, but for the exceptions."""
    cls = distiller_class(name)
    defaults = {key: p.default for key, p in distiller_options(cls).items()}
    shrunk = {
        key: whole
        for key, value in defaults.items()
        if isinstance(value, int) and not isinstance(value, bool) and value > whole
    }
    return resolve_options(cls, {**shrunk, **exceptions.get(name, {})})


def make_teacher(
    cls: type[Distiller], n_queries: int, n_items: int, scale: float = 1.0
) -> tuple[FactorScores, list[Tensor]]:
    """A teacher that offers what the method requires, and the tensors it is made of, which would take a gradient."""
    generator = torch.Generator().manual_seed(3)
    leaves = [(torch.randn(n, 6, generator=generator) * scale**0.5).requires_grad_() for n in 3 * (n_queries, n_items)]
    teacher, *others = (FactorScores(*leaves[at : at + 2], {"model": "Factors"}) for at in (0, 2, 4))
    for need in cls.requires - {"scores", "embeddings", "full"}:
        assert need in FURTHER_TEACHERS, (
            f"{cls.__name__} requires {need}: tell FURTHER_TEACHERS how to make such a teacher"
        )
        FURTHER_TEACHERS[need](teacher, others)
    if cls.assistant:
        teacher.taught_by = others[0]
    return teacher, leaves
