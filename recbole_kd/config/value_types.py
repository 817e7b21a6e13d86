"""Annotated types of values, for the schema and the constructors of the methods."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from annotated_types import Ge, Gt, Le, Predicate
from pydantic import FiniteFloat, GetCoreSchemaHandler
from pydantic_core import PydanticCustomError, core_schema

LABELS = {"n_items": "the number of items", "n_queries": "the number of users"}
"""Words in an error for a bound from the data; any other bound is another option, ``kd_<name>``."""


@dataclass(frozen=True)
class AtMost:
    """An upper bound from the data (``n_items``, ``n_queries``) or from another option.

    The bound is looked up in the context of the check. A bound that is missing or not a number is ignored.
    """

    name: str

    def limit(self, context: Mapping[str, Any] | None) -> float | None:
        """Return the bound, or None if the context has none."""
        found = (context or {}).get(self.name)
        return found if isinstance(found, int | float) and not isinstance(found, bool) else None

    @property
    def label(self) -> str:
        """The bound in words."""
        return LABELS.get(self.name, f"kd_{self.name}")

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> core_schema.CoreSchema:
        def check(value: Any, info: core_schema.ValidationInfo[Any]) -> Any:
            limit = self.limit(info.context)
            if limit is not None and not value <= limit:
                raise PydanticCustomError("at_most", "above the bound")
            return value

        return core_schema.with_info_after_validator_function(check, handler(source))


@dataclass(frozen=True)
class Expected:
    """A description of a type for errors, if one cannot be derived from its parts."""

    words: str


Natural = Annotated[int, Ge(0)]
Count = Annotated[int, Ge(1)]
ItemCount = Annotated[int, Ge(1), AtMost("n_items")]
"""A number of items, at most the number of items in the catalogue."""

Number = FiniteFloat
Positive = Annotated[FiniteFloat, Gt(0)]
NonNegative = Annotated[FiniteFloat, Ge(0)]
Share = Annotated[FiniteFloat, Ge(0), Le(1)]


Seed = Annotated[int, Ge(0), Le(2**32 - 1)]
Path = Annotated[str, Expected("a path")]


def any_case(*names: str) -> Any:
    """Return the type of a text that is one of the names, ignoring case."""
    return Annotated[str, Predicate(_LowerIn(names)), Expected(f"one of {', '.join(names)}")]


def satisfying(holds: Callable[[Any], bool], words: str) -> Any:
    """Return the type of any value that satisfies a condition, described by words."""
    return Annotated[Any, Predicate(holds), Expected(words)]


def one_of(names: tuple[str, ...]) -> Any:
    """Return the type of a text that is exactly one of the names."""
    return Literal[names]


@dataclass(frozen=True)
class _LowerIn:
    names: tuple[str, ...]

    def __call__(self, value: str) -> bool:
        return value.lower() in self.names
