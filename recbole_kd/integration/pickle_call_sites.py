"""The safe readers at RecBole's call sites; ``torch.load`` stays unchanged."""

from __future__ import annotations

import importlib
import importlib.util
import sys
import types
from collections.abc import Callable, Mapping
from typing import Any, BinaryIO

from recbole_kd.config.argument_kinds import FILE, PATH, takes
from recbole_kd.data.split_seed import split_seed
from recbole_kd.errors import ConfigError, TeacherError
from recbole_kd.integration.safe_load import PathOrFile, load_checkpoint, load_pickle


@takes(model_file=PATH.or_else(FILE))
def load_data_and_model(model_file: PathOrFile) -> tuple[Any, Any, Any, Any, Any, Any]:
    """Load data and model as RecBole's function does, but read by :func:`load_checkpoint`.

    A checkpoint of our own runs gets the loaders of that run.

    Returns:
        the config, the model, the data set and the train, valid and test loaders.

    Raises:
        TeacherError: the file is damaged or asks for a name outside the list.
    """
    from logging import getLogger

    from recbole.data import create_dataset, data_preparation
    from recbole.utils import init_logger, init_seed

    from recbole_kd.data.split_and_loaders import make_loaders, split_data

    checkpoint = load_checkpoint(model_file)
    config = _config_in(checkpoint, model_file)
    init_seed(split_seed(config), config["reproducibility"])
    init_logger(config)
    getLogger().info(config)
    # A run of ours: RecBole's data sets follow neither its protocol nor the order of a file.
    if config["eval_protocol"] is not None and not config["recbole_data"]:
        splits = split_data(config)
        dataset, loaders = splits.dataset, make_loaders(config, splits)
        train_data, valid_data, test_data = loaders.train, loaders.valid, loaders.test
    else:
        dataset = create_dataset(config)
        train_data, valid_data, test_data = data_preparation(config, dataset)
    getLogger().info(dataset)
    # Seed again as before the training, so that random initial values of the model are the same.
    init_seed(config["seed"], config["reproducibility"])
    model = _class_of(config)(config, train_data._dataset).to(config["device"])
    model.load_state_dict(checkpoint["state_dict"])
    model.load_other_parameter(checkpoint.get("other_parameter"))
    return config, model, dataset, train_data, valid_data, test_data


def _config_in(checkpoint: Mapping[str, Any], file: PathOrFile) -> Any:
    """Return the Config of a checkpoint of RecBole's Trainer.

    Raises:
        TeacherError: the file holds something else.
    """
    from recbole.config import Config

    config = checkpoint.get("config")
    if not isinstance(config, Config) or not isinstance(checkpoint.get("state_dict"), Mapping):
        raise TeacherError(f"{file} is not a checkpoint of RecBole's Trainer: give one, as a training leaves it")
    return config


def _class_of(config: Any) -> type:
    """Return the model class of a Config.

    It is RecBole's class of that name, or the class that was passed to the Config instead of a name.

    Raises:
        ConfigError: RecBole does not have a model of that name.
    """
    from recbole.utils import get_model

    try:
        return get_model(config["model"])
    except ValueError:
        if getattr(config.model_class, "__name__", None) != config["model"]:
            raise ConfigError(
                f"No model is called {config['model']!r} here: import recbole_kd and register its class "
                "(recbole_kd.register_model) before the checkpoint is read"
            ) from None
        return config.model_class


class _Proxy(types.ModuleType):
    """A stand-in for a module inside one other module, with some attributes replaced."""

    def __init__(self, real: types.ModuleType, **replaced: Any) -> None:
        super().__init__(real.__name__, real.__doc__)
        self.__dict__.update(replaced, _real=real)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.__dict__["_real"], name)


def stand_in(real: types.ModuleType, **replaced: Any) -> types.ModuleType:
    """Return a stand-in for a module, to be used inside one other module.

    The given attributes replace those of the module.
    """
    return _Proxy(real, **replaced)


def _load_for_torch(f: PathOrFile, map_location: Any = None, **_options: Any) -> dict[str, Any]:
    return load_checkpoint(f, map_location)


def _load_for_pickle(file: BinaryIO, **_options: Any) -> Any:
    return load_pickle(file)


def _load_for_numpy(file: Any, *_args: Any, **_options: Any) -> Any:
    import numpy as np

    return np.load(file, allow_pickle=False)


# Every module of RecBole 1.2.1 that reads a pickle: its global name, and the new ``load`` of that name.
_CALL_SITES: dict[str, tuple[str, Callable[..., Any]]] = {
    "recbole.trainer.trainer": ("torch", _load_for_torch),
    "recbole.model.general_recommender.convncf": ("torch", _load_for_torch),
    "recbole.model.general_recommender.nais": ("torch", _load_for_torch),
    "recbole.model.general_recommender.neumf": ("torch", _load_for_torch),
    "recbole.model.general_recommender.ract": ("torch", _load_for_torch),
    "recbole.model.sequential_recommender.s3rec": ("torch", _load_for_torch),
    "recbole.model.context_aware_recommender.kd_dagfm": ("torch", _load_for_torch),
    "recbole.model.general_recommender.ldiffrec": ("np", _load_for_numpy),
    "recbole.data.utils": ("pickle", _load_for_pickle),
}


def install() -> None:
    """Install the readers at RecBole's call sites.

    ``torch.load``, ``pickle.load`` and ``numpy.load`` stay unchanged.
    """
    import torch

    anomaly = torch.is_anomaly_enabled()
    _replace_readers()
    torch.autograd.set_detect_anomaly(anomaly)  # importing RecBole's SINE, in the package of S3Rec, switches it on


def _replace_readers() -> None:
    for module_name, (global_name, load) in _CALL_SITES.items():
        module = importlib.import_module(module_name)
        real = getattr(module, global_name)
        if not isinstance(real, _Proxy):
            setattr(module, global_name, _Proxy(real, load=load))
    importlib.import_module("recbole.quick_start.quick_start")
    for module_name in ("recbole.quick_start.quick_start", "recbole.quick_start"):
        sys.modules[module_name].load_data_and_model = load_data_and_model  # type: ignore[attr-defined]
