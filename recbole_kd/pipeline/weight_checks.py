"""Whether a run chooses the weight of the KD loss on validation, and whether it can."""

from __future__ import annotations

import math
from typing import Any

from recbole_kd.config.property_layers import has_weight_of_pair
from recbole_kd.config.schema import AUTO_WEIGHT
from recbole_kd.errors import ConfigError
from recbole_kd.pipeline.request import Request
from recbole_kd.training.pretraining import stages_of
from recbole_kd.training.weight_trials import FEWEST_UNITS, Halving, Length


def search_by_default(request: Request, config: Any, assistant: Any | None, teacher: str) -> str:
    """Let the run choose the weight of the KD loss, unless it is given or known or no search is possible.

    Args:
        request: the request.
        config: Config of the distilled student, whose ``kd_weight`` becomes ``auto``.
        assistant: Config of the method's assistant.
        teacher: name of the teacher.

    Returns:
        why it is not chosen although nobody gave it; empty otherwise.
    """
    kd = request.kd
    if not request.takes_search or has_weight_of_pair(kd, request.dataset, request.model, teacher):
        return ""
    if "+" in kd:
        why = "of several methods, which have a weight each"
    elif assistant is not None:
        why = f"with kd={kd}, whose assistant has this weight too"
    else:
        hindrance = what_hinders(config)
        if hindrance is None:
            config["kd_weight"] = AUTO_WEIGHT
            return ""
        why = hindrance[0]
    return f"kd_weight={config['kd_weight']:g} is a general default: it is not chosen on validation {why}"


def check_auto_weight(config: Any, assistant: Any | None) -> None:
    """Refuse ``kd_weight=auto`` where no trial trainings are possible, before anything is trained.

    Args:
        config: Config of the distilled student.
        assistant: Config of its assistant, if the method has one.

    Raises:
        ConfigError: one sentence with the reason.
    """
    if config["kd_weight"] != AUTO_WEIGHT:
        return
    hindrance = what_hinders(config)
    if hindrance is None and assistant is not None and assistant["kd_weight"] == AUTO_WEIGHT:
        hindrance = f"with kd={config['kd']}, whose assistant has this weight too", "set kd_assistant_weight"
    if hindrance is not None:
        raise refused(*hindrance)


def what_hinders(config: Any) -> tuple[str, str] | None:
    """Return why no trial trainings are possible with a Config, and the fix; None if they are."""
    if int(config["nproc"] or 1) > 1:
        return f"with nproc={config['nproc']}", "take nproc=1"
    if config["max_minutes"] is not None:
        return f"with max_minutes={config['max_minutes']}, which may end the training early", "set epochs"
    if len(stages_of(config)) > 1:
        return f"with {config['model']}, which every trial would train in advance", "take another student"
    if min(int(config["eval_step"]), int(config["epochs"])) < 1:
        return "without validation", "set epochs and eval_step to at least 1"
    length = length_of(config)
    if not Halving.is_possible(length):
        return (
            f"with epochs={config['epochs']}, stopping_step={config['stopping_step']}, eval_step={config['eval_step']} "
            f"and kd_refresh={config['kd_refresh']}, too few epochs for trial trainings",
            "raise epochs and stopping_step until min(epochs, (stopping_step + 2) * eval_step) is at least "
            f"{2 * FEWEST_UNITS * length.unit}",
        )
    return None


def refused(why: str, fix: str) -> ConfigError:
    """Return the error for ``kd_weight=auto`` where it is not possible; ``why`` and ``fix`` are clauses."""
    return ConfigError(f"kd_weight={AUTO_WEIGHT} is not possible {why}: {fix}, or give a number")


def length_of(config: Any) -> Length:
    """Return what the Config of a training says of its length."""
    epochs = int(config["epochs"])
    every = min(int(config["eval_step"]), epochs)
    return Length(epochs, int(config["stopping_step"]), every, math.lcm(every, int(config["kd_refresh"])))
