"""Checks for data keys that RecBole would silently ignore or misread."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import Any

from recbole.utils import FeatureType

from recbole_kd.data.atomic_file_checks import Headers, columns_of, interaction_files
from recbole_kd.errors import ConfigError

_NUMBER = r"\s*([-+]?(?:\d+\.?\d*(?:[eE][-+]?\d+)?|\.\d+|inf))\s*"
_INTERVAL = re.compile(rf"\s*[\[(]{_NUMBER},{_NUMBER}[\])]\s*")
_SPLIT_PARTS = ("split", "order", "group_by")
_SEQUENCES = (FeatureType.TOKEN_SEQ, FeatureType.FLOAT_SEQ)


def check_data_keys(config: Any, loaded: Headers) -> None:
    """Refuse data keys that have no effect on the files that are read.

    Args:
        loaded: the result of :func:`recbole_kd.data.atomic_file_checks.check_atomic_files`.

    Raises:
        ConfigError: a filter or a split is set beside prepared files, an interval is malformed, a column is not read,
            or an order in time is asked for without times.
    """
    if config["benchmark_filename"] is not None:
        _check_benchmark(config, loaded)
    for field, chosen in (config["val_interval"] or {}).items():
        _check_filter(field, chosen, loaded)
    _check_columns(config, loaded)
    if config["benchmark_filename"] is None:
        _check_order(config, loaded.get("inter", {}))


def _check_benchmark(config: Any, loaded: Headers) -> None:
    """Refuse filters and splits for prepared files, which RecBole uses unchanged."""
    given, defaults = config.external_config_dict, config.internal_config_dict
    unused = [key for key in ("val_interval", "rm_dup_inter") if config[key]]
    unused += [
        f"{kind}_inter_num_interval" for kind in ("user", "item") if _leaves_out(config[f"{kind}_inter_num_interval"])
    ]
    if given.get("filter_inter_by_user_or_item") and {"user", "item"} & set(loaded):
        unused.append("filter_inter_by_user_or_item")
    if "split_seed" in given and given["split_seed"] != defaults.get("split_seed"):
        unused.append("split_seed")
    split, default = given.get("eval_args") or {}, defaults.get("eval_args") or {}
    unused += [f"eval_args.{part}" for part in _SPLIT_PARTS if part in split and split[part] != default.get(part)]
    if unused:
        raise ConfigError(
            f"{unused[0]} has no effect with benchmark_filename={config['benchmark_filename']}, whose files are "
            f"used unchanged: leave it out, or set --benchmark_filename=~ to filter and split "
            f"{config['dataset']}.inter"
        )


def _leaves_out(interval: Any) -> bool:
    return interval is not None and str(interval).replace(" ", "") != "[0,inf)"


def _check_filter(field: str, chosen: Any, loaded: Headers) -> None:
    """Check one entry of val_interval: an interval of numbers, or a list of tokens."""
    kind = next((columns[field] for columns in loaded.values() if field in columns), None)
    if kind is None:
        there = ", ".join(name for columns in loaded.values() for name in columns)
        raise ConfigError(
            f"val_interval names {field}, which is not read (read are {there}): add it to load_col, or leave it out"
        )
    if kind in _SEQUENCES:
        raise ConfigError(
            f"val_interval names {field}, which holds sequences: it filters columns of type float or token"
        )
    if kind == FeatureType.FLOAT and not _are_intervals(chosen):
        raise ConfigError(
            f"Invalid --val_interval={{{field}: {chosen}}}: expected an interval for the numbers of {field}, such as "
            f"'[4,inf)', or several with ';' between them. Try --val_interval=\"{{{field}: '[4,inf)'}}\"."
        )
    if kind == FeatureType.TOKEN and not (
        isinstance(chosen, list) and chosen and all(isinstance(token, str) for token in chosen)
    ):
        raise ConfigError(
            f"Invalid --val_interval={{{field}: {chosen}}}: expected a list of the tokens of {field} to keep, each as "
            f"text. Try --val_interval=\"{{{field}: ['a', 'b']}}\"."
        )


def _are_intervals(value: Any) -> bool:
    found = [_INTERVAL.fullmatch(part) for part in value.split(";")] if isinstance(value, str) else [None]
    return all(match is not None and _bound(match[1]) <= _bound(match[2]) for match in found)


def _bound(text: str) -> float:
    return math.inf if text.endswith("inf") and not text.startswith("-") else float(text)


def _check_columns(config: Any, loaded: Headers) -> None:
    """Check that the columns which other keys name are read."""
    for source, fields in (config["unused_col"] or {}).items():
        for field in fields or ():
            _check_read("unused_col", field, loaded.get(source, {}), f"{config['dataset']}.{source}")
            if field in (config["USER_ID_FIELD"], config["ITEM_ID_FIELD"]):
                raise ConfigError(f"unused_col names {field}, which every training needs: take it out")
    everything = {name: kind for columns in loaded.values() for name, kind in columns.items()}
    for field in config["seq_len"] or ():
        _check_read("seq_len", field, everything, f"the files of {config['dataset']}")
        if everything[field] not in _SEQUENCES:
            raise ConfigError(
                f"seq_len names {field}, which is of type {everything[field].value}: it cuts columns of type token_seq "
                "or float_seq"
            )
    for field in config.external_config_dict.get("selected_features") or ():
        _check_read("selected_features", field, everything, f"the files of {config['dataset']}")


def _check_read(key: str, field: str, columns: Mapping[str, FeatureType], where: str) -> None:
    if field not in columns:
        there = f"read are {', '.join(columns)}" if columns else "none is read"
        raise ConfigError(
            f"{key} names {field}, which is not a column that is read from {where} ({there}): add it to load_col, or "
            "leave it out"
        )


def _check_order(config: Any, columns: Mapping[str, FeatureType]) -> None:
    """Refuse an order in time without times; leave-one-out then uses the file's order."""
    arguments, time = config["eval_args"], config["TIME_FIELD"]
    by_boundary = "TS" in (arguments["split"] or {})
    if by_boundary and arguments["order"] == "RO":
        raise ConfigError(
            "eval_args.order=RO is not possible with eval_args.split={TS: ...}, which splits at a time: set "
            "--eval_args.order=TO"
        )
    if time in columns or arguments["order"] == "RO" or "LS" in (arguments["split"] or {}):
        return
    key = "eval_args.split={TS: ...}" if by_boundary else "eval_args.order=TO"
    fields = ", ".join((*columns, str(time)))
    (path, *_) = interaction_files(config)
    if path.is_file() and time in columns_of(path, config):
        raise ConfigError(
            f"{key} needs the times {time}, which {path} has and load_col leaves out: add it, --load_col='{{inter: "
            f"[{fields}]}}'"
        )
    raise ConfigError(
        f"{key} needs times, but {path} has no column {time}: name its column of times with "
        "--TIME_FIELD=<its name>, or split at random, --eval_args.order=RO"
    )
