"""A fresh model of a configuration, as RecBole's own recipe makes it."""

from __future__ import annotations

from logging import getLogger
from typing import Any

from recbole.data.transform import construct_transform
from recbole.utils import get_model
from torch import nn

from recbole_kd.errors import ConfigError, KDError, TrainingError


def fresh_model(config: Any, train: Any) -> nn.Module:
    """A new model over a training part, on the configuration's device.

    RecBole makes the loaders first: what transforms their batches writes the names of its columns into the Config,
        where BERT4Rec and SHAN
    read them.

    Raises:
        ConfigError: the model cannot be built with these keys; in its own words.
    """
    try:
        construct_transform(config)
        model: nn.Module = get_model(config["model"])(config, train)
    except KDError:
        raise
    except Exception as error:  # whatever a model's constructor says of its keys
        raise ConfigError(
            f"{config['model']} cannot be built with these keys ({_said(error)}): change the key that this names"
        ) from error
    _keep_modules_out_of_checkpoints(model)
    return model.to(config["device"])


def failed_first_loss(model: nn.Module, error: Exception) -> TrainingError:
    """The error of a model that cannot take the loss of its first batch, in its own words; where it failed is logged at DEBUG."""
    getLogger().debug(f"The first loss of {type(model).__name__} failed", exc_info=error)
    return TrainingError(
        f"{type(model).__name__} cannot take its loss on these data with these keys ({_said(error)}): change what this "
        "names, or see with --state=DEBUG where it failed"
    )


def _said(error: Exception) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split()) or 'without a word'}"


def _keep_modules_out_of_checkpoints(model: Any) -> None:
    """DIN, FDSA, SASRecF, GRU4RecF and DIEN name a layer as what a checkpoint keeps beside the weights: with it goes the whole data set, as
    a pickle that is refused when the best epoch is read. The layer's weights are in the state already."""
    names = getattr(model, "other_parameter_name", ())
    kept = [name for name in names if not isinstance(getattr(model, name, None), nn.Module)]
    if len(kept) < len(names):
        model.other_parameter_name = kept
