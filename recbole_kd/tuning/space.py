"""Search spaces: read from YAML or RecBole's ``.hyper`` files and checked before training.

YAML has one distribution per key. Keys of a single method are under ``methods``::

    kd: {choice: [RCEKD, RRD]}
    weight_decay: {choice: [1e-3, 1e-5]}
    kd_weight: {loguniform: [0.5, 1e4]}
    epochs: 100                          # a plain value is fixed
    methods:
      RCEKD: {kd_beta: {uniform: [0.5, 9]}}
      RRD: {kd_n_samples: {int: [50, 500]}}
"""
# Over 300 lines: one parser reads all forms of a search space.

from __future__ import annotations

import ast
import itertools
import math
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from recbole_kd.config.code_names import methods_in, refuse_code, refuse_permission
from recbole_kd.config.known_keys import unknown_name_error
from recbole_kd.config.merging import merge_sources
from recbole_kd.config.parsing import parse_value, read_config_file
from recbole_kd.config.property_layers import layers
from recbole_kd.config.schema import AUTO_WEIGHT
from recbole_kd.distiller.registry import distiller_class, resolve_options
from recbole_kd.errors import ConfigError
from recbole_kd.pipeline.request import make_request
from recbole_kd.training.build_distiller import no_auto_weight

LISTS = ("choice", "grid")
RANGES = ("uniform", "loguniform", "quniform", "int", "logint")
KINDS = (*LISTS, *RANGES)

GOLDEN = (math.sqrt(5) - 1) / 2
"""Relative position of a range's example between its ends, so that it is not a round number."""

LARGEST_EXPONENT = math.log(sys.float_info.max)

_HYPER_KINDS = {"choice": "choice", "uniform": "uniform", "quniform": "quniform", "loguniform": "exponent"}


@dataclass(frozen=True)
class Parameter:
    """One key and its distribution.

    Attributes:
        key: the configuration key.
        kind: ``choice`` and ``grid`` list their ``values``. All ``grid`` values are run, in all combinations. A range
            has (low, high), and ``quniform`` (low, high, step). ``int`` and ``logint`` include both ends. ``exponent``
            is RecBole's ``loguniform``, which takes the natural logarithms of the ends.
        values: see ``kind``.
        method: the only method that the key belongs to. None for all.
    """

    key: str
    kind: str
    values: tuple[Any, ...]
    method: str | None = None

    @property
    def name(self) -> str:
        """The key, or ``METHOD:KEY``, because two methods may search the same key differently."""
        return f"{self.method}:{self.key}" if self.method else self.key

    @property
    def examples(self) -> list[Any]:
        """The values to check: those listed, or the ends of the range."""
        if self.kind in LISTS:
            return list(self.values)
        ends = [math.exp(value) for value in self.values] if self.kind == "exponent" else list(self.values[:2])
        return [self.settle(value) for value in ends]

    @property
    def inner(self) -> list[Any]:
        """A value between the ends of a range, to be checked too.

        Whole numbers as ends of ``uniform`` do not show that the values between them are not whole.
        """
        if self.kind in LISTS or self.kind in ("int", "logint"):
            return []
        low, high = (math.log(end) for end in self.values) if self.kind == "loguniform" else self.values[:2]
        value = low + GOLDEN * (high - low)
        if self.kind == "quniform":
            return [self.settle(float(round(value / self.values[2]) * self.values[2]))]
        return [math.exp(value) if self.kind in ("loguniform", "exponent") else value]

    def settle(self, value: Any) -> Any:
        """Convert a drawn value for the configuration.

        hyperopt draws whole steps as floats, and numpy's numbers are not Python numbers.
        """
        value = value.item() if hasattr(value, "item") else value
        if isinstance(value, float) and (
            self.kind in ("int", "logint")
            or (self.kind == "quniform" and all(float(v).is_integer() for v in self.values))
        ):
            return round(value)
        return value


