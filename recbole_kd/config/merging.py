"""Sources of a run's settings merged into one mapping: files, a dict, the command line."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from recbole_kd.config.code_names import KEY as ALLOW_CODE
from recbole_kd.config.code_names import allows_code, methods_in, refuse_code, refuse_permission
from recbole_kd.config.parsing import nest_prefix, read_config_file, split_config_files

MERGED = ("eval_args", "train_neg_sample_args")
"""Mappings of which a user may give a part."""


def merge_sources(
    config_files: object, config_dict: Mapping[str, Any] | None, arguments: Mapping[str, Any]
) -> dict[str, Any]:
    """Merge command line > dict > files, and nest dotted keys such as ``eval_args.order``.

    A mapping that a later source gives in part keeps the other parts of an earlier one. A later ``~`` empties it.

    Raises:
        ConfigError: a file cannot be read, or names code (``kd: module:Class``) without ``allow_code`` in dict or
            arguments.
    """
    merged: dict[str, Any] = {}
    allowed = allows_code(config_dict, arguments)
    for path in split_config_files(config_files):
        content = read_config_file(path)
        refuse_permission(content, path)
        refuse_code(methods_in(content), path, allowed)
        _merge(merged, content)
    _merge(merged, config_dict or {})
    _merge(merged, arguments)
    merged.pop(ALLOW_CODE, None)
    return merged


def _merge(merged: dict[str, Any], source: Mapping[str, Any]) -> None:
    """Merge the values of one more source over those already merged."""
    rest: Mapping[str, Any] = source
    for key in MERGED:
        rest, nested = nest_prefix(rest, key, key)
        if key in source and source[key] is None:
            merged[key] = nested or None
        elif nested:
            merged[key] = {**(merged.get(key) or {}), **nested}
    rest, teacher = nest_prefix(rest, "teacher")
    own = (
        {}
        if "teacher_config" in source and source["teacher_config"] is None
        else dict(merged.get("teacher_config") or {})
    )
    if teacher:
        _merge(own, teacher)
    if own or "teacher_config" in merged:
        merged["teacher_config"] = own
    merged.update(rest)
