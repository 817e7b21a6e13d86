"""Check of a value against its annotated type, with an error message of one sentence.

Every error about a value has one form: the value, what is allowed, what to type.
"""

from __future__ import annotations

import difflib
import json
import re
import shlex
import types
import typing
from collections.abc import Callable, Iterator, Mapping
from functools import lru_cache
from typing import Any

from annotated_types import Ge, Gt, Le, Lt, MinLen
from pydantic import ConfigDict, PydanticSchemaGenerationError, PydanticUserError, TypeAdapter, ValidationError

from recbole_kd.config.parsing import parse_value
from recbole_kd.config.value_types import AtMost, Expected
from recbole_kd.errors import ConfigError

Context = Mapping[str, Any]

_WORD = re.compile(r"[A-Za-z_][\w@./-]*")  # a text that needs no quotes in YAML
_SHOWN = 80  # most characters of a value in an error
SWITCHES = {"0": False, "1": True, "no": False, "yes": True, "false": False, "true": True, "off": False, "on": True}
"""Texts and numbers that mean False or True; in YAML the words are these already."""

_NAMES: dict[Any, tuple[str, str]] = {
    int: ("an integer", "integers"),
    float: ("a number", "numbers"),
    bool: ("True or False", "True or False"),
    str: ("a text", "texts"),
    list: ("a list", "lists"),
    tuple: ("a list", "lists"),
    dict: ("a mapping", "mappings"),
    type(None): ("empty (~)", "empty values"),
}


def check_value(
    key: str,
    value: object,
    kind: Any,
    *,
    context: Context | None = None,
    example: object = None,
    place: str | None = None,
) -> Any:
    """Return the value if it has its annotated type; an integer may become a float.

    Args:
        key: the key as typed after ``--``. kind: any type that pydantic knows.
        context: bounds from the data or other options, see :class:`recbole_kd.config.value_types.AtMost`.
        example: a value that works, such as the default.
        place: the file that holds the key; None if it can be typed on the command line.

    Raises:
        ConfigError: the value, what is allowed and what to type, in one sentence.
    """
    if kind is Any:
        return value
    try:
        return _validate(value, kind, context)
    except ValidationError as error:
        raise as_config_error(error, key, value, kind, context, example, place) from None


def as_config_error(
    error: ValidationError,
    key: str,
    value: object,
    kind: Any,
    context: Context | None = None,
    example: object = None,
    place: str | None = None,
) -> ConfigError:
    """Turn pydantic's error about a value into one sentence."""
    expected = describe(kind, context)
    inner = [found["loc"][-1] for found in error.errors() if found["loc"] and isinstance(found["loc"][-1], int)]
    if inner and isinstance(value, list | tuple) and len(value) > 1 and len(set(inner)) == 1:
        expected += f"; element {int(inner[0]) + 1} is not"
    proposed = next(
        (
            found
            for found in _candidates(value, kind, context, example)
            if found is not None and fits(found, kind, context)
        ),
        None,
    )
    return invalid(
        key, value, f"expected {expected}", None if proposed is None else try_value(key, proposed, place), place
    )


def invalid(key: str, value: object, reason: str, advice: str | None = None, place: str | None = None) -> ConfigError:
    """Return the error about the value of a key, in the one form of all such errors.

    Args:
        reason: ``expected ...``, or why the value has no effect or is not possible.
        advice: what to type, without the full stop: ``Try --kd_k=50``; None means to leave the key out.
        place: as in :func:`check_value`.
    """
    if place is not None:
        return ConfigError(f"Invalid {key}: {shown(key, value)} in {place}: {reason}. {advice or f'Leave {key} out'}.")
    return ConfigError(f"Invalid --{key}={shown(key, value)}: {reason}. {advice or f'Leave {key} out'}.")


def try_value(key: str, value: object, place: str | None = None) -> str:
    """Return the advice to type a value, or to write it into a file."""
    if place is not None:
        return f"Write {key}: {as_typed(key, value)}"
    return f"Try --{key}={shlex.quote(as_typed(key, value))}"


