"""The types and ranges of RecBole's values, checked before anything is loaded.

RecBole checks few of them: `--use_gpu=maybe` counts as true, an unknown learner becomes Adam, and a
valid_metric that is not computed ends the run after its first epoch. A type is that of the default value in
the property files; the tables below hold what a default cannot say. Nothing that works in RecBole as
documented is refused; what it would silently take for something else is.
"""

from __future__ import annotations

import math
import re
import shlex
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from recbole_kd.errors import ConfigError

RANKING_METRICS = (
    "Recall",
    "MRR",
    "NDCG",
    "Hit",
    "Precision",
    "MAP",
    "GAUC",
    "ItemCoverage",
    "AveragePopularity",
    "ShannonEntropy",
    "GiniIndex",
    "TailPercentage",
)
VALUE_METRICS = ("AUC", "MAE", "RMSE", "LogLoss")
WITHOUT_K = frozenset(name.lower() for name in ("GAUC", *VALUE_METRICS))

_NULL = type(None)
_WORDS = {
    int: "a whole number",
    float: "a number",
    bool: "True or False",
    str: "a text",
    list: "a list",
    tuple: "a tuple",
    dict: "a mapping",
    _NULL: "None",
}

# Keys whose default does not tell all their types. "An int" never means a bool.
_TYPES: dict[str, tuple[type, ...]] = {
    "gpu_id": (int, str, tuple),
    "state": (str, _NULL),
    "dataset_save_path": (str, _NULL),
    "dataloaders_save_path": (str, _NULL),
    "train_neg_sample_args": (dict, _NULL),
    "clip_grad_norm": (dict, _NULL),
    "transform": (str, _NULL),
    "metrics": (list, str),
    "topk": (int, list),
    "seq_len": (dict, _NULL),
    "threshold": (dict, _NULL),
    "load_col": (dict, _NULL),
    "unload_col": (dict, _NULL),
    "unused_col": (dict, _NULL),
    "additional_feat_suffix": (list, str, _NULL),
    "rm_dup_inter": (str, bool, _NULL),
    "val_interval": (dict, _NULL),
    "filter_inter_by_user_or_item": (bool, _NULL),
    "alias_of_user_id": (list, _NULL),
    "alias_of_item_id": (list, _NULL),
    "alias_of_entity_id": (list, _NULL),
    "alias_of_relation_id": (list, _NULL),
    "preload_weight": (dict, _NULL),
    "normalize_field": (list, _NULL),
    "normalize_all": (bool, _NULL),
    "discretization": (dict, _NULL),
    "benchmark_filename": (list, _NULL),
    "tail_ratio": (float, _NULL),
    "encoding": (str, _NULL),
    "selected_features": (list, _NULL),
    "fields": (dict, _NULL),
    "item_features": (dict, _NULL),
    "text_encoder": (str, list),
    "max_minutes": (float, _NULL),
    "xgb_params": (dict, _NULL),
    "context_norm": (int, bool),
    "use_proj_bias": (int, bool),
    "xgb_verbose_eval": (int, bool, _NULL),
}
# Text that RecBole cannot do without; any other text may be None, as in its own property files.
_NEVER_NONE = frozenset(
    {
        "model",
        "dataset",
        "data_path",
        "checkpoint_dir",
        "learner",
        "valid_metric",
        "field_separator",
        "seq_separator",
        "NEG_PREFIX",
        "LIST_SUFFIX",
        "numerical_features",
        "eval_args",
        "loss_type",
    }
)
# Written as an int in a property file, but used as a fraction, a weight or an exponent.
_FRACTIONS = frozenset(
    {
        "reg_weight",
        "q",
        "w_max",
        "negative_weight",
        "dropout_prob",
        "hidden_dropout_prob",
        "global_ratio",
        "spatial_ratio",
        "topk_factor",
        "resolution",
    }
)
_LEARNERS = ("adam", "adamw", "sgd", "adagrad", "rmsprop", "sparse_adam")
_STATES = ("debug", "info", "warning", "error", "critical")
_TRANSFORMS = ("mask_itemseq", "inverse_itemseq", "crop_itemseq", "reorder_itemseq", "user_defined")

Predicate = Callable[[Any], bool]


class _Rule(NamedTuple):
    key: str
    holds: Predicate
    words: str


def _at_least(least: int) -> tuple[Predicate, str]:
    return (lambda value: _is_a(value, int) and value >= least), f"a whole number of at least {least}"


