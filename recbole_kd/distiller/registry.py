"""The classes of methods, and the options of their constructors."""

from __future__ import annotations

import importlib
import inspect
import os
import sys
from collections.abc import Mapping
from functools import cache
from types import ModuleType
from typing import Any

from recbole_kd.config.known_keys import unknown_name_error
from recbole_kd.config.validation import check_value, invalid
from recbole_kd.distiller.base import Distiller
from recbole_kd.distiller.combined import Combined, combined_class, constructor_options
from recbole_kd.distiller.methods import DISTILLERS, NO_METHOD
from recbole_kd.errors import ConfigError


def distiller_class(name: str) -> type[Distiller]:
    """Return the class of a method.

    Raises:
        ConfigError: the name is unknown, or ``module:Class`` cannot be imported or is not a Distiller.
    """
    if not isinstance(name, str):
        raise ConfigError(f"kd={name!r} is not the name of a method: write it as text, such as kd: RCEKD")
    if name.lower() in NO_METHOD:
        raise ConfigError(
            f"kd={name} is not the name of a method: to train without distillation leave kd out of a configuration of "
            "RecBole's own functions; a run of ours trains the student alone beside every method"
        )
    if "+" in name and ":" not in name:
        names = tuple(part.strip() for part in name.split("+"))
        return combined_class("+".join(names), names, tuple(distiller_class(part) for part in names))
    target = DISTILLERS.get(name, name if ":" in name else None)
    if target is None:
        raise unknown_name_error("kd", name, DISTILLERS)
    if not isinstance(target, str):
        return target
    module_name, _, class_name = target.partition(":")
    if not all(part.isidentifier() for part in (*module_name.split("."), class_name)):
        raise ConfigError(f"--kd={name} is not the name of a class; write --kd=module:Class")
    try:
        found = getattr(_imported(module_name), class_name)
    except (ImportError, AttributeError) as error:
        raise ConfigError(
            f"--kd={name} cannot be imported ({error}); write --kd=module:Class, where the module is in the working "
            "folder or installed"
        ) from None
    except Exception as error:  # a user's module may fail in any way
        raise ConfigError(
            f"--kd={name} cannot be imported: {type(error).__name__}: {' '.join(str(error).split())}"
        ) from error
    if not (isinstance(found, type) and issubclass(found, Distiller)):
        raise ConfigError(f"--kd={name} is not a subclass of recbole_kd.distiller.base.Distiller")
    _check_constructor(name, found)
    return found


def _imported(module_name: str) -> ModuleType:
    """Import a user's module, searching the working folder last: an installed program would not."""
    try:
        return importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        here = os.getcwd()
        if error.name != module_name.partition(".")[0] or here in sys.path:
            raise
        sys.path.append(here)  # stays: the module may import its neighbours later, and child processes inherit it
        return importlib.import_module(module_name)


@cache
def _check_constructor(name: str, cls: type[Distiller]) -> None:
    """Refuse a class that ``build_distiller`` cannot call."""
    if inspect.isabstract(cls):
        raise ConfigError(f"--kd={name} has no {', '.join(sorted(cls.__abstractmethods__))}: define it in that class")
    try:
        inspect.signature(cls, eval_str=True).bind_partial(None, None, seed=0)
    except (TypeError, ValueError, NameError) as error:
        raise ConfigError(
            f"--kd={name} cannot be made ({error}): its __init__ takes student, teacher and seed=0 beside its own "
            "options, and its annotations are names that its module knows"
        ) from None


def distiller_options(cls: type[Distiller]) -> dict[str, inspect.Parameter]:
    """Return the constructor arguments that a user may set, by name without ``kd_``."""
    return cls.options() if issubclass(cls, Combined) else constructor_options(cls)


def resolve_options(
    cls: type[Distiller], given: Mapping[str, Any], sizes: Mapping[str, int] | None = None
) -> dict[str, Any]:
    """Return the options of a method, each checked by its annotation.

    Values that are not given are the defaults.

    Args:
        given: option name without ``kd_`` -> value.
        sizes: ``n_items`` and ``n_queries`` of the data if they are known. They bound some options.

    Raises:
        ConfigError: a value has a wrong type or is out of range, or an argument without a default has no value.
    """
    parameters = distiller_options(cls)
    options = {name: given.get(name, parameter.default) for name, parameter in parameters.items()}
    missing = next((name for name, value in options.items() if value is inspect.Parameter.empty), None)
    if missing is not None:
        raise ConfigError(f"{cls.__name__} needs kd_{missing}, which has no default. Set --kd_{missing}=...")
    # First each option alone, so that a wrong option is not used as the bound of another; then with the others as
    # bounds.
    for others in (False, True):
        for name, parameter in parameters.items():
            context = {**(_beside(name, options) if others else {}), **(sizes or {})}
            options[name] = _checked(name, options[name], parameter, context)
    return options


def _beside(name: str, options: Mapping[str, Any]) -> dict[str, Any]:
    """Return the options that can bound one: those of its own method, without the method's name."""
    part = name.partition(".")[2]
    return {other.partition(".")[0]: value for other, value in options.items() if other.partition(".")[2] == part}


def check_given_options(cls: type[Distiller], values: Mapping[str, Any]) -> None:
    """Check each option of a method among ``kd_*`` values, before the data are known.

    Raises:
        ConfigError: a value has a wrong type or is out of range.
    """
    for name, parameter in distiller_options(cls).items():
        if f"kd_{name}" in values:
            _checked(name, values[f"kd_{name}"], parameter, {})


def check_idle(cls: type[Distiller], given: Mapping[str, Any], defaults: Mapping[str, Any]) -> None:
    """Refuse options that the user gave and that nothing reads beside the others.

    Args:
        cls: the method.
        given: the ``kd_*`` values of the user, others among them.
        defaults: the ``kd_*`` values of the property files; an idle one of them is left alone.

    Raises:
        ConfigError: names the option and what makes it idle.
    """
    parameters = distiller_options(cls)
    values = {**defaults, **given}
    options = {name: values.get(f"kd_{name}", parameter.default) for name, parameter in parameters.items()}
    for name, reason in cls.idle(options).items():
        key = f"kd_{name}"
        if given.get(key) is not None:
            raise invalid(key, given[key], f"it has no effect with {reason}")


def _checked(name: str, value: Any, parameter: inspect.Parameter, context: Mapping[str, Any]) -> Any:
    kind = Any if parameter.annotation is parameter.empty else parameter.annotation
    example = None if parameter.default is parameter.empty else parameter.default
    return check_value(f"kd_{name}", value, kind, context=context, example=example)


def check_options(cls: type[Distiller], given: Mapping[str, Any], n_queries: int, n_items: int) -> dict[str, Any]:
    """Return the options of a method, checked alone and together against the data's size.

    Args:
        given: option name without ``kd_`` -> value.
        n_queries, n_items: sizes of the data without the pad.

    Raises:
        ConfigError: an option is invalid.
    """
    options = resolve_options(cls, given, {"n_queries": n_queries, "n_items": n_items})
    cls.check(n_queries, n_items, options)
    return options
