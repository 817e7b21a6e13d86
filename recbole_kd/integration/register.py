"""Makes RecBole's own functions know our models; the only file that touches RecBole's modules.

``get_model`` looks a model up as the module ``recbole.model.<family>.<lower name>`` through ``find_spec``, which asks
``sys.modules`` first: an alias there registers a model for every copy of ``get_model``. ``create_dataset`` looks
    ``<model>Dataset`` up in
``recbole.data.dataset``, where a model with a data set class of its own gets it. ``get_trainer``, ``create_dataset`` of
other models and ``load_data_and_model`` fall back on the model's type and need nothing more.
"""

from __future__ import annotations

import functools
import importlib
import importlib.util
import sys
import types
from collections.abc import Iterable
from importlib.machinery import ModuleSpec
from typing import Any

from recbole_kd.config.property_layers import properties_dir, read_yaml
from recbole_kd.data.preparing.prepare import not_prepared
from recbole_kd.errors import ConfigError
from recbole_kd.integration import pickle_call_sites
from recbole_kd.integration.model_classes import allow_model_class

# name -> (family, module)
_OUR_MODELS = {
    "MF": ("general_recommender", "recbole_kd.model.mf"),
    "BM3": ("general_recommender", "recbole_kd.model.bm3"),
    "HSTU": ("sequential_recommender", "recbole_kd.model.hstu"),
    "HSTUGeneral": ("general_recommender", "recbole_kd.model.hstu"),
}
# name of the model -> module of its data set class, which is called <name>Dataset
_OUR_DATASETS = {
    "HSTU": "recbole_kd.data.histories.ordered_dataset",
    "HSTUGeneral": "recbole_kd.data.histories.ordered_dataset",
}
# get_model walks the families in this order. The last one, exlib_recommender, is not asked: looking into it imports
# lightgbm and xgboost, which may be absent, and its names are these two.
_FAMILIES = (
    "general_recommender",
    "context_aware_recommender",
    "sequential_recommender",
    "knowledge_aware_recommender",
)
_EXLIB_NAMES = ("lightgbm", "xgboost")
_FAMILY_OF_TYPE = {
    "GENERAL": "general_recommender",
    "TRADITIONAL": "general_recommender",
    "CONTEXT": "context_aware_recommender",
    "SEQUENTIAL": "sequential_recommender",
    "KNOWLEDGE": "knowledge_aware_recommender",
}
_registered: dict[str, type] = {}


def register(model_classes: Iterable[type] | None = None) -> None:
    """Register our models, or ``model_classes``, under their class names; doing so again changes nothing.

    Every process that uses a registered name must register it: a spawned worker has to import recbole_kd, too.

    Raises:
        ConfigError: a class is no RecBole model, or its name, upper and lower case apart, is taken.
    """
    pickle_call_sites.install()
    _wrap_property_files()
    _wrap_trainers()
    _wrap_download()
    if model_classes is None:
        for name, (family, module) in _OUR_MODELS.items():
            _register_class(getattr(importlib.import_module(module), name), family)
        for name, module in _OUR_DATASETS.items():
            _register_dataset(getattr(importlib.import_module(module), f"{name}Dataset"))
        return
    for model_class in model_classes:
        _register_class(model_class, _family_of(model_class))


def _family_of(model_class: type) -> str:
    family = _FAMILY_OF_TYPE.get(getattr(getattr(model_class, "type", None), "name", ""))
    if family is None:
        raise ConfigError(
            f"{getattr(model_class, '__name__', model_class)!r} cannot be registered, it is not a model class with a "
            "RecBole `type` (fix: derive it from one of RecBole's recommenders, such as GeneralRecommender)."
        )
    return family


def _register_class(model_class: type, family: str) -> None:
    name = model_class.__name__
    if _registered.get(name) is model_class:
        return
    before = _registered.get(name)
    redefined = before is not None and (before.__module__, before.__qualname__) == (
        model_class.__module__,
        model_class.__qualname__,
    )  # the same source run again, as in a notebook
    taken = None if redefined else _taken_by(name)
    if taken is not None:
        raise ConfigError(
            f"the model name {name!r} is taken by {taken}, and RecBole finds models by their name in lower case "
            "(fix: give the class another name)."
        )
    sys.modules[f"recbole.model.{family}.{name.lower()}"] = _module_of(model_class, family)
    allow_model_class(model_class)
    _registered[name] = model_class


