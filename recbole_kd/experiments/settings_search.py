"""Search for each method's settings before a comparison, chosen by the validation metric alone."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from recbole_kd.errors import ConfigError, TrainingError
from recbole_kd.experiments.comparison import Comparison
from recbole_kd.experiments.grid import Grid, Task
from recbole_kd.experiments.tables import ALONE
from recbole_kd.storage.json_files import read_json

SEARCH = "search"
"""Folder of the results, below the comparison's."""

CHOSEN = "settings.json"
"""File with all settings that were tried and those that were chosen."""

Candidates = Mapping[str, Sequence[Mapping[str, Any]]]
"""Row -> the settings that are tried for it."""

Results = Mapping[tuple[str, int], Mapping[str, Any]]


def search_grid(comparison: Comparison, candidates: Candidates) -> Grid:
    """Return a task for each of the settings, with the comparison's first seed."""
    seed = comparison.first_seed
    own = {method.name: method.settings for method in comparison.methods}
    tasks = []
    for row, tried in candidates.items():
        for number, settings in enumerate(tried, start=1):
            name = task_name(row, number)
            if row == ALONE:
                tasks.append(comparison.student_task(SEARCH, name, seed, settings))
            else:
                tasks.append(comparison.task(SEARCH, name, seed, {**own[row], **settings}))
    return Grid(SEARCH, comparison.folder_name, tasks, metric=comparison.metric)


def task_name(row: str, number: int) -> str:
    """Return the name of the task of a row's n-th settings."""
    return f"{row}, settings {number}"


def choose(comparison: Comparison, candidates: Candidates, grid: Grid, results: Results) -> dict[str, Any]:
    """Return the record of a search: settings tried, their validation scores, and the choice.

    Raises:
        TrainingError: none of a row's settings could be trained.
    """
    tasks = {task.run: task for task in grid.tasks}
    bigger = bool(comparison.about.alone["valid_metric_bigger"])
    rows = {}
    for row, tried in candidates.items():
        scores = [_score(tasks[task_name(row, n)], results, comparison.metric) for n in range(1, len(tried) + 1)]
        found = [(score if bigger else -score, -place) for place, score in enumerate(scores) if score is not None]
        if tried and not found:
            raise TrainingError(
                f"None of the {len(tried)} settings of {row} could be trained; the lines above say why."
            )
        best = -max(found)[1] if found else None
        rows[row] = {
            "chosen": {} if best is None else dict(tried[best]),
            "valid": None if best is None else scores[best],
            "tried": [{"settings": dict(s), "valid": score} for s, score in zip(tried, scores, strict=True)],
        }
    return {"metric": comparison.metric, "chosen_on": "valid", "seed": comparison.first_seed, "rows": rows}


def _score(task: Task, results: Results, metric: str) -> float | None:
    """The validation score of a task's best epoch; None if it failed or is no number."""
    result = results.get((task.run, task.seed))
    score = None if result is None else float(result[task.stage]["valid"][metric])
    return score if score is not None and math.isfinite(score) else None


def read_record(path: Path, comparison: Comparison, candidates: Candidates) -> dict[str, Any] | None:
    """Return the record of a finished search for the same settings; None if there is none.

    Raises:
        ConfigError: the file is damaged.
    """
    if not path.is_file():
        return None
    try:
        record: dict[str, Any] = read_json(path)
        tried = {row: [one["settings"] for one in kept["tried"]] for row, kept in record["rows"].items()}
        chosen = [kept["chosen"] for kept in record["rows"].values()]
        same = (record["seed"], record["metric"]) == (comparison.first_seed, comparison.metric)
        if not all(isinstance(settings, dict) for settings in chosen):
            raise ValueError("the settings of a row are no mapping")
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ConfigError(
            f"{path} is no record of a search ({error}): delete it, and the search is done again"
        ) from None
    wanted = {row: [dict(settings) for settings in tried] for row, tried in candidates.items()}
    return record if same and tried == wanted else None
