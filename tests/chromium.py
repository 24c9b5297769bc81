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
ROWS = "section.task:not([hidden]) tbody tr[data-index]:not([hidden])"
POINTS = "section.task:not([hidden]) [data-figure=size] .scatterlayer .trace .point"


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


def shown(browser: Any) -> list[int]:
    """The entries in the rows of the table, from above."""
    rows = f"return [...document.querySelectorAll('{ROWS}')].map((row) => Number(row.dataset.index))"
    return [int(index) for index in browser.execute_script(rows)]


def one(browser: Any, selector: str) -> Any:
    """The first element that is displayed."""
    found = [item for item in browser.find_elements("css selector", selector) if item.is_displayed()]
    assert found, selector
    return found[0]


def weigh(browser: Any, name: str, value: float) -> None:
    """Move a slider."""
    script = """const box = document.querySelector(`input[name=${arguments[0]}]`);
        box.value = arguments[1]; box.dispatchEvent(new Event("input", {bubbles: true}))"""
    browser.execute_script(script, name, value)


def hover(browser: Any) -> str:
    """What the last point of size and quality tells under the pointer; it is clicked after that."""
    from selenium.webdriver.common.action_chains import ActionChains

    plot = one(browser, "[data-figure=size]")
    browser.execute_script("arguments[0].scrollIntoView({block: 'center'})", plot)
    wait(browser, f"return document.querySelectorAll('{POINTS}').length > 1")
    box = browser.execute_script(
        f"const box = [...document.querySelectorAll('{POINTS}')].at(-1).getBoundingClientRect();"
        "return [box.x + box.width / 2, box.y + box.height / 2]"
    )
    mouse = ActionChains(browser)
    mouse.w3c_actions.pointer_action.move_to_location(round(box[0]), round(box[1]))
    mouse.perform()
    tip = "document.getElementById('tip')"
    text = wait(browser, f"return !{tip}.hidden && {tip}.textContent")
    ActionChains(browser).click().perform()
    return str(text)


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
