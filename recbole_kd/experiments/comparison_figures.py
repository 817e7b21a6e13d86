"""Mean, deviation, gain, share of the teacher and p-values of each row of a comparison."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import mean, stdev
from typing import Any

from recbole_kd.experiments.grid import DISTILLED, STUDENT
from recbole_kd.experiments.significance import holm, paired_p_value
from recbole_kd.experiments.tables import ALONE

Results = Mapping[tuple[str, int], Mapping[str, Any]]
BySeed = Mapping[int, float]

TEACHER = "teacher"


@dataclass(frozen=True)
class Figures:
    """One metric of one row, over its seeds.

    Attributes:
        row: name of a method, ``student alone`` or ``teacher``.
        kind: ``teacher``, ``student`` or ``distilled``.
        metric: name of the metric.
        n: number of seeds; of the teacher, number of trainings.
        mean: mean over the seeds.
        sd: sample standard deviation, None for one seed.
        gain: relative gain over the student alone of the same seeds.
        share: ratio to the teacher's value.
        p: p-value of the test against the first method, None if there is none.
        p_holm: the same, Holm-corrected.
        seconds_per_epoch: mean duration of a training epoch.
    """

    row: str
    kind: str
    metric: str
    n: int
    mean: float
    sd: float | None
    gain: float | None
    share: float | None
    p: float | None = None
    p_holm: float | None = None
    seconds_per_epoch: float | None = None


def figures_of(methods: Sequence[str], metric: str, results: Results) -> list[Figures]:
    """Return a metric's figures of the teacher, the student alone and each method with results.

    Args:
        methods: names; the others are tested against the first.
        metric: name of the metric.
        results: results by row and seed.
    """
    alone = _values(results, ALONE, STUDENT, metric)
    by_method = {name: _values(results, name, DISTILLED, metric) for name in methods}
    teachers = {name: _values(results, name, TEACHER, metric) for name in methods}
    rows = _teacher_rows(teachers, metric)
    if alone:
        of_first = next((teachers[name] for name in methods if teachers[name]), {})
        rows.append(_row(ALONE, STUDENT, metric, alone, {}, of_first, _seconds(results, ALONE, STUDENT)))
    p_values = [_p_value(by_method[methods[0]], by_method[name]) for name in methods[1:]]
    tests = [(None, None), *zip(p_values, holm(p_values), strict=True)]
    for name, (p, p_holm) in zip(methods, tests, strict=True):
        if by_method[name]:
            seconds = _seconds(results, name, DISTILLED)
            rows.append(_row(name, DISTILLED, metric, by_method[name], alone, teachers[name], seconds, p, p_holm))
    return rows


def _row(
    name: str,
    kind: str,
    metric: str,
    values: BySeed,
    alone: BySeed,
    teacher: BySeed,
    seconds: float | None = None,
    p: float | None = None,
    p_holm: float | None = None,
) -> Figures:
    found = list(values.values())
    sd = stdev(found) if len(found) > 1 else None
    gain, share = _ratio(values, alone), _ratio(values, teacher)
    gain = None if gain is None else gain - 1
    return Figures(name, kind, metric, len(found), mean(found), sd, gain, share, p, p_holm, seconds)


def _teacher_rows(teachers: Mapping[str, BySeed], metric: str) -> list[Figures]:
    """One row for the teacher, and another for each method that has a teacher of other figures."""
    rows: list[Figures] = []
    for name, by_seed in teachers.items():
        values = list(dict.fromkeys(by_seed.values()))  # the seeds of the student share one teacher
        if values and mean(values) not in [row.mean for row in rows]:
            row = f"{TEACHER} of {name}" if rows else TEACHER
            rows.append(_row(row, TEACHER, metric, dict(enumerate(values)), {}, {}))
    return rows


def _values(results: Results, row: str, stage: str, metric: str) -> dict[int, float]:
    """Test values by seed; a saved teacher has none, nor have several together."""
    found = {
        seed: (result[stage]["test"] or {}).get(metric)
        for (name, seed), result in sorted(results.items())
        if name == row
    }
    return {seed: float(value) for seed, value in found.items() if value is not None}


def _seconds(results: Results, row: str, stage: str) -> float | None:
    found = [result[stage].get("seconds_per_epoch") for (name, _), result in results.items() if name == row]
    measured = [seconds for seconds in found if seconds]
    return mean(measured) if measured else None


def _ratio(values: BySeed, base: BySeed) -> float | None:
    """The ratio of the means over the seeds that both have; None without any, or of a base of nought."""
    shared = sorted(set(values) & set(base))
    if not shared:
        return None
    below = mean(base[seed] for seed in shared)
    return mean(values[seed] for seed in shared) / below if below and math.isfinite(below) else None


def _p_value(first: BySeed, other: BySeed) -> float | None:
    shared = sorted(set(first) & set(other))
    return paired_p_value([first[seed] for seed in shared], [other[seed] for seed in shared])


COLUMNS = (
    "row", "kind", "metric", "n", "mean", "sd", "gain_over_alone", "share_of_teacher", "p", "p_holm",
    "seconds_per_epoch",
)  # fmt: skip
"""Columns of the csv."""


def as_csv(rows: Sequence[Figures]) -> str:
    """Return all figures as csv, one line for a row and metric; what there is not is empty."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(COLUMNS)
    for f in rows:
        numbers = (f.mean, f.sd, f.gain, f.share, f.p, f.p_holm, f.seconds_per_epoch)
        writer.writerow([f.row, f.kind, f.metric, f.n, *("" if number is None else repr(number) for number in numbers)])
    return text.getvalue()
