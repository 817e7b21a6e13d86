"""Markdown tables of a grid's results and the published numbers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import mean, stdev
from typing import Any

from tabulate import tabulate

from recbole_kd.config.schema import TEACHER_RUN_KEYS
from recbole_kd.experiments.grid import METRICS, Grid, Task
from recbole_kd.experiments.significance import paired_p_value

Results = Mapping[tuple[str, int], Mapping[str, Any]]

ALONE = "student alone"

MADE_BY = "Made by "
"""The beginning of the last line of our tables. A file without it is not replaced."""


def rows_of(grid: Grid, results: Results) -> dict[str, dict[int, Mapping[str, Any]]]:
    """Return row -> seed -> metrics of teachers, students without teacher, and runs.

    Rows without results are left out. The order is that of the table.
    """
    rows = _teachers(grid, results) | _students_alone(grid, results)
    rows |= {run: {seed: r["distilled"] for (name, seed), r in results.items() if name == run} for run in grid.runs}
    return {name: figures for name, figures in rows.items() if figures}


def _teachers(grid: Grid, results: Results) -> dict[str, dict[int, Mapping[str, Any]]]:
    """Return a row for each teacher. Runs share a row if they have the same teacher."""
    rows: dict[str, dict[int, Mapping[str, Any]]] = {}
    for task in _reference_first(grid):
        figures = results.get((task.run, task.seed), {}).get("teacher")
        known = [(own["valid"], own["test"]) for row in rows.values() for own in row.values()]
        if figures is not None and (figures["valid"], figures["test"]) not in known:
            rows[f"teacher of {task.run}" if rows else "teacher"] = {_teacher_seed(task): figures}
    return rows


def _teacher_seed(task: Task) -> int:
    """Return the seed of a task's teacher, by default 0."""
    own = task.settings.get("teacher_config") or {}
    return int(own.get("seed", task.settings.get("teacher.seed", 0)))


def _reference_first(grid: Grid) -> list[Task]:
    return sorted(grid.tasks, key=lambda task: task.run != (grid.reference or grid.runs[0]))


def _students_alone(grid: Grid, results: Results) -> dict[str, dict[int, Mapping[str, Any]]]:
    """Return a row for each training of a student without teacher.

    Runs share a row if their training keys are the same.
    """
    rows: dict[str, dict[int, Mapping[str, Any]]] = {}
    tasks = _reference_first(grid)
    first = _training_keys(tasks[0].settings) if tasks else {}
    for task in tasks:
        figures = results.get((task.run, task.seed), {}).get("student")
        if figures is None:
            continue
        own = _training_keys(task.settings)
        changed = [key for key in {**first, **own} if first.get(key) != own.get(key)]
        label = ", ".join([ALONE, *(f"{key}={own[key]}" if key in own else f"default {key}" for key in changed)])
        same = next(
            (row for row, by_seed in rows.items() if by_seed.get(task.seed, {}).get("test") == figures["test"]), label
        )
        if same == label and task.seed in rows.get(label, {}) and rows[label][task.seed]["test"] != figures["test"]:
            same = f"{label}, of {task.run}"  # trained again with the same keys, with other metrics
        rows.setdefault(same, {})[task.seed] = figures
    return rows


