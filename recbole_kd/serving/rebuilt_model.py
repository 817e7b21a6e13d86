"""Rebuilding of a RecBole model from a student's settings, without a data set."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import torch
from recbole.utils import get_model
from torch import Tensor, nn

from recbole_kd.acceleration.accelerate import accelerate_on_cpu
from recbole_kd.data.time_order import RAW_TIME
from recbole_kd.errors import StudentError
from recbole_kd.scoring.vector_models import softmax_of

_NAME = re.compile(r"[A-Za-z]\w{0,99}", re.ASCII)


class Settings(dict[str, Any]):
    """The keys of a model as it reads them from a Config: a missing key is None."""

    def __missing__(self, key: str) -> None:
        return None


class CatalogueSizes:
    """A stand-in for the data set of a model that needs only its sizes.

    Args:
        sizes: number of ids by field, with the pad.
        has_times: whether the histories have times.
        columns: names of the columns of a row.
    """

    def __init__(self, sizes: Mapping[str, int], has_times: bool, columns: frozenset[str]) -> None:
        self._sizes, self.has_times, self.inter_feat = dict(sizes), has_times, columns

    def num(self, field: str) -> int:
        """Return the number of ids of a field."""
        return self._sizes[field]


def safe_settings(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return the settings without keys that name files, which a student must not read."""
    return {
        key: value
        for key, value in settings.items()
        if not key.endswith(("_path", "_dir", "_files")) and key != "use_pretrain"
    }


def known_class(name: str, where: str) -> type:
    """Return the model class that a student's config.json names.

    Args:
        name: name of the model.
        where: ``module.Class``.

    Raises:
        StudentError: the class is unknown, or another class has that name.
    """
    short = name if _NAME.fullmatch(name) else ""
    try:
        found: type | None = get_model(short) if short else None
    # RecBole raises these for an unknown name: its last try is a package that imports lightgbm.
    except (ValueError, ImportError):
        found = None
    if found is None or f"{found.__module__}.{found.__qualname__}" != where:
        raise StudentError(
            f"The student's model class {where[:200]!r} is not known here: if it is your own, import it and call "
            f"recbole_kd.register_model({short or 'YourModel'}) before the student is loaded"
        )
    return found


def rebuilt_model(kind: type, settings: Mapping[str, Any], n_users: int, n_items: int, has_times: bool) -> nn.Module:
    """Return a model of the class with its initial weights, on the CPU.

    The state of torch's random generator is not changed.

    Raises:
        StudentError: the model cannot be built without its data set.
    """
    config = Settings({**safe_settings(settings), "device": torch.device("cpu"), "use_pretrain": False})
    sizes = {str(config["USER_ID_FIELD"]): n_users, str(config["ITEM_ID_FIELD"]): n_items}
    columns = frozenset({RAW_TIME, f"{RAW_TIME}{config['LIST_SUFFIX']}"})
    try:
        with torch.random.fork_rng(devices=[]):
            model: nn.Module = kind(config, CatalogueSizes(sizes, has_times, columns))
    except Exception as error:  # a constructor that needs more of its data set may raise anything
        said = " ".join(str(error).split())[:200]
        raise StudentError(
            f"{kind.__name__} cannot be built without its data set ({type(error).__name__}: {said})"
        ) from error
    accelerate_on_cpu(model, softmax_of(model))
    return model


def give_weights(model: nn.Module, tensors: Mapping[str, Tensor]) -> None:
    """Load the weights of a student and put it into evaluation mode.

    Raises:
        StudentError: names or shapes differ from the model's.
    """
    try:
        model.load_state_dict(tensors)
    except RuntimeError as error:
        said = " ".join(str(error).split())[:200]
        raise StudentError(f"The student's weights do not fit its settings: {said}; copy the folder again") from None
    model.eval()
