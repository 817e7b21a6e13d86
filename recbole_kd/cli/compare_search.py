"""The search of ``recbole-kd compare --budget``: settings are drawn, tried, and chosen on validation."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

from recbole_kd.config.property_layers import properties_dir
from recbole_kd.errors import KDError
from recbole_kd.experiments.comparison import Comparison, Method
from recbole_kd.experiments.grid import Grid
from recbole_kd.experiments.runner import read_results
from recbole_kd.experiments.settings_search import CHOSEN, Candidates, choose, read_record, search_grid
from recbole_kd.experiments.tables import ALONE
from recbole_kd.storage.files import write_json
from recbole_kd.tuning.draws import draw_settings, without_keys
from recbole_kd.tuning.space import Space, read_space


def search_settings(comparison: Comparison, folder: Path, budget: int, run: Callable[[Grid], int]) -> dict[str, Any]:
    """Return the record of the search, which is also kept in the comparison's folder.

    Args:
        budget: settings for each row. run: runs the tasks of a grid.

    Raises:
        KDError: none of a row's settings could be trained, or the record is damaged.
    """
    candidates = draw_candidates(comparison, budget)
    path = folder / CHOSEN
    record = read_record(path, comparison, candidates)
    if record is None:
        grid = search_grid(comparison, candidates)
        print(f"searching settings with seed {comparison.first_seed}, {len(grid.tasks)} trainings", flush=True)
        run(grid)
        record = choose(comparison, candidates, grid, read_results(grid, folder))
        write_json(path, record)
    for row, found in record["rows"].items():
        shown = ", ".join(
            f"{key}={value:.4g}" if isinstance(value, float) else f"{key}={value}"
            for key, value in found["chosen"].items()
        )
        print(f"chosen for {row}: {shown or 'nothing to search'}", flush=True)
    return record


def draw_candidates(comparison: Comparison, budget: int) -> Candidates:
    """Return the settings to try for each method, and for the student alone those of its own keys."""
    seed = comparison.first_seed
    found: dict[str, list[dict[str, Any]]] = {}
    for method in comparison.methods:
        space = _space_of(method)
        kd = str(method.settings["kd"])
        found[method.name] = draw_settings(space, kd, budget, seed, partial(_accepts, comparison, method))
    first = comparison.methods[0]
    own = [p for p in _space_of(first).parameters if not p.key.startswith("kd_")]
    alone = Method(ALONE, {**comparison.base, "kd": first.settings["kd"]}, first.seeds)
    space = Space([p for p in own if p.key not in comparison.base])
    drawn = draw_settings(space, "", budget, seed, partial(_accepts, comparison, alone)) if space.parameters else []
    return {ALONE: drawn, **found}


def _space_of(method: Method) -> Space:
    """The space that comes with a method, without the keys that the user gave."""
    own = properties_dir() / "tune" / f"{method.settings['kd']}.yaml"
    space = read_space(own if own.is_file() else own.with_name("any.yaml"))
    return without_keys(space, method.settings)


def _accepts(comparison: Comparison, method: Method, settings: Mapping[str, Any]) -> bool:
    """Tell whether a run would take these settings on the comparison's data."""
    try:
        comparison.plan({**method.settings, **settings, "seed": comparison.first_seed})
    except KDError:
        return False
    return True
