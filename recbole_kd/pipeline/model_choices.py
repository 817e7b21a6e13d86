"""The models, methods and data sets that a user can choose."""

from __future__ import annotations

from collections.abc import Iterable
from types import ModuleType
from typing import Any

import recbole
import recbole.data.dataset
from recbole.model import (
    context_aware_recommender,
    general_recommender,
    knowledge_aware_recommender,
    sequential_recommender,
)
from recbole.model.abstract_recommender import (
    ContextRecommender,
    GeneralRecommender,
    KnowledgeRecommender,
    SequentialRecommender,
)
from recbole.utils import ModelType, get_model, get_trainer

from recbole_kd.config.known_keys import unknown_name_error
from recbole_kd.config.model_catalogue import recbole_folder
from recbole_kd.config.property_layers import recbole_name
from recbole_kd.errors import ConfigError
from recbole_kd.integration.register import registered_names


def model_names() -> list[str]:
    """Return the names of all models that RecBole can build, including ours."""
    with_files = {path.stem for path in (recbole_folder() / "properties" / "model").glob("*.yaml")}
    return sorted(with_files | set(ranking_models()) | set(registered_names()))


def ranking_models() -> list[str]:
    """Return the names of all general and sequential models of RecBole itself.

    Models without a property file are among them.
    """
    return _models_in((general_recommender, sequential_recommender), (GeneralRecommender, SequentialRecommender))


def side_models() -> list[str]:
    """Return the names of RecBole's knowledge-aware and context-aware models."""
    packages = (knowledge_aware_recommender, context_aware_recommender)
    return _models_in(packages, (KnowledgeRecommender, ContextRecommender))


def _models_in(packages: Iterable[ModuleType], families: tuple[type, ...]) -> list[str]:
    return sorted(
        name
        for package in packages
        for name, kind in vars(package).items()
        if isinstance(kind, type) and issubclass(kind, families) and kind not in families
    )


def model_class(name: str, role: str, setting: str = "general") -> type[Any]:
    """Return the class of a model that fits a setting.

    The general setting takes general models, the sequential setting sequential ones too. A teacher may also be
    knowledge-aware or context-aware.

    Args:
        name: name of the model.
        role: ``model`` (the student) or ``teacher``, for the error message.
        setting: ``general`` or ``sequential``.

    Raises:
        ConfigError: the model is unknown or of another family.
    """
    if name not in model_names():
        raise unknown_name_error(role, name, model_names())
    try:
        model: type[Any] = get_model(recbole_name(name, setting))
    except ImportError as error:
        raise ConfigError(
            f"--{role}={name} is a model of another library (its file imports {error.name}, which is not installed): "
            "it must be one of RecBole's general models, such as MF or LightGCN, or a sequential one, such as SASRec"
        ) from None
    if issubclass(model, GeneralRecommender) or (role == "teacher" and reads_sides(model)):
        return model
    kind = getattr(model, "type", ModelType.CONTEXT).name.lower()
    if not issubclass(model, SequentialRecommender):
        teaches = f" (--teacher={name} is possible)" if reads_sides(model) else ""
        raise ConfigError(
            f"--{role}={name} is a {kind} model: it must be a general one, such as MF or LightGCN, or a sequential "
            f"one, such as SASRec{teaches}"
        )
    if name != "HSTU" and hasattr(recbole.data.dataset, f"{name}Dataset"):
        raise ConfigError(
            f"--{role}={name} needs its own data set class in RecBole, but all models of a run share one split: take "
            "another model"
        )
    if setting != "sequential":
        raise ConfigError(
            f"--{role}={name} is a {kind} model: with --setting=general it must be a general one, such as MF or "
            "LightGCN (or HSTU, which is both); set --setting=sequential, which splits by leave-one-out for every model"
        )
    return model


def reads_sides(model: type[Any]) -> bool:
    """Return whether a model class is knowledge-aware or context-aware, which teaches by its scores alone."""
    return issubclass(model, KnowledgeRecommender | ContextRecommender)


def student_model(name: str, setting: str = "general") -> type[Any]:
    """Return the class of a student, which RecBole's plain Trainer must train by gradients.

    Raises:
        ConfigError: the model is unknown, of another family, or trained without a step to which a KD loss can be added.
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
    """Return the default setting of a student: sequential for sequential models."""
    if model not in model_names():
        return "general"
    try:
        return "sequential" if issubclass(get_model(model), SequentialRecommender) else "general"
    except ImportError:  # a model of another package, which model_class refuses
        return "general"