def _register_dataset(dataset_class: type) -> None:
    """Put a data set class where ``create_dataset`` looks for that of its model.

    Raises:
        ConfigError: RecBole, or somebody else, has a class of that name there.
    """
    theirs = importlib.import_module("recbole.data.dataset")
    name = dataset_class.__name__
    found = getattr(theirs, name, dataset_class)
    if found is not dataset_class:
        raise ConfigError(
            f"the data set name {name!r} is taken by {found.__module__}.{name} (fix: give the model another name)."
        )
    setattr(theirs, name, dataset_class)


def _taken_by(name: str) -> str | None:
    """The module that RecBole finds under ``name`` today."""
    if name.lower() in _EXLIB_NAMES:
        return f"recbole.model.exlib_recommender.{name.lower()}"
    for family in _FAMILIES:
        path = f"recbole.model.{family}.{name.lower()}"
        if importlib.util.find_spec(path) is not None:
            return getattr(sys.modules.get(path), "__name__", path)
    return None


def _module_of(model_class: type, family: str) -> types.ModuleType:
    """The module to alias: the class's own where ``find_spec`` accepts it, else a small one that holds the class."""
    name = model_class.__name__
    own = sys.modules.get(model_class.__module__)
    if own is not None and own.__spec__ is not None and getattr(own, name, None) is model_class:
        return own
    alias = f"recbole.model.{family}.{name.lower()}"
    module = types.ModuleType(alias)
    module.__spec__ = ModuleSpec(alias, loader=None)
    setattr(module, name, model_class)
    return module


def _wrap_property_files() -> None:
    """Let a Config read our property file of a registered model after RecBole's own files and below all else.

    It is called as the model, or as the class's ``property_file`` says. The model class of a Config is known from then
    on, so that this process can read the checkpoints that it writes.
    """
    from recbole.config import Config

    original = Config._load_internal_config_dict
    if getattr(original, "_of_recbole_kd", False):
        return

    @functools.wraps(original)
    def load(self: Any, model: str, model_class: type, dataset: str) -> None:
        original(self, model, model_class, dataset)
        allow_model_class(model_class)  # the Config that a checkpoint pickles names it
        if _registered.get(model) is model_class:
            file = properties_dir() / "model" / f"{getattr(model_class, 'property_file', model)}.yaml"
            if file.is_file():
                self.internal_config_dict.update(read_yaml(file))

    load._of_recbole_kd = True  # type: ignore[attr-defined]
    Config._load_internal_config_dict = load


def _wrap_trainers() -> None:
    """Let checkpoints name the classes of the Config and the model that a trainer is made with, which may be older than this import."""
    from recbole.trainer.trainer import AbstractTrainer

    original = AbstractTrainer.__init__
    if getattr(original, "_of_recbole_kd", False):
        return

    @functools.wraps(original)
    def init(self: Any, config: Any, model: Any) -> None:
        for model_class in (getattr(config, "model_class", None), type(model)):
            if isinstance(model_class, type):
                allow_model_class(model_class)
        original(self, config, model)

    init._of_recbole_kd = True  # type: ignore[attr-defined]
    AbstractTrainer.__init__ = init


def _wrap_download() -> None:
    """Let RecBole download nothing for our models under the name of a data set that we prepare: it knows another one as netflix."""
    from recbole.data.dataset import Dataset

    original = Dataset._download
    if getattr(original, "_of_recbole_kd", False):
        return

    @functools.wraps(original)
    def download(self: Any) -> None:
        refusal = not_prepared(self.dataset_name, self.dataset_path)
        if refusal and self.config["model"] in _OUR_MODELS:
            raise refusal
        original(self)

    download._of_recbole_kd = True  # type: ignore[attr-defined]
    Dataset._download = download


def registered_names() -> list[str]:
    """The names that we added to RecBole's."""
    return sorted(_registered)
