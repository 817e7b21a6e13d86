"""The table of keys: what each takes, as an annotated type that pydantic checks.

RecBole checks few of its values: `--use_gpu=maybe` counts as true, an unknown learner becomes Adam. Here a key of RecBole has the type of
its default in the property files, unless the table says more. Options of a method are not in the table: its constructor's annotations
hold them (:mod:`recbole_kd.distiller.registry`).
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import Annotated, Any, Literal

from annotated_types import Ge, Gt, Le, Lt, MinLen, Predicate

from recbole_kd.config.validation import check_value, invalid, try_value
from recbole_kd.config.value_types import (
    AtMost,
    Count,
    Expected,
    Natural,
    NonNegative,
    Number,
    Positive,
    Share,
    any_case,
    one_of,
    satisfying,
)

TEACHER_STORES = ("auto", "factors", "dense", "online")
TEACHER_DTYPES = ("fp32", "fp16")
INDEX_KINDS = ("none", "ivf")
NEGATIVES = ("own", "shared")
"""Of HSTU's loss: drawn for each position, or once for a batch."""

TABLE_INITS = ("xavier_normal", "truncated_normal")
"""Of HSTU's tables: as the RCE-KD code draws them, or as the original."""

EXAMPLES: dict[str, Any] = {
    "model": "MF",
    "teacher": "MF,LightGCN",
    "teacher_svd": 64,
    "allow_unknown": "my_key",
    "teacher_ray_address": "auto",
    "load_col": {"inter": ["user_id", "item_id", "timestamp"]},
    "item_features": {"visual": "image.npy"},
    "benchmark_filename": ["train", "valid", "test"],
    "seed": 0,
}
"""What an error proposes for a key without a default."""

Path = Annotated[str, Expected("a path")]
Seed = Annotated[int, Ge(0), Le(2**32 - 1)]
Dropout = Annotated[Number, Ge(0), Lt(1)]

_NUMBER = r"\s*[-+]?(?:\d+\.?\d*(?:[eE][-+]?\d+)?|\.\d+|inf)\s*"
_INTERVALS = re.compile(rf"\s*[\[(]{_NUMBER},{_NUMBER}[\])]\s*(?:;\s*[\[(]{_NUMBER},{_NUMBER}[\])]\s*)*")
_INTERVAL_WORDS = "an interval such as [5,inf), or several with ';' between them"


def _is_interval(value: object) -> bool:
    return bool(_INTERVALS.fullmatch(str(value)))


def _is_split(value: object) -> bool:
    if not isinstance(value, dict) or len(value) != 1:
        return False
    ((name, parts),) = value.items()
    if name == "LS":
        return parts in ("valid_and_test", "valid_only", "test_only")
    if name not in ("RS", "TS") or not isinstance(parts, list) or len(parts) != 3:
        return False
    numbers = all(isinstance(part, int | float) and not isinstance(part, bool) and 0 <= part < math.inf for part in parts)
    return numbers and sum(parts) > 0


def _is_mode(value: object) -> bool:
    if isinstance(value, dict):
        return set(value) <= {"valid", "test"} and all(isinstance(m, str) and _is_mode(m) for m in value.values())
    return isinstance(value, str) and bool(re.fullmatch(r"full|labeled|(?:uni|pop)[0-9]+", value))


def _is_grouping(value: object) -> bool:
    return value is None or str(value).lower() in ("none", "user")


Interval = Annotated[Any, Predicate(_is_interval), Expected(_INTERVAL_WORDS)]

