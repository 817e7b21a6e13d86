"""The page of a comparison or a grid: bars with seed dots, curves, gain against time, table."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from statistics import mean, stdev
from typing import Any

from recbole_kd.report.charts import (
    ALONE,
    DISTILLED,
    OTHERS,
    TEACHER,
    Chart,
    Series,
    Table,
    axes,
    finite,
    line_chart,
    plain,
    wrapped,
)
from recbole_kd.report.page import Page, Section
from recbole_kd.report.run_charts import history_of

STUDENT_ALONE = "student alone"

Record = Mapping[str, Any]


@dataclass
class Row:
    """The test values of a teacher, of the student alone or of a method, by seed.

    Attributes:
        name: name of the row.
        colour: colour of its bar.
        values: seed -> test value.
        seconds: durations of an epoch.
        curve: validation by epoch of the lowest seed.
    """

    name: str
    colour: str
    values: dict[int, float] = field(default_factory=dict)
    seconds: list[float] = field(default_factory=list)
    curve: list[float | None] = field(default_factory=list)

    @property
    def mean(self) -> float:
        """Mean over the seeds."""
        return mean(self.values.values())

    @property
    def sd(self) -> float | None:
        """Sample standard deviation over the seeds, None for one."""
        return stdev(self.values.values()) if len(self.values) > 1 else None


def rows_of(records: Sequence[Record], metric: str) -> list[Row]:
    """Return the rows that have values: teachers, the students alone, the methods.

    Args:
        records: results of the runs, each with ``run`` and ``seed``, sorted by seed.
        metric: name of the metric.
    """
    rows: dict[str, Row] = {}
    for record in records:
        run, seed = str(record["run"]), int(record["seed"])
        sides = [
            (f"teacher of {run}", TEACHER, record.get("teacher")),
            (f"{STUDENT_ALONE}, of {run}" if record.get("distilled") else run, ALONE, record.get("student")),
            (run, DISTILLED, record.get("distilled")),
        ]
        for name, colour, figures in sides:
            value = finite([((figures or {}).get("test") or {}).get(metric)])[0]
            if figures is None or value is None:
                continue
            row = rows.setdefault(f"{colour} {name}", Row(name, colour))
            row.curve = row.curve or history_of(figures).get(f"valid_{metric}", [])
            row.values[seed] = value
            row.seconds += [second for second in finite([figures.get("seconds_per_epoch")]) if second is not None]
    return _merged(rows.values())


def _merged(rows: Any) -> list[Row]:
    """Return the rows, teachers first; teachers or students alone with the same values share one row."""
    order = [TEACHER, ALONE, DISTILLED]
    found: list[Row] = []
    for row in sorted(rows, key=lambda row: order.index(row.colour)):
        if row.colour == TEACHER:
            row.values = dict.fromkeys(range(1), mean(row.values.values())) if _is_one(row) else row.values
        same = [other for other in found if other.colour == row.colour != DISTILLED and other.values == row.values]
        if not same:
            found.append(row)
    for colour, short in ((TEACHER, "teacher"), (ALONE, STUDENT_ALONE)):
        alike = [row for row in found if row.colour == colour]
        if len(alike) == 1:
            alike[0].name = short
    return found


def _is_one(row: Row) -> bool:
    """Return whether a teacher has the same value for all seeds of the student: it was trained once."""
    return len(set(row.values.values())) == 1


def comparison_page(
    name: str, records: Sequence[Record], table: Table | None = None, notes: Sequence[str] = (), csv: str = ""
) -> Page:
    """Return the page of a comparison or a grid.

    Args:
        name: name of its folder.
        records: results of the runs, not empty.
        table: the comparison's own table, with tests. None shows mean and deviation only.
        notes: lines about the table.
        csv: the table as csv.
    """
    records = sorted(records, key=lambda record: (int(record["seed"]), str(record["run"])))
    metric = str(records[0].get("valid_metric") or "ndcg@20")
    rows = rows_of(records, metric.lower())
    methods = [row for row in rows if row.colour == DISTILLED]
    best = max(methods, key=lambda row: row.mean, default=None)
    alone = next((row for row in rows if row.colour == ALONE), None)
    charts = [bars(rows, metric), curves(rows, metric), gain_and_time(methods, alone, metric)]
    return Page(
        name,
        _verdict(best, alone, metric),
        sections=[
            Section("Charts", charts=[chart for chart in charts if chart is not None]),
            Section("Table", table=table or _table(rows, metric, alone), text=notes, csv=csv),
        ],
    )


def _verdict(best: Row | None, alone: Row | None, metric: str) -> str:
    if best is None:
        return "No method is done yet."
    text = f"Highest mean test {metric}: {best.name}, {_spread(best)}, over {_seeds(best)}"
    gain = _gain(best, alone)
    return f"{text}, {100 * gain:+.1f} % over the student alone." if gain is not None else f"{text}."


def _seeds(row: Row) -> str:
    return f"{len(row.values)} seed{'' if len(row.values) == 1 else 's'}"


def _spread(row: Row) -> str:
    return f"{row.mean:.4f}" + ("" if row.sd is None else f" ± {row.sd:.4f}")


def _gain(row: Row, alone: Row | None) -> float | None:
    """Return the relative gain over the student alone, over the seeds that both have."""
    shared = sorted(set(row.values) & set(alone.values)) if alone is not None else []
    if alone is None or not shared:
        return None
    below = mean(alone.values[seed] for seed in shared)
    return mean(row.values[seed] for seed in shared) / below - 1 if below else None


def bars(rows: Sequence[Row], metric: str) -> Chart | None:
    """Return bars of the means with the standard deviation, and a dot for each seed."""
    if not rows:
        return None
    order = list(reversed(rows))  # Plotly draws the first at the bottom
    dots = [(wrapped(row.name), value, seed) for row in order for seed, value in row.values.items()]
    traces: list[Mapping[str, Any]] = [
        {
            "type": "bar", "orientation": "h", "name": "mean", "y": [wrapped(row.name) for row in order],
            "x": [row.mean for row in order], "marker": {"color": [row.colour for row in order], "opacity": 0.75},
            "error_x": {"type": "data", "array": [row.sd or 0.0 for row in order]}, "showlegend": False,
        },
        {
            "type": "scatter", "mode": "markers", "name": "one seed", "y": [name for name, _, _ in dots],
            "x": [value for _, value, _ in dots], "text": [f"seed {seed}" for _, _, seed in dots],
            "marker": {"size": 8, "symbol": "circle-open", "color": OTHERS[3], "line": {"width": 2}},
        },
    ]  # fmt: skip
    best = max(rows, key=lambda row: row.mean)
    cells = [
        [row.name, f"{row.mean:.4f}", "-" if row.sd is None else f"{row.sd:.4f}",
         ", ".join(f"{seed}: {value:.4f}" for seed, value in row.values.items())]
        for row in rows
    ]  # fmt: skip
    return Chart(
        f"Test {metric}: {best.name} has the highest mean, {best.mean:.4f}",
        traces,
        axes(f"test {metric}", "", height=150 + 34 * len(rows), xaxis={"nticks": 5}),
        Table(["row", "mean", "sd", "by seed"], cells),
        "Bars are means, whiskers one sample standard deviation, circles single seeds.",
    )


def curves(rows: Sequence[Row], metric: str) -> Chart | None:
    """Return the validation metric by epoch of each row's first seed."""
    found = [row for row in rows if row.curve]
    if not found:
        return None
    length = max(len(row.curve) for row in found)
    dashes = ("solid", "dash", "dot")
    series = [
        Series(
            row.name, [*row.curve, *[None] * (length - len(row.curve))],
            OTHERS[place % len(OTHERS)], dashes[place // len(OTHERS) % 3],
        )
        for place, row in enumerate(found)
    ]  # fmt: skip
    top = max(found, key=lambda row: max(value for value in row.curve if value is not None))
    return line_chart(
        f"Validation {metric} by epoch: {top.name} climbs highest",
        list(range(1, length + 1)), series, ("epoch", f"validation {metric}"), "The first seed of each row.",
    )  # fmt: skip


def gain_and_time(methods: Sequence[Row], alone: Row | None, metric: str) -> Chart | None:
    """Return the gain over the student alone against the seconds of an epoch."""
    points = [(row, mean(row.seconds), _gain(row, alone)) for row in methods if row.seconds]
    known = [(row, seconds, 100 * gain) for row, seconds, gain in points if gain is not None]
    if not known:
        return None
    symbols = ("circle", "diamond", "square")
    traces: list[Mapping[str, Any]] = [
        {
            "type": "scatter", "mode": "markers", "name": plain(row.name), "x": [seconds], "y": [gain],
            "cliponaxis": False, "showlegend": True,
            "marker": {"size": 12, "color": OTHERS[place % len(OTHERS)], "symbol": symbols[place // len(OTHERS) % 3]},
        }
        for place, (row, seconds, gain) in enumerate(known)
    ]  # fmt: skip
    fastest = min(known, key=lambda point: point[1])
    return Chart(
        f"Gain against time: the fastest, {fastest[0].name}, gains {fastest[2]:+.1f} % at {fastest[1]:.3g} s an epoch",
        traces,
        axes(
            "seconds an epoch", f"gain in test {metric}, %",
            xaxis={"rangemode": "tozero"},
        ),
        Table(
            ["method", "seconds an epoch", "gain, %"],
            [[row.name, f"{seconds:.3g}", f"{gain:+.1f}"] for row, seconds, gain in known],
        ),
        "Gain over the student alone; up and left is better. Times are those of the machine that ran the method.",
    )  # fmt: skip


def _table(rows: Sequence[Row], metric: str, alone: Row | None) -> Table:
    cells = []
    for row in rows:
        gain = _gain(row, alone) if row.colour == DISTILLED else None
        seconds = f"{mean(row.seconds):.2f}" if row.seconds else "-"
        shown = "-" if gain is None else f"{100 * gain:+.1f} %"
        cells.append([row.name, _spread(row), str(len(row.values)), shown, seconds])
    return Table(["", f"test {metric}", "seeds", "over student alone", "s/epoch"], cells)
