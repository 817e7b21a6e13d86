"""What there is to choose from: models, methods, data sets."""

from __future__ import annotations

from pathlib import Path

import recbole
from recbole.model.abstract_recommender import GeneralRecommender
from recbole.utils import ModelType, get_model, get_trainer

from recbole_kd.arguments import read_config_file
from recbole_kd.data.converters import KNOWN_DATASETS
from recbole_kd.distiller.table import DISTILLERS, distiller_class
from recbole_kd.errors import ConfigError
from recbole_kd.known_keys import unknown_name_error
from recbole_kd.register import registered_names

RECBOLE = Path(recbole.__file__).parent


def model_names() -> list[str]:
    """All models that RecBole can be asked for, ours included."""
    return sorted({path.stem for path in (RECBOLE / "properties" / "model").glob("*.yaml")} | set(registered_names()))


def general_model(name: str, role: str) -> type[GeneralRecommender]:
    """The class of a general model.

    Args:
        role: ``model`` (the student) or ``teacher``, as the error names it.

    Raises:
        ConfigError: unknown, or not a general recommender.
    """
    if name not in model_names():
        raise unknown_name_error(role, name, model_names())
    model: type[GeneralRecommender] = get_model(name)
    if not issubclass(model, GeneralRecommender):
        kind = getattr(model, "type", ModelType.CONTEXT).name.lower()
        raise ConfigError(f"--{role}={name} is a {kind} model: with --setting=general it must be a general one, such as MF or LightGCN")
    return model


def student_model(name: str) -> type[GeneralRecommender]:
    """The class of a student: a general model that RecBole's plain Trainer trains by gradients.

    Raises:
        ConfigError: unknown, no general model, or trained in a way that has no step to add a KD loss to.
    """
    model = general_model(name, "model")
    trainer = get_trainer(model.type, name).__name__
    if trainer != "Trainer":
        raise ConfigError(
            f"--model={name} cannot be a student: RecBole trains it with {trainer}, which has no single loss to add the distillation to; "
            "choose a model of the plain Trainer, such as MF, BPR, LightGCN or NeuMF"
        )
    return model


def recbole_defaults(model: str, dataset: str) -> dict[str, object]:
    """RecBole's own property files for a model and a data set, merged."""
    merged: dict[str, object] = {}
    for name in ("overall", f"model/{model}", "dataset/sample", f"dataset/{dataset}"):
        path = RECBOLE / "properties" / f"{name}.yaml"
        if path.is_file():
            merged.update(read_config_file(path))
    return merged


def listing() -> str:
    """The text of ``--list``: models, methods and data sets, a line each."""
    lines = ["Students and teachers (general models):"]
    for name in model_names():
        try:
            model = general_model(name, "model")
        except (ConfigError, ImportError):
            continue
        lines.append(f"  {name:<14} {_first_line(model)}")
    lines.append("Methods (--kd):")
    lines += [f"  {name:<14} {_first_line(distiller_class(name))}" for name in sorted(DISTILLERS)]
    lines.append("Data sets (any RecBole atomic files besides):")
    lines.append(f"  {'ml-100k':<14} MovieLens 100k, shipped inside RecBole")
    lines += [f"  {name:<14} {text}" for name, text in sorted(KNOWN_DATASETS.items())]
    return "\n".join(lines)


def _first_line(cls: type) -> str:
    doc = (cls.__doc__ or "").strip().splitlines()
    return doc[0].strip() if doc else ""
