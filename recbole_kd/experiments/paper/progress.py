"""The state of the cells: finished seeds, missing runs, and the time that they would take."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import mean
from typing import Any

from recbole_kd.experiments.grid import Grid, Task
from recbole_kd.experiments.paper.cells import Cell, Choice, Paper
from recbole_kd.experiments.paper.matching import Finished, Match, Same, defaults_of, find, flat

HOUR = 3600.0

OF_PAIR = ("model", "teacher", "dataset", "setting")
"""Keys of the cells whose times compare."""


@dataclass(frozen=True)
class Progress:
    """The state of one cell.

    Attributes:
        cell: the cell. match: its finished runs, None if there are none.
        missing: the runs of its missing seeds. They have the settings of the finished ones.
        seconds: estimated time of one run: its epochs of distillation, as recorded for the same data and pair. The
            teacher, and the student trained alone, take time of their own if they are not in the cache. None: unknown.
    """

    cell: Cell
    match: Match | None
    missing: Sequence[Task]
    seconds: float | None

    @property
    def done(self) -> list[int]:
        """Seeds that are finished."""
        return sorted(self.match.runs) if self.match else []


def progress(
    paper: Paper,
    finished: Mapping[Same, list[Finished]],
    choice: Choice | None = None,
    seeds: Sequence[int] | None = None,
    *,
    exact: bool = False,
    other_data: bool = False,
    extras: bool = False,
) -> list[Progress]:
    """Return the state of the chosen cells.

    Args:
        paper: the tables.
        finished: all finished runs, as of :func:`~recbole_kd.experiments.paper.matching.read_finished`.
        choice: what is chosen. If None, all.
        seeds: seeds that a cell needs. If None, the paper's number of seeds.
        exact: see :func:`~recbole_kd.experiments.paper.matching.find`.
        other_data: also count runs on data that are not the paper's, and go on with them. If not, every seed of such
            a cell is missing: seeds on two data sets would not be one cell.
        extras: also rows that the paper does not have, of which nothing is missing.

    Raises:
        ConfigError: see :meth:`~recbole_kd.experiments.paper.cells.Paper.cells`.
    """
    wanted = paper.seeds if seeds is None else seeds
    cells = paper.cells(choice, extras=extras)
    found = {id(cell): find(cell, finished, paper, exact=exact) for cell in cells}
    everywhere = [find(cell, finished, paper) for cell in paper.cells()] if choice else list(found.values())
    times = _times(match for match in everywhere if match)
    states = []
    for cell in cells:
        match = found[id(cell)]
        counted = None if match is None or (match.other_data and not other_data) else match
        done = counted.runs if counted else {}
        missing = [] if cell.extra else [_task(cell, counted, seed) for seed in wanted if seed not in done]
        states.append(Progress(cell, match, missing, _estimate(cell, times)))
    return states


def _task(cell: Cell, match: Match | None, seed: int) -> Task:
    """Return the run of a missing seed, in the settings of the finished ones or the paper's."""
    if match is not None:
        other = next(iter(match.runs.values()))
        return Task(other.grid, other.run, seed, {**other.settings, "seed": seed})
    return Task(grid_name(cell), run_name(cell), seed, {**cell.settings, "seed": seed})


def grid_name(cell: Cell) -> str:
    """Return the name of the grid of a cell's data, pair and setting."""
    setting = [] if cell.settings["setting"] == "general" else [str(cell.settings["setting"])]
    return "-".join(["paper", cell.data.key, *setting, cell.pair.lower()])


def run_name(cell: Cell) -> str:
    """Return a name of the method and of its keys that differ from its property files.

    It tells the runs of a grid apart. Cells of several tables that are the same run have the same name.
    """
    own = {
        key: value
        for key, value in flat(cell.settings).items()
        if key.startswith("kd_") and key != "kd_track" and defaults_of(cell).get(key) != value
    }
    return ", ".join([str(cell.settings["kd"]), *(f"{key[3:]} {value}" for key, value in own.items())])


Times = dict[tuple[Any, ...], dict[str, dict[str, float]]]
"""(model, teacher, dataset, setting) -> method -> result -> seconds."""


def _times(matches: Iterable[Match]) -> Times:
    """Return the seconds of the distillations of all finished cells, each once."""
    times: Times = {}
    for match in matches:
        for run in match.runs.values():
            if (seconds := seconds_of(run.result["distilled"])) is not None:
                of_pair = times.setdefault(tuple(run.flat.get(key) for key in OF_PAIR), {})
                of_pair.setdefault(run.flat["kd"], {})[f"{run.grid}/{run.run}/{run.seed}"] = seconds
    return times


def _estimate(cell: Cell, times: Times) -> float | None:
    """Return the mean seconds of the finished cells of the same data, pair and setting.

    It is None if there are none. Those of the same method are taken, if there are any.
    """
    of_pair = times.get(tuple(cell.settings[key] for key in OF_PAIR), {})
    same = of_pair.get(str(cell.settings["kd"])) or {k: v for found in of_pair.values() for k, v in found.items()}
    return mean(same.values()) if same else None


def seconds_of(figures: Mapping[str, Any]) -> float | None:
    """Return the seconds of a training's epochs, None if they were not recorded."""
    epochs, seconds = figures.get("epochs"), figures.get("seconds_per_epoch")
    return epochs * seconds if epochs and seconds else None


def time_in_words(states: Iterable[Progress]) -> str:
    """Return the time of all missing runs in words, and the number of unknown ones."""
    runs = {(task.grid, task.file_name): state.seconds for state in states for task in state.missing}
    known = [seconds for seconds in runs.values() if seconds is not None]
    unknown = len(runs) - len(known)
    words = [in_words(sum(known))] if known else []
    if unknown:
        words.append(f"{unknown} runs of unknown time" if known else "unknown")
    return " and ".join(words) or "none"


def in_words(seconds: float) -> str:
    """Return a time in minutes or hours."""
    return f"{seconds / HOUR:.1f} h" if seconds >= HOUR else f"{max(1, round(seconds / 60))} min"


def grid_of(states: Iterable[Progress], paper: Paper) -> Grid:
    """Return all missing runs as one grid, each run once, all of one seed before the next."""
    tasks = {(task.grid, task.file_name): task for state in states for task in state.missing}
    return Grid("paper", "The paper", sorted(tasks.values(), key=lambda task: task.seed), metric=paper.selection)
