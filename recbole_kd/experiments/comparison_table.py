"""The table of a comparison on the screen, and notes on what its numbers mean."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from typing import Any

from tabulate import tabulate

from recbole_kd.experiments.comparison import Comparison
from recbole_kd.experiments.comparison_figures import Figures, Results, figures_of
from recbole_kd.experiments.grid import DISTILLED, STUDENT, Grid
from recbole_kd.experiments.tables import ALONE

WIDTH = 120
LEAST_P = 0.001
"""Smaller p-values are shown as below it."""

MORE_COLUMNS = 5
"""Metrics in one block of the second table."""


def metrics_of(comparison: Comparison, results: Results) -> list[str]:
    """Return the test metrics of the results, that of the gains first."""
    found = [
        result[stage]["test"] for result in results.values() for stage in (STUDENT, DISTILLED) if result.get(stage)
    ]
    names = dict.fromkeys(name for test in found for name in test)
    return sorted(names, key=lambda name: name != comparison.metric)


def comparison_text(
    comparison: Comparison, grid: Grid, results: Results, record: Mapping[str, Any] | None = None
) -> str:
    """Return the table and the notes below it.

    Args:
        comparison: the comparison.
        grid: all tasks.
        results: results of the finished tasks.
        record: record of the search for settings, if there was one.
    """
    methods = [method.name for method in comparison.methods]
    first, *others = [figures_of(methods, metric, results) for metric in metrics_of(comparison, results)]
    parts = [_table(comparison, first)]
    parts += [_more(comparison, others[start : start + MORE_COLUMNS]) for start in range(0, len(others), MORE_COLUMNS)]
    notes = [
        *_about_numbers(comparison, first),
        *_about_settings(comparison, record),
        *_warnings(comparison, grid, results),
    ]
    return "\n\n".join([*parts, "\n".join(textwrap.fill(note, WIDTH, break_on_hyphens=False) for note in notes)])


# -- tables
# -------------------------------------------------------------------------------------------------------------


def _table(comparison: Comparison, rows: Sequence[Figures]) -> str:
    pair, seeds = _pair(comparison), _count(len(comparison.seeds), "seed")
    title = f"{comparison.about.request.dataset}, {pair}, {seeds}, test {_shown(comparison.metric)}"
    spread = "mean" if all(f.sd is None for f in rows) else "mean ± sd"
    headers = ["", spread, "n", "vs alone", "of teacher", "p (Holm)", "s/epoch"]
    cells = []
    for f in rows:
        gain = "" if f.gain is None else f"{100 * f.gain:+.1f} %"
        share = "" if f.share is None else f"{100 * f.share:.0f} %"
        seconds = "" if f.seconds_per_epoch is None else f"{f.seconds_per_epoch:.2f}"
        cells.append([_name(comparison, f.row), _spread(f), str(f.n), gain, share, _p(f.p_holm), seconds])
    return f"{title}\n\n{_aligned(cells, headers)}"


def _more(comparison: Comparison, columns: Sequence[Sequence[Figures]]) -> str:
    """The other metrics, with a column each."""
    names = dict.fromkeys(_name(comparison, f.row) for column in columns for f in column)
    found = {(_name(comparison, f.row), f.metric): _spread(f) for column in columns for f in column}
    metrics = [column[0].metric for column in columns if column]
    cells = [[name, *(found.get((name, metric), "") for metric in metrics)] for name in names]
    return _aligned(cells, ["other test metrics", *map(_shown, metrics)])


def _aligned(cells: list[list[str]], headers: list[str]) -> str:
    align = ("left", *["right"] * (len(headers) - 1))
    return tabulate(cells, headers=headers, tablefmt="simple", disable_numparse=True, colalign=align)


def _pair(comparison: Comparison) -> str:
    plan = comparison.about
    teacher = plan.teacher_name
    if len(plan.teachers) == 1:
        teacher += _width(plan.teachers[0])
    return f"{plan.request.model}{_width(plan.alone)} under {teacher}"


def _width(config: Any) -> str:
    width = config["embedding_size"]
    return f" ({width})" if width else ""


def _name(comparison: Comparison, row: str) -> str:
    return f"{comparison.about.request.model} alone" if row == ALONE else row


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"


def _spread(f: Figures) -> str:
    return _fraction(f.mean) + ("" if f.sd is None else f" ± {_fraction(f.sd)}")


def _fraction(value: float) -> str:
    """A number with four places, without the nought before the point."""
    text = f"{value:.4f}"
    return text.replace("0.", ".", 1) if text.startswith(("0.", "-0.")) else text


def _p(value: float | None) -> str:
    if value is None:
        return "-"
    return f"<{_fraction(LEAST_P).rstrip('0')}" if value < LEAST_P else f"{value:.2g}".replace("0.", ".", 1)


def _shown(metric: str) -> str:
    """A metric as RecBole's users write it."""
    name, at, cutoff = metric.partition("@")
    names = {"ndcg": "NDCG", "mrr": "MRR", "map": "MAP", "gauc": "GAUC", "auc": "AUC", "rmse": "RMSE", "mae": "MAE"}
    return names.get(name, name.capitalize()) + at + cutoff


