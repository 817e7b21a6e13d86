"""Checks of a trainer: the distiller is of its student and can train here, and batches are by user."""

from __future__ import annotations

from typing import Any

from torch import nn

from recbole_kd.distiller.base import Distiller
from recbole_kd.errors import ConfigError


def check_student(model: nn.Module, distiller: Distiller | None) -> None:
    """Refuse a distiller of another model than the one to be trained (ConfigError)."""
    student = model if distiller is None else getattr(distiller.student_scorer, "model", model)
    if student is not model:
        raise ConfigError(
            f"This {type(distiller).__name__} was built for another {type(student).__name__} than the "
            f"{type(model).__name__} to be trained: call build_distiller with the model that you give KDTrainer"
        )


def check_processes(config: Any, distiller: Distiller) -> None:
    """Refuse a distiller with parameters in RecBole's own processes.

    They share only the model's gradients.

    Raises:
        ConfigError: it has parameters, and several such processes train together.
    """
    if list(distiller.parameters()) and not config["single_spec"]:
        raise ConfigError(
            f"kd={type(distiller).__name__} has trainable parameters, and RecBole's processes share only the "
            "gradients of the model: run one process, or `recbole-kd run` with --nproc"
        )


def check_batches(config: Any, train_data: Any) -> None:
    """Refuse ``train_by_user`` with data whose batches are of single rows (ConfigError)."""
    dataset = getattr(train_data, "_dataset", train_data)
    if config["train_by_user"] and all(getattr(dataset, name, None) is None for name in ("blocks", "user_rows")):
        raise ConfigError(
            f"train_by_user=True has no effect on this {type(dataset).__name__}, whose batches are of single rows: "
            "make the data from this Config with recbole_kd.prepare_data, or leave it out"
        )
