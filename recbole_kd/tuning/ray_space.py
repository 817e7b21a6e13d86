"""Conversion of a search space and a searcher to Ray Tune's form."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from recbole_kd.errors import ConfigError
from recbole_kd.tuning.ray_record import StudyRecord
from recbole_kd.tuning.space import Parameter, Space

GRID = "grid"


def ray_space(space: Space, kd: str | None) -> dict[str, Any]:
    """Return the space in Ray's form, with ``grid`` values as one parameter of combinations."""
    from ray import tune

    drawn = {parameter.name: domain_of(parameter) for parameter in space.parameters if parameter.kind != "grid"}
    combinations = space.grid(kd)
    return (
        {**drawn, GRID: tune.grid_search(combinations)}
        if len(combinations) > 1
        else {**drawn, **_fixed_grid(combinations)}
    )


def _fixed_grid(combinations: list[dict[str, Any]]) -> dict[str, Any]:
    return {GRID: combinations[0]} if combinations and combinations[0] else {}


def domain_of(parameter: Parameter) -> Any:
    """Return a parameter's values as Ray draws them; a ``grid`` as a choice."""
    from math import exp

    from ray import tune

    values = parameter.values
    if parameter.kind in ("choice", "grid"):
        return tune.choice(list(values))
    if parameter.kind in ("int", "logint"):
        draw = tune.randint if parameter.kind == "int" else tune.lograndint
        return draw(values[0], values[1] + 1)
    if parameter.kind == "exponent":
        return tune.loguniform(exp(values[0]), exp(values[1]))
    draws: dict[str, Any] = {"uniform": tune.uniform, "loguniform": tune.loguniform, "quniform": tune.quniform}
    return draws[parameter.kind](*values)


def drawn_values(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return parameter name -> value of a trial of :func:`ray_space`."""
    return {**{name: value for name, value in config.items() if name != GRID}, **(config.get(GRID) or {})}


def check_searcher(space: Space, searcher: str) -> None:
    listed = next((parameter.key for parameter in space.parameters if parameter.kind == "grid"), None)
    if searcher != "random" and listed is not None:
        raise ConfigError(
            f"searcher={searcher} cannot run a grid and {listed} is one: write choice, or take --searcher=random"
        )
    module = {"optuna": "optuna", "hyperopt": "hyperopt"}.get(searcher)
    if module is not None:
        try:
            __import__(module)
        except ImportError:
            words = {"optuna": "pip install optuna", "hyperopt": "pip install hyperopt==0.2.5"}[searcher]
            raise ConfigError(f"searcher={searcher} needs {module}: run `{words}`, or take --searcher=random") from None


def make_searcher(options: Mapping[str, Any], space: Space, record: StudyRecord) -> Any:
    """Return the searcher, with the known trials as starting points if it learns.

    A learning searcher tries these points first and then draws with another seed.
    """
    names = {parameter.name for parameter in space.parameters}
    known = [dict(recorded.drawn) for recorded in record.trials.values() if recorded.drawn.keys() == names] or None
    seed = options["search_seed"] + (len(known) if known else 0)
    if options["searcher"] == "hyperopt":
        from ray.tune.search.hyperopt import HyperOptSearch

        return HyperOptSearch(random_state_seed=seed, points_to_evaluate=known)
    if options["searcher"] == "optuna":
        from ray.tune.search.optuna import OptunaSearch

        return OptunaSearch(seed=seed, points_to_evaluate=known)
    from ray.tune.search.basic_variant import BasicVariantGenerator

    return BasicVariantGenerator(random_state=options["search_seed"])