@dataclass(frozen=True)
class Space:
    """A search space.

    Attributes:
        parameters: the searched keys.
        fixed: values for every trial.
    """

    parameters: list[Parameter]
    fixed: Mapping[str, Any] = field(default_factory=dict)

    def settings(self, drawn: Mapping[str, Any], kd: str | None) -> dict[str, Any]:
        """Return the configuration keys of a trial, without values drawn for another method.

        Args:
            drawn: parameter name -> value.
            kd: the method if the space does not search it.
        """
        by_name = {parameter.name: parameter for parameter in self.parameters}
        method = drawn.get("kd", self.fixed.get("kd", kd))
        applied = {
            by_name[name].key: by_name[name].settle(value)
            for name, value in drawn.items()
            if by_name[name].method in (None, method)
        }
        return {**self.fixed, **applied}

    def methods(self, kd: str | None) -> list[str]:
        """Return the methods that the trials may have."""
        searched = [str(value) for parameter in self.parameters if parameter.key == "kd" for value in parameter.values]
        return searched or [str(self.fixed.get("kd", kd))]

    def trials_of(self, method: str) -> Iterator[dict[str, Any]]:
        """Yield settings that a trial of the method may have.

        The first has the first example of each key, the second the second, and so on.
        """
        own = [(p.key, p.examples) for p in self.parameters if p.key != "kd" and p.method in (None, method)]
        for n in range(max([1, *(len(examples) for _, examples in own)])):
            yield {**self.fixed, "kd": method, **{key: examples[min(n, len(examples) - 1)] for key, examples in own}}

    def grid(self, kd: str | None) -> list[dict[str, Any]]:
        """Return all combinations of the ``grid`` values, without values of other methods.

        Each combination occurs once. Without ``grid`` values there is one empty combination.
        """
        searched = [parameter for parameter in self.parameters if parameter.kind == "grid"]
        found: dict[str, dict[str, Any]] = {}
        for values in itertools.product(*(parameter.values for parameter in searched)):
            drawn = {parameter.name: value for parameter, value in zip(searched, values, strict=True)}
            method = drawn.get("kd", self.fixed.get("kd", kd))
            if "kd" in drawn or not any(parameter.key == "kd" for parameter in self.parameters):
                drawn = {p.name: drawn[p.name] for p in searched if p.method in (None, method)}
            found.setdefault(repr(drawn), drawn)
        return list(found.values())

    def plain(self) -> dict[str, Any]:
        """Return JSON values that identify the space."""
        return {"parameters": [[p.name, p.kind, list(p.values)] for p in self.parameters], "fixed": dict(self.fixed)}


def read_space(path: str | Path, *, allow_code: bool = False) -> Space:
    """Read a search space from YAML or from a ``.hyper`` file.

    A ``.hyper`` file has RecBole's lines ``KEY KIND VALUES``.

    Raises:
        ConfigError: one sentence that names the line or key. Also if the file names code as a method and ``allow_code``
            is False.
    """
    path = Path(path)
    space = _read_hyper(path) if path.suffix == ".hyper" else _read_yaml(path)
    refuse_permission({**space.fixed, **{parameter.key: parameter for parameter in space.parameters}}, path)
    methods = [{parameter.key: list(parameter.values)} for parameter in space.parameters]
    named = [
        *methods_in([space.fixed, *methods]),
        *(parameter.method for parameter in space.parameters if parameter.method),
    ]
    refuse_code(named, path, allow_code)
    if not space.parameters:
        raise ConfigError(
            f"{path} searches nothing: give at least one key a distribution, such as kd_k: {{choice: [10, 50]}}"
        )
    names = [parameter.name for parameter in space.parameters]
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise ConfigError(f"{path} has {twice} twice: keep one of them")
    both = {p.key for p in space.parameters if p.method} & {
        *space.fixed,
        *(p.key for p in space.parameters if not p.method),
    }
    if both:
        raise ConfigError(
            f"{path} has {sorted(both)[0]} for all methods and again below one of them: keep it in one place"
        )
    return space


def _read_hyper(path: Path) -> Space:
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(
            f"The search space {path} cannot be read ({getattr(error, 'strerror', None) or 'not UTF-8 text'})"
        ) from None
    parameters = []
    for number, line in enumerate(lines, start=1):
        words = line.split("#", 1)[0].split(maxsplit=2)
        if not words:
            continue
        if len(words) < 3 or words[1] not in _HYPER_KINDS:
            raise ConfigError(
                f"{path}, line {number}: {line.strip()!r} is not KEY KIND VALUES with a KIND of "
                f"{', '.join(_HYPER_KINDS)}"
            )
        key, kind, text = words
        values: Any = _python_values(text) if kind == "choice" else None
        if values is None:
            values = parse_value(key, text if text.startswith("[") else f"[{text}]")
        parameters.append(_parameter(f"{path}, line {number}", key, _HYPER_KINDS[kind], values, None))
    return Space(parameters)


def _python_values(text: str) -> list[Any] | None:
    """Return the choices of a ``.hyper`` line, which RecBole reads as Python.

    Texts that contain a list, a number or True are evaluated too.

    Returns:
        the values, tuples as lists. None if the text is not a Python literal, such as names without quotes.
    """
    try:
        found = ast.literal_eval(text)
    except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
        return None
    return [_as_recbole(value) for value in (found if isinstance(found, list | tuple) else [found])]


def _as_recbole(value: Any) -> Any:
    """Return a value as RecBole's Config would have it.

    A text that is a Python literal becomes that literal. true and false in any case become bools.
    """
    if isinstance(value, str):
        if value.lower() in ("true", "false"):
            return value.lower() == "true"
        try:
            value = ast.literal_eval(value)
        except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
            return value
    return [_as_listed(element) for element in value] if isinstance(value, list | tuple) else value


