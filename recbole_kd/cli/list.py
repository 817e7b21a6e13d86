"""``recbole-kd list``: print the models, methods and data sets to choose from."""

from __future__ import annotations

from pathlib import Path

from recbole_kd.cli.parser import SentenceParser
from recbole_kd.config.model_catalogue import first_line, listed_models
from recbole_kd.data.preparing.known_datasets import KNOWN_DATASETS
from recbole_kd.distiller.methods import DISTILLERS

PACKAGE = Path(__file__).parents[1]
TITLES = {
    "general": "Students and teachers (general models):",
    "sequential": "Students and teachers (sequential models, with --setting=sequential):",
    "knowledge": "Teachers only, by their scores (knowledge-aware models, on a graph of the items):",
    "context": "Teachers only, by their scores (context-aware models, on columns of users and items):",
}


def run(words: list[str]) -> int:
    """Print models, methods and data sets; return 0."""
    SentenceParser(
        "list", "Print the models, methods and data sets that a run can name.", ["recbole-kd list"]
    ).parse_args(words)
    print(listing())
    return 0


def listing() -> str:
    """Return models, methods and data sets, one per line; nothing of them is imported."""
    lines: list[str] = []
    for family, title in TITLES.items():
        lines.append(title)
        lines += [f"  {model.name:<14} {model.about}" for model in listed_models() if model.family == family]
    lines.append("Methods (--kd):")
    lines += [f"  {name:<14} {_about(name)}" for name in sorted(DISTILLERS)]
    lines.append("Data sets (any RecBole atomic files besides):")
    lines.append(f"  {'ml-100k':<14} MovieLens 100k, shipped inside RecBole")
    lines += [f"  {name:<14} {text}" for name, text in sorted(KNOWN_DATASETS.items())]
    return "\n".join(lines)


def _about(name: str) -> str:
    """Return the first line of a method's docstring."""
    target = DISTILLERS[name]
    if not isinstance(target, str):
        return (target.__doc__ or "").strip().partition("\n")[0]
    module, _, class_name = target.partition(":")
    return first_line(PACKAGE.joinpath(*module.split(".")[1:]).with_suffix(".py"), class_name)
