"""RecBole's HyperTuning over kd parameters, on the validation metric."""

from __future__ import annotations

import os
from collections.abc import Mapping
from functools import partial
from typing import Any

from recbole_kd.errors import ConfigError
from recbole_kd.tuning.space import Parameter, Space
from recbole_kd.tuning.study import Study, Trial, absolute, run_trial

ALGORITHMS = ("exhaustive", "random", "bayes")
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
        return hp.choice(name, list(values))
    if parameter.kind == "loguniform":
        return hp.loguniform(name, *np.log(values))
    if parameter.kind == "int":
        return hp.quniform(name, *values, 1)
    if parameter.kind == "logint":
        return hp.qloguniform(name, *np.log(values), 1)
    draws = {"uniform": hp.uniform, "quniform": hp.quniform, "exponent": hp.loguniform}
    return draws[parameter.kind](name, *values)


def tune_with_hyperopt(study: Study, space: Space, options: Mapping[str, Any]) -> Any:
    """Search as RecBole's ``run_hyper.py`` does; the trials stand in the study, and the HyperTuning is returned.

    Args:
        options: ``algo``, ``max_evals``, ``early_stop``, ``display_file``, ``search_seed``.

    Raises:
        ConfigError: the algorithm cannot search this space, or hyperopt is missing.
    """
    from recbole.trainer import HyperTuning

    algo = options["algo"]
    wide = next((parameter.key for parameter in space.parameters if parameter.kind not in ("choice", "grid")), None)
    if algo == "exhaustive" and wide is not None:
        raise ConfigError(f"algo=exhaustive needs a choice for every key and {wide} has a range: take --algo=random or --algo=bayes")
    try:
        import hyperopt  # noqa: F401
    except ImportError:
        raise ConfigError(
            "--tool=Hyperopt needs hyperopt: run `pip install hyperopt==0.2.5` (later versions break RecBole's search)"
        ) from None
    early_stop = options["early_stop"] or (2**31 if algo == "exhaustive" else EARLY_STOP)
    tuning = HyperTuning(
        partial(_objective, study, space),
        space=hyperopt_space(space),
        display_file=options["display_file"],
        algo=algo,
        max_evals=options["max_evals"],
        early_stop=early_stop,
    )
    os.environ["HYPEROPT_FMIN_SEED"] = str(options["search_seed"])  # RecBole passes no seed: hyperopt asks the environment
    tuning.run()
    return tuning


def _objective(study: Study, space: Space, drawn: Mapping[str, Any], _files: Any = None) -> dict[str, Any]:
    """One trial; what RecBole's HyperTuning expects of it. RecBole's own objective also hands the TEST metric on as the score."""
    settings = space.settings(drawn, study.base.get("kd"))
    known = next((trial for trial in study.trials if trial.settings == settings), None)
    trial = known or run_trial(absolute(study.base), settings)
    if known is None:
        study.trials.append(trial)
        study.write()
    return _as_recbole(trial, study)


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
