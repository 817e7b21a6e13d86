"""A page of HTML that holds all it needs: style, script, Plotly and the numbers."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from html import escape
from importlib.resources import files
from typing import Any
from urllib.parse import quote

from recbole_kd.errors import KDError
from recbole_kd.report.charts import Chart, Table
from recbole_kd.version import __version__

MARK = '<meta name="generator" content="recbole_kd report">'
"""Part of each page. A file without it is not replaced."""

POLICY = (
    "default-src 'none'; script-src 'unsafe-inline' 'unsafe-eval'; style-src 'unsafe-inline'; img-src data: blob:; "
    "base-uri 'none'; form-action 'none'"
)
"""Content policy of the page: the browser loads nothing from elsewhere. Plotly compiles its shaders with eval."""


@dataclass(frozen=True)
class Section:
    """A part of a page.

    Attributes:
        title: the heading.
        charts: shown first.
        table: shown below the charts.
        text: lines above both.
        csv: the same as a csv file to download, or none.
        folded: shown only after a click.
    """

    title: str
    charts: Sequence[Chart] = ()
    table: Table | None = None
    text: Sequence[str] = ()
    csv: str = ""
    folded: bool = False


@dataclass(frozen=True)
class Page:
    """A page: title, the sentence to read first, warnings, sections."""

    title: str
    verdict: str
    good: bool | None = None
    warnings: Sequence[str] = ()
    sections: Sequence[Section] = field(default_factory=list)


def html_of(page: Page) -> str:
    """Return a page as HTML. Every text is escaped.

    Raises:
        KDError: Plotly is not installed.
    """
    colour = {True: "good", False: "bad", None: "open"}[page.good]
    body = [
        f"<h1>{escape(page.title)}</h1>",
        f'<p class="verdict {colour}">{escape(page.verdict)}</p>',
        *(f'<p class="warning">warning: {escape(text)}</p>' for text in page.warnings),
        "<noscript><p>The charts need JavaScript; each has its numbers as a table below it.</p></noscript>",
        *(_section(number, section) for number, section in enumerate(page.sections)),
        f"<footer>recbole_kd {escape(__version__)}</footer>",
    ]
    return "\n".join(
        [
            "<!DOCTYPE html>",
            '<html lang="en">',
            "<head>",
            '<meta charset="utf-8">',
            f'<meta http-equiv="Content-Security-Policy" content="{escape(POLICY)}">',
            '<meta name="viewport" content="width=device-width, initial-scale=1">',
            '<meta name="color-scheme" content="light dark">',
            '<link rel="icon" href="data:,">',
            MARK,
            f"<title>{escape(page.title)}</title>",
            f"<style>\n{_own('page.css')}</style>",
            "</head>",
            "<body>",
            "<main>",
            *body,
            "</main>",
            f"<script>{plotly_js()}</script>",
            f"<script>\n{_own('page.js')}</script>",
            "</body>",
            "</html>",
            "",
        ]
    )


def plotly_js() -> str:
    """Return the source of plotly.js from the installed package, without importing it.

    Raises:
        KDError: Plotly is not installed, or has no such file.
    """
    try:
        return (files("plotly") / "package_data" / "plotly.min.js").read_text(encoding="utf-8")
    except (ModuleNotFoundError, OSError) as error:
        raise KDError(f"Reports need plotly ({error}): pip install plotly") from None


def figure_json(chart: Chart) -> str:
    """Return a chart's figure as JSON that can stand inside a script element."""
    text = json.dumps({"data": list(chart.traces), "layout": chart.layout}, allow_nan=False)
    return text.replace("&", "\\u0026").replace("<", "\\u003c").replace(">", "\\u003e")


def _own(name: str) -> str:
    return (files("recbole_kd.report") / name).read_text(encoding="utf-8")


def _section(number: int, section: Section) -> str:
    inner = [f"<p>{escape(line)}</p>" for line in section.text]
    inner += [_figure(f"chart-{number}-{place}", chart) for place, chart in enumerate(section.charts)]
    inner += [_table(section.table)] if section.table is not None else []
    if section.csv:
        inner.append(f'<p><a download="table.csv" href="data:text/csv;charset=utf-8,{quote(section.csv)}">csv</a></p>')
    heading = escape(section.title)
    if section.folded:
        return "\n".join(["<section><details>", f"<summary>{heading}</summary>", *inner, "</details></section>"])
    return "\n".join(["<section>", f"<h2>{heading}</h2>", *inner, "</section>"])


def _figure(name: str, chart: Chart) -> str:
    note = f"<p>{escape(chart.note)}</p>" if chart.note else ""
    return "\n".join(
        [
            f'<figure id="{name}" class="chart" aria-label="{escape(chart.title)}">',
            f"<figcaption><h3>{escape(chart.title)}</h3>{note}</figcaption>",
            '<div class="plot" role="img" aria-hidden="true"></div>',
            f'<script type="application/json">{figure_json(chart)}</script>',
            "<details><summary>numbers</summary>",
            _table(chart.table),
            "</details>",
            "</figure>",
        ]
    )


def _table(table: Table) -> str:
    head = "".join(f'<th scope="col">{escape(text)}</th>' for text in table.headers)
    rows = [
        "<tr>" + "".join(_cell(cell) for cell in row) + "</tr>"
        for row in table.rows
    ]  # fmt: skip
    return "\n".join(
        ['<div class="wide"><table>', f"<thead><tr>{head}</tr></thead>", "<tbody>", *rows, "</tbody></table></div>"]
    )


def _cell(text: str) -> str:
    """Return a cell; long text wraps, numbers do not."""
    return f'<td class="long">{escape(text)}</td>' if len(text) > 32 else f"<td>{escape(text)}</td>"


def text_of(value: Any) -> str:
    """Return a value from a file as one line of text, shortened."""
    text = " ".join((value if isinstance(value, str) else json.dumps(value, default=str)).split())
    return text if len(text) <= 200 else f"{text[:197]}..."
