"""Checks, before anything is trained, that metrics and evaluation modes fit together."""

from __future__ import annotations

from typing import Any

from recbole.utils import EvaluatorType

from recbole_kd.config.key_rules import RANKING_METRICS, VALUE_METRICS
from recbole_kd.errors import ConfigError, DataError

LABELED = "labeled"


def check_modes(config: Any, interactions: Any, sequential: bool) -> None:
    """Refuse metrics that a mode of ``eval_args`` cannot compute.

    Args:
        config: RecBole's Config of a model. Its mode has an entry for ``valid`` and ``test``.
        interactions: Interaction of the data set. Labeled mode needs its label column.
        sequential: whether the model's rows are histories, which have no labels.

    Raises:
        ConfigError: ranking metrics on labeled rows, or labeled rows of histories.
        DataError: the data have no labels.
    """
    modes = {phase: str(config["eval_args"]["mode"][phase]) for phase in ("valid", "test")}
    if LABELED not in modes.values():
        return
    ranking = [name for name in config["metrics"] if name.lower() in {known.lower() for known in RANKING_METRICS}]
    if config["eval_type"] == EvaluatorType.RANKING:
        raise ConfigError(
            f"eval_args.mode={_words(modes)} is not possible with metrics={ranking}: labeled rows have no ranking. Try "
            f"--eval_args.mode=full, or metrics of labels, --metrics=[{', '.join(VALUE_METRICS)}] --valid_metric=AUC"
        )
    if sequential:
        raise ConfigError(
            f"eval_args.mode={_words(modes)} is not possible with {config['model']}, whose rows are histories without "
            "labels. Try --eval_args.mode=full with ranking metrics"
        )
    label = config["LABEL_FIELD"]
    if label not in interactions:
        raise DataError(
            f"eval_args.mode={_words(modes)} needs a column {label!r} (LABEL_FIELD) and {config['dataset']} has none: "
            "load it with --load_col, or make it of another column, as in --threshold={rating: 4}"
        )


def _words(modes: dict[str, str]) -> str:
    return modes["valid"] if len(set(modes.values())) == 1 else str(modes)
