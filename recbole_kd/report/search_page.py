"""The page of a search: best so far, parallel coordinates, the table of trials."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from recbole_kd.report.charts import (
    ALONE,
    DISTILLED,
    TEACHER,
    Chart,
    Series,
    Table,
    axes,
    finite,
    number,
    plain,
    series_table,
    whole_ticks,
)
from recbole_kd.report.page import Page, Section, text_of

LOG_FROM = 30
"""A positive parameter that spans at least this factor has a logarithmic axis."""

Trial = Mapping[str, Any]


def search_page(name: str, record: Mapping[str, Any]) -> Page:
    """Return the page of a search.

    Args:
        name: name of its folder.
        record: content of trials.json.
    """
    trials: Sequence[Trial] = record["trials"]
    metric = next((str(trial["metric"]) for trial in trials if trial.get("metric")), "score")
    done = [trial for trial in trials if trial["state"] == "done" and trial["score"] is not None]
    best = max(done, key=_objective) if done else None
    base = record.get("base") or {}
    names = " ".join(str(base.get(key)) for key in ("model", "teacher", "kd", "dataset") if base.get(key))
    charts = [best_so_far(trials, metric), parallel(trials, metric)]
    return Page(
        f"Search {name}",
        _verdict(trials, best, metric),
        sections=[
            Section("Charts", charts=[chart for chart in charts if chart is not None], text=[names]),
            Section("Trials, best first", table=_table(trials, metric)),
            Section("Keys that all trials share", table=_base(base), folded=True),
        ],
    )


def _objective(trial: Trial) -> float:
    """Return the value to maximise, lowest for a trial without a score."""
    score = finite([trial.get("score")])[0]
    return -math.inf if score is None else score if trial.get("bigger", True) else -score


def _verdict(trials: Sequence[Trial], best: Trial | None, metric: str) -> str:
    if best is None:
        return f"None of {len(trials)} trials was done; the table gives the reasons."
    return f"Best of {len(trials)} trials: validation {metric} {number(best['score'])} with {_words(best)}."


def _words(trial: Trial) -> str:
    return ", ".join(f"{key}={_cell(value)}" for key, value in trial["settings"].items()) or "the common keys"


def _cell(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else text_of(value)


def best_so_far(trials: Sequence[Trial], metric: str) -> Chart | None:
    """Return each trial's validation score and the best of the trials before it."""
    scores = finite([trial.get("score") for trial in trials])
    if all(score is None for score in scores):
        return None
    best: list[float | None] = []
    leader: Trial | None = None
    found_at = 0
    for place, trial in enumerate(trials):
        counts = trial["state"] == "done" and scores[place] is not None
        if counts and (leader is None or _objective(trial) > _objective(leader)):
            leader, found_at = trial, place
        best.append(None if leader is None else float(leader["score"]))
    x = list(range(1, len(trials) + 1))
    states = [str(trial["state"]) for trial in trials]
    colours = [DISTILLED if state == "done" else TEACHER for state in states]
    traces: list[Mapping[str, Any]] = [
        {
            "type": "scatter", "mode": "markers", "name": "trial", "x": x, "y": scores,
            "text": [plain(f"{state}: {_words(trial)}") for state, trial in zip(states, trials, strict=True)],
            "marker": {"color": colours, "size": 8},
        },
        {
            "type": "scatter", "mode": "lines", "name": "best so far", "x": x, "y": best,
            "line": {"shape": "hv", "color": ALONE, "width": 2},
        },
    ]  # fmt: skip
    label = ("trial, in order", f"validation {metric}")
    told = f"found by trial {found_at + 1} of {len(trials)}" if leader is not None else "no trial is done"
    return Chart(
        f"Best so far: {number(best[-1])}, {told}",
        traces, axes(*label, xaxis=whole_ticks(x)),
        series_table(label[0], x, [Series("trial", scores, DISTILLED), Series("best so far", best, ALONE)]),
        "Grey trials were stopped before their end and do not count.",
    )  # fmt: skip


def parallel(trials: Sequence[Trial], metric: str) -> Chart | None:
    """Return parallel coordinates of the searched keys and the score of the trials that have one."""
    scored = [trial for trial in trials if finite([trial.get("score")])[0] is not None]
    keys = list(dict.fromkeys(key for trial in scored for key in trial["settings"]))
    if len(scored) < 2 or not keys:
        return None
    scores = [float(trial["score"]) for trial in scored]
    dimensions = [_dimension(key, [trial["settings"].get(key) for trial in scored]) for key in keys]
    dimensions.append({"label": plain(metric), "values": scores})
    line = {
        "color": scores, "colorscale": "Viridis", "showscale": False,
        "reversescale": not scored[0].get("bigger", True),
    }  # fmt: skip
    best = max(scored, key=_objective)
    rows = [
        [*(_cell(trial["settings"].get(key, "")) for key in keys), number(trial["score"])]
        for trial in sorted(scored, key=_objective, reverse=True)
    ]
    return Chart(
        f"Each line is a trial, brighter is better; the best has {_words(best)}",
        [{"type": "parcoords", "line": line, "dimensions": dimensions, "labelfont": {"size": 12}, "labelangle": -20}],
        {"margin": {"l": 60, "r": 60, "t": 80, "b": 30}},
        Table([*keys, f"validation {metric}"], rows),
        f"The last axis is the validation {metric}. Drag along an axis to keep only the trials that pass there.",
    )


def _dimension(key: str, values: Sequence[Any]) -> dict[str, Any]:
    """Return an axis of a searched key: linear, logarithmic, or with a place for each value.

    The last is for values that are not numbers.
    """
    known = finite(values)
    numbers = [value for value in known if value is not None]
    if len(numbers) < len(values):
        texts = [_cell(value) if value is not None else "-" for value in values]
        ticks = sorted(set(texts))
        return {
            "label": plain(key), "values": [ticks.index(text) for text in texts],
            "tickvals": list(range(len(ticks))), "ticktext": [plain(text[:24]) for text in ticks],
            "range": [-0.5, len(ticks) - 0.5],
        }  # fmt: skip
    if min(numbers) > 0 and max(numbers) >= LOG_FROM * min(numbers):
        logs = [math.log10(value) for value in numbers]
        low, high = min(logs), max(logs)
        ticks_at = [low + (high - low) * step / 4 for step in range(5)]
        texts = [f"{10**place:.3g}" for place in ticks_at]
        return {"label": plain(f"{key} (log)"), "values": logs, "tickvals": ticks_at, "ticktext": texts}
    if min(numbers) == max(numbers):
        return {"label": plain(key), "values": numbers, "tickvals": numbers[:1], "ticktext": [_cell(values[0])]}
    return {"label": plain(key), "values": numbers}


def _table(trials: Sequence[Trial], metric: str) -> Table:
    keys = list(dict.fromkeys(key for trial in trials for key in trial["settings"]))
    order = sorted(trials, key=lambda trial: (trial["state"] != "done", -_objective(trial)))
    rows = [
        [
            number(finite([trial.get("score")])[0]),
            number(finite([(trial.get("test") or {}).get(metric)])[0]),
            *(_cell(trial["settings"].get(key, "")) for key in keys),
            str(trial["state"]),
            str(trial.get("epochs") or ""),
            text_of(str(trial.get("reason") or "")),
        ]
        for trial in order
    ]
    return Table([f"validation {metric}", f"test {metric}", *keys, "state", "epochs", "reason"], rows)


def _base(base: Mapping[str, Any]) -> Table:
    return Table(["key", "value"], [[str(key), text_of(value)] for key, value in base.items()])
