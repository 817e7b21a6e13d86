"""Tables of distillation metrics by epoch (RCE-KD, Table 7, Figures 2, 4, 5, 9 and 10)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from tabulate import tabulate

from recbole_kd.experiments.grid import Grid
from recbole_kd.experiments.tables import Results

SHARES = (2, 20, 100)
"""Percentages of the training epochs at which the paper reports the overlap rate."""

PLACES = (1, 5, 10, 20, 50)
"""Ranks in the teacher's list."""

SAMPLES = 6
"""Number of evenly spaced epochs at which a history is shown."""


def at_share(history: Sequence[float], share: float) -> float:
    """Return the value at the epoch when ``share`` per cent of a training are over."""
    return history[max(0, round(len(history) * share / 100) - 1)]


def overlap_rate_table(results: Results) -> str:
    """Return a table of OR: the mean share of A among the student's own top-|A| (Table 7)."""
    rows = []
    for (run, seed), result in sorted(results.items()):
        history = result["distilled"]["history"].get("overlap_rate")
        if history:
            rows.append([f"{run}, seed {seed}", *(f"{at_share(history, share):.2f}" for share in SHARES)])
    return _table(["", *(f"OR@{share} %" for share in SHARES)], rows)


def rank_table(results: Results) -> str:
    """Return a table of the student's mean rank of the teacher's k-th item (Figures 2 and 4).

    It has the ranks before and after the training.
    """
    rows = []
    for (run, seed), result in sorted(results.items()):
        curves = result["distilled"].get("teacher_ranks") or {}
        for when in ("start", "end"):
            if when in curves:
                rows.append(
                    [
                        f"{run}, seed {seed}, {when}",
                        *(f"{curves[when][k - 1]:.0f}" for k in PLACES if k <= len(curves[when])),
                    ]
                )
    return _table(["teacher's k-th item, k =", *map(str, PLACES)], rows)


def history_table(results: Results, name: str) -> str:
    """Return a table of a metric at a few evenly spaced epochs."""
    rows = []
    for (run, seed), result in sorted(results.items()):
        history = result["distilled"]["history"].get(name)
        if history:
            places = [round(step * (len(history) - 1) / (SAMPLES - 1)) for step in range(SAMPLES)]
            rows.append([f"{run}, seed {seed}", *(f"{history[place]:.3f} ({place})" for place in places)])
    return _table(["value (epoch)", *([""] * SAMPLES)], rows)


FIGURES: dict[str, str] = {
    "train_ndcg@10": "NDCG@10 on the training interactions (Figure 5)",
    "list_overlap": "Share of the teacher's list in the student's own list, mean (Figure 9)",
    "overlap_mean": "The overlap in gamma, mean",
    "overlap_q25": "The overlap in gamma, lower quartile (Figure 10)",
    "overlap_q75": "The overlap in gamma, upper quartile (Figure 10)",
}


def dynamics_section(grid: Grid, results: Mapping[tuple[str, int], Mapping[str, Any]]) -> str:
    """Return the Markdown section on dynamics of a grid, empty if its runs tracked nothing."""
    parts = [
        ("Overlap rate of the sampled set (Table 7)", overlap_rate_table(results)),
        ("Student's mean rank of the teacher's k-th item (Figures 2 and 4)", rank_table(results)),
        *((title, history_table(results, name)) for name, title in FIGURES.items()),
    ]
    filled = [f"### {title}\n\n{table}\n" for title, table in parts if table]
    return "\n".join([f"## {grid.title}: dynamics\n", *filled]) if filled else ""


def _table(headers: list[str], rows: list[list[str]]) -> str:
    if not rows:
        return ""
    return tabulate(
        rows,
        headers=headers,
        tablefmt="github",
        disable_numparse=True,
        colalign=("left", *["right"] * (len(headers) - 1)),
    )