def _as_listed(element: Any) -> Any:
    return [_as_listed(inner) for inner in element] if isinstance(element, list | tuple) else element


def _read_yaml(path: Path) -> Space:
    parameters: list[Parameter] = []
    fixed: dict[str, Any] = {}
    content = read_config_file(path)
    methods = content.pop("methods", None) or {}
    if not isinstance(methods, Mapping) or not all(isinstance(own, Mapping) for own in methods.values()):
        raise ConfigError(
            f"methods of {path} is not a mapping of methods to their keys: write methods: {{RCEKD: {{kd_beta: ...}}}}"
        )
    for method, own in [(None, content), *methods.items()]:
        for key, value in own.items():
            if isinstance(value, Mapping):
                parameters.append(_distribution(str(path), key, value, method))
            elif method is not None:
                parameters.append(Parameter(key, "choice", (value,), method))
            else:
                fixed[key] = value
    return Space(parameters, fixed)


def _distribution(place: str, key: str, value: Mapping[str, Any], method: str | None) -> Parameter:
    if len(value) != 1:
        raise ConfigError(
            f"{key} of {place} has {len(value)} distributions: write one, such as {{choice: [1, 2]}} or {{uniform: [0, "
            f"1]}}"
        )
    ((kind, values),) = value.items()
    if kind not in KINDS:
        raise unknown_name_error(f"distribution of {key} in {place}", kind, KINDS)
    return _parameter(place, key, kind, values, method)


def _parameter(place: str, key: str, kind: str, values: Any, method: str | None) -> Parameter:
    if not isinstance(values, list) or not values:
        raise ConfigError(f"{key} of {place}: {values!r} is not a list of values (for {kind})")
    if kind in LISTS:
        return Parameter(key, kind, tuple(values), method)
    wanted = 3 if kind == "quniform" else 2
    whole = kind in ("int", "logint")
    numbers = all(
        isinstance(v, int if whole else int | float) and not isinstance(v, bool) and math.isfinite(v) for v in values
    )
    if len(values) != wanted or not numbers or not values[0] < values[1] or (wanted == 3 and values[2] <= 0):
        words = "low, high and step" if wanted == 3 else "low and high"
        raise ConfigError(
            f"{key} of {place}: {kind} {values!r} is not {words}, {'whole ' if whole else ''}numbers with low < high"
        )
    if kind == "exponent" and values[1] > LARGEST_EXPONENT:
        raise ConfigError(
            f"{key} of {place}: {values!r} are natural logarithms, as RecBole's loguniform takes them, and "
            f"exp({values[1]}) is too large for a number"
        )
    if kind in ("loguniform", "logint") and values[0] <= 0:
        raise ConfigError(f"{key} of {place}: {kind} {values!r} must begin above 0")
    return Parameter(key, kind, tuple(values), method)


def check_space(space: Space, base: Mapping[str, Any]) -> None:
    """Check all listed values, ends of ranges and a value between them, before training.

    Each is checked like a key of a run.

    Args:
        space: the search space.
        base: the keys common to all trials, from command line and files.

    Raises:
        ConfigError: an unknown key, or a value of a wrong type or out of range.
        DataError: there is no such data set.
    """
    weights = [base.get("kd_weight"), space.fixed.get("kd_weight")]
    weights += [value for parameter in space.parameters if parameter.key == "kd_weight" for value in parameter.values]
    if AUTO_WEIGHT in weights:
        raise no_auto_weight("the search itself chooses among trainings by validation")
    for method in space.methods(base.get("kd")):
        start = {**space.fixed, **({"kd": method} if any(p.key == "kd" for p in space.parameters) else {})}
        _check_trial(start, base)
        for parameter in space.parameters:
            if parameter.key != "kd" and parameter.method in (None, method):
                for value in (*parameter.examples, *parameter.inner):
                    _check_draw(parameter, value, start, base)


def _check_draw(parameter: Parameter, value: Any, start: Mapping[str, Any], base: Mapping[str, Any]) -> None:
    try:
        _check_trial({**start, parameter.key: value}, base)
    except ConfigError as error:
        if parameter.kind in LISTS:
            raise
        ends = [float(end).is_integer() for end in parameter.values[:2]]
        integers = all(ends) and parameter.kind in ("uniform", "loguniform") and isinstance(value, float)
        hint = f" {{int: {list(parameter.values)}}} draws integers." if integers else ""
        raise ConfigError(
            f"{parameter.name}: {parameter.kind} {list(parameter.values)} can draw this value. {error}{hint}"
        ) from None


def _check_trial(settings: Mapping[str, Any], base: Mapping[str, Any]) -> None:
    values = merge_sources(None, dict(base), settings)
    make_request(values, drawn=settings)
    cls = distiller_class(str(values["kd"]))
    given = {**layers(f"distiller/{values['kd']}")[0], **values}
    resolve_options(cls, {key[3:]: value for key, value in given.items() if key.startswith("kd_")})
