"""The table of methods, and what their constructors take."""

from __future__ import annotations

import importlib
import inspect
import types
import typing
from collections.abc import Mapping
from typing import Any

from recbole_kd.config.known_keys import unknown_name_error
from recbole_kd.distiller.base import Distiller
from recbole_kd.errors import ConfigError

DISTILLERS: dict[str, str | type[Distiller]] = {
    "RCEKD": "recbole_kd.distiller.rcekd:RCEKD",
    "CE": "recbole_kd.distiller.ce:CE",
    "FullCE": "recbole_kd.distiller.full_ce:FullCE",
    "CD": "recbole_kd.distiller.cd:CD",
    "RRD": "recbole_kd.distiller.rrd:RRD",
    "DCD": "recbole_kd.distiller.dcd:DCD",
    "HetComp": "recbole_kd.distiller.hetcomp:HetComp",
    "UnKD": "recbole_kd.distiller.unkd:UnKD",
    "RankDistil": "recbole_kd.distiller.rankdistil:RankDistil",
    "RD": "recbole_kd.distiller.rd:RD",
    "TARec": "recbole_kd.distiller.tarec:TARec",
    "PromptMM": "recbole_kd.distiller.promptmm:PromptMM",
    "DE": "recbole_kd.distiller.de:DE",
    "DERRD": "recbole_kd.distiller.derrd:DERRD",
    "FTD": "recbole_kd.distiller.ftd:FTD",
    "HTD": "recbole_kd.distiller.htd:HTD",
    "FreqD": "recbole_kd.distiller.freqd:FreqD",
    "PCKD": "recbole_kd.distiller.pckd:PCKD",
}
"""``--kd=`` name -> ``module:Class`` (imported when used) or the class itself. A method from outside adds its own line, or is named
``--kd=module:Class`` as it stands."""

NOT_OPTIONS = ("self", "student", "teacher", "seed")


def distiller_class(name: str) -> type[Distiller]:
    """The class of a method.

    Raises:
        ConfigError: unknown name, or a ``module:Class`` that cannot be imported or is no Distiller.
    """
    target = DISTILLERS.get(name, name if ":" in name else None)
    if target is None:
        raise unknown_name_error("kd", name, DISTILLERS)
    if not isinstance(target, str):
        return target
    module_name, _, class_name = target.partition(":")
    if not all(part.isidentifier() for part in (*module_name.split("."), class_name)):
        raise ConfigError(f"--kd={name} is not the name of a class; write --kd=module:Class")
    try:
        found = getattr(importlib.import_module(module_name), class_name)
    except (ImportError, AttributeError) as error:
        raise ConfigError(f"--kd={name} cannot be imported ({error}); write --kd=module:Class") from None
    if not (isinstance(found, type) and issubclass(found, Distiller)):
        raise ConfigError(f"--kd={name} is not a subclass of recbole_kd.distiller.base.Distiller")
    return found


def distiller_options(cls: type[Distiller]) -> dict[str, inspect.Parameter]:
    """The constructor arguments a user may set, by name without the ``kd_``."""
    parameters = inspect.signature(cls.__init__, eval_str=True).parameters
    return {name: p for name, p in parameters.items() if name not in NOT_OPTIONS and p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)}


def resolve_options(cls: type[Distiller], given: Mapping[str, Any]) -> dict[str, Any]:
    """Defaults overlaid with what was given, each checked against its annotation.

    Args:
        given: option name without ``kd_`` -> value.

    Raises:
        ConfigError: a value of a wrong type, or none for an argument without a default.
    """
    options: dict[str, Any] = {}
    for name, parameter in distiller_options(cls).items():
        value = given.get(name, parameter.default)
        if value is inspect.Parameter.empty:
            raise ConfigError(f"{cls.__name__} needs kd_{name}: it has no default")
        options[name] = _as_annotated(name, value, parameter.annotation)
    return options


def _as_annotated(name: str, value: Any, annotation: Any) -> Any:
    """A value that fits the annotation (an int passes for a float), or ConfigError."""
    if annotation in (inspect.Parameter.empty, typing.Any):
        return value
    if typing.get_origin(annotation) in (typing.Union, types.UnionType):
        allowed = typing.get_args(annotation)
    elif typing.get_origin(annotation) is typing.Literal:
        if value in typing.get_args(annotation) and not isinstance(value, bool):
            return value
        words = ", ".join(str(v) for v in typing.get_args(annotation))
        raise ConfigError(f"kd_{name}={value!r} is not allowed: choose one of {words}")
    else:
        allowed = (annotation,)
    for kind in allowed:
        if typing.get_origin(kind) is typing.Literal and value in typing.get_args(kind):
            return value
        plain = typing.get_origin(kind) or kind  # list of list[int]: elements are the method's own business
        if isinstance(plain, type) and isinstance(value, plain) and (plain is bool or not isinstance(value, bool)):
            return value
        if kind is float and isinstance(value, int) and not isinstance(value, bool):
            return float(value)
    words = " or ".join(_words(kind) for kind in allowed)
    raise ConfigError(f"kd_{name}={value!r} is not allowed: it must be {words}")


def _words(kind: Any) -> str:
    if typing.get_origin(kind) is typing.Literal:
        return " or ".join(repr(v) for v in typing.get_args(kind))
    names = {
        int: "a whole number",
        float: "a number",
        bool: "True or False",
        str: "a word",
        list: "a list",
        type(None): "empty (~)",
    }
    kind = typing.get_origin(kind) or kind
    return names.get(kind, getattr(kind, "__name__", str(kind)))
