"""One clear error for any exception that RecBole raises while it prepares a data set."""

from __future__ import annotations

from collections.abc import Iterator
from types import TracebackType
from typing import Any

from recbole_kd.errors import DataError, KDError

KEYS_OF_STEP: dict[str, tuple[str, ...]] = {
    "_get_field_from_config": ("USER_ID_FIELD", "ITEM_ID_FIELD", "LABEL_FIELD", "TIME_FIELD"),
    "_get_load_and_unload_col": ("load_col", "unload_col"),
    "_build_feat_name_list": ("additional_feat_suffix",),
    "_load_additional_feat": ("additional_feat_suffix",),
    "_load_feat": ("field_separator", "seq_separator", "encoding", "seq_len", "load_col", "unload_col"),
    "_set_alias": ("alias_of_user_id", "alias_of_item_id", "alias_of_entity_id", "alias_of_relation_id"),
    "_init_alias": ("alias_of_user_id", "alias_of_item_id", "alias_of_entity_id", "alias_of_relation_id"),
    "_get_remap_list": ("alias_of_user_id", "alias_of_item_id", "alias_of_entity_id", "alias_of_relation_id"),
    "_preload_weight_matrix": ("preload_weight",),
    "_normalize": ("normalize_field", "normalize_all"),
    "_discretization": ("discretization", "numerical_features"),
    "_remove_duplication": ("rm_dup_inter",),
    "_filter_by_inter_num": ("user_inter_num_interval", "item_inter_num_interval"),
    "_filter_by_field_value": ("val_interval",),
    "_filter_inter_by_user_or_item": ("filter_inter_by_user_or_item",),
    "_set_label_by_threshold": ("threshold",),
    "_drop_unused_col": ("unused_col",),
    "_load_inter_feat": ("benchmark_filename",),
    "build": ("eval_args", "benchmark_filename"),
}
"""Method of RecBole's Dataset -> the keys that it reads."""

USES_UP = ("threshold", *KEYS_OF_STEP["_set_alias"], "normalize_field", "discretization", "preload_weight")
"""Keys that may rename or remove a column."""


def reading_error(config: Any, error: Exception) -> KDError:
    """Return the error to raise instead of one that RecBole raised while it prepared data.

    It names the keys of the innermost step on the way to the error, as far as the user can have set them.
    """
    if isinstance(error, KDError):
        return error
    message = " ".join(str(error).split())
    said = message if isinstance(error, ValueError) else f"{type(error).__name__}: {message}"
    if isinstance(error, KeyError) and error.args:
        said = f"there is no column {str(error.args[0])!r} at this step"
    steps = _steps(error.__traceback__)
    keys = _that_took_away(config, error) or next((found for step in steps if (found := _set_keys(config, step))), [])
    where = f" with {', '.join(keys)}" if keys else ""
    if keys:
        fix = f" (fix: correct or leave out {_names(keys)})"
    else:
        fix = "" if isinstance(error, ValueError) else " (fix: check its files and the keys that say how to read them)"
    return DataError(f"RecBole cannot prepare the data set {config['dataset']}{where}: {said}{fix}")


def _that_took_away(config: Any, error: Exception) -> list[str]:
    """Return the keys that renamed or removed the missing column, as ``key=value``."""
    if not isinstance(error, KeyError) or not error.args:
        return []
    missing = str(error.args[0])
    return [f"{key}={config[key]!r}" for key in USES_UP if config[key] and missing in map(str, config[key])]


def _steps(traceback: TracebackType | None) -> Iterator[str]:
    """Yield the names of the functions on the way to an error, innermost first."""
    names = []
    while traceback is not None:
        names.append(traceback.tb_frame.f_code.co_name)
        traceback = traceback.tb_next
    yield from reversed(names)


def _set_keys(config: Any, step: str) -> list[str]:
    """Return the keys of a step that are not empty, as ``key=value``."""
    return [f"{key}={config[key]!r}" for key in KEYS_OF_STEP.get(step, ()) if config[key] not in (None, [], {}, False)]


def _names(keys: list[str]) -> str:
    return " or ".join(key.partition("=")[0] for key in keys)