def as_typed(key: str, value: object) -> str:
    """Return a value as it is typed on the command line."""
    if value is None:
        return "~"
    if isinstance(value, str):
        try:
            same = parse_value(key, value) == value
        except ConfigError:
            same = False
        return value if same and value.strip() else f'"{value}"'
    return _flow(value)


def shown(key: str, value: object) -> str:
    """Return a value as an error quotes it, cut if it is long."""
    text = as_typed(key, value)
    text = text if text.isprintable() else repr(value)
    return text if len(text) <= _SHOWN else text[:_SHOWN] + "..."


def _flow(value: object) -> str:
    """Return a value as flow-style YAML, without quotes that are not needed."""
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{_flow(key)}: {_flow(element)}" for key, element in value.items()) + "}"
    if isinstance(value, list | tuple):
        return "[" + ", ".join(map(_flow, value)) + "]"
    if value is None:
        return "~"
    if isinstance(value, str):
        return (
            value
            if _WORD.fullmatch(value) and parse_value("", value) == value
            else json.dumps(value, ensure_ascii=False)
        )
    return repr(value)


def _validate(value: object, kind: Any, context: Context | None) -> Any:
    adapter = _adapter(kind)
    return value if adapter is None else adapter.validate_python(value, strict=True, context=dict(context or {}))


def fits(value: object, kind: Any, context: Context | None = None) -> bool:
    """Test whether a value has the annotated type."""
    try:
        _validate(value, kind, context)
    except ValidationError:
        return False
    return True


@lru_cache(maxsize=512)
def _adapter(kind: Any) -> TypeAdapter[Any] | None:
    """Return pydantic's adapter for a type.

    None for a type that pydantic cannot check, such as a method's own class given by its name.
    """
    try:
        return TypeAdapter(kind)
    except (PydanticSchemaGenerationError, PydanticUserError):
        pass
    try:
        return TypeAdapter(kind, config=ConfigDict(arbitrary_types_allowed=True))
    except (PydanticSchemaGenerationError, PydanticUserError):
        return None


# -- words ------------------------------------------------------------------------------------------------------------


def describe(kind: Any, context: Context | None = None) -> str:
    """Return a description of a type: ``an integer from 1 to 40 (the number of items)``."""
    base, extras = _taken_apart(kind)
    words = next((extra.words for extra in extras if isinstance(extra, Expected)), None)
    if words is not None:
        return words
    arguments = typing.get_args(base)
    if typing.get_origin(base) in (typing.Union, types.UnionType):
        parts = list(dict.fromkeys(describe(part, context) for part in arguments))
        return parts[0] if len(parts) == 1 else f"{', '.join(parts[:-1])} or {parts[-1]}"
    if typing.get_origin(base) is typing.Literal:
        names = [str(name) for name in arguments]
        return names[0] if len(names) == 1 else f"one of {', '.join(names)}"
    plain = typing.get_origin(base) or base
    name = _NAMES.get(plain, (f"a {getattr(plain, '__name__', plain)}",))[0]
    if plain in (list, tuple) and arguments:
        filled = any(isinstance(extra, MinLen) for extra in extras)
        return f"{name} of {_plural(arguments[0])}" + (", not empty" if filled else "")
    return name + _bounds(extras, context)


def _plural(kind: Any) -> str:
    base, extras = _taken_apart(kind)
    if base in _NAMES and not any(isinstance(extra, Expected) for extra in extras):
        return _NAMES[base][1] + _bounds(extras, None)
    return f"values that are each {describe(kind)}"


def _taken_apart(kind: Any) -> tuple[Any, tuple[Any, ...]]:
    """Return the type inside ``Annotated``, and its annotations."""
    if typing.get_origin(kind) is typing.Annotated:
        return kind.__origin__, kind.__metadata__
    return kind, ()


