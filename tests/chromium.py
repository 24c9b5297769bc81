"""Headless Chromium by its driver (Debian: chromium, chromium-driver), for tests of the page."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

CHROMIUM, DRIVER = shutil.which("chromium"), shutil.which("chromedriver")
SELENIUM = find_spec("selenium") is not None
needs_chromium = pytest.mark.skipif(
    not (CHROMIUM and DRIVER and SELENIUM), reason="chromium, chromium-driver or Selenium is not installed"
)


@contextmanager
def opened(page: Path) -> Iterator[Any]:
    """A browser that shows a page and has run Plotly."""
    from selenium import webdriver

    options = webdriver.ChromeOptions()
    options.binary_location = str(CHROMIUM)
    for argument in ("headless=new", "no-sandbox", "disable-dev-shm-usage", "window-size=1440,1000"):
        options.add_argument(f"--{argument}")
    options.add_argument("--enable-unsafe-swiftshader")
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    browser = webdriver.Chrome(options=options, service=webdriver.ChromeService(str(DRIVER)))
    try:
        browser.get(page.as_uri())
        wait(browser, "return window.Plotly !== undefined")
        yield browser
    finally:
        browser.quit()


def wait(browser: Any, script: str, seconds: float = 60) -> Any:
    """What a script returns as soon as that is true."""
    until = time.monotonic() + seconds
    while not (found := browser.execute_script(script)):
        assert time.monotonic() < until, script
        time.sleep(0.1)
    return found


def data(browser: Any) -> Any:
    """What the page's script knows."""
    return json.loads(browser.execute_script("return document.getElementById('data').textContent"))


def show(browser: Any, number: int) -> None:
    """Press the button of a section."""
    browser.execute_script("document.querySelectorAll('.tab')[arguments[0]]?.click()", number)


def draws_everything(browser: Any) -> None:
    """Every figure of every section appears, without an error, a word on the console, or a request to a network."""
    parts = data(browser)["sections"]
    for number, part in enumerate(parts):
        show(browser, number)
        for name, figure in part["figures"].items():
            place = f"section.task:not([hidden]) [data-figure={name}]"
            browser.execute_script(f"document.querySelector('{place}').scrollIntoView()")
            done = "js-plotly-plot" if figure else "none"
            wait(browser, f"return document.querySelector('{place}').classList.contains('{done}')")
            assert "WebGL" not in browser.execute_script(f"return document.querySelector('{place}').textContent")
    told = [entry for entry in browser.get_log("browser") if "GPU stall due to ReadPixels" not in entry["message"]]
    assert told == []
    events = [json.loads(entry["message"])["message"] for entry in browser.get_log("performance")]
    asked = [event["params"]["request"]["url"] for event in events if event["method"] == "Network.requestWillBeSent"]
    assert asked
    assert {url.partition(":")[0] for url in asked} <= {"file", "data", "blob"}