def _training_keys(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return the keys of a student's training without those of method, teacher and seed."""
    return {key: value for key, value in settings.items() if not _of_method_or_teacher(key) and key != "seed"}


def _of_method_or_teacher(key: str) -> bool:
    return key in ("kd", "teacher", "teacher_config", *TEACHER_RUN_KEYS) or key.startswith(("kd_", "teacher."))


def grid_table(grid: Grid, results: Results) -> str:
    """Return the table of a grid: the teacher, the student without teacher, each run.

    Test metrics are those of the epoch best by validation, as mean and standard deviation over seeds.
    """
    rows = []
    found = rows_of(grid, results)
    for name, figures in found.items():
        row = _row(name, figures, grid)
        if name in grid.runs:
            alone = {
                seed: r["student"] for (run, seed), r in results.items() if run == name and r["student"] is not None
            }
            row += [*_against(alone, figures, grid), _p_value(found.get(grid.reference or ""), figures, name, grid)]
        rows.append(row)
    last = [f"p ({grid.reference} against it)"] if grid.reference else []
    published = [f"published {metric}" for metric in _published_metrics(grid)]
    headers = ["", "seeds", f"valid {grid.metric}", *METRICS, *published, "epochs", "s/epoch", "over student", *last]
    rows = [(row + [""] * len(headers))[: len(headers)] for row in rows]
    return tabulate(
        rows,
        headers=headers,
        tablefmt="github",
        disable_numparse=True,
        colalign=("left", *["right"] * (len(headers) - 1)),
    )


def _published_metrics(grid: Grid) -> list[str]:
    """Return the metrics with published numbers in METRICS' order, else the grid's metric."""
    return [metric for metric in METRICS if any(metric in row for row in grid.published.values())] or [grid.metric]


def _row(name: str, figures: Mapping[int, Mapping[str, Any]], grid: Grid) -> list[str]:
    published = [grid.published.get(name, {}).get(metric) for metric in _published_metrics(grid)]
    epochs = [f["epochs"] for f in figures.values() if f.get("epochs")]
    seconds = [f["seconds_per_epoch"] for f in figures.values() if f.get("seconds_per_epoch")]
    return [
        name,
        ", ".join(map(str, sorted(figures))),
        _spread([value_of(f, "valid", grid.metric) for f in figures.values()]),
        *(_spread([value_of(f, "test", metric) for f in figures.values()]) for metric in METRICS),
        *("" if number is None else f"{number:.4f}" for number in published),
        f"{mean(epochs):.0f}" if epochs else "",
        f"{mean(seconds):.2f}" if seconds else "",
    ]


def value_of(figures: Mapping[str, Any], part: str, metric: str) -> float | None:
    """Return a metric of one part of a result, None if it was not measured.

    It is missing for a saved teacher, several teachers, or other ``metrics`` or ``topk``.
    """
    return (figures[part] or {}).get(metric)


def _spread(found: Sequence[float | None]) -> str:
    values = [value for value in found if value is not None]
    if not values:
        return ""
    return f"{mean(values):.4f}" + (f" ± {stdev(values):.4f}" if len(values) > 1 else "")


def _measured(
    seeds: Sequence[int], one: Mapping[int, Mapping[str, Any]], other: Mapping[int, Mapping[str, Any]], grid: Grid
) -> bool:
    """Return whether both have the grid's metric for all these seeds."""
    return all(value_of(side[seed], "test", grid.metric) is not None for seed in seeds for side in (one, other))


def _against(alone: Mapping[int, Mapping[str, Any]], figures: Mapping[int, Mapping[str, Any]], grid: Grid) -> list[str]:
    """Return the relative gain over the run's own student without teacher, for the same seeds."""
    shared = sorted(set(alone) & set(figures))
    if not shared:
        return [""]
    if not _measured(shared, alone, figures, grid):
        return [""]
    base, own = (mean(side[seed]["test"][grid.metric] for seed in shared) for side in (alone, figures))
    return [f"{100 * (own / base - 1):+.1f} %"]


def _p_value(
    reference: Mapping[int, Mapping[str, Any]] | None, figures: Mapping[int, Mapping[str, Any]], run: str, grid: Grid
) -> str:
    """Return the p-value of a two-sided paired t-test over at least two common seeds."""
    shared = sorted(set(reference or {}) & set(figures))
    if reference is None or run == grid.reference or len(shared) < 2:
        return ""
    if not _measured(shared, reference, figures, grid):
        return ""
    pairs = [(reference[seed]["test"][grid.metric], figures[seed]["test"][grid.metric]) for seed in shared]
    ours, theirs = zip(*pairs, strict=True)
    return f"{paired_p_value(ours, theirs):.2g}"


def best_baseline(grid: Grid, results: Results) -> str | None:
    """Return the run other than the reference with the highest mean test metric."""
    rows = {
        name: figures
        for name, figures in rows_of(grid, results).items()
        if name in grid.runs and name != grid.reference
    }
    measured = {
        name: [value for f in figures.values() if (value := value_of(f, "test", grid.metric)) is not None]
        for name, figures in rows.items()
    }
    means = {name: mean(values) for name, values in measured.items() if values}
    return max(means, key=lambda run: means[run]) if means else None


def capped_rows(grid: Grid, results: Results) -> list[str]:
    """Return the rows with a training that ``max_minutes`` ended, and its number of epochs."""
    return [
        f"{name} (seed {seed}, {figures['epochs']} epochs)"
        for name, by_seed in rows_of(grid, results).items()
        for seed, figures in by_seed.items()
        if figures.get("stopped_by") == "max_minutes"
    ]


def commits(results: Results) -> list[str]:
    """Return the commits that made the results."""
    return sorted({str(r["versions"].get("commit", "unknown")) for r in results.values()})


def devices(results: Results) -> list[str]:
    """Return the devices that made the results; old results without a device came from a CPU."""
    return sorted({str(r["versions"].get("device", "cpu")) for r in results.values()})


def commands(results: Results) -> list[str]:
    """Return the commands that made the results, several if the grid shares runs of others."""
    return list(dict.fromkeys(str(r["command"]) for r in results.values()))


def grid_section(grid: Grid, results: Results) -> str:
    """Return the section of a grid in results/README.md."""
    if not results:
        return f"## {grid.title}\n\nNot run yet.\n"
    missing = [f"{task.run} (seed {task.seed})" for task in grid.tasks if (task.run, task.seed) not in results]
    lines = [f"## {grid.title}", "", grid_table(grid, results), ""]
    best = best_baseline(grid, results)
    if grid.reference and best:
        lines += [f"Best other row: {best}.", ""]
    capped = capped_rows(grid, results)
    if capped:
        lines += [f"Ended by its cap of minutes, not by its patience: {', '.join(capped)}.", ""]
    if missing:
        lines += [f"Not run yet: {', '.join(missing)}.", ""]
    made_by = " and ".join(f"`{command}`" for command in commands(results))
    lines += [f"{MADE_BY}{made_by} at commit {', '.join(commits(results))}, on {' and '.join(devices(results))}.", ""]
    return "\n".join(lines)
