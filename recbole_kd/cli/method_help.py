"""The help of one method: its keys with defaults and meaning, from the comments of its property file."""

from __future__ import annotations

import inspect
import textwrap
from collections.abc import Iterable
from pathlib import Path

from recbole_kd.config.key_comments import KeyComment, key_comments
from recbole_kd.config.property_layers import names_in, properties_dir
from recbole_kd.config.schema import KD_RUN_KEYS
from recbole_kd.config.validation import describe
from recbole_kd.distiller.registry import DISTILLERS, distiller_class, distiller_options

WIDTH = 120
KEY_WIDTH, DEFAULT_WIDTH = 30, 14


def method_help(name: str) -> str:
    """Return what a method is, its keys, and the files that hold settings for it.

    Raises:
        ConfigError: there is no such method; the nearest name is given.
    """
    method = distiller_class(_in_our_case(name))
    name = _in_our_case(name)
    keys = _keys_of(name, method)
    known = {key.key for key in keys}
    shared = [key for key in key_comments(properties_dir() / "overall.yaml") if key.key in KD_RUN_KEYS]
    lines = [f"{name}: {(inspect.getdoc(method) or '').partition(chr(10))[0]}", "", f"keys of {name}"]
    lines += _rows(keys)
    if "kd_weight" in known:
        lines += ["", "kd_weight is chosen on validation (auto), unless it is given or known for the pair;"]
        lines += [f"the number above is the general default of {name}, which kd_weight=default takes"]
    lines += ["", "keys of every method", *_rows(key for key in shared if key.key not in known)]
    pairs = [pair for pair in names_in("distiller") if pair.startswith(f"{name}-")]
    if pairs:
        lines += ["", "settings that apply by themselves (METHOD-DATASET-STUDENT-TEACHER, in properties/distiller)"]
        lines += textwrap.wrap(
            ", ".join(pairs), WIDTH, initial_indent="  ", subsequent_indent="  ", break_on_hyphens=False
        )
    space = name if name in names_in("tune") else "any"
    lines += ["", f"search: recbole-kd tune --kd={name} ... tries the values of properties/tune/{space}.yaml"]
    lines += ["", "example:", f"  recbole-kd run --model=MF --teacher=LightGCN --kd={name} --dataset=ml-100k"]
    return "\n".join(lines)


def _in_our_case(name: str) -> str:
    """A method's name as the registry has it, whatever the case."""
    return {known.lower(): known for known in DISTILLERS}.get(name.lower(), name)


def _keys_of(name: str, method: type) -> list[KeyComment]:
    """The keys of a method's file, and what its constructor takes beside them."""
    path: Path = properties_dir() / "distiller" / f"{name}.yaml"
    keys = key_comments(path) if path.is_file() else []
    known = {key.key for key in keys}
    for option, parameter in distiller_options(method).items():
        if f"kd_{option}" not in known:
            needed = parameter.default is inspect.Parameter.empty
            default = "(needed)" if needed else "~" if parameter.default is None else str(parameter.default)
            kind = "" if parameter.annotation is inspect.Parameter.empty else describe(parameter.annotation)
            keys.append(KeyComment(f"kd_{option}", default, "", kind))
    return keys


def _rows(keys: Iterable[KeyComment]) -> list[str]:
    lines: list[str] = []
    for key in keys:
        meaning = f"({key.kind}) {key.meaning}" if key.kind else key.meaning
        start = f"  {'--' + key.key:<{KEY_WIDTH}} {key.default:<{DEFAULT_WIDTH}} "
        lines += textwrap.wrap(
            start + meaning, WIDTH, subsequent_indent=" " * len(start), drop_whitespace=True, break_long_words=False,
            break_on_hyphens=False,
        )  # fmt: skip
    return lines
