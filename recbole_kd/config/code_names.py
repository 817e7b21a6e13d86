"""Refuse files that name code to run, unless the user gives --allow_code.

``kd: module:Class`` in a file would import that module.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from recbole_kd.errors import ConfigError

KEY = "allow_code"
_METHOD = "kd"


def methods_in(content: Any) -> Iterator[str]:
    """Yield every text below a key ``kd`` in a file's content, in lists and distributions too."""
    stack = [(content, False)]
    while stack:
        value, is_method = stack.pop()
        if isinstance(value, Mapping):
            stack.extend((inner, is_method or key == _METHOD) for key, inner in value.items())
        elif isinstance(value, list | tuple):
            stack.extend((inner, is_method) for inner in value)
        elif is_method and isinstance(value, str):
            yield value


def refuse_code(methods: Iterable[str], place: object, allowed: bool) -> None:
    """Refuse methods that are names of classes to import.

    Args:
        methods: values of ``kd`` in a file. place: the file. allowed: whether the user gave --allow_code.

    Raises:
        ConfigError: a method is ``module:Class`` and the user did not allow it.
    """
    named = None if allowed else next((method for method in methods if ":" in method), None)
    if named is not None:
        raise ConfigError(
            f"Invalid kd: {named} in {place}: expected a method of --list, since this one would import and run code "
            "that the file names. Try --allow_code if you trust the file."
        )


def allows_code(*sources: Mapping[str, Any] | None) -> bool:
    """Return whether the user allows code, on the command line or as a keyword; a file cannot.

    Raises:
        ConfigError: the value is neither True nor False.
    """
    values = [source[KEY] for source in sources if source and KEY in source]
    wrong = next((value for value in values if not isinstance(value, bool)), None)
    if wrong is not None:
        raise ConfigError(f"Invalid --{KEY}={wrong!r}: expected True or False. Try --{KEY}.")
    return any(values)


def refuse_permission(content: Mapping[str, Any], place: object) -> None:
    """Refuse a file that allows itself to name code.

    Raises:
        ConfigError: the file has the key.
    """
    if KEY in content:
        raise ConfigError(
            f"Invalid {KEY} in {place}: expected on the command line, since a file cannot vouch for itself. Try "
            f"--{KEY}."
        )