RUN_KEYS: dict[str, Any] = {
    "model": str,
    "kd": str,
    "dataset": str,
    "teacher": str | list[str] | None,
    "setting": Literal["general", "sequential"],
    "teacher_path": Path | None,
    "teacher_store": one_of(TEACHER_STORES),
    "teacher_dtype": one_of(TEACHER_DTYPES),
    "teacher_ray_address": Annotated[str, Expected("local, auto or HOST:PORT")] | None,
    "teacher_svd": Count | None,
    "kd_compare": bool,
    "kd_weight": NonNegative,
    # NDCG@10 on the training interactions after each epoch; the student's ranks of the teacher's list before and after the training
    "kd_track": list[Literal["train_ndcg", "teacher_ranks"]] | None,
    "kd_refresh": Count,
    "kd_candidate_index": one_of(INDEX_KINDS) | None,
    "kd_index_teacher": bool,
    "kd_nlist": Annotated[Count, AtMost("n_items")] | None,
    "kd_nprobe": Annotated[Count, AtMost("nlist")] | None,
    "eval_protocol": Literal["recbole", "paper"],
    "loss_reduction": Literal["sum", "mean"] | None,
    "init_std": Positive | None,
    "split_seed": Seed,
    "time_order": Literal["exact", "recbole"],
    "max_minutes": Positive | None,
    "eval_memory_mb": Count,
    "nproc": Count,
    "resume": bool,
    "cache_dir": Path | None,
    "output_dir": Path,
    "allow_unknown": Annotated[str | list[str], Expected("a key or a list of keys")] | None,
    "text_encoder": str | list[str] | None,
    "item_features": dict | None,
}
"""Keys of our own, of a whole run or of any model."""

KD_RUN_KEYS = tuple(key for key in RUN_KEYS if key.startswith("kd_"))
"""``kd_*`` keys that are valid for every method."""

TEACHER_RUN_KEYS = tuple(key for key in RUN_KEYS if key.startswith("teacher_"))
"""Keys of the run that say how its teacher is kept; the teacher's own are ``teacher.*``."""

RECBOLE_TYPES: dict[str, Any] = {
    "gpu_id": int | str | tuple[int, ...],
    "state": any_case("debug", "info", "warning", "error", "critical") | None,
    "seed": Seed,
    "worker": Natural,
    "epochs": Natural,
    "train_batch_size": Count,
    "eval_batch_size": Count,
    "eval_step": Count,
    "stopping_step": Natural,
    # not sparse_adam: torch's SparseAdam refuses dense gradients, and no model of RecBole has others
    "learner": any_case("adam", "adamw", "sgd", "adagrad", "rmsprop"),
    "learning_rate": Positive,
    "weight_decay": NonNegative,
    "loss_decimal_place": Natural,
    "metric_decimal_place": Natural,
    "topk": Count | Annotated[list[Count], MinLen(1)],
    "metrics": str | Annotated[list[str], MinLen(1)],
    "valid_metric": str,
    "transform": Literal["mask_itemseq", "inverse_itemseq", "crop_itemseq", "reorder_itemseq", "user_defined"] | None,
    "loss_type": str,
    "eval_args": dict,
    "eval_args.split": satisfying(_is_split, "{RS: [0.8, 0.1, 0.1]}, {TS: [0.8, 0.1, 0.1]} or {LS: valid_and_test}"),
    "eval_args.order": Literal["RO", "TO"],
    "eval_args.group_by": satisfying(_is_grouping, "user or none"),
    "eval_args.mode": satisfying(_is_mode, "full, labeled, uniN or popN (N items, as in uni100), or {valid: ..., test: ...}"),
    "train_neg_sample_args": dict | None,
    "train_neg_sample_args.distribution": Literal["uniform", "popularity", "None"] | None,
    "train_neg_sample_args.sample_num": Count,
    "train_neg_sample_args.alpha": Number,
    "train_neg_sample_args.dynamic": bool,
    "train_neg_sample_args.candidate_num": Natural,
    "clip_grad_norm": dict | None,
    "clip_grad_norm.max_norm": Positive,
    "clip_grad_norm.norm_type": Annotated[float, Gt(0)],
    "clip_grad_norm.error_if_nonfinite": bool,
    "clip_grad_norm.foreach": bool | None,
    "data_path": Path,
    "checkpoint_dir": Path,
    "dataset_save_path": Path | None,
    "dataloaders_save_path": Path | None,
    "field_separator": str,
    "seq_separator": str,
    "NEG_PREFIX": str,
    "LIST_SUFFIX": str,
    "encoding": str | None,
    "seq_len": dict | None,
    "threshold": dict | None,
    "load_col": dict | None,
    "unload_col": dict | None,
    "unused_col": dict | None,
    "additional_feat_suffix": str | list[str] | None,
    "rm_dup_inter": Literal["first", "last", False] | None,
    "val_interval": dict | None,
    "filter_inter_by_user_or_item": bool | None,
    "user_inter_num_interval": Interval | None,
    "item_inter_num_interval": Interval | None,
    "entity_kg_num_interval": Interval | None,
    "relation_kg_num_interval": Interval | None,
    "alias_of_user_id": list | None,
    "alias_of_item_id": list | None,
    "alias_of_entity_id": list | None,
    "alias_of_relation_id": list | None,
    "preload_weight": dict | None,
    "normalize_field": list | None,
    "normalize_all": bool | None,
    "discretization": dict | None,
    "benchmark_filename": list | None,
    "tail_ratio": Number | None,
    "selected_features": list | None,
    "fields": dict | None,
    "embedding_size": Count,
    "hidden_size": Count,
    "inner_size": Count,
    "n_layers": Natural,
    "n_heads": Count,
    "MAX_ITEM_LIST_LENGTH": Count,
    "dropout_prob": Share,
    "hidden_dropout_prob": Share,
    "attn_dropout_prob": Share,
    "context_norm": int | bool,
    "use_proj_bias": int | bool,
    "xgb_params": dict | None,
    "xgb_verbose_eval": int | bool | None,
}
"""Keys of RecBole whose default does not say all; a dotted key is one part of a mapping that RecBole reads part by part."""

