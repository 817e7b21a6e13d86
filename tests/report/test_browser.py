"""Reports in headless Chromium: every chart is drawn, nothing is cut off, no request leaves the page, no error."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from recbole_kd.report.write import write_report
from tests.support.made_reports import MADE

pytestmark = pytest.mark.browser

SIZES = {"desk": (1100, 800, False), "phone": (390, 800, True)}
HOSTILE = "</script><img src=x onerror=\"document.title='run'\"><b>bold</b> & a long name that has to wrap somewhere"
OPTIONS = ("headless=new", "no-sandbox", "disable-dev-shm-usage", "enable-unsafe-swiftshader")


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    pytest.importorskip("selenium", reason="needs selenium")
    chromium, driver = shutil.which("chromium"), shutil.which("chromedriver")
    if chromium is None or driver is None:
        pytest.skip("needs chromium and chromedriver (Debian: apt-get install chromium chromium-driver)")
    from selenium import webdriver
    from selenium.webdriver.chrome.service import Service

    options = webdriver.ChromeOptions()
    options.binary_location = chromium
    for option in OPTIONS:
        options.add_argument(f"--{option}")
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    opened = webdriver.Chrome(options=options, service=Service(driver))
    try:
        yield opened
    finally:
        opened.quit()


@pytest.mark.parametrize("kind", MADE)
def test_a_report_is_drawn_and_stays_on_its_page(kind: str, browser: Any, tmp_path: Path) -> None:
    path = write_report(MADE[kind](tmp_path, HOSTILE))
    for scheme, (width, height, mobile) in zip(("light", "dark"), SIZES.values(), strict=True):
        features = [{"name": "prefers-color-scheme", "value": scheme}]
        browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": features})
        size = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": mobile}
        browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
        browser.get(path.as_uri())
        seen = browser.execute_script(LOOK)
        assert seen["drawn"] == seen["figures"] > 0
        assert seen["empty"] == 0, "a chart has no marks"
        assert seen["width"] <= width, "the page is wider than its window"
        assert seen["hostile"] == 0 and browser.title != "run"
        assert seen["background"] == {"light": "rgb(255, 255, 255)", "dark": "rgb(20, 24, 31)"}[scheme]
    assert not [entry for entry in browser.get_log("browser") if entry["level"] == "SEVERE"]
    messages = [json.loads(entry["message"])["message"] for entry in browser.get_log("performance")]
    asked = {m["params"]["request"]["url"] for m in messages if m["method"] == "Network.requestWillBeSent"}
    assert {url for url in asked if not url.startswith(("data:", "blob:"))} <= {path.as_uri()}


LOOK = """
const charts = Array.from(document.querySelectorAll("figure.chart .plot"));
const marks = ".scatterlayer .points path, .scatterlayer .js-line, .barlayer .point path, .parcoords";
return {
  figures: charts.length,
  drawn: Number(document.body.dataset.drawn),
  empty: charts.filter((chart) => !chart.querySelector(marks)).length,
  width: document.documentElement.scrollWidth,
  hostile: document.querySelectorAll("img, .plot b").length,
  background: getComputedStyle(document.body).backgroundColor,
};
"""
