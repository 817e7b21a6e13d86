"""A fresh model of a configuration, as RecBole's own recipe makes it."""

from __future__ import annotations

from typing import Any

from recbole.data.transform import construct_transform
from recbole.utils import get_model
from torch import nn

from recbole_kd.errors import ConfigError, KDError


def fresh_model(config: Any, train: Any) -> nn.Module:
    """A new model over a training part, on the configuration's device.

    RecBole makes the loaders first: what transforms their batches writes the names of its columns into the Config, where BERT4Rec and SHAN
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
        words = " ".join(str(error).split()) or "without a word"
        raise ConfigError(
            f"{config['model']} cannot be built with these keys ({type(error).__name__}: {words}): change the key that this names"
        ) from error
    return model.to(config["device"])