MODEL_TYPES: dict[str, dict[str, Any]] = {
    "HSTU": {
        "MAX_ITEM_LIST_LENGTH": Count,
        "embedding_size": Count,
        "n_layers": Count,
        "n_heads": Count,
        "attention_size": Count,
        "linear_size": Count,
        "n_negatives": Count,
        "input_dropout": Dropout,
        "linear_dropout": Dropout,
        "temperature": Positive,
        "position_bias": bool,
        "time_bias": bool,
        "negatives": one_of(NEGATIVES),
        "table_init": one_of(TABLE_INITS),
    },
    "BM3": {"reg_weight": NonNegative, "cl_weight": NonNegative, "freeze_features": bool},
}
"""Keys of our own models."""

SEARCH_KEYS: dict[str, Any] = {
    "tool": Literal["Hyperopt", "Ray"],
    "params_file": Path | None,
    "max_evals": Count,
    "study": str | None,
    "search_seed": Seed,
    "algo": Literal["exhaustive", "random", "bayes"],
    "early_stop": Count | None,
    "output_file": Path | None,
    "display_file": Path | None,
    "searcher": Literal["random", "hyperopt", "optuna"],
    "scheduler": Literal["ASHA", "FIFO"],
    "grace_period": Count,
    "reduction_factor": Annotated[Number, Ge(1.01)],
    "cpus_per_trial": NonNegative,
    "gpus_per_trial": NonNegative,
    "max_concurrent": Natural,
    "ray_address": str,
    "max_failures": Natural,
}
"""Keys of a search."""

GRID_KEYS: dict[str, Any] = {
    "title": str | None,
    "config": dict | None,
    "seeds": Annotated[list[int], MinLen(1)],
    "runs": dict,
    "reference": str | None,
    "published": dict | None,
    "metric": Literal["recall@10", "ndcg@10", "recall@20", "ndcg@20"],
}
"""Keys of a grid file; ``metric`` is one of the columns of its table."""

