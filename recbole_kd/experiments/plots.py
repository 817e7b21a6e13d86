"""Pictures of a grid's results: the test metric of each run, and validation by epoch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from io import StringIO
from pathlib import Path
from statistics import mean, stdev
from typing import TYPE_CHECKING, Any

from recbole_kd.errors import ConfigError
from recbole_kd.experiments.grid import Grid
from recbole_kd.experiments.tables import Results, rows_of, value_of
from recbole_kd.storage.files import write_text_whole
from recbole_kd.storage.targets import check_file, holds_text

if TYPE_CHECKING:
    from matplotlib.axes import Axes

PLAIN, OWN = "#9aa5b1", "#1f6feb"
"""Colours of teacher and student without teacher, and of the grid's reference (of all runs if it has none)."""

OTHER = "#7fb3ff"

DRAWN_BY, CREATED_BY = "recbole_kd plot_results", "Matplotlib"
"""The creator in each picture's metadata. A picture without the first name is not replaced."""

Bars = Sequence[tuple[str, list[float]]]


def bars(grid: Grid, results: Results) -> Bars:
    """Return (row name, test metric of each seed) for each row of the table."""
    found = {
        name: [value_of(f, "test", grid.metric) for f in figures.values()]
        for name, figures in rows_of(grid, results).items()
    }
    measured = {name: [value for value in values if value is not None] for name, values in found.items()}
    return [(name, values) for name, values in measured.items() if values]


def curves(grid: Grid, results: Results) -> dict[str, list[float]]:
    """Return the validation metric by epoch of each run's first seed, if the result has it."""
    key, found = f"valid_{grid.metric}", {}
    for name, figures in rows_of(grid, results).items():
        history: Mapping[str, Any] = figures[min(figures)].get("history") or {}
        if name in grid.runs and key in history:
            found[name] = list(history[key])
    return found


def draw_grid(grid: Grid, results: Results, path: Path) -> None:
    """Write an SVG with test metrics as bars and validation metrics by epoch.

    The bars show mean and standard deviation over seeds, and published numbers as diamonds. The same results give the
    same bytes.

    Args:
        grid: the grid.
        results: at least one result.
        path: missing, or a picture that this function drew, which is replaced.

    Raises:
        ConfigError: matplotlib is not installed.
        TargetError: the path is another file.
    """
    check_picture(path)
    try:
        import matplotlib
        from matplotlib.figure import Figure
    except ImportError:
        raise ConfigError("Pictures need matplotlib: pip install matplotlib") from None
    rows, lines = bars(grid, results), curves(grid, results)
    with matplotlib.rc_context(
        {"svg.hashsalt": grid.name, "svg.fonttype": "none", "path.simplify_threshold": 1.0, "font.size": 9}
    ):
        figure = Figure(figsize=(11, 1.6 + 0.32 * len(rows)), layout="constrained")
        left, right = figure.subplots(1, 2, width_ratios=(3, 2))
        _draw_bars(left, grid, rows)
        for number, (run, values) in enumerate(lines.items()):
            right.plot(values, label=run, linewidth=1.2, linestyle=("-", "--", ":")[number // 10 % 3])
        right.set(xlabel="epoch", title=f"validation {grid.metric}, first seed")
        if lines:
            right.legend(fontsize=7)
        figure.suptitle(grid.title)
        drawn = StringIO()
        figure.savefig(
            drawn,
            format="svg",
            metadata={"Date": None, "Creator": f"{DRAWN_BY}, {CREATED_BY} v{matplotlib.__version__}"},
        )
    write_text_whole(path, drawn.getvalue())


def check_picture(path: Path) -> None:
    """Refuse a path that holds anything except a picture of ours (TargetError)."""
    check_file(path, own=lambda there: holds_text(there, DRAWN_BY))


def _draw_bars(axes: Axes, grid: Grid, rows: Bars) -> None:
    for place, (name, values) in enumerate(rows):
        is_run = name in grid.runs
        colour = PLAIN if not is_run else OWN if grid.reference in (None, name) else OTHER
        spread = stdev(values) if len(values) > 1 else 0.0
        axes.barh(place, mean(values), xerr=spread or None, color=colour)
        published = grid.published.get(name, {}).get(grid.metric)
        if published is not None:
            axes.plot(published, place, marker="D", markersize=5, markerfacecolor="white", markeredgecolor="black")
        axes.text(max(mean(values) + spread, published or 0.0), place, f"  {mean(values):.4f}", va="center", fontsize=8)
    axes.set_yticks(range(len(rows)), [name for name, _ in rows])
    axes.invert_yaxis()
    axes.margins(x=0.16)
    axes.set(title=f"test {grid.metric}" + (" (diamonds: published)" if grid.published else ""))
