"""The bench of ``kd_weight=auto``: its cells, a grid of weights beside each, and their table."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from tabulate import tabulate

from recbole_kd.config.model_catalogue import recbole_folder
from recbole_kd.experiments.grid import Grid, Task
from recbole_kd.experiments.tables import MADE_BY, Results, commits, devices
from recbole_kd.storage.files import write_text_whole
from recbole_kd.training.weight_trials import GRID, is_worthwhile

NAME = "auto-weight"
"""Name of the grid of cells, and the word that asks for the bench."""

OWN, MADE = "ml-100k-own", "made-rank8"
"""The data sets that the bench makes."""

RANK, MADE_USERS, MADE_ITEMS, PER_USER = 8, 600, 400, 30


def write_data(folder: Path) -> None:
    """Write the bench's own data sets, unless they are there.

    One is RecBole's ml-100k under another name. The other is drawn: each user takes items without repetition, with
    probabilities that are a softmax of a product of rank 8 plus a popularity.

    Args:
        folder: folder of the data sets.
    """
    own = folder / OWN / f"{OWN}.inter"
    if not own.is_file():
        own.parent.mkdir(parents=True, exist_ok=True)
        source = recbole_folder() / "dataset_example" / "ml-100k" / "ml-100k.inter"
        write_text_whole(own, source.read_text(encoding="utf-8"))
    made = folder / MADE / f"{MADE}.inter"
    if not made.is_file():
        made.parent.mkdir(parents=True, exist_ok=True)
        write_text_whole(made, _made_rows())


def _made_rows() -> str:
    draw = np.random.default_rng(8)
    users, items = draw.normal(size=(MADE_USERS, RANK)), draw.normal(size=(MADE_ITEMS, RANK))
    scores = users @ items.T / np.sqrt(RANK) * 1.5 + draw.normal(scale=0.5, size=MADE_ITEMS)
    keys = scores + draw.gumbel(size=scores.shape)  # the largest are a draw without repetition from the softmax
    lines = ["user_id:token\titem_id:token\ttimestamp:float"]
    for user, order in enumerate(np.argsort(-keys, axis=1)[:, :PER_USER]):
        lines += [f"u{user}\ti{item}\t{time}" for time, item in enumerate(draw.permutation(order))]
    return "\n".join(lines) + "\n"


def run_of(cell: str, factor: float) -> str:
    """Return the name of a cell's run with a weight of the grid."""
    return f"{cell}, x {factor:g}"


def with_weights(grid: Grid, results: Results) -> Grid:
    """Return a grid of the seven weights of each cell that has been run with ``auto``.

    Args:
        grid: the cells.
        results: their results.
    """
    tasks: list[Task] = []
    for task in grid.tasks:
        search = results.get((task.run, task.seed), {}).get("kd_weight_search")
        for factor, weight in zip(GRID, (search or {"grid": ()})["grid"], strict=False):
            settings = {**task.settings, "kd_weight": weight}
            tasks.append(replace(task, run=run_of(task.run, factor), settings=settings))
    return replace(grid, tasks=tasks, reference=None)


def section(grid: Grid, results: Results) -> str:
    """Return the page of the bench.

    Args:
        grid: the cells.
        results: results of the cells and of their weights.
    """
    done = [task for task in grid.tasks if (task.run, task.seed) in results]
    rows = [_row(task, results, grid.metric) for task in done]
    headers = [
        "cell", "teacher, valid", "alone, valid", "auto: x centre", "valid", "test", "best of the grid: x centre",
        "valid", "test", "auto over it, test", "over alone, test", "epochs of others / own", "s, auto", "s, grid",
        "verdict",
    ]  # fmt: skip
    table = tabulate(
        [row.cells for row in rows],
        headers=headers,
        tablefmt="github",
        disable_numparse=True,
        colalign=("left", *["right"] * 13, "left"),
    )
    against = [row.against for row in rows if row.against is not None]
    ends = [row.cells[0] for row in rows if row.at_end]
    missing = [task.run for task in grid.tasks if task not in done]
    lines = [f"# {grid.title}", "", table, ""]
    if against:
        mean = 100 * sum(against) / len(against)
        lines += [
            f"Mean of auto over the best of the grid, test {grid.metric}, {len(against)} cells: {mean:+.1f} %.",
            "",
        ]
    lines += [f"Choice at an end of the weights that were tried: {'; '.join(ends) or 'none'}.", ""]
    if missing:
        lines += [f"Not run yet: {'; '.join(missing)}.", ""]
    made_by = f"`recbole-kd reproduce {NAME}`"
    lines += [f"{MADE_BY}{made_by} at commit {', '.join(commits(results))}, on {' and '.join(devices(results))}.", ""]
    return "\n".join(lines)


class _Row:
    """One cell of the table.

    Attributes:
        cells: its texts.
        against: relative test metric of auto over the best of the grid, None if the grid is not complete.
        at_end: whether the choice is at an end of the weights that were tried.
    """

    def __init__(self, cells: Sequence[str], against: float | None, at_end: bool) -> None:
        self.cells, self.against, self.at_end = list(cells), against, at_end


def _row(task: Task, results: Results, metric: str) -> _Row:
    found = results[task.run, task.seed]
    search, auto, alone = found["kd_weight_search"], found["distilled"], found["student"]
    weights = {f: r["distilled"] for f in GRID if (r := results.get((run_of(task.run, f), task.seed))) is not None}
    sign = 1 if found["valid_metric_bigger"] else -1
    best = max(weights, key=lambda f: sign * weights[f]["valid"][metric], default=None)
    against = None if best is None else auto["test"][metric] / weights[best]["test"][metric] - 1
    part = "" if len(weights) == len(GRID) else f" (of {len(weights)} done)"
    own = search["grid"].index(search["choice"])
    others = sum(search["epochs"]) - search["epochs"][own]
    seconds = auto["seconds_per_epoch"] * sum(search["epochs"])
    of_grid = sum(figures["seconds_per_epoch"] * figures["epochs"] for figures in weights.values())
    of_teacher = found["teacher"].get("valid_as_student") or found["teacher"].get("valid") or {}
    taught, plain = of_teacher.get(metric), alone["valid"][metric]
    weak = taught is not None and not is_worthwhile(taught, plain, bool(found["valid_metric_bigger"]))
    of_best = ["", "", "", ""] if best is None else [
        f"{best:g}{part}", _short(weights[best]["valid"][metric]), _short(weights[best]["test"][metric]),
        _percent(against),
    ]  # fmt: skip
    cells = [
        task.run, *("" if value is None else _short(value) for value in (taught, plain)), f"{GRID[own]:g}",
        _short(auto["valid"][metric]), _short(auto["test"][metric]), *of_best,
        _percent(auto["test"][metric] / alone["test"][metric] - 1), f"{others} / {search['epochs'][own]}",
        f"{seconds:.0f}", "" if part else f"{of_grid:.0f}",
        ", ".join([found["verdict"]["code"], *(["teacher no better"] if weak else [])]),
    ]  # fmt: skip
    return _Row(cells, None if part else against, bool(search["at_end"]))


def _short(value: float) -> str:
    return f"{value:.4f}".replace("0.", ".", 1)


def _percent(share: float | None) -> str:
    return "" if share is None else f"{100 * share:+.1f} %"
