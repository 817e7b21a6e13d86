"""RecBole's quick-start functions under names of ours: a process that unpickles one of them has imported recbole_kd.

Spawned processes (``run`` with several, ``run_recboles``) and Ray's workers get a function by the name of its module.
Under RecBole's name they would import RecBole alone, and distil nothing without a word.
"""

from __future__ import annotations

import functools
import importlib
import inspect
import sys
import types
import warnings
from collections.abc import Callable, Mapping
from typing import Any

from recbole_kd.integration.pickle_call_sites import stand_in

_MODULES = ("recbole.quick_start.quick_start", "recbole.quick_start")
_original: dict[str, Callable[..., Any]] = {}


def run(*args: Any, **named: Any) -> Any:
    """Run RecBole's ``run``; see there."""
    return _original["run"](*args, **named)


def run_recbole(*args: Any, **named: Any) -> Any:
    """Run RecBole's ``run_recbole``; see there."""
    return _original["run_recbole"](*args, **named)


def run_recboles(*args: Any, **named: Any) -> Any:
    """Run RecBole's ``run_recboles``; see there."""
    return _original["run_recboles"](*args, **named)


def objective_function(*args: Any, **named: Any) -> Any:
    """Run RecBole's ``objective_function``; see there. It reports test metrics to Ray Tune, which a warning says."""
    return _original["objective_function"](*args, **named)


def install() -> None:
    """Put these functions in the place of RecBole's, and let RecBole report to the Ray of today."""
    theirs = importlib.import_module(_MODULES[0])
    for function in (run, run_recbole, run_recboles, objective_function):
        name = function.__name__
        if vars(theirs)[name] is function:
            continue
        _original[name] = vars(theirs)[name]
        function.__signature__ = inspect.signature(_original[name])  # type: ignore[attr-defined]
        for module in map(sys.modules.get, _MODULES):
            if isinstance(module, types.ModuleType) and name in vars(module):
                vars(module)[name] = function
    if not isinstance(vars(theirs)["tune"].report, functools.partial):
        vars(theirs)["tune"] = stand_in(theirs.tune, report=functools.partial(_report, theirs.tune))


def _report(tune: Any, **metrics: Any) -> None:
    """Report metrics by name, as RecBole's objective does; Ray since 2.7 takes a mapping."""
    warnings.warn(
        "RecBole's objective_function reports the TEST metrics to Ray Tune, which a search would then choose by: give "
        "recbole_kd.objective_function, which reports those of the validation",
        stacklevel=3,
    )
    report_by_name(tune, metrics)


def report_by_name(tune: Any, metrics: Mapping[str, Any]) -> None:
    """Report metrics to Ray Tune, whichever Ray this is."""
    if "metrics" in inspect.signature(tune.report).parameters:
        tune.report(dict(metrics))
    else:
        tune.report(**metrics)
