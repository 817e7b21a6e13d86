"""Reports in headless Chromium: every chart is drawn, nothing is cut off, no request leaves the page, no error."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from recbole_kd.report.write import write_report
from tests.support.made_reports import MADE
from tests.support.scripts import script

pytestmark = pytest.mark.browser

SECONDS_TO_DRAW = 60
SIZES = {"desk": ("light", 1100, 800, False), "phone": ("dark", 390, 800, True)}
HOSTILE = "</script><img src=x onerror=\"document.title='run'\"><b>bold</b> & a long name that has to wrap somewhere"


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    pytest.importorskip("selenium", reason="needs selenium")
    pictures = script("report_pictures")
    if pictures.browser_programs() is None:
        pytest.skip("needs chromium and chromedriver (Debian: apt-get install chromium chromium-driver)")
    opened = pictures.open_browser()
    try:
        yield opened
    finally:
        opened.quit()


def looks_of(
    path: Path, browser: Any, sizes: tuple[str, ...] = ("desk", "phone")
) -> Iterator[tuple[dict[str, Any], str, int]]:
    """What can be seen of a page, the scheme and the width: on a desk in light colours, on a phone in dark ones."""
    from selenium.webdriver.support.ui import WebDriverWait

    for log in ("browser", "performance"):
        browser.get_log(log)  # forget earlier pages
    for name in sizes:
        scheme, width, height, mobile = SIZES[name]
        features = [{"name": "prefers-color-scheme", "value": scheme}]
        browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": features})
        size = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": mobile}
        browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
        browser.get(path.as_uri())
        WebDriverWait(browser, SECONDS_TO_DRAW).until(lambda page: page.execute_script(DRAWN))
        yield browser.execute_script(LOOK), scheme, width


@pytest.mark.parametrize("kind", MADE)
def test_a_report_is_drawn_with_its_labels_and_stays_on_its_page(kind: str, browser: Any, tmp_path: Path) -> None:
    path = write_report(MADE[kind](tmp_path))
    for seen, scheme, width in looks_of(path, browser):
        check_drawn(seen, scheme, width)
        assert seen["unlabelled"] == [], (scheme, "a chart lacks a title on one of its axes")
        assert seen["cut"] == [], (scheme, "a text of a chart lies outside its chart")
        assert seen["overlapping"] == [], (scheme, "labels of an axis lie on each other")
    check_messages(path, browser)


@pytest.mark.parametrize("kind", MADE)
def test_names_with_markup_are_text(kind: str, browser: Any, tmp_path: Path) -> None:
    path = write_report(MADE[kind](tmp_path, HOSTILE))
    for seen, scheme, width in looks_of(path, browser, ("phone",)):
        check_drawn(seen, scheme, width)
        assert seen["hostile"] == 0 and browser.title != "run"
    check_messages(path, browser)


def check_drawn(seen: dict[str, Any], scheme: str, width: int) -> None:
    assert seen["drawn"] == seen["figures"] > 0
    assert seen["empty"] == 0, "a chart has no marks"
    assert seen["width"] <= width, "the page is wider than its window"
    assert seen["background"] == {"light": "rgb(255, 255, 255)", "dark": "rgb(20, 24, 31)"}[scheme]


def check_messages(path: Path, browser: Any) -> None:
    """No error was said, and nothing but the page was asked for."""
    assert not [entry for entry in browser.get_log("browser") if entry["level"] == "SEVERE"]
    messages = [json.loads(entry["message"])["message"] for entry in browser.get_log("performance")]
    asked = {m["params"]["request"]["url"] for m in messages if m["method"] == "Network.requestWillBeSent"}
    assert {url for url in asked if not url.startswith(("data:", "blob:"))} <= {path.as_uri()}


DRAWN = "return document.body !== null && document.body.dataset.drawn !== undefined"
LOOK = """
const charts = Array.from(document.querySelectorAll("figure.chart .plot"));
const titleOf = (chart) => chart.closest("figure").querySelector("h3").textContent;
const texts = (chart) => Array.from(chart.querySelectorAll(".main-svg text")).filter((text) => text.textContent.trim());
const labelled = (chart) => chart.querySelector(".parcoords")
  ? chart.querySelectorAll(".axis-title").length > 1
  : chart.querySelector(".xtitle") && (chart.querySelector(".ytitle") || chart.querySelector(".barlayer"));
const outside = (text, chart) => {
  const [own, all] = [text.getBoundingClientRect(), chart.getBoundingClientRect()];
  return own.left < all.left - 2 || own.right > all.right + 2 || own.top < all.top - 2 || own.bottom > all.bottom + 2;
};
const touching = (labels) => labels.flatMap((one, at) => labels.slice(at + 1).filter((other) => {
  const [a, b] = [one.getBoundingClientRect(), other.getBoundingClientRect()];
  return a.left < b.right - 1 && b.left < a.right - 1 && a.top < b.bottom - 1 && b.top < a.bottom - 1;
}).map((other) => one.textContent + " / " + other.textContent));
const marks = ".scatterlayer .points path, .scatterlayer .js-line, .barlayer .point path, .parcoords";
return {
  figures: charts.length,
  drawn: Number(document.body.dataset.drawn),
  empty: charts.filter((chart) => !chart.querySelector(marks)).length,
  width: document.documentElement.scrollWidth,
  unlabelled: charts.filter((chart) => !labelled(chart)).map(titleOf),
  cut: charts.flatMap((chart) => texts(chart).filter((text) => outside(text, chart)).map((text) => text.textContent)),
  overlapping: charts.flatMap((chart) => [".xaxislayer-above .xtick text", ".yaxislayer-above .ytick text"].flatMap(
    (ticks) => touching(Array.from(chart.querySelectorAll(ticks))))),
  hostile: document.querySelectorAll("img, .plot b").length,
  background: getComputedStyle(document.body).backgroundColor,
};
"""
