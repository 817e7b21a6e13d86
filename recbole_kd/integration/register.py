"""Registration of our models with RecBole; the only file that changes its modules.

``get_model`` looks up a model as the module ``recbole.model.<family>.<lower name>`` through ``find_spec``: a finder of
those names registers our models for every copy of ``get_model``, and an entry of ``sys.modules`` registers a user's.
``create_dataset`` looks up ``<model>Dataset`` in ``recbole.data.dataset``, which finds ours.
``get_trainer``, ``load_data_and_model`` and ``create_dataset`` of other models fall back on the model's type and need
nothing more.
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

from recbole_kd.config.argument_kinds import CLASSES, takes
from recbole_kd.config.property_layers import properties_dir, read_yaml
from recbole_kd.errors import ConfigError
from recbole_kd.integration import pickle_call_sites
from recbole_kd.integration.model_classes import allow_model_class
from recbole_kd.startup.module_aliases import install_aliases

# name -> (family, module)
_OUR_MODELS = {
    "MF": ("general_recommender", "recbole_kd.model.mf"),
    "BM3": ("general_recommender", "recbole_kd.model.bm3"),
    "HSTU": ("sequential_recommender", "recbole_kd.model.hstu"),
    "HSTUGeneral": ("general_recommender", "recbole_kd.model.hstu"),
}
_MODEL_PATHS = {f"recbole.model.{family}.{name.lower()}": module for name, (family, module) in _OUR_MODELS.items()}
# data set class of a model, <name>Dataset -> its module
_OUR_DATASETS = {
    "HSTUDataset": "recbole_kd.data.histories.ordered_dataset",
    "HSTUGeneralDataset": "recbole_kd.data.histories.ordered_dataset",
}
# get_model walks the families in this order. The last one, exlib_recommender, is not searched: that would import
# lightgbm and xgboost, which may be missing, and it has only these two names.
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


@takes(model_classes=CLASSES.or_none())
def register(model_classes: Iterable[type] | None = None) -> None:
    """Register our models, or ``model_classes``, under their class names.

    A second call changes nothing. Every process that uses a registered name must register it: a spawned worker must
    import recbole_kd too.

    Raises:
        ConfigError: a class is not a RecBole model, or its name is taken (ignoring case).
    """
    pickle_call_sites.install()
    _wrap_property_files()
    _wrap_trainers()
    _wrap_download()
    install_aliases(_MODEL_PATHS)
    _offer_datasets()
    for model_class in model_classes or ():
        _register_class(model_class, _family_of(model_class))


def _family_of(model_class: type) -> str:
    family = _FAMILY_OF_TYPE.get(getattr(getattr(model_class, "type", None), "name", ""))
    if family is None:
        raise ConfigError(
            f"{getattr(model_class, '__name__', model_class)!r} cannot be registered, because it is not a model class "
            "with a RecBole `type` (fix: derive it from one of RecBole's recommenders, such as GeneralRecommender)."
        )
    return family


def _register_class(model_class: type, family: str) -> None:
    name = model_class.__name__
    if _is_known(name, model_class):
        return
    before = _registered.get(name)
    redefined = before is not None and (before.__module__, before.__qualname__) == (
        model_class.__module__,
        model_class.__qualname__,
    )  # the same source executed again, as in a notebook
    taken = None if redefined else _taken_by(name)
    if taken is not None:
        raise ConfigError(
            f"the model name {name!r} is taken by {taken}, and RecBole finds models by their name in lower case "
            "(fix: give the class another name)."
        )
    sys.modules[f"recbole.model.{family}.{name.lower()}"] = _module_of(model_class, family)
    allow_model_class(model_class)
    _registered[name] = model_class


def _offer_datasets() -> None:
    """Let ``create_dataset`` find the data sets of our models, which are imported on use.

    Raises:
        ConfigError: RecBole, or another package, has a class of that name there.
    """
    theirs = vars(importlib.import_module("recbole.data.dataset"))
    for name, module in _OUR_DATASETS.items():
        if name in theirs:
            raise ConfigError(
                f"the data set name {name!r} is taken by {theirs[name].__module__}.{name}, and a model of recbole_kd "
                f"needs it for {module}.{name}: give the other class another name"
            )
    theirs["__getattr__"] = _dataset_named


def _dataset_named(name: str) -> type:
    """Return one of our data set classes, for names that ``recbole.data.dataset`` does not have."""
    if name not in _OUR_DATASETS:
        raise AttributeError(f"module 'recbole.data.dataset' has no attribute {name!r}")
    found: type = getattr(importlib.import_module(_OUR_DATASETS[name]), name)
    return found


def _taken_by(name: str) -> str | None:
    """Return the module that RecBole finds under ``name`` now, or None."""
    if name.lower() in _EXLIB_NAMES:
        return f"recbole.model.exlib_recommender.{name.lower()}"
    for family in _FAMILIES:
        path = f"recbole.model.{family}.{name.lower()}"
        if importlib.util.find_spec(path) is not None:
            return _MODEL_PATHS.get(path, path)
    return None


def _module_of(model_class: type, family: str) -> types.ModuleType:
    """Return the module to alias.

    It is the class's own module if ``find_spec`` accepts it, else a small one with the class.
    """
    name = model_class.__name__
    own = sys.modules.get(model_class.__module__)
    if own is not None and own.__spec__ is not None and getattr(own, name, None) is model_class:
        return own
    alias = f"recbole.model.{family}.{name.lower()}"
    module = types.ModuleType(alias)
    module.__spec__ = ModuleSpec(alias, loader=None)
    setattr(module, name, model_class)
    return module


def _is_known(model: str, model_class: type) -> bool:
    """Return whether a class is the one that we registered under a name."""
    ours = model in _OUR_MODELS and (model_class.__module__, model_class.__name__) == (_OUR_MODELS[model][1], model)
    return ours or _registered.get(model) is model_class


def _wrap_property_files() -> None:
    """Make a Config read our property file of a registered model.

    Its values come after RecBole's own files and below all other settings. The file has the name of the model, or the
    name in the class's ``property_file``. From then on checkpoints may name the model class of the Config, so that
    this process can read the checkpoints that it writes.
    """
    from recbole.config import Config

    original = Config._load_internal_config_dict
    if getattr(original, "_of_recbole_kd", False):
        return

    @functools.wraps(original)
    def load(self: Any, model: str, model_class: type, dataset: str) -> None:
        original(self, model, model_class, dataset)
        allow_model_class(model_class)  # a checkpoint pickles the Config, which names it
        if _is_known(model, model_class):
            file = properties_dir() / "model" / f"{getattr(model_class, 'property_file', model)}.yaml"
            if file.is_file():
                self.internal_config_dict.update(read_yaml(file))

    load._of_recbole_kd = True  # type: ignore[attr-defined]
    Config._load_internal_config_dict = load


def _wrap_trainers() -> None:
    """Let checkpoints name the classes of a trainer's Config and model.

    These may have been made before this import.
    """
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
    """Stop RecBole from downloading another data set under the name of one that we prepare.

    This applies to our models. RecBole knows another data set as netflix, for example.
    """
    from recbole.data.dataset import Dataset

    original = Dataset._download
    if getattr(original, "_of_recbole_kd", False):
        return

    @functools.wraps(original)
    def download(self: Any) -> None:
        from recbole_kd.data.preparing.prepare import not_prepared  # here: an import of RecBole does not need it

        refusal = not_prepared(self.dataset_name, self.dataset_path)
        if refusal and self.config["model"] in _OUR_MODELS:
            raise refusal
        original(self)

    download._of_recbole_kd = True  # type: ignore[attr-defined]
    Dataset._download = download


def registered_names() -> list[str]:
    """Return the names that we added to RecBole's."""
    return sorted({*_OUR_MODELS, *_registered})
