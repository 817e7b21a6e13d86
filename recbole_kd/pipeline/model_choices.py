"""What there is to choose from: models, methods, data sets."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import recbole
import recbole.data.dataset
from recbole.model.abstract_recommender import GeneralRecommender, SequentialRecommender
from recbole.utils import ModelType, get_model, get_trainer

from recbole_kd.config.known_keys import unknown_name_error
from recbole_kd.config.parsing import read_config_file
from recbole_kd.config.property_layers import recbole_name
from recbole_kd.errors import ConfigError
from recbole_kd.integration.register import registered_names

RECBOLE = Path(recbole.__file__).parent


def model_names() -> list[str]:
    """All models that RecBole can be asked for, ours included."""
    return sorted({path.stem for path in (RECBOLE / "properties" / "model").glob("*.yaml")} | set(registered_names()))


def model_class(name: str, role: str, setting: str = "general") -> type[Any]:
    """The class of a model that a setting takes: general models, and in the sequential setting sequential ones too.

    Args:
        role: ``model`` (the student) or ``teacher``, as the error names it.

    Raises:
        ConfigError: unknown, or of another family.
    """
    if name not in model_names():
        raise unknown_name_error(role, name, model_names())
    model: type[Any] = get_model(recbole_name(name, setting))
    if issubclass(model, GeneralRecommender):
        return model
    kind = getattr(model, "type", ModelType.CONTEXT).name.lower()
    if not issubclass(model, SequentialRecommender):
        raise ConfigError(
            f"--{role}={name} is a {kind} model: it must be a general one, such as MF or LightGCN, or a sequential "
            "one, such as SASRec"
        )
    if setting != "sequential":
        raise ConfigError(
            f"--{role}={name} is a {kind} model: with --setting=general it must be a general one, such as MF or "
            "LightGCN (or HSTU, which is both); set --setting=sequential, which splits by leave-one-out for every model"
        )
    if name != "HSTU" and hasattr(recbole.data.dataset, f"{name}Dataset"):
        raise ConfigError(
            f"--{role}={name} needs a data set of its own in RecBole, which the split shared by all models of a run is "
            "not"
        )
    return model


def student_model(name: str, setting: str = "general") -> type[Any]:
    """The class of a student: a model that RecBole's plain Trainer trains by gradients.

    Raises:
        ConfigError: unknown, of another family, or trained in a way that has no step to add a KD loss to.
    """
    model = model_class(name, "model", setting)
    trainer = get_trainer(model.type, name).__name__
    if trainer != "Trainer":
        raise ConfigError(
            f"--model={name} cannot be a student: RecBole trains it with {trainer}, which has no single loss to add "
            "the distillation to; choose a model of the plain Trainer, such as MF, BPR, LightGCN or NeuMF"
        )
    return model


def default_setting(model: str) -> str:
    """The setting of a student where none is named: sequential for sequential models."""
    return "sequential" if model in model_names() and issubclass(get_model(model), SequentialRecommender) else "general"


def recbole_defaults(model: str, dataset: str) -> dict[str, object]:
    """RecBole's own property files for a model and a data set, merged."""
    merged: dict[str, object] = {}
    for name in ("overall", f"model/{model}", "dataset/sample", f"dataset/{dataset}"):
        path = RECBOLE / "properties" / f"{name}.yaml"
        if path.is_file():
            merged.update(read_config_file(path))
    return merged