# -- notes
# --------------------------------------------------------------------------------------------------------------


def _about_numbers(comparison: Comparison, rows: Sequence[Figures]) -> list[str]:
    metric, first = _shown(comparison.metric), comparison.methods[0].name
    tests = sum(f.p is not None for f in rows)
    if len(comparison.seeds) == 1:
        return [
            f"One seed ({comparison.seeds[0]}) has no deviation and no test: name several, such as --seed=0,1,2, to "
            "see what is chance."
        ]
    seeds = ", ".join(map(str, comparison.seeds))
    lines = [f"± is the sample standard deviation over the seeds {seeds}; n counts them; the teacher is trained once."]
    if tests:
        lines.append(
            f"p: two-sided paired t-tests on test {metric} against {first}, over the seeds that both have, "
            f"Holm-corrected for {_count(tests, 'test')}."
        )
    return lines


def _about_settings(comparison: Comparison, record: Mapping[str, Any] | None) -> list[str]:
    if record is None:
        return []
    rows = record["rows"]
    tried = ", ".join(f"{len(row['tried'])} of {_name(comparison, name)}" for name, row in rows.items())
    failed = sum(one["valid"] is None for row in rows.values() for one in row["tried"])
    words = f" {_count(failed, 'setting')} could not be trained." if failed else ""
    return [
        f"Settings chosen on validation {_shown(record['metric'])} with seed {record['seed']}, drawn from "
        f"properties/tune: {tried} (settings.json has all).{words}"
    ]


def _warnings(comparison: Comparison, grid: Grid, results: Results) -> list[str]:
    found = []
    shipped = [name for name, file in comparison.property_files.items() if file]
    plain = [name for name, file in comparison.property_files.items() if not file]
    if shipped and plain and not comparison.is_searched:
        files = ", ".join(f"properties/{comparison.property_files[name]}.yaml" for name in shipped)
        has = "has" if len(shipped) == 1 else "have"
        defaults = "has its defaults" if len(plain) == 1 else "have their defaults"
        found.append(
            f"warning: {', '.join(shipped)} {has} settings tuned for this pair and data set ({files}); "
            f"{', '.join(plain)} {defaults}: --budget=8 searches as many settings for each."
        )
    for key in ("max_minutes", "epochs"):
        capped = dict.fromkeys(
            _name(comparison, name) for (name, _), result in results.items() if _stopped_by(result) == key
        )
        if capped:
            found.append(
                f"warning: ended by {key}, not by the patience, with at least one seed: {', '.join(capped)}; raise "
                f"--{key} for numbers that a longer training would not change."
            )
    missing = [
        f"{_name(comparison, task.run)} (seed {task.seed})"
        for task in grid.tasks
        if (task.run, task.seed) not in results
    ]
    if missing:
        found.append(f"warning: not done: {', '.join(missing)}; the same command continues.")
    versions = {str(result["versions"].get("commit", "unknown")) for result in results.values()}
    if len(versions) > 1:
        found.append(f"warning: the results were made by several versions of the code: {', '.join(sorted(versions))}.")
    return found


def _stopped_by(result: Mapping[str, Any]) -> Any:
    figures = result.get(DISTILLED) or result.get(STUDENT) or {}
    return figures.get("stopped_by")
