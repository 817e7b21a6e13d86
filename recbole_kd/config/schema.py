"""Table of keys: the annotated type of each, which pydantic checks.

RecBole checks few of its values: `--use_gpu=maybe` counts as true, an unknown learner becomes Adam. Here a key of
RecBole has the type of its default in the property files, unless the table says more. Options of a method are not in
the table: the annotations of its constructor hold them (:mod:`recbole_kd.distiller.registry`).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from annotated_types import Ge, Lt, MinLen

from recbole_kd.config.recbole_types import PARTS, RECBOLE_TYPES
from recbole_kd.config.validation import check_value, invalid, try_value
from recbole_kd.config.value_types import (
    AtMost,
    Count,
    Expected,
    Natural,
    NonNegative,
    Number,
    Path,
    Positive,
    Seed,
    one_of,
)

TEACHER_STORES = ("auto", "factors", "dense", "online")
TEACHER_DTYPES = ("fp32", "fp16")
INDEX_KINDS = ("none", "ivf")
NEGATIVES = ("own", "shared")
"""Negatives of HSTU's loss: drawn for each position, or once for a batch."""

HSTU_LOSSES = ("auto", "full_softmax", "sampled_softmax")
"""Losses of HSTU: by the number of items, over all items, or over drawn negatives."""

TABLE_INITS = ("xavier_normal", "truncated_normal")
"""Initial values of HSTU's tables: as in the RCE-KD code, or as in the original."""

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
"""Values that an error suggests for a key without a default."""

ALWAYS_POSSIBLE: dict[str, Any] = {"kd_weight": 1.0}
"""Values that an error suggests in place of a default that some trainings are too short for."""

AUTO_WEIGHT = "auto"
"""The value of ``kd_weight`` that lets a run choose lambda on validation."""

DEFAULT_WEIGHT = "default"
"""The value of ``kd_weight`` that takes the number of the property files, that of the pair or else of the method."""

Dropout = Annotated[Number, Ge(0), Lt(1)]

RUN_KEYS: dict[str, Any] = {
    "model": str,
    "kd": str,
    "dataset": str,
    "teacher": str | list[str] | None,
    "setting": Literal["general", "sequential"],
    "teacher_path": Path | None,
    "init_from": Path | None,
    "teacher_store": one_of(TEACHER_STORES),
    "teacher_dtype": one_of(TEACHER_DTYPES),
    "teacher_ray_address": Annotated[str, Expected("local, auto or HOST:PORT")] | None,
    "teacher_svd": Count | None,
    "teacher_unlisted": Literal["floor", "mask"] | None,
    "kd_compare": bool,
    "kd_weight": NonNegative | Literal["auto", "default"],
    "kd_weight_scale": Literal["published", "rows"],
    # train_ndcg: NDCG@10 on the training interactions after each epoch; teacher_ranks: the student's ranks of the
    # teacher's list before and after the training; bound: partial NDCG on a closed set and its cross-entropy bound
    "kd_track": list[Literal["train_ndcg", "teacher_ranks", "bound"]] | None,
    "kd_refresh": Count,
    "kd_compile": bool,
    "kd_candidate_index": one_of(INDEX_KINDS) | None,
    "kd_index_teacher": bool,
    "kd_nlist": Annotated[Count, AtMost("n_items")] | None,
    "kd_nprobe": Annotated[Count, AtMost("nlist")] | None,
    "eval_protocol": Literal["recbole", "paper"],
    "loss_reduction": Literal["sum", "mean"] | None,
    "init_std": Positive | None,
    "split_seed": Seed,
    "time_order": Literal["exact", "recbole"],
    "train_by_user": bool,
    "max_minutes": Positive | None,
    "eval_memory_mb": Count,
    "nproc": Count,
    "ray_address": Annotated[str, Expected("local, auto or HOST:PORT")] | None,
    "resume": bool,
    "download": bool,
    "cache_dir": Path | None,
    "output_dir": Path,
    "allow_unknown": Annotated[str | list[str], Expected("a key or a list of keys")] | None,
    "text_encoder": str | list[str] | None,
    "item_features": dict | None,
}
"""Our own keys, of a whole run or of any model."""

KD_RUN_KEYS = tuple(key for key in RUN_KEYS if key.startswith("kd_"))
"""``kd_*`` keys that are valid for every method."""

TEACHER_RUN_KEYS = tuple(key for key in RUN_KEYS if key.startswith("teacher_"))
"""Keys of a run on how its teacher is stored; the teacher's own keys are ``teacher.*``."""

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
        "loss": one_of(HSTU_LOSSES),
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

COMPARE_KEYS: dict[str, Any] = {
    "grid": Path | None,
    "budget": Count | None,
    "ray_address": str | None,
    "cpus_per_task": NonNegative,
    "gpus_per_task": NonNegative,
}
"""Keys of a comparison itself."""

PREPARE_KEYS: dict[str, Any] = {
    "min_rating": Number | None,
    "core": Count | None,
    "seed": Seed | None,
    "split": Literal["none", "ratio"] | None,
}
"""Options of the preparation of a data set."""

# These are whole numbers in a property file, but are used as a fraction, a weight or an exponent.
_FRACTIONS = frozenset(
    {"reg_weight", "q", "w_max", "negative_weight", "global_ratio", "spatial_ratio", "topk_factor", "resolution"}
)


def type_of(key: str, default: object = None, model: str | None = None) -> Any:
    """Return the annotated type of a key, or ``Any`` if neither table nor default has one."""
    own = MODEL_TYPES.get(model or "", {})
    for table in (own, RUN_KEYS, RECBOLE_TYPES):
        if key in table:
            return table[key]
    return _type_like(key, default)


def _type_like(key: str, default: object) -> Any:
    """Return the type of a default value; as in RecBole's files, texts may be empty."""
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


def check_table(
    given: Mapping[str, object], table: Mapping[str, Any], defaults: Mapping[str, object], place: str | None = None
) -> None:
    """Check each value whose key is in a table of its own.

    Args:
        place: the file that holds the values, for the error; None if they are typed.

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
        defaults: the property files, merged; they give the type of a key that is not in the table, and a valid example.
        prefix: text before the key on the command line, "teacher." for a teacher's keys.
        model: model whose keys they are. context: bounds that depend on the data.

    Raises:
        ConfigError: for the first wrong value.
    """
    for key, value in given.items():
        default = defaults.get(key)
        example = EXAMPLES.get(key) if default is None else ALWAYS_POSSIBLE.get(key, default)
        check_value(prefix + key, value, type_of(key, default, model), context=context, example=example)
        if key in PARTS and isinstance(value, dict):
            _check_parts(key, value, default if isinstance(default, dict) else {}, prefix)


def _check_parts(key: str, value: Mapping[str, object], default: Mapping[str, object], prefix: str) -> None:
    for part, given in value.items():
        name = f"{key}.{part}"
        if part not in PARTS[key]:
            names = ", ".join(PARTS[key])
            raise invalid(
                prefix + name, given, f"expected one of the keys {names} of {key}", f"Leave {prefix}{name} out"
            )
        check_value(prefix + name, given, RECBOLE_TYPES[name], example=default.get(part))
    if key == "clip_grad_norm" and value and "max_norm" not in value:
        raise invalid(
            prefix + key, value, "expected a mapping with max_norm", try_value(prefix + key, {"max_norm": 5, **value})
        )