def _one_of(names: Sequence[str]) -> tuple[Predicate, str]:
    return (lambda value: value is None or str(value).lower() in names), f"one of {', '.join(names)}"


def _probability(value: Any) -> bool:
    return not isinstance(value, int | float) or 0 <= value <= 1


_NUMBER = r"\s*[-+]?(?:\d+\.?\d*(?:[eE][-+]?\d+)?|\.\d+|inf)\s*"
_INTERVALS = re.compile(rf"\s*[\[(]{_NUMBER},{_NUMBER}[\])]\s*(?:;\s*[\[(]{_NUMBER},{_NUMBER}[\])]\s*)*")
_INTERVAL_WORDS = "an interval such as '[5,inf)' or several with ';' between them"


def _is_interval(value: Any) -> bool:
    return value is None or bool(_INTERVALS.fullmatch(str(value)))


def _is_topk(value: Any) -> bool:
    cutoffs = value if isinstance(value, list) else [value]
    return bool(cutoffs) and all(_is_a(k, int) and k >= 1 for k in cutoffs)


_RULES = (
    _Rule("learning_rate", lambda value: _is_a(value, float) and 0 < value < math.inf, "a number greater than 0"),
    _Rule("weight_decay", lambda value: _is_a(value, float) and 0 <= value < math.inf, "a number of at least 0"),
    _Rule("seed", lambda value: _is_a(value, int) and 0 <= value < 2**32, "a whole number from 0 to 4294967295"),
    _Rule("max_minutes", lambda value: value is None or 0 < value < math.inf, "a number greater than 0"),
    _Rule("epochs", *_at_least(0)),
    _Rule("stopping_step", *_at_least(0)),
    _Rule("worker", *_at_least(0)),
    _Rule("n_layers", *_at_least(0)),
    _Rule("loss_decimal_place", *_at_least(0)),
    _Rule("metric_decimal_place", *_at_least(0)),
    _Rule("nproc", *_at_least(1)),
    _Rule("train_batch_size", *_at_least(1)),
    _Rule("eval_batch_size", *_at_least(1)),
    _Rule("eval_step", *_at_least(1)),
    _Rule("embedding_size", *_at_least(1)),
    _Rule("hidden_size", *_at_least(1)),
    _Rule("inner_size", *_at_least(1)),
    _Rule("n_heads", *_at_least(1)),
    _Rule("MAX_ITEM_LIST_LENGTH", *_at_least(1)),
    _Rule("dropout_prob", _probability, "a number from 0 to 1"),
    _Rule("hidden_dropout_prob", _probability, "a number from 0 to 1"),
    _Rule("attn_dropout_prob", _probability, "a number from 0 to 1"),
    _Rule("topk", _is_topk, "a whole number of at least 1, or a list of them"),
    _Rule("learner", *_one_of(_LEARNERS)),
    _Rule("state", *_one_of(_STATES)),
    _Rule("transform", lambda value: value is None or value in _TRANSFORMS, f"one of {', '.join(_TRANSFORMS)}"),
    _Rule("rm_dup_inter", lambda value: value in ("first", "last", False, None), "first, last, False or None"),
    _Rule("user_inter_num_interval", _is_interval, _INTERVAL_WORDS),
    _Rule("item_inter_num_interval", _is_interval, _INTERVAL_WORDS),
    _Rule("entity_kg_num_interval", _is_interval, _INTERVAL_WORDS),
    _Rule("relation_kg_num_interval", _is_interval, _INTERVAL_WORDS),
)


_RULED = frozenset(rule.key for rule in _RULES)


def check_values(given: Mapping[str, object], defaults: Mapping[str, object], *, prefix: str = "") -> None:
    """Check what a user gave against the merged defaults; a key without a default or a table entry passes.

    Args:
        given: keys and values from the command line, a dict or files.
        defaults: RecBole's overall.yaml, dataset/sample.yaml, the model's file and ours, merged.
        prefix: what stands before the key on the command line, "teacher." for a teacher's keys.

    Raises:
        ConfigError: for the first wrong value: its key, the value, what is allowed and the fix.
    """
    rules = {rule.key: rule for rule in _RULES}
    for key, value in given.items():
        allowed = _wrong_type(key, value, defaults.get(key))
        if allowed is None and key in rules and not rules[key].holds(value):
            allowed = rules[key].words
        if allowed is not None:
            raise _error(prefix + key, value, allowed, _fix(key, value, defaults, prefix))
    for key, value, allowed in _wrong_parts(given):
        raise _error(prefix + key, value, allowed, _example(key, prefix))
    _check_metrics(given, defaults, prefix)


