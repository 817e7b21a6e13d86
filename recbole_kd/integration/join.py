"""Everything that RecBole's own functions must know of this package; run when RecBole is imported."""

from __future__ import annotations

from collections.abc import Mapping
from importlib import import_module
from typing import Any

from recbole.trainer import Trainer

from recbole_kd.integration import kd_trainers, register


def join() -> None:
    """Register our models, data sets and trainers with RecBole; a second call changes nothing."""
    register.register()
    kd_trainers.install(kd_trainers.Distillation(_property_values, _trainer))


def _property_values(config: Any, model: str, model_class: type, dataset: str) -> Mapping[str, Any]:
    """Return our property values for a Config that names a method.

    The layers above are imported by name, on use: a training without a method needs none of them.
    """
    values: Mapping[str, Any] = import_module("recbole_kd.pipeline.from_recbole").property_values(
        config, model, model_class, dataset
    )
    return values


def _trainer(config: Any, model: Any, *more: Any, **named: Any) -> Trainer:
    """Return a trainer that distils."""
    trainer: Trainer = import_module("recbole_kd.pipeline.configured_trainer").ConfiguredKDTrainer(
        config, model, *more, **named
    )
    return trainer
