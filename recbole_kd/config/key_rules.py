"""Rules on several keys together; a rule on one key is its type in the schema."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from recbole_kd.config.validation import invalid, try_value

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

BY_USER, ALWAYS_BY_USER = ("SASRec", "GRU4Rec"), "HSTU"
"""Models that train by user if ``train_by_user`` asks for it, and the one that always does."""

UNREAD = {
    "save_dataset": "a run prepares its data itself and does not read a pickled cache",
    "dataset_save_path": "a run prepares its data itself and does not read a pickled cache",
    "save_dataloaders": "a run prepares its data itself and does not read a pickled cache",
    "dataloaders_save_path": "a run prepares its data itself and does not read a pickled cache",
    "device": "gpu_id chooses the device (--gpu_id=0, or --gpu_id=-1 for the CPU)",
    "MODEL_TYPE": "the model's class has its own",
    "MODEL_INPUT_TYPE": "it follows from the model's class and loss_type",
    "eval_type": "it follows from metrics",
}
"""Keys of RecBole that no run reads, and the reason."""

OF_PROCESSES = {
    **dict.fromkeys(("world_size", "offset", "ip", "port", "local_rank")),
    "single_spec": True,
    "verbose": True,
}
"""Keys that RecBole's own launcher of several processes sets -> the value that asks for nothing."""

SMALLER_IS_BETTER = frozenset({"rmse", "mae", "logloss", "averagepopularity", "giniindex"})
"""Metrics of which RecBole takes the smaller value as the better one."""


def check_unread(values: Mapping[str, Any], prefix: str = "") -> None:
    """Refuse keys of RecBole that would have no effect on a run.

    Args:
        values: the user's settings. prefix: "teacher." for a teacher's keys.

    Raises:
        ConfigError: such a key is set.
    """
    for key, reason in UNREAD.items():
        if values.get(key):
            raise invalid(prefix + key, values[key], f"it has no effect, {reason}")
    for key, usual in OF_PROCESSES.items():
        if values.get(key) not in (None, usual):
            reason = "it has no effect, nproc is the number of processes that train together"
            raise invalid(prefix + key, values[key], reason, f"Leave {prefix}{key} out, or try --{prefix}nproc=2")


def check_direction(given: Mapping[str, Any], defaults: Mapping[str, Any], prefix: str = "") -> None:
    """Refuse a ``valid_metric_bigger`` that RecBole writes over, as it follows from valid_metric.

    Args:
        given: the user's settings. defaults: the property files, merged. prefix: "teacher." for a teacher's keys.

    Raises:
        ConfigError: it is not what follows.
    """
    asked, metric = given.get("valid_metric_bigger"), str({**defaults, **given}.get("valid_metric"))
    follows = metric.lower().partition("@")[0] not in SMALLER_IS_BETTER
    if asked is not None and bool(asked) is not follows:
        better = "larger" if follows else "smaller"
        raise invalid(
            f"{prefix}valid_metric_bigger", asked, f"it has no effect, a {better} {metric} is always the better one"
        )


def check_by_user(model: str, asked: object, prefix: str = "") -> None:
    """Refuse ``train_by_user`` with a model that cannot train by user.

    Args:
        model: its public name. asked: the value of the key. prefix: "teacher." for a teacher's key.

    Raises:
        ConfigError: it is asked of such a model.
    """
    if asked and model not in (*BY_USER, ALWAYS_BY_USER):
        raise invalid(
            f"{prefix}train_by_user",
            asked,
            f"it has no effect on {model}: {' and '.join(BY_USER)} can train by user, and {ALWAYS_BY_USER} always does",
            f"Leave {prefix}train_by_user out",
        )


def index_kind(values: Mapping[str, Any]) -> Any:
    """Return ``kd_candidate_index``; an empty value means none."""
    return values.get("kd_candidate_index") or "none"


def check_index_keys(values: Mapping[str, Any]) -> None:
    """Refuse keys of an index that is not used.

    Raises:
        ConfigError: such a key is set.
    """
    if index_kind(values) != "none":
        return
    for key in ("kd_index_teacher", "kd_nlist", "kd_nprobe"):
        if values.get(key):
            raise invalid(
                key,
                values[key],
                "it has no effect without an index",
                f"Try --kd_candidate_index=ivf, or leave {key} out",
            )


def check_metrics(given: Mapping[str, object], defaults: Mapping[str, object], prefix: str = "") -> None:
    """Check that metrics, topk and valid_metric fit together, if one of them is given.

    Args:
        given: the user's settings, of the right types. defaults: the property files, merged.
        prefix: "teacher." for a teacher's keys.

    Raises:
        ConfigError: an unknown metric, or a valid_metric that is not computed.
    """
    if not {"metrics", "topk", "valid_metric"} & set(given):
        return
    merged = {**defaults, **given}
    known = {name.lower(): name for name in (*RANKING_METRICS, *VALUE_METRICS)}
    metrics: Any = merged.get("metrics")
    names = [metrics] if isinstance(metrics, str) else metrics
    if names is not None:
        names = [str(name).lower() for name in names]
        example = try_value(prefix + "metrics", ["Recall", "NDCG"])
        if not set(names) <= set(known):
            raise invalid(prefix + "metrics", metrics, f"expected one or more of {', '.join(known.values())}", example)
        of_values = {name.lower() for name in VALUE_METRICS}
        if 0 < len(set(names) & of_values) < len(set(names)):
            reason = f"expected ranking metrics alone or {', '.join(VALUE_METRICS)} alone"
            raise invalid(prefix + "metrics", metrics, reason, example)
    if "valid_metric" in merged:
        _check_valid_metric(str(merged["valid_metric"]), names, merged.get("topk"), known, prefix)


def _check_valid_metric(
    given: str, names: Sequence[str] | None, topk: Any, known: Mapping[str, str], prefix: str
) -> None:
    name, at, cutoff = given.lower().partition("@")
    computed = [name for name in known if name in names] if names is not None else list(known)
    cutoffs = [topk] if isinstance(topk, int) else topk
    right = name in computed
    if right and name in WITHOUT_K:
        right = not at
    elif right:
        right = bool(re.fullmatch(r"[1-9][0-9]*", cutoff)) and (not cutoffs or int(cutoff) in cutoffs)
    if right:
        return
    allowed = ", ".join(known[n] + ("" if n in WITHOUT_K else f"@{k}") for n in computed for k in cutoffs or ["k"])
    proposed = name if name in computed else computed[0]
    best = known[proposed] + ("" if proposed in WITHOUT_K else f"@{cutoffs[0] if cutoffs else 10}")
    advice = try_value(prefix + "valid_metric", best)
    if cutoff.isdigit() and cutoffs and name in computed:
        advice += f", or put {cutoff} into topk={cutoffs}"
    elif names is not None and name in known and name not in computed:
        advice += f", or add {known[name]} to metrics"
    raise invalid(
        prefix + "valid_metric", given, f"expected a metric of `metrics` at a k of `topk`, one of {allowed}", advice
    )
