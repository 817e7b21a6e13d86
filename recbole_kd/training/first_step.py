"""One step of a model on a few rows, to learn before a training whether it is possible."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from recbole_kd.data.split_and_loaders import Splits, make_loaders
from recbole_kd.errors import ConfigError, KDError
from recbole_kd.model.build_model import failed_first_loss, failed_first_scores
from recbole_kd.scoring.scorer import Scorer

ROWS = 64
"""Rows of the batch, before negatives."""


def check_first_step(config: Any, splits: Splits, model: nn.Module, parts: Sequence[Any], prefix: str = "--") -> None:
    """Compute the loss of one small batch and its gradient; the weights do not change.

    The run's precision is used.

    Args:
        config: RecBole's Config of the model; its copy is changed here.
        splits: the data.
        model: a new model, which is thrown away afterwards.
        parts: the stage's parts, a few rows of each.
        prefix: of the model's keys on the command line.

    Raises:
        TrainingError: the model cannot take its loss on these data with these keys.
        ConfigError: it can, but not in mixed precision (``enable_amp``).
    """
    trial = copy.copy(config)
    trial.final_config_dict = {**config.final_config_dict, "train_batch_size": ROWS, "worker": 0}
    batch = next(iter(make_loaders(trial, splits, parts).train)).to(config["device"])
    model.train()
    try:
        _backward(model, batch, bool(config["enable_amp"]))
    except KDError:
        raise
    except Exception as error:  # whatever a model says of its data and keys
        if not config["enable_amp"]:
            raise failed_first_loss(model, error) from error
        try:
            _backward(model, batch, False)
        except Exception as other:
            raise failed_first_loss(model, other) from other
        said = " ".join(str(error).split())
        raise ConfigError(
            f"enable_amp=True is not possible with {config['model']}, which RecBole cannot train in mixed precision "
            f"({type(error).__name__}: {said}): set {prefix}enable_amp=False"
        ) from error


def check_first_scores(model: nn.Module) -> None:
    """Compute a new model's scores of one user at all items (TrainingError if it cannot)."""
    scorer = Scorer(model)
    try:
        with scorer.frozen():
            scorer.full(torch.ones(1, dtype=torch.int64, device=scorer.device))
    except Exception as error:  # whatever a model says of its data and keys
        raise failed_first_scores(model, error) from error


def _backward(model: Any, batch: Any, mixed: bool) -> None:
    model.zero_grad()
    with torch.autocast(device_type=torch.device(model.device).type, enabled=mixed):
        loss: Tensor | tuple[Tensor, ...] = model.calculate_loss(batch)
    total: Any = sum(loss) if isinstance(loss, tuple) else loss
    if total.requires_grad:
        total.backward()
