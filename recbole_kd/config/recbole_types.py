"""Types of RecBole's keys, if their default in the property files does not determine them."""

from __future__ import annotations

import math
import re
from typing import Annotated, Any, Literal

from annotated_types import Gt, MinLen, Predicate

from recbole_kd.config.value_types import (
    Count,
    Expected,
    Natural,
    NonNegative,
    Number,
    Path,
    Positive,
    Seed,
    Share,
    any_case,
    satisfying,
)

_NUMBER = r"\s*[-+]?(?:\d+\.?\d*(?:[eE][-+]?\d+)?|\.\d+|inf)\s*"
_INTERVALS = re.compile(rf"\s*[\[(]{_NUMBER},{_NUMBER}[\])]\s*(?:;\s*[\[(]{_NUMBER},{_NUMBER}[\])]\s*)*")
_GPU = re.compile(r"-1|[0-9]+|(?:GPU|MIG)-[\w/-]+")
_INTERVAL_WORDS = "an interval such as [5,inf), or several with ';' between them"


def _is_interval(value: object) -> bool:
    return bool(_INTERVALS.fullmatch(str(value)))


def _is_gpus(value: str) -> bool:
    """Return whether a text names GPUs as CUDA_VISIBLE_DEVICES does.

    CUDA takes any other text for no GPU, and nothing says so.
    """
    return not value.strip() or all(_GPU.fullmatch(name.strip()) for name in value.split(","))


def _is_split(value: object) -> bool:
    if not isinstance(value, dict) or len(value) != 1:
        return False
    ((name, parts),) = value.items()
    if name == "LS":
        return parts in ("valid_and_test", "valid_only", "test_only")
    if name not in ("RS", "TS") or not isinstance(parts, list) or len(parts) != 3:
        return False
    numbers = all(
        isinstance(part, int | float) and not isinstance(part, bool) and 0 <= part < math.inf for part in parts
    )
    return numbers and sum(parts) > 0


def _is_mode(value: object) -> bool:
    if isinstance(value, dict):
        return set(value) <= {"valid", "test"} and all(isinstance(m, str) and _is_mode(m) for m in value.values())
    return isinstance(value, str) and bool(re.fullmatch(r"full|labeled|(?:uni|pop)[0-9]+", value))


def _is_grouping(value: object) -> bool:
    return value is None or str(value).lower() in ("none", "user")


Gpus = Annotated[str, Predicate(_is_gpus), Expected("numbers of GPUs as in 0,1 (-1 is the CPU)")]
Interval = Annotated[Any, Predicate(_is_interval), Expected(_INTERVAL_WORDS)]

RECBOLE_TYPES: dict[str, Any] = {
    "gpu_id": int | tuple[int, ...] | Gpus,
    "state": any_case("debug", "info", "warning", "error", "critical") | None,
    "seed": Seed,
    "worker": Natural,
    "epochs": Natural,
    "train_batch_size": Count,
    "eval_batch_size": Count,
    "eval_step": Count,
    "stopping_step": Natural,
    # not sparse_adam: torch's SparseAdam refuses dense gradients, and no model of RecBole has sparse ones
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
    "eval_args.mode": satisfying(
        _is_mode, "full, labeled, uniN or popN (N items, as in uni100), or {valid: ..., test: ...}"
    ),
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
"""Key of RecBole -> type; a dotted key is one part of a mapping that RecBole reads part by part."""

PARTS: dict[str, tuple[str, ...]] = {}
"""Mapping that RecBole reads part by part -> its parts."""

for _key in RECBOLE_TYPES:
    _whole, _dot, _part = _key.partition(".")
    if _dot:
        PARTS[_whole] = (*PARTS.get(_whole, ()), _part)
