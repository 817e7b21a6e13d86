"""Refuse labels that a run ignores: disliked items would be learnt and ranked as liked."""

from __future__ import annotations

from inspect import isfunction
from typing import Any

import numpy as np
from recbole.utils import InputType, get_model

from recbole_kd.data.atomic_file_checks import columns_of, interaction_files
from recbole_kd.errors import ConfigError, DataError


def check_labels(config: Any, dataset: Any) -> None:
    """Refuse labels that neither the Config's model nor its evaluation reads.

    The labels come from ``threshold`` or from a column.

    Args:
        dataset: RecBole's, built from a Config of the same data.

    Raises:
        ConfigError: ``threshold`` has no effect.
        DataError: rows have the label 0, or a column of labels is not read.
    """
    reason = _why_unread(config)
    if reason is None:
        return
    if config["threshold"]:
        ((field, value),) = list(config["threshold"].items())[:1]
        raise ConfigError(
            f"threshold={config['threshold']} has no effect {reason}: every row would count as liked. "
            f"Keep only the liked rows, --val_interval=\"{{{field}: '[{value},inf)'}}\""
        )
    label = config["LABEL_FIELD"]
    columns = f"--load_col='{{inter: [{_fields(config, label)}]}}'"
    keep = f"read the column and keep its rows of label 1, {columns} --val_interval=\"{{{label}: '[1,inf)'}}\""
    if label in dataset.inter_feat:
        disliked = int((np.asarray(dataset.inter_feat[label]) <= 0).sum())
        if disliked:
            raise DataError(
                f"{disliked:,} rows of {config['dataset']} have {label} 0, which has no effect {reason}: {keep}"
            )
    elif "load_col" not in config.external_config_dict:
        path = next(
            (path for path in interaction_files(config) if path.is_file() and label in columns_of(path, config)), None
        )
        if path is not None:
            raise DataError(
                f"{path} has labels in the column {label}, which have no effect {reason}: {keep}, or treat every row "
                f"as liked, --load_col='{{inter: [{_fields(config)}]}}'"
            )


def _fields(config: Any, *more: str) -> str:
    names = (config["load_col"] or {}).get("inter") or [config["USER_ID_FIELD"], config["ITEM_ID_FIELD"]]
    return ", ".join(dict.fromkeys([*(names if names != "*" else []), *more]))


def _why_unread(config: Any) -> str | None:
    """Return why labels have no effect; None if both the model and the metrics read them."""
    modes = config["eval_args"]["mode"]
    ranked = [mode for mode in (modes.values() if isinstance(modes, dict) else [modes]) if mode != "labeled"]
    if ranked:
        return f"with eval_args.mode={ranked[0]}"
    model, drawn = get_model(config["model"]), (config["train_neg_sample_args"] or {}).get("distribution", "none")
    if drawn == "none" and model.input_type == InputType.POINTWISE and _asks_for_labels(model):
        return None
    return f"on {config['model']}, which is not trained on them"


def _asks_for_labels(model: type) -> bool:
    """Return whether a constructor of the model sets RecBole's attribute LABEL."""
    constructors = (vars(kind).get("__init__") for kind in model.__mro__)
    return any(isfunction(made) and "LABEL" in made.__code__.co_names for made in constructors)
