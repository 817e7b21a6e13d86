"""Charts as Plotly figures, each with a title that says what to see and its numbers as a table."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from html import escape
from typing import Any

TEACHER, ALONE, DISTILLED, MARK = "#8793a3", "#d97f1f", "#2f7fe0", "#c2418f"
"""Colours of the teacher, the student alone, the distilled student, and of what is marked."""

OTHERS = ("#2f7fe0", "#d97f1f", "#2a9d72", "#c2418f", "#8c6bd1", "#b8860b", "#1f9fb5", "#c9504a", "#6b8e23", "#7a7f87")
"""Colours of lines without a role. All are readable on white and on dark grey."""

MOST_ROWS = 40
"""Rows of a chart's table. Longer series are shown at evenly spaced places."""

Values = Sequence[float | None]


@dataclass(frozen=True)
class Table:
    """Text cells with headers."""

    headers: Sequence[str]
    rows: Sequence[Sequence[str]]


@dataclass(frozen=True)
class Chart:
    """One figure.

    Attributes:
        title: what to see, in a sentence.
        traces: Plotly traces.
        layout: Plotly's layout, with a title for each axis.
        table: the numbers, for readers without the picture.
        note: what the figure shows, and how it was measured.
    """

    title: str
    traces: Sequence[Mapping[str, Any]]
    layout: Mapping[str, Any]
    table: Table
    note: str = ""


@dataclass(frozen=True)
class Series:
    """One line of a chart: a value for each place on the x axis, None where there is none."""

    name: str
    values: Values
    colour: str
    dash: str = "solid"
    more: Mapping[str, Any] = field(default_factory=dict)


def plain(text: object) -> str:
    """Return a text that Plotly shows as it is; Plotly reads tags and entities in all its texts."""
    return escape(str(text), quote=False)


def wrapped(text: object, width: int = 22) -> str:
    """Return :func:`plain` text in lines of about ``width`` characters, for labels beside bars."""
    return "<br>".join(plain(line) for line in textwrap.wrap(str(text), width)) or plain(text)


def number(value: float | None) -> str:
    """Return a number with four significant digits, or a dash."""
    if value is None or not math.isfinite(value):
        return "-" if value is None else str(value)
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.4g}"


def finite(values: Sequence[Any]) -> list[float | None]:
    """Return numbers as floats, and None for all else: NaN and infinity cannot be drawn."""
    return [
        float(value)
        if isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
        else None
        for value in values
    ]


FEW_TICKS = 12
"""Up to this many whole numbers each have a label."""


def axes(x: str, y: str, **more: Any) -> dict[str, Any]:
    """Return the layout of a chart with two axes.

    Args:
        x: title of the x axis, with its unit.
        y: title of the y axis, with its unit.
        more: further entries of the layout. ``xaxis`` and ``yaxis`` are added to the titles.
    """
    return {
        **more,
        "xaxis": {"title": {"text": plain(x)}, "automargin": True, **more.get("xaxis", {})},
        "yaxis": {"title": {"text": plain(y)}, "automargin": True, **more.get("yaxis", {})},
    }


def whole_ticks(x: Sequence[float]) -> dict[str, Any]:
    """Return the part of an x axis that keeps its labels whole numbers, for epochs or trials."""
    return {"dtick": 1} if x and max(x) - min(x) <= FEW_TICKS else {}


def line_chart(
    title: str, x: Sequence[float], series: Sequence[Series], labels: tuple[str, str], note: str = "", **layout: Any
) -> Chart:
    """Return a chart of lines over the same x.

    Args:
        title: the title.
        x: places on the x axis, whole numbers.
        series: the lines; each has a value for each place.
        labels: titles of the axes.
        note: text below the chart.
        layout: further entries of the layout, see :func:`axes`.
    """
    mode = "lines+markers" if len(x) <= MOST_ROWS else "lines"
    traces: list[Mapping[str, Any]] = [
        {
            "type": "scatter", "mode": mode, "name": plain(one.name), "x": list(x), "y": finite(one.values),
            "line": {"color": one.colour, "dash": one.dash, "width": 2}, "marker": {"size": 4},
            **one.more,
        }
        for one in series
    ]  # fmt: skip
    layout["xaxis"] = {**whole_ticks(x), **layout.get("xaxis", {})}
    return Chart(title, traces, axes(*labels, **layout), series_table(labels[0], x, series), note)


def band_chart(
    title: str, x: Sequence[float], quartiles: Sequence[Values], labels: tuple[str, str], note: str = ""
) -> Chart:
    """Return a chart of a median between its quartiles.

    Args:
        title: the title.
        x: places on the x axis, whole numbers.
        quartiles: the lower quartile, the median and the upper quartile of each place.
        labels: titles of the axes.
        note: text below the chart.
    """
    low, middle, high = (finite(values) for values in quartiles)
    edge = {"type": "scatter", "mode": "lines", "x": list(x), "line": {"width": 0}, "hoverinfo": "skip"}
    median = {"color": DISTILLED, "width": 2}
    traces: list[Mapping[str, Any]] = [
        {**edge, "name": "lower quartile", "y": low, "showlegend": False},
        {**edge, "name": "quartiles", "y": high, "fill": "tonexty", "fillcolor": "rgba(47,127,224,0.25)"},
        {"type": "scatter", "mode": "lines", "name": "median", "x": list(x), "y": middle, "line": median},
    ]
    series = [
        Series(name, values, DISTILLED)
        for name, values in (("lower quartile", low), ("median", middle), ("upper quartile", high))
    ]
    return Chart(title, traces, axes(*labels, xaxis=whole_ticks(x)), series_table(labels[0], x, series), note)


def series_table(label: str, x: Sequence[float], series: Sequence[Series]) -> Table:
    """Return the numbers of lines, at most :data:`MOST_ROWS` rows with the first and the last."""
    places = spaced(len(x), MOST_ROWS)
    rows = [[f"{x[place]:g}", *(number(finite([one.values[place]])[0]) for one in series)] for place in places]
    return Table([label, *(one.name for one in series)], rows)


def spaced(n: int, most: int) -> list[int]:
    """Return at most ``most`` evenly spaced places of 0 to n - 1, the first and the last among them."""
    if n <= most:
        return list(range(n))
    return sorted({round(step * (n - 1) / (most - 1)) for step in range(most)})


def log_if_wide(values: Sequence[float | None]) -> dict[str, Any]:
    """Return a logarithmic axis if all values are positive and span more than a factor of 20.

    It is labelled at 1, 2 and 5 of each decade, or at 1 alone if there are many: more labels lie on each other.
    """
    known = [value for value in values if value is not None]
    if not known or min(known) <= 0 or max(known) <= 20 * min(known):
        return {}
    return {"type": "log", "dtick": "D2" if max(known) < 1000 * min(known) else 1}
