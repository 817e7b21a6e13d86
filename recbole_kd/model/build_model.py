"""Build a new model from a Config, as RecBole does."""

from __future__ import annotations

from logging import getLogger
from typing import Any

import torch
from recbole.data.transform import construct_transform
from recbole.model.abstract_recommender import ContextRecommender
from recbole.model.knowledge_aware_recommender import RippleNet
from recbole.utils import get_model
from torch import nn

from recbole_kd.data.context_columns import SideColumns
from recbole_kd.errors import ConfigError, KDError, TrainingError


def fresh_model(config: Any, train: Any) -> nn.Module:
    """Build a new model for a training part, on the configuration's device.

    The transform of the loaders is built first, like in RecBole, because it writes column names into the Config that
    BERT4Rec and SHAN read.

    Raises:
        ConfigError: the model cannot be built with these keys. The message repeats the model's own.
    """
    try:
        construct_transform(config)
        model: nn.Module = get_model(config["model"])(config, train)
    except KDError:
        raise
    except Exception as error:  # a model's constructor may raise anything
        raise ConfigError(
            f"{config['model']} cannot be built with these keys ({_said(error)}): change the key that this names"
        ) from error
    if isinstance(model, ContextRecommender):
        _know_ids(model, config, train)
    if isinstance(model, RippleNet):
        _pad_ripples(model)
    _keep_modules_out_of_checkpoints(model)
    return model.to(config["device"])


def _know_ids(model: Any, config: Any, train: Any) -> None:
    """Give a context-aware model its columns, and the ids that RecBole's other models know."""
    model.USER_ID, model.ITEM_ID = config["USER_ID_FIELD"], config["ITEM_ID_FIELD"]
    model.n_users, model.n_items = train.num(model.USER_ID), train.num(model.ITEM_ID)
    model.side_columns = SideColumns(train, config["device"])


def _pad_ripples(model: Any) -> None:
    """Give RippleNet's users without training interactions, the pad among them, RecBole's padding.

    It knows no triples of them and fails when it is asked for their scores.
    """
    padding = torch.zeros(model.n_memory, dtype=torch.int64, device=model.device)
    for user in range(model.n_users):
        if not model.ripple_set[user]:
            model.ripple_set[user] = [(padding, padding, padding)] * model.n_hop


def failed_first_loss(model: nn.Module, error: Exception) -> TrainingError:
    """Return the error for a model that fails on its first batch, and log the traceback.

    The message repeats the model's own. The traceback is logged at DEBUG.
    """
    getLogger().debug(f"The first loss of {type(model).__name__} failed", exc_info=error)
    return TrainingError(
        f"{type(model).__name__} cannot compute its loss on these data with these keys ({_said(error)}): change what "
        "this names, or see with --state=DEBUG where it failed"
    )


def failed_first_scores(model: nn.Module, error: Exception) -> TrainingError:
    """Return the error for a model that cannot score all items, like :func:`failed_first_loss`."""
    getLogger().debug(f"The first scores of {type(model).__name__} failed", exc_info=error)
    return TrainingError(
        f"{type(model).__name__} cannot score all items of these data with these keys ({_said(error)}): change what "
        "this names, or take another teacher"
    )


def _said(error: Exception) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split()) or 'no message'}"


def _keep_modules_out_of_checkpoints(model: Any) -> None:
    """Remove modules from the attributes that a checkpoint keeps next to the weights.

    DIN, FDSA, SASRecF, GRU4RecF and DIEN list a layer there. With it the whole data set would be pickled, and such a
    pickle is refused when the best epoch is loaded. The layer's weights are in the state dict already.
    """
    names = getattr(model, "other_parameter_name", ())
    kept = [name for name in names if not isinstance(getattr(model, name, None), nn.Module)]
    if len(kept) < len(names):
        model.other_parameter_name = kept
