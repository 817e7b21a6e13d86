"""RecBole's quick-start functions under our name, so that workers import recbole_kd.

Spawned processes (``run`` with several, ``run_recboles``) and Ray's workers find a function by the name of its module.
Under RecBole's name they would import only RecBole, and silently not distil.
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
    """Call RecBole's ``run``; see its documentation."""
    return _original["run"](*args, **named)


def run_recbole(*args: Any, **named: Any) -> Any:
    """Call RecBole's ``run_recbole``; see its documentation."""
    return _original["run_recbole"](*args, **named)


def run_recboles(*args: Any, **named: Any) -> Any:
    """Call RecBole's ``run_recboles``; see its documentation."""
    return _original["run_recboles"](*args, **named)


def objective_function(*args: Any, **named: Any) -> Any:
    """Call RecBole's ``objective_function``, which reports test metrics, with a warning."""
    return _original["objective_function"](*args, **named)


def install() -> None:
    """Replace RecBole's functions by these, and make RecBole's report work with today's Ray."""
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
    if not isinstance(getattr(vars(theirs)["tune"], "report", None), functools.partial):
        vars(theirs)["tune"] = stand_in(theirs.tune, report=functools.partial(_report, theirs.tune))


def _report(tune: Any, **metrics: Any) -> None:
    """Report metrics by name, as RecBole's objective does; Ray takes a mapping since 2.7."""
    warnings.warn(
        "RecBole's objective_function reports the TEST metrics to Ray Tune, so the search would select by them: use "
        "recbole_kd.objective_function, which reports the validation metrics",
        stacklevel=3,
    )
    report_by_name(tune, metrics)


def report_by_name(tune: Any, metrics: Mapping[str, Any]) -> None:
    """Report metrics to Ray Tune, with any version of Ray.

    Ray below 2.7 takes them by name. Later it takes a mapping: until 2.42 in ``ray.train`` alone, where ``tune`` has no
    function (2.40) or one that refuses (2.9), and then in ``tune`` again.
    """
    for module in (tune, importlib.import_module("ray.train")):
        report = getattr(module, "report", None)
        if report is not None and "metrics" in inspect.signature(report).parameters:
            report(dict(metrics))
            return
    tune.report(**metrics)
