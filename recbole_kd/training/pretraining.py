"""Models that RecBole trains in stages: pre-training without validation, then fine-tuning."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from torch import nn

from recbole_kd.errors import ConfigError
from recbole_kd.model.build_model import fresh_model
from recbole_kd.storage.screen_log import show

STAGES = {"S3Rec": ("pretrain", "finetune"), "RaCT": ("actor_pretrain", "critic_pretrain", "finetune")}
"""Values of ``train_stage`` in the order of training; only a model of the last one is validated and ranks."""

WEIGHTS = "pretrained.pth"


def stages_of(config: Any) -> tuple[str, ...]:
    """Return the stages that a run trains; empty for models without pre-training.

    They are all stages of the model, or only the last one if the user names it.

    Raises:
        ConfigError: the user names another stage, which gives no model that ranks.
    """
    stages = STAGES.get(str(config["model"]), ())
    given = config.external_config_dict.get("train_stage")
    if not stages or given is None:
        return stages
    if given != stages[-1]:
        raise ConfigError(
            f"train_stage={given} of {config['model']} alone gives no model that ranks: leave it out, and the stages "
            f"{', '.join(stages)} are trained in turn"
        )
    return stages[-1:]


def epochs_of_pretraining(config: Any) -> int:
    """Return the epochs of each pre-training stage.

    They are ``pretrain_epochs``, at most ``epochs`` if only that was given.
    """
    own, given = int(config["pretrain_epochs"]), config.external_config_dict
    return min(own, int(config["epochs"])) if "epochs" in given and "pretrain_epochs" not in given else own


def pretrain(
    config: Any,
    model: nn.Module,
    train: Any,
    folder: Path,
    trainer_of: Callable[[nn.Module], Any],
    fit: Callable[[Any], None],
) -> nn.Module:
    """Train all stages of a model but the last one, and return the model that the last one trains.

    Args:
        config: RecBole's Config of the model; its ``train_stage`` is the first one again afterwards.
        model: built for the first stage. A model without stages is returned as it is.
        train: the training part over which models are built.
        folder: for the weights between two stages.
        trainer_of: a model -> RecBole's trainer of it. fit: trains with that trainer.
    """
    stages = stages_of(config)
    before = {key: config[key] for key in ("train_stage", "pre_model_path")} if len(stages) > 1 else {}
    try:
        for number, (stage, following) in enumerate(pairwise(stages), 1):
            epochs = epochs_of_pretraining(config)
            show(
                f"{config['model']} is trained in {len(stages)} stages; stage {number}, {stage}, takes {epochs} epochs "
                "without validation (pretrain_epochs shortens it)"
            )
            trainer = trainer_of(model)
            trainer.pretrain_epochs, trainer.save_step = epochs, epochs + 1  # it keeps no files of its own
            with closing(trainer.tensorboard):
                fit(trainer)
            path = folder / WEIGHTS
            torch.save({"state_dict": model.state_dict()}, path)
            config["train_stage"], config["pre_model_path"] = following, str(path)
            with _without_broken_lines():
                model = fresh_model(config, train)
            path.unlink()
    finally:
        for key, value in before.items():
            config[key] = value
    return model


@contextmanager
def _without_broken_lines() -> Iterator[None]:
    """Hide what logging prints of RaCT's line on its weights, which has an argument and no place for it."""
    before, logging.raiseExceptions = logging.raiseExceptions, False
    try:
        yield
    finally:
        logging.raiseExceptions = before
