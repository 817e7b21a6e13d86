#!/usr/bin/env python
"""Take pictures of reports in headless Chromium.

Example: `python scripts/report_pictures.py saved/RUN docs/images/report-run.png`. It needs selenium and Debian's
packages chromium and chromium-driver.
"""

from __future__ import annotations

import argparse
import base64
import shutil
import sys
import time
from pathlib import Path
from typing import Any

# The script also runs from a checkout that is not installed.
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

OPTIONS = ("headless=new", "no-sandbox", "disable-dev-shm-usage", "enable-unsafe-swiftshader", "hide-scrollbars")
WIDTH, TALLEST = 1100, 4400


def browser_programs() -> tuple[str, str] | None:
    """Return the paths of Chromium and its driver, or None if one is missing."""
    chromium, driver = shutil.which("chromium"), shutil.which("chromedriver")
    return None if chromium is None or driver is None else (chromium, driver)


def open_browser() -> Any:
    """Return a headless Chromium that logs its console and its requests.

    Raises:
        FileNotFoundError: Chromium or its driver is missing.
    """
    from selenium import webdriver
    from selenium.webdriver.chrome.service import Service

    programs = browser_programs()
    if programs is None:
        raise FileNotFoundError("chromium or chromedriver (Debian: apt-get install chromium chromium-driver)")
    options = webdriver.ChromeOptions()
    options.binary_location = programs[0]
    for option in OPTIONS:
        options.add_argument(f"--{option}")
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    return webdriver.Chrome(options=options, service=Service(programs[1]))


def take_picture(browser: Any, page: Path, picture: Path) -> None:
    """Write a picture of a page from its top, at most 4,400 pixels tall, in light colours."""
    size = {"width": WIDTH, "height": 900, "deviceScaleFactor": 1, "mobile": False}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
    features = [{"name": "prefers-color-scheme", "value": "light"}]
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": features})
    browser.get(page.resolve().as_uri())
    time.sleep(1)  # transitions of the charts
    height = min(TALLEST, browser.execute_script("return document.documentElement.scrollHeight"))
    clip = {"x": 0, "y": 0, "width": WIDTH, "height": height, "scale": 1}
    found = browser.execute_cdp_cmd("Page.captureScreenshot", {"clip": clip, "captureBeyondViewport": True})
    picture.write_bytes(base64.b64decode(found["data"]))


def main(arguments: list[str]) -> int:
    """Make the report of a folder anew and write its picture."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("folder", type=Path, help="folder of a run, comparison, search or grid")
    parser.add_argument("picture", type=Path, help="file to write (.png)")
    given = parser.parse_args(arguments)
    from recbole_kd.report.write import write_report

    browser = open_browser()
    try:
        take_picture(browser, write_report(given.folder), given.picture)
    finally:
        browser.quit()
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
