"""``recbole-kd list``: print the models, methods and data sets to choose from."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from recbole.model.abstract_recommender import GeneralRecommender, SequentialRecommender

from recbole_kd.cli.parser import SentenceParser
from recbole_kd.config.property_layers import public_name
from recbole_kd.data.preparing.prepare import KNOWN_DATASETS
from recbole_kd.distiller.registry import DISTILLERS, distiller_class
from recbole_kd.errors import ConfigError
from recbole_kd.pipeline.model_choices import model_class, model_names


def run(words: list[str]) -> int:
    """Print models, methods and data sets; return 0."""
    SentenceParser(
        "list", "Print the models, methods and data sets that a run can name.", ["recbole-kd list"]
    ).parse_args(words)
    print(listing())
    return 0


def listing() -> str:
    """Return models, methods and data sets, one per line."""
    lines: list[str] = []
    for setting, title in (
        ("general", "general models"),
        ("sequential", "sequential models, with --setting=sequential"),
    ):
        lines.append(f"Students and teachers ({title}):")
        lines += [f"  {name:<14} {_first_line(model)}" for name, model in _models_of(setting)]
    lines.append("Methods (--kd):")
    lines += [f"  {name:<14} {_first_line(distiller_class(name))}" for name in sorted(DISTILLERS)]
    lines.append("Data sets (any RecBole atomic files besides):")
    lines.append(f"  {'ml-100k':<14} MovieLens 100k, shipped inside RecBole")
    lines += [f"  {name:<14} {text}" for name, text in sorted(KNOWN_DATASETS.items())]
    return "\n".join(lines)


def _models_of(setting: str) -> Iterator[tuple[str, type[Any]]]:
    """Yield names and classes of the models of a setting; some models are in both settings."""
    family = SequentialRecommender if setting == "sequential" else GeneralRecommender
    for name in model_names():
        try:
            model = model_class(name, "model", setting)
        except (ConfigError, ImportError):
            continue
        if issubclass(model, family) and public_name(name) == name:
            yield name, model


def _first_line(cls: type) -> str:
    doc = (cls.__doc__ or "").strip().splitlines()
    return doc[0].strip() if doc else ""