def _error(key: str, value: object, allowed: str, fix: str) -> ConfigError:
    shown = repr(value)
    shown = shown if len(shown) <= 80 else shown[:80] + "..."
    return ConfigError(f"{key}={shown} is not valid: allowed is {allowed} (fix: {fix}).")


def _fix(key: str, value: object, defaults: Mapping[str, object], prefix: str) -> str:
    default = defaults.get(key)
    if isinstance(default, str) and _is_a(value, float) and key not in _RULED:
        return f"quote it: --{prefix}{key}='\"{value}\"'"
    if isinstance(value, float) and value.is_integer() and isinstance(default, int):
        return f"--{prefix}{key}={int(value)}"
    if default is None:
        return f"leave out {prefix}{key}"
    return f"--{prefix}{key}={shlex.quote(str(default).replace(chr(39), ''))}"


def _is_a(value: object, kind: type) -> bool:
    if kind is float:
        return isinstance(value, int | float) and not isinstance(value, bool)
    if kind is int:
        return isinstance(value, int) and not isinstance(value, bool)
    return isinstance(value, kind)


def _wrong_type(key: str, value: object, default: object) -> str | None:
    """What is allowed, in words, if the type of `value` is wrong."""
    allowed = _TYPES.get(key) or _types_of(key, default)
    if not allowed:
        return None
    if not any(_is_a(value, kind) for kind in allowed):
        return " or ".join(_WORDS[kind] for kind in allowed)
    if isinstance(value, list) and isinstance(default, list) and default and key not in _TYPES:
        for kind, words in ((int, "whole numbers"), (float, "numbers"), (str, "texts")):
            if all(_is_a(element, kind) for element in default):
                return None if all(_is_a(element, kind) for element in value) else f"a list of {words}"
    return None


def _types_of(key: str, default: object) -> tuple[type, ...]:
    if default is None:
        return ()
    if _is_a(default, int):
        return (float,) if key in _FRACTIONS else (int,)
    kind = type(default)
    if kind not in _WORDS:
        return ()
    return (kind, _NULL) if kind in (str, dict) and key not in _NEVER_NONE else (kind,)


# Mappings whose keys RecBole reads one by one: a typo in them would be ignored.
_EXAMPLES = {
    "eval_args": "{split: {RS: [0.8, 0.1, 0.1]}, order: RO, group_by: user, mode: full}",
    "train_neg_sample_args": "{distribution: uniform, sample_num: 1, alpha: 1.0, dynamic: False}",
    "clip_grad_norm": "{max_norm: 5, norm_type: 2}",
}


def _example(key: str, prefix: str) -> str:
    name = key.partition(":")[0]
    return f"as in --{prefix}{name}='{_EXAMPLES[name]}'"


def _is_split(value: Any) -> bool:
    if not isinstance(value, dict) or len(value) != 1:
        return False
    ((name, parts),) = value.items()
    if name == "LS":
        return parts in ("valid_and_test", "valid_only", "test_only")
    if name not in ("RS", "TS") or not isinstance(parts, list) or len(parts) != 3:
        return False
    return all(_is_a(part, float) and part >= 0 for part in parts) and sum(parts) > 0


def _is_mode(value: Any) -> bool:
    if isinstance(value, dict):
        return set(value) <= {"valid", "test"} and all(isinstance(m, str) and _is_mode(m) for m in value.values())
    return isinstance(value, str) and bool(re.fullmatch(r"full|labeled|(?:uni|pop)[0-9]+", value))


def _none_word(value: Any, *words: str) -> bool:
    return value is None or value in words