PREPARE_KEYS: dict[str, Any] = {
    "min_rating": Number | None,
    "core": Count | None,
    "seed": Seed | None,
    "split": Literal["none", "ratio"] | None,
}
"""Options of the preparation of a data set."""

# Whole numbers in a property file, but used as a fraction, a weight or an exponent.
_FRACTIONS = frozenset({"reg_weight", "q", "w_max", "negative_weight", "global_ratio", "spatial_ratio", "topk_factor", "resolution"})

_PARTS: dict[str, tuple[str, ...]] = {}
for _key in RECBOLE_TYPES:
    _whole, _dot, _part = _key.partition(".")
    if _dot:
        _PARTS[_whole] = (*_PARTS.get(_whole, ()), _part)


def type_of(key: str, default: object = None, model: str | None = None) -> Any:
    """Return the annotated type of a key; ``Any`` if neither the table nor its default says it."""
    own = MODEL_TYPES.get(model or "", {})
    for table in (own, RUN_KEYS, RECBOLE_TYPES):
        if key in table:
            return table[key]
    return _type_like(key, default)


def _type_like(key: str, default: object) -> Any:
    """The type of a default value: an empty text or mapping is allowed, as in RecBole's own files."""
    if isinstance(default, bool):
        return bool
    if isinstance(default, int):
        return Number if key in _FRACTIONS else int
    if isinstance(default, float):
        return Number
    if isinstance(default, str):
        return str | None
    if isinstance(default, dict):
        return dict | None
    if isinstance(default, list):
        return _list_like(default)
    return Any


def _list_like(default: list[Any]) -> Any:
    if default and all(isinstance(element, int) and not isinstance(element, bool) for element in default):
        return list[int]
    if default and all(isinstance(element, int | float) and not isinstance(element, bool) for element in default):
        return list[Number]
    return list[str] if default and all(isinstance(element, str) for element in default) else list


def check_table(given: Mapping[str, object], table: Mapping[str, Any], defaults: Mapping[str, object], place: str | None = None) -> None:
    """Check each value whose key is in a table of its own; the file that holds them is named if they are not typed.

    Raises:
        ConfigError: for the first wrong value.
    """
    for key, value in given.items():
        if key in table:
            check_value(key, value, table[key], example=defaults.get(key), place=place)


def check_values(
    given: Mapping[str, object],
    defaults: Mapping[str, object],
    *,
    prefix: str = "",
    model: str | None = None,
    context: Mapping[str, Any] | None = None,
) -> None:
    """Check each value against the type of its key.

    Args:
        given: keys and values from the command line, a dict or files.
        defaults: the property files, merged: they say the type of a key that the table does not have, and what may be typed instead.
        prefix: what stands before the key on the command line, "teacher." for a teacher's keys. model: whose keys they are.
        context: bounds that come with the data.

    Raises:
        ConfigError: for the first wrong value.
    """
    for key, value in given.items():
        default = defaults.get(key)
        example = EXAMPLES.get(key) if default is None else default
        check_value(prefix + key, value, type_of(key, default, model), context=context, example=example)
        if key in _PARTS and isinstance(value, dict):
            _check_parts(key, value, default if isinstance(default, dict) else {}, prefix)


def _check_parts(key: str, value: Mapping[str, object], default: Mapping[str, object], prefix: str) -> None:
    for part, given in value.items():
        name = f"{key}.{part}"
        if part not in _PARTS[key]:
            names = ", ".join(_PARTS[key])
            raise invalid(prefix + name, given, f"expected one of the keys {names} of {key}", f"Leave {prefix}{name} out")
        check_value(prefix + name, given, RECBOLE_TYPES[name], example=default.get(part))
    if key == "clip_grad_norm" and value and "max_norm" not in value:
        raise invalid(prefix + key, value, "expected a mapping with max_norm", try_value(prefix + key, {"max_norm": 5, **value}))
