"""Kinds of objects that public functions take, and one decorator that refuses any other object.

A public function names the kind of each argument that could be of a wrong one::

    @takes(config=CONFIG, student=MODEL, train_data=DATA.or_none())
    def build_distiller(config, student, teacher, train_data=None): ...

A kind of one class lies beside that class (``TEACHER`` in :mod:`recbole_kd.teacher.base`). The check looks at types
alone and runs once a call, so it is for functions that begin something, never for one that is called at every step.
"""

from __future__ import annotations

import functools
import inspect
import os
import reprlib
import sys
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
from torch import nn

from recbole_kd.errors import ArgumentError

Function = TypeVar("Function", bound=Callable[..., Any])

_PLAIN = (bool, int, float, complex, str, bytes, list, tuple, dict, set, type(None))
"""Values that an error shows as Python writes them; of any other object it names the class."""


@dataclass(frozen=True)
class Kind:
    """A kind of argument.

    Attributes:
        words: completes "expected ...". holds: whether an object is of the kind.
    """

    words: str
    holds: Callable[[Any], bool]

    def or_none(self) -> Kind:
        """Return the kind that allows None too."""
        return Kind(f"{self.words}, or None", lambda value: value is None or self.holds(value))

    def or_else(self, other: Kind) -> Kind:
        """Return the kind of objects that are of one kind or the other."""
        return Kind(f"{self.words}, or {other.words}", lambda value: self.holds(value) or other.holds(value))


def instance_of(*classes: type, words: str) -> Kind:
    """Return the kind of instances of some classes."""
    return Kind(words, lambda value: isinstance(value, classes))


def takes(label: str | None = None, **kinds: Kind) -> Callable[[Function], Function]:
    """Return a decorator that checks arguments against their kinds before the function itself runs.

    Args:
        label: the function as its users call it; None: its own name, that of the class for ``__init__``.
        kinds: parameter -> what it may be. Defaults are not checked.

    Raises:
        ArgumentError: when the decorated function is called with another object.
    """

    def decorate(function: Function) -> Function:
        signature = inspect.signature(function)
        name = label or function.__qualname__.removesuffix(".__init__")
        assert set(kinds) <= set(signature.parameters), f"{name} has no such parameter"

        @functools.wraps(function)
        def checked(*args: Any, **named: Any) -> Any:
            try:
                given = signature.bind(*args, **named).arguments
            except TypeError:  # a missing or an unknown argument: Python's own error names it
                return function(*args, **named)
            for parameter, kind in kinds.items():
                if parameter in given and not kind.holds(given[parameter]):
                    raise wrong_argument(name, parameter, given[parameter], kind.words)
            return function(*args, **named)

        checked.__kinds__ = kinds  # type: ignore[attr-defined]
        return checked  # type: ignore[return-value]

    return decorate


def wrong_argument(function: str, parameter: str, value: object, words: str) -> ArgumentError:
    """Return the error of an argument of a wrong kind, in the one form that all such errors have."""
    text = reprlib.repr(value) if isinstance(value, _PLAIN) else f"<{type(value).__name__}>"
    return ArgumentError(f"Invalid {parameter}={text} of {function}: expected {words}.")


def _is_of_recbole(value: object, module: str, name: str) -> bool:
    """Return whether a value is an instance of a class of RecBole, which is not imported for the question."""
    loaded = sys.modules.get(module)
    return loaded is not None and isinstance(value, vars(loaded)[name])


def _is_config(value: object) -> bool:
    return _is_of_recbole(value, "recbole.config.configurator", "Config")


def _is_data(value: object) -> bool:
    return _is_of_recbole(getattr(value, "_dataset", value), "recbole.data.dataset.dataset", "Dataset")


def _is_loader(value: object) -> bool:
    return _is_data(getattr(value, "_dataset", None)) and hasattr(value, "__iter__")


def _is_model(value: object) -> bool:
    return isinstance(value, nn.Module) and callable(getattr(value, "calculate_loss", None))


def _is_path(value: object) -> bool:
    """Return whether a value names a file.

    A number does not: Python would take it for an open file, and close it.
    """
    return isinstance(value, str) or (isinstance(value, os.PathLike) and isinstance(os.fspath(value), str))


def _is_device(value: Any) -> bool:
    if not isinstance(value, str | torch.device):
        return False
    try:
        torch.empty(0, device=value)
    except (RuntimeError, AssertionError):  # an unknown name, or one that this machine or this PyTorch has not
        return False
    return True


def _is_text(value: object) -> bool:
    return isinstance(value, str)


def _are_texts(values: Iterable[object]) -> bool:
    return all(map(_is_text, values))


def _are(kind: Callable[[Any], bool]) -> Callable[[object], bool]:
    """Return the check of a list, or anything like one, whose elements all pass a check.

    The elements of an iterator are left unread.
    """

    def holds(value: object) -> bool:
        if not isinstance(value, Iterable) or isinstance(value, str | bytes | Mapping):
            return False
        return not isinstance(value, Collection) or all(map(kind, value))

    return holds


RECBOLE_CONFIG = Kind("a Config of RecBole", _is_config)
CONFIG = Kind("a Config of RecBole or a mapping of keys", lambda value: _is_config(value) or isinstance(value, Mapping))
MODEL = Kind("a model of RecBole", _is_model)
DATA = Kind("a training loader or a data set of RecBole", _is_data)
LOADER = Kind("a loader of RecBole", _is_loader)
PATH = Kind("a path, as text or pathlib.Path", _is_path)
PATHS = Kind("a list of paths", _are(_is_path))
FILE = Kind("a file that is open for reading", lambda value: callable(getattr(value, "read", None)))
DEVICE = Kind("a device that this machine has, such as 'cpu'", _is_device)
KEYS = Kind(
    "a mapping of keys, which are texts, to values", lambda value: isinstance(value, Mapping) and _are_texts(value)
)
NAMES = Kind("a list of names", _are(_is_text))
TEXT = instance_of(str, words="a text")
NUMBER = Kind("a number", lambda value: isinstance(value, int | float) and not isinstance(value, bool))
YES_OR_NO = instance_of(bool, words="True or False")
FUNCTION = Kind("a function", callable)
CLASS = instance_of(type, words="a class")
CLASSES = Kind("a list of classes", _are(lambda value: isinstance(value, type)))
