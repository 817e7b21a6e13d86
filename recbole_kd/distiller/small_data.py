"""Defaults of a method cut to data that are smaller than the published ones."""

from __future__ import annotations

import typing
from collections.abc import Collection, Mapping
from typing import Any

from recbole_kd.config.value_types import AtMost
from recbole_kd.distiller.base import Distiller
from recbole_kd.distiller.registry import distiller_options


def cut_defaults(
    cls: type[Distiller], values: Mapping[str, Any], given: Collection[str], n_queries: int, n_items: int
) -> dict[str, tuple[int, int, str]]:
    """Return the options of the property files that are larger than the data allow.

    A value that the user gave is never among them: too large, it is an error. An option that another one bounds keeps
    its proportion to it.

    Args:
        cls: the method. values: ``kd_*`` keys with their values, from all sources.
        given: the keys that the user gave.
        n_queries, n_items: sizes of the data without the pad.

    Returns:
        key -> its value, the largest value allowed, and that bound in words.
    """
    cut: dict[str, tuple[int, int, str]] = {}
    sizes = {"n_queries": n_queries, "n_items": n_items}
    parameters = distiller_options(cls)
    for of_data in (True, False):  # an option that bounds another one is cut first
        now = {key: cut[key][1] if key in cut else value for key, value in values.items()}
        for name, parameter in parameters.items():
            method = name.partition(".")[2]  # of several combined
            key, value = f"kd_{name}", now.get(f"kd_{name}", parameter.default)
            if key in given or isinstance(value, bool) or not isinstance(value, int):
                continue
            for bound in _bounds(parameter.annotation):
                other = f"kd_{bound.name}" + (f".{method}" if method else "")
                limit = bound.limit(sizes if of_data else {bound.name: now.get(other)})
                if other in cut and not of_data and limit is not None:  # in the same proportion as before
                    limit = min(limit, max(1, value * int(limit) // cut[other][0]))
                if limit is not None and 1 <= limit < value:
                    cut[key] = (cut[key][0] if key in cut else value, int(limit), bound.label)
                    value = int(limit)
    return cut


def _bounds(kind: Any) -> list[AtMost]:
    """Return the bounds in an annotated type, those of the parts of a union included."""
    own = [extra for extra in getattr(kind, "__metadata__", ()) if isinstance(extra, AtMost)]
    base = kind.__origin__ if own or hasattr(kind, "__metadata__") else kind
    return own + [bound for part in typing.get_args(base) for bound in _bounds(part)]


def words_of_cut(cut: Mapping[str, tuple[int, int, str]]) -> str:
    """Return one sentence on what was cut; empty if nothing was."""
    if not cut:
        return ""
    parts = [f"{key}={value} to {limit} ({label})" for key, (value, limit, label) in cut.items()]
    return f"The data are smaller than these defaults, which are cut: {', '.join(parts)}"