def _bounds(extras: tuple[Any, ...], context: Context | None) -> str:
    lower = next((extra for extra in extras if isinstance(extra, Ge | Gt)), None)
    upper, label = _upper(extras, context)
    high = "" if upper is None else f"{upper.lt!r}" if isinstance(upper, Lt) else f"{upper.le!r}"
    below = "below " if isinstance(upper, Lt) else ""
    if isinstance(lower, Ge):
        return f" from {lower.ge!r} to {below}{high}{label}" if high else f" of at least {lower.ge!r}"
    if isinstance(lower, Gt):
        return f" greater than {lower.gt!r}" + (f" and {below or 'at most '}{high}{label}" if high else "")
    return f" {below or 'of at most '}{high}{label}" if high else ""


def _upper(extras: tuple[Any, ...], context: Context | None) -> tuple[Le | Lt | None, str]:
    """Return the smallest upper bound, and its origin in words."""
    found: list[tuple[float, Le | Lt, str]] = []
    for extra in extras:
        if isinstance(extra, Le | Lt):
            found.append((typing.cast(float, extra.le if isinstance(extra, Le) else extra.lt), extra, ""))
        elif isinstance(extra, AtMost) and (limit := extra.limit(context)) is not None:
            found.append((limit, Le(limit), f" ({extra.label})"))
    _, bound, label = min(found, key=lambda one: one[0], default=(0.0, None, ""))
    return bound, label


# -- what to type -----------------------------------------------------------------------------------------------------


def _candidates(value: object, kind: Any, context: Context | None, example: object) -> Iterator[object]:
    """Yield values to suggest: other readings, a close name, the example, bounds, names."""
    names = list(_names_in(kind))
    yield from _meant(value)
    if isinstance(value, str):
        yield from difflib.get_close_matches(value.lower(), names, n=1)
    yield example
    yield from _ends(value, kind, context)
    yield from names


def _meant(value: object) -> Iterator[object]:
    """Yield other readings of a value: ``1e2`` as 100, ``1`` as True, a number as text, a value as list."""
    if type(value) in (int, str) and (word := str(value).lower()) in SWITCHES:
        yield SWITCHES[word]
    if isinstance(value, float) and value.is_integer() and abs(value) < 2**63:
        yield int(value)
    if isinstance(value, int | float) and not isinstance(value, bool):
        yield str(value)
    if isinstance(value, str):
        for read in (int, float):
            yield _read_as(read, value)
    if not isinstance(value, list | Mapping) and value is not None:
        yield [value]


def _read_as(read: Callable[[str], object], text: str) -> object:
    try:
        return read(text)
    except ValueError:
        return None


def _parts(kind: Any) -> Iterator[Any]:
    """Yield the alternatives of a union, or the type itself."""
    base, extras = _taken_apart(kind)
    if typing.get_origin(base) in (typing.Union, types.UnionType) and not extras:
        for part in typing.get_args(base):
            yield from _parts(part)
    else:
        yield kind


def _names_in(kind: Any) -> Iterator[str]:
    for part in _parts(kind):
        base, extras = _taken_apart(part)
        if typing.get_origin(base) is typing.Literal:
            yield from (name for name in typing.get_args(base) if isinstance(name, str))
        words = next((extra.words for extra in extras if isinstance(extra, Expected)), "")
        yield from words.removeprefix("one of ").split(", ") if words.startswith("one of ") else ()


def _ends(value: object, kind: Any, context: Context | None) -> Iterator[object]:
    """Yield the bounds of the alternatives, the upper one first if the value exceeds it."""
    for part in _parts(kind):
        base, extras = _taken_apart(part)
        upper, _ = _upper(extras, context)
        ends: list[Any] = [extra.ge for extra in extras if isinstance(extra, Ge)]
        if base in (int, float) and any(isinstance(extra, Gt) for extra in extras):
            ends.append(1 if base is int else 1.0)
        if isinstance(upper, Le):
            high = typing.cast(float, upper.le)
            ends.insert(0 if isinstance(value, int | float) and value > high else len(ends), high)
        yield from ends
