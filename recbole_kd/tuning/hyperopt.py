"""RecBole's HyperTuning over kd parameters, on the validation metric."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

from recbole_kd.errors import ConfigError
from recbole_kd.storage.places import user_path
from recbole_kd.storage.targets import check_file
from recbole_kd.tuning.space import Parameter, Space
from recbole_kd.tuning.study import TRIALS, Study, Trial, absolute, as_json, run_trial

EARLY_STOP = 10
"""RecBole's: trials without progress after which a search ends. An exhaustive one goes to its end unless it is asked not to."""


def hyperopt_space(space: Space) -> dict[str, Any]:
    """The space as hyperopt wants it."""
    return {parameter.name: _drawn(parameter) for parameter in space.parameters}


def _drawn(parameter: Parameter) -> Any:
    import numpy as np
    from hyperopt import hp

    name, values = parameter.name, parameter.values
    if parameter.kind in ("choice", "grid"):
        return hp.choice(name, [_as_text(value) for value in values])
    if parameter.kind == "loguniform":
        return hp.loguniform(name, *np.log(values))
    if parameter.kind == "int":
        return hp.quniform(name, *values, 1)
    if parameter.kind == "logint":
        return hp.qloguniform(name, *np.log(values), 1)
    draws = {"uniform": hp.uniform, "quniform": hp.quniform, "exponent": hp.loguniform}
    return draws[parameter.kind](name, *values)


def _as_text(value: Any) -> Any:
    """A listed value as RecBole's exhaustive search can hold it: lists and mappings as JSON."""
    return json.dumps(value) if isinstance(value, list | dict) else value


def from_text(space: Space, drawn: Mapping[str, Any]) -> dict[str, Any]:
    """What was drawn of :func:`hyperopt_space`, lists and mappings as they stand in the space."""
    texts = {p.name: {_as_text(v): v for v in p.values if isinstance(v, list | dict)} for p in space.parameters}
    return {name: texts[name].get(value, value) if texts.get(name) else value for name, value in drawn.items()}


def tune_with_hyperopt(study: Study, space: Space, options: Mapping[str, Any]) -> Any:
    """Search as RecBole's ``run_hyper.py`` does; the trials stand in the study, and the HyperTuning is returned.

    Args:
        options: ``algo``, ``max_evals``, ``early_stop``, ``display_file``, ``search_seed``; and ``resume``: a trial
            that the study's record has as done is taken from it when it is drawn again, which it is, for the draws are
            seeded.

    Raises:
        ConfigError: the algorithm cannot search this space, hyperopt is missing, the study is there already, or is
            another one.
        TargetError: the study's folder holds something else, or a file to be written is there.
    """
    from recbole.trainer import HyperTuning

    algo = options["algo"]
    wide = next((parameter.key for parameter in space.parameters if parameter.kind not in ("choice", "grid")), None)
    if algo == "exhaustive" and wide is not None:
        raise ConfigError(
            f"algo=exhaustive needs a choice for every key and {wide} has a range: take --algo=random or --algo=bayes"
        )
    try:
        import hyperopt  # noqa: F401
    except ImportError:
        raise ConfigError(
            "--tool=Hyperopt needs hyperopt: run `pip install hyperopt==0.2.5` (later versions break RecBole's search)"
        ) from None
    early_stop = options["early_stop"] or (2**31 if algo == "exhaustive" else EARLY_STOP)
    study.space = space.plain()
    study.check_target(TRIALS, bool(options.get("resume")))
    for key in ("output_file", "display_file"):
        if options[key]:
            check_file(user_path(options[key], key), option=f"--{key}")
            user_path(options[key], key).resolve().parent.mkdir(parents=True, exist_ok=True)
    finished = study.finished() if options.get("resume") else None
    tuning = HyperTuning(
        partial(_objective, study, space, finished),
        space=hyperopt_space(space),
        display_file=options["display_file"],
        algo=algo,
        max_evals=options["max_evals"],
        early_stop=early_stop,
    )
    os.environ["HYPEROPT_FMIN_SEED"] = str(
        options["search_seed"]
    )  # RecBole passes no seed: hyperopt asks the environment
    tuning.run()
    return tuning


def _objective(
    study: Study, space: Space, finished: Sequence[Trial] | None, drawn: Mapping[str, Any], _files: Any = None
) -> dict[str, Any]:
    """One trial; what RecBole's HyperTuning expects of it. RecBole's own objective also hands the TEST metric on as the score.

    Args:
        finished: trials of a search that is continued; None for a new one.
    """
    settings = space.settings(from_text(space, drawn), study.base.get("kd"))
    known = _of(settings, study.trials)
    trial = known or _of(settings, finished or ())
    if trial is None:
        trial = run_trial({**absolute(study.base), "resume": finished is not None}, settings)
        study.trials.append(trial)
        study.write()
    elif known is None:
        study.trials.append(trial)
    return _as_recbole(trial, study)


def _of(settings: Mapping[str, Any], trials: Sequence[Trial]) -> Trial | None:
    """The trial of these settings among some."""
    return next((trial for trial in trials if as_json(trial.settings) == as_json(settings)), None)


def _as_recbole(trial: Trial, study: Study) -> dict[str, Any]:
    failed = trial.score is None
    bigger = next((other.bigger for other in study.trials if other.score is not None), True)
    return {
        "model": str(study.base.get("model")),
        "best_valid_score": -trial.objective if failed and not bigger else trial.objective if failed else trial.score,
        "valid_score_bigger": bigger,
        "best_valid_result": trial.valid,
        "test_result": trial.test,
    }
