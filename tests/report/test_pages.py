"""Reports are whole, say what to see, load nothing from elsewhere and show names from files as text."""

from __future__ import annotations

import json
import re
from functools import partial
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from recbole_kd.cli.program import run_verb
from recbole_kd.errors import ConfigError, TargetError
from recbole_kd.report.page import POLICY, Page, figure_json, html_of, plotly_js
from recbole_kd.report.write import page_of, try_report, write_report
from tests.support.made_reports import MADE, history, made_result, write_run

report = partial(run_verb, "report")

HOSTILE = "</script><script>alert(1)</script><img src=\"http://evil/x\" onerror='alert(1)'>&lt;b&gt;"
MOST_BYTES = 6_000_000
LEAST_CHARTS = {"run": 10, "search": 2, "grid": 3, "comparison": 3}
OTHER_AXES = ("parcoords",)
"""Kinds of traces that have labels of their own instead of two axes."""


class Elements(HTMLParser):
    """The elements of a page, the texts by element, and what its attributes would load."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.loads: list[str] = []
        self.handlers: list[str] = []
        self.text: list[str] = []
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.loads += [value or "" for name, value in attrs if name in ("src", "href", "srcset", "action", "data")]
        self.handlers += [name for name, _ in attrs if name.startswith("on")]

    def handle_data(self, data: str) -> None:
        self.text.append(data)


def charts_of(page: Page) -> list[Any]:
    return [chart for section in page.sections for chart in section.charts]


def texts_in(value: Any) -> list[str]:
    """All texts inside a figure."""
    if isinstance(value, dict):
        return [text for inner in value.values() for text in texts_in(inner)]
    if isinstance(value, list):
        return [text for inner in value for text in texts_in(inner)]
    return [value] if isinstance(value, str) else []


@pytest.mark.parametrize("kind", MADE)
def test_a_report_is_one_file_that_loads_nothing(kind: str, tmp_path: Path) -> None:
    path = write_report(MADE[kind](tmp_path / kind))
    assert path == tmp_path / kind / "report.html"
    assert path.stat().st_size < MOST_BYTES
    page = path.read_text(encoding="utf-8")
    found = Elements(page.replace(plotly_js(), ""))
    assert all(target.startswith("data:") for target in found.loads), found.loads
    assert POLICY.replace("'", "&#x27;") in page
    assert "default-src 'none'" in POLICY and "http" not in POLICY
    assert page.count(plotly_js()) == 1
    assert 'name="viewport"' in page and "prefers-color-scheme: dark" in page and "max-width: 40rem" in page


@pytest.mark.parametrize("kind", MADE)
def test_each_chart_has_numbers_a_title_and_axes_and_is_valid(kind: str, tmp_path: Path) -> None:
    go = pytest.importorskip("plotly.graph_objects")
    charts = charts_of(page_of(MADE[kind](tmp_path)))
    assert len(charts) >= LEAST_CHARTS[kind]
    assert len({chart.title for chart in charts}) == len(charts)
    for chart in charts:
        assert re.search(r"[0-9:]", chart.title), chart.title  # it says what there is to see
        figure = go.Figure(data=list(chart.traces), layout=dict(chart.layout))  # raises for what Plotly does not know
        assert len(figure.data) >= 1
        for trace in figure.data:
            values = trace.line.color if trace.type in OTHER_AXES else trace.y
            assert any(value is not None for value in values)
        if figure.data[0].type in OTHER_AXES:
            assert all(dimension.label and len(dimension.values) for dimension in figure.data[0].dimensions)
        else:
            assert figure.layout.xaxis.title.text
            assert figure.layout.yaxis.title.text or figure.data[0].orientation == "h"
        assert chart.table.rows and all(len(row) == len(chart.table.headers) for row in chart.table.rows)


@pytest.mark.parametrize("kind", MADE)
def test_names_from_files_are_shown_as_text(kind: str, tmp_path: Path) -> None:
    plain, hostile = MADE[kind](tmp_path / "plain"), MADE[kind](tmp_path / "hostile", HOSTILE)
    harmless = Elements(html_of(page_of(plain)).replace(plotly_js(), ""))
    made = html_of(page_of(hostile))
    found = Elements(made.replace(plotly_js(), ""))
    assert "img" not in found.tags and not found.handlers
    assert found.tags.count("script") == harmless.tags.count("script")
    assert sum(HOSTILE in text for text in found.text) >= 2, "the name itself can be read"
    for chart in charts_of(page_of(hostile)):
        texts = [text.replace("<br>", "") for text in texts_in([list(chart.traces), dict(chart.layout)])]
        assert not [text for text in texts if "<" in text]
        assert json.loads(figure_json(chart))["data"] and "<" not in figure_json(chart)


def test_a_run_shows_its_verdict_table_warnings_and_the_source_of_each_setting(tmp_path: Path) -> None:
    shown = " ".join(Elements(html_of(page_of(write_run(tmp_path))).replace(plotly_js(), "")).text)
    for words in (
        "RCEKD: +30 %", "warning: RCEKD", "test ndcg@10", "RCEKD alone", "Validation NDCG@10 is best in epoch 2 of 3",
        "Settings of the student alone", "Settings of the teacher RCEKD", "command", "own_figure by epoch: 1 to 2",
    ):  # fmt: skip
        assert words in shown, words


def test_a_run_without_history_teacher_or_student_has_a_report_too(tmp_path: Path) -> None:
    bare = {key: value for key, value in made_result()["distilled"].items() if key in ("valid", "test")}
    sizes = {"parameters": 1, "bytes": 0, "inference_us_per_user": None}
    saved = {"valid": None, "test": None, "parameters": None, "bytes": None, "inference_us_per_user": None}
    result = {"distilled": {**bare, **sizes}, "student": None, "teacher": saved, "setting_sources": None}
    page = page_of(write_run(tmp_path, **result))
    assert len(charts_of(page)) == 1  # the test metrics
    assert "-" in page.sections[0].table.rows[0]  # type: ignore[union-attr]


def test_numbers_that_cannot_be_drawn_are_gaps(tmp_path: Path) -> None:
    distilled = {**made_result()["distilled"], "history": {**history(), "base_loss": [float("inf"), 1.0, None]}}
    for chart in charts_of(page_of(write_run(tmp_path, distilled=distilled))):
        assert "NaN" not in figure_json(chart) and "Infinity" not in figure_json(chart)


def test_a_search_names_its_best_finished_trial(tmp_path: Path) -> None:
    page = page_of(MADE["search"](tmp_path))
    assert page.verdict == "Best of 5 trials: validation ndcg@10 0.13 with kd_weight=10, RCEKD=RCEKD a."
    assert "found by trial 2 of 5" in charts_of(page)[0].title


def test_a_comparison_has_a_dot_for_each_seed_and_its_own_table_as_csv(tmp_path: Path) -> None:
    page = page_of(MADE["comparison"](tmp_path))
    bar, dots = charts_of(page)[0].traces
    assert len(dots["x"]) == 1 + 2 + 2 * 2  # the teacher was trained once
    assert bar["x"][0] == pytest.approx(0.12) and bar["x"][-1] == pytest.approx(0.14)
    table = page.sections[1]
    assert table.csv == (tmp_path / "table.csv").read_text()
    assert table.text == ["± is the sample standard deviation, RCEKD."]
    assert "data:text/csv" in html_of(page)
    (tmp_path / "shown.json").unlink()
    with pytest.raises(ConfigError, match="two results of RCEKD, seed 0"):
        page_of(tmp_path)


def test_the_verb_writes_a_report_anew_but_replaces_no_file_of_others(tmp_path: Path) -> None:
    folder = write_run(tmp_path)
    assert report([str(folder)]) == 0
    first = (folder / "report.html").read_text()
    assert report([str(folder)]) == 0
    assert (folder / "report.html").read_text() == first
    (folder / "report.html").write_text("mine")
    with pytest.raises(TargetError, match="did not make"):
        write_report(folder)
    assert (folder / "report.html").read_text() == "mine"


@pytest.mark.parametrize(
    ("files", "words"),
    [
        ({}, "is not the folder of a run"),
        ({"result.json": "{"}, "no complete record"),
        ({"result.json": "[]"}, "no complete record"),
        ({"trials.json": '{"trials": [{}]}'}, "no complete record"),
        ({"a-seed0.json": "{}"}, "no complete record"),
    ],
)
def test_a_folder_without_a_record_is_refused_in_a_sentence(
    files: dict[str, str], words: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name, text in files.items():
        (tmp_path / name).write_text(text)
    with pytest.raises(ConfigError, match=words):
        write_report(tmp_path)
    assert report([str(tmp_path)]) == 2
    assert "Traceback" not in capsys.readouterr().err
    assert not (tmp_path / "report.html").exists()
    assert words in (try_report(tmp_path) or "")
