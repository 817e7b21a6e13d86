"""Keys of other models that a user gives to a model which does not read them.

RecBole takes every key for every model, so that ``hidden_size=32`` of an MF would change nothing without a word.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Collection, Iterable, Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Any

from recbole.utils import get_model

from recbole_kd.config.key_rules import OF_PROCESSES
from recbole_kd.config.known_keys import keys_of
from recbole_kd.config.model_catalogue import recbole_defaults, recbole_folder
from recbole_kd.config.parsing import read_config_file
from recbole_kd.config.property_layers import layers, public_name
from recbole_kd.config.request_names import allowed_keys
from recbole_kd.config.schema import MODEL_TYPES, RUN_KEYS
from recbole_kd.model.hstu import MOST_ITEMS_OF_FULL_SOFTMAX, loss_for
from recbole_kd.pipeline.plan import Plan

SHARED_CODE = ("trainer", "data", "evaluator", "sampler", "utils", "quick_start", "config")
"""Folders of RecBole whose code reads a Config for every model."""

ABSTRACT = "recbole.model.abstract_recommender"
"""RecBole's module with the base classes of all families."""

LIBRARIES = ("builtins", "torch", "abc", "typing")
"""Packages of base classes that read no Config."""

OF_DRAWN_NEGATIVES = ("n_negatives", "negatives")
"""Keys of HSTU that only its sampled softmax reads."""


def idle_keys(plan: Plan) -> list[str]:
    """Return a sentence on each key that the user gave and that its model does not read."""
    request = plan.request
    said = [
        f"{key}={value} has no effect on {request.model}, which does not read it"
        for key, value in _unread(request.given, [plan.alone], allowed_keys(request.run))
    ]
    names = " and ".join(request.teachers)
    said += [
        f"teacher.{key}={value} has no effect on the teacher {names}, which does not read it"
        for key, value in _unread(request.teacher_given, plan.teachers, allowed_keys(request.run, "teacher."))
    ]
    said += _of_softmax(plan.alone, request.given, "", plan.splits.n_items)
    for config in plan.teachers:
        said += _of_softmax(config, request.teacher_given, "teacher.", plan.splits.n_items)
    return said


def _of_softmax(config: Any, given: Mapping[str, Any], prefix: str, n_items: int) -> Iterator[str]:
    """Yield a sentence on each key of drawn negatives that HSTU's softmax over all items does not read."""
    if public_name(str(config["model"])) != "HSTU" or loss_for(str(config["loss"]), n_items + 1) != "full_softmax":
        return
    auto = f" (loss=auto, up to {MOST_ITEMS_OF_FULL_SOFTMAX:,} items)" if config["loss"] == "auto" else ""
    for key in OF_DRAWN_NEGATIVES:
        if given.get(key) is not None:
            yield (
                f"{prefix}{key}={given[key]} has no effect, because the loss of HSTU is full_softmax{auto}: set "
                f"--{prefix}loss=sampled_softmax, or leave {prefix}{key} out"
            )


def _unread(given: Mapping[str, Any], configs: Iterable[Any], allowed: Collection[str]) -> Iterator[tuple[str, Any]]:
    """Yield the keys of models, with their values, that none of the models of these Configs reads.

    Those that ``allow_unknown`` names are left out.
    """
    models = [str(config["model"]) for config in configs]
    for key, value in given.items():
        if models and key not in allowed and key in keys_of_models() and not any(reads(model, key) for model in models):
            yield key, value


@cache
def keys_of_models() -> frozenset[str]:
    """Return the keys of the property files of all models that are not keys of every run."""
    of_models = {key for keys in MODEL_TYPES.values() for key in keys}
    for path in (recbole_folder() / "properties" / "model").glob("*.yaml"):
        of_models |= read_config_file(path).keys()
    of_all = {*recbole_defaults("", ""), *layers("overall")[0], *RUN_KEYS, *OF_PROCESSES}
    return frozenset(of_models - of_all)


def reads(model: str, key: str) -> bool:
    """Return whether a model, or RecBole's code for all models, may read a key.

    A key is read if a property file of the model has it, or if it stands in quotes in the source of the model's class
    or of a class that it derives from. A class without a source file, as of a notebook, may read all keys.

    Args:
        model: RecBole's name of it. key: the key.
    """
    name, kind = public_name(model), get_model(model)
    if key in recbole_defaults(name, "") or key in MODEL_TYPES.get(name, ()) or key in keys_of(name):
        return True
    try:
        if key in layers(f"model/{name}", f"teacher/{name}")[0] or key in _quoted_by(kind):
            return True
    except (TypeError, OSError, UnicodeDecodeError):  # a class of a notebook, or a compiled one
        return True
    # RecBole's Config reads loss_type for classes that do not say what their loss is
    return key in _quoted_for_all() and not (key == "loss_type" and hasattr(kind, "input_type"))


def _quoted_by(kind: type) -> frozenset[str]:
    """Return the words in quotes in the files of a class and of those that it derives from."""
    words = frozenset[str]()
    for base in kind.__mro__:
        if base.__module__.partition(".")[0] in LIBRARIES:
            continue
        if base.__module__ == ABSTRACT:  # one file of all families
            words |= _words(inspect.getsource(base))
        else:
            words |= _quoted(Path(inspect.getfile(base)))
    return words


@cache
def _quoted_for_all() -> frozenset[str]:
    root = recbole_folder()
    files = [path for folder in SHARED_CODE for path in (root / folder).rglob("*.py")]
    files += [path for path in (root / "model").glob("*.py") if path.stem != ABSTRACT.rpartition(".")[2]]
    return frozenset[str]().union(*map(_quoted, files))


@cache
def _quoted(path: Path) -> frozenset[str]:
    return _words(path.read_text(encoding="utf-8"))


def _words(source: str) -> frozenset[str]:
    """Return the words in quotes of a source text."""
    return frozenset(re.findall(r"""["'](\w+)["']""", source))