_PARTS: dict[str, dict[str, tuple[Predicate, str]]] = {
    "eval_args": {
        "split": (
            _is_split,
            "{RS: [0.8, 0.1, 0.1]}, {TS: [0.8, 0.1, 0.1]} or {LS: valid_and_test}",
        ),
        "order": (lambda value: value in ("RO", "TO"), "RO or TO"),
        "group_by": (
            lambda value: value is None or str(value).lower() == "none" or value == "user",
            "user or none",
        ),
        "mode": (_is_mode, "full, labeled, uniN or popN (N items, as in uni100), or {valid: ..., test: ...}"),
    },
    "train_neg_sample_args": {
        "distribution": (
            lambda value: _none_word(value, "None", "uniform", "popularity"),
            "uniform or popularity",
        ),
        "sample_num": (lambda value: _is_a(value, int) and value >= 1, "a whole number of at least 1"),
        "alpha": (lambda value: _is_a(value, float), "a number"),
        "dynamic": (lambda value: isinstance(value, bool), "True or False"),
        "candidate_num": (lambda value: _is_a(value, int) and value >= 0, "a whole number of at least 0"),
    },
    "clip_grad_norm": {
        "max_norm": (lambda value: _is_a(value, float) and value > 0, "a number greater than 0"),
        "norm_type": (lambda value: _is_a(value, float), "a number"),
        "error_if_nonfinite": (lambda value: isinstance(value, bool), "True or False"),
        "foreach": (lambda value: value is None or isinstance(value, bool), "True, False or None"),
    },
}


def _wrong_parts(given: Mapping[str, object]) -> Iterator[tuple[str, object, str]]:
    """The wrong parts of the mappings that RecBole reads key by key, with what is allowed."""
    for key, parts in _PARTS.items():
        value = given.get(key)
        if not isinstance(value, dict):
            continue
        for name, part in value.items():
            if name not in parts:
                yield key, value, f"a mapping of {', '.join(parts)}, not {name!r}"
            elif not parts[name][0](part):
                yield f"{key}: {name}", part, parts[name][1]
    clip = given.get("clip_grad_norm")
    if isinstance(clip, dict) and clip and "max_norm" not in clip:
        yield "clip_grad_norm", clip, "a mapping with max_norm"


def _check_metrics(given: Mapping[str, object], defaults: Mapping[str, object], prefix: str) -> None:
    """metrics, topk and valid_metric belong together: check all three, as merged, if one is given."""
    if not {"metrics", "topk", "valid_metric"} & set(given):
        return
    merged = {**defaults, **given}
    known = {name.lower(): name for name in (*RANKING_METRICS, *VALUE_METRICS)}
    metrics: Any = merged.get("metrics")
    names = [metrics] if isinstance(metrics, str) else metrics
    if names is not None:
        lower = [str(name).lower() for name in names]
        if not lower or not set(lower) <= set(known):
            allowed = f"one or more of {', '.join(known.values())}"
            raise _error(prefix + "metrics", metrics, allowed, f"--{prefix}metrics=[Recall, NDCG]")
        values = {name.lower() for name in VALUE_METRICS}
        if 0 < len(set(lower) & values) < len(set(lower)):
            allowed = f"ranking metrics alone or {', '.join(VALUE_METRICS)} alone"
            raise _error(prefix + "metrics", metrics, allowed, f"--{prefix}metrics=[Recall, NDCG]")
        names = lower
    if "valid_metric" in merged:
        _check_valid_metric(merged["valid_metric"], names, merged.get("topk"), known, prefix)


def _check_valid_metric(valid_metric: object, names: Sequence[str] | None, topk: Any, known: Mapping[str, str], prefix: str) -> None:
    name, at, cutoff = str(valid_metric).lower().partition("@")
    computed = [name for name in known if name in names] if names is not None else list(known)
    cutoffs = [topk] if isinstance(topk, int) else topk
    best = cutoffs[0] if cutoffs else 10
    right = name in computed
    if right and name in WITHOUT_K:
        right = not at
    elif right:
        right = bool(re.fullmatch(r"[1-9][0-9]*", cutoff)) and (not cutoffs or int(cutoff) in cutoffs)
    if right:
        return
    allowed = ", ".join(known[n] + ("" if n in WITHOUT_K else f"@{k}") for n in computed for k in cutoffs or ["k"])
    proposed = name if name in computed else computed[0]
    fix = f"--{prefix}valid_metric={known[proposed]}" + ("" if proposed in WITHOUT_K else f"@{best}")
    if cutoff.isdigit() and cutoffs and name in computed:
        fix += f", or put {cutoff} into topk={cutoffs}"
    elif names is not None and name in known and name not in computed:
        fix += f", or add {known[name]} to metrics"
    raise _error(prefix + "valid_metric", valid_metric, f"a metric of `metrics` at a k of `topk`: {allowed}", fix)
