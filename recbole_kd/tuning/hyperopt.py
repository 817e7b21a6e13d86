"""Search with RecBole's HyperTuning, on the validation metric."""

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
"""RecBole's default: trials without progress after which a search ends. An exhaustive search ignores the default."""


def hyperopt_space(space: Space) -> dict[str, Any]:
    """Return the space in hyperopt's form."""
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
    """Return a listed value for RecBole's exhaustive search: lists and mappings as JSON."""
    return json.dumps(value) if isinstance(value, list | dict) else value


def from_text(space: Space, drawn: Mapping[str, Any]) -> dict[str, Any]:
    """Return the values drawn from :func:`hyperopt_space`, with lists and mappings decoded."""
    texts = {p.name: {_as_text(v): v for v in p.values if isinstance(v, list | dict)} for p in space.parameters}
    return {name: texts[name].get(value, value) if texts.get(name) else value for name, value in drawn.items()}


def tune_with_hyperopt(study: Study, space: Space, options: Mapping[str, Any]) -> Any:
    """Search as RecBole's ``run_hyper.py`` does and return the HyperTuning.

    The trials are added to the study.

    Args:
        study: the study.
        space: the search space.
        options: ``algo``, ``max_evals``, ``early_stop``, ``display_file``, ``search_seed`` and ``resume``. With
            ``resume``, a trial that the study's record has as done is taken from the record when it is drawn again. It
            is drawn again because the draws are seeded.

    Raises:
        ConfigError: the algorithm cannot search this space, hyperopt is missing, the study exists already, or it
            differs from the recorded one.
        TargetError: the study's folder holds something else, or an output file exists.
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
    # RecBole passes no seed, so hyperopt reads it from the environment.
    os.environ["HYPEROPT_FMIN_SEED"] = str(options["search_seed"])
    tuning.run()
    return tuning


def _objective(
    study: Study, space: Space, finished: Sequence[Trial] | None, drawn: Mapping[str, Any], _files: Any = None
) -> dict[str, Any]:
    """Run one trial and return what RecBole's HyperTuning expects.

    RecBole's own objective reports the TEST metric as the score.

    Args:
        study, space: the search.
        finished: trials of a resumed search. None for a new one.
        drawn: the drawn values.
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
    """Return the trial with these settings, if any."""
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
