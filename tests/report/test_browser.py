"""The page of 500 synthetic records in headless Chromium."""

from __future__ import annotations

import random
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from compress_exp.outputs.records import read
from compress_exp.report.page.write import gather, render
from tests.chromium import data, draws_everything, hover, needs_chromium, one, opened, show, shown, wait, weigh
from tests.report import synthetic

pytestmark = [pytest.mark.browser, needs_chromium]


@pytest.fixture(scope="module")
def html(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = synthetic.outputs(tmp_path_factory.mktemp("outputs"))
    records = read(directory)[0]
    evil = synthetic.record(random.Random(1), "sst2", "bert", ("quant/int8",), 0.5, 9)
    evil["run"] |= {"id": "evil", "method": ["<script>window.harm=1</script><img src=x onerror=window.harm=1>"]}
    path = directory / "report.html"
    path.write_text(render(directory, gather(directory, [*records, evil]), None))
    return path


@pytest.fixture(scope="module")
def browser(html: Path) -> Iterator[Any]:
    with opened(html) as started:
        yield started


def scored(entries: list[dict[str, Any]], weights: dict[str, float]) -> list[float | None]:
    names = {"A": "accuracy", "CR": "compression", "IS": "speed"}
    made: list[float | None] = []
    for entry in entries:
        counted = [part for part, name in names.items() if weights[name]]
        known = all(entry[part] is not None for part in counted)
        made.append(sum(weights[names[part]] * entry[part] for part in counted) if known else None)
    return made


def test_a_column_sorts_both_ways_with_missing_values_last(browser: Any) -> None:
    show(browser, 0)
    entries = data(browser)["sections"][0]["entries"]
    for expected in (True, False):
        one(browser, "th[data-column=quality] button").click()
        values = [entries[index]["quality"] for index in shown(browser)]
        known = [value for value in values if value is not None]
        assert known == sorted(known, reverse=expected)
        assert values[len(known) :] == [None] * (len(values) - len(known))
        assert len(values) == len(entries)


def test_words_filter_the_rows(browser: Any) -> None:
    show(browser, 0)
    entries = data(browser)["sections"][0]["entries"]
    box = one(browser, "input.filter")
    box.send_keys("int8 -distill")
    expected = [i for i, entry in enumerate(entries) if "int8" in entry["label"] and "distill" not in entry["label"]]
    assert sorted(shown(browser)) == expected
    assert one(browser, ".count").text == f"{len(expected)} of {len(entries)}"
    box.clear()
    box.send_keys(" ")
    one(browser, ".only-front").click()
    assert 0 < len(shown(browser)) < len(entries)
    one(browser, ".only-front").click()
    assert len(shown(browser)) == len(entries)


def test_the_filter_hides_the_same_runs_in_the_figures(browser: Any) -> None:
    show(browser, 0)
    part = data(browser)["sections"][0]
    entries, box = part["entries"], one(browser, "input.filter")

    def drawn(name: str, script: str) -> Any:
        place = f"section.task:not([hidden]) [data-figure={name}]"
        browser.execute_script(f"document.querySelector('{place}').scrollIntoView()")
        wait(browser, f"return document.querySelector('{place}').classList.contains('js-plotly-plot')")
        return browser.execute_script(f"return document.querySelector('{place}').data{script}")

    def points(name: str) -> list[int]:
        return sorted(drawn(name, ".flatMap((trace) => trace.customdata ?? [])"))

    def best(indices: list[int]) -> list[int]:
        chosen: dict[tuple[str, str], int] = {}
        for index in indices:
            key = entries[index]["model"], entries[index]["label"].split(" distill.")[0].split(" quant.")[0]
            quality = entries[index]["quality"]
            if quality is not None and (key not in chosen or quality > entries[chosen[key]]["quality"]):
                chosen[key] = index
        return sorted(chosen.values())

    def known(indices: list[int], *names: str) -> list[int]:
        return [index for index in sorted(indices) if all(entries[index][name] is not None for name in names)]

    line = drawn("size", "[0].x")
    assert points("size") == known(list(range(len(entries))), "bytes", "quality")
    box.send_keys("int8 -prune")
    rows = shown(browser)
    assert 0 < len(rows) < len(entries)
    number = len(known(rows, "bytes", "quality"))
    place = "document.querySelector('section.task:not([hidden]) [data-figure=size]')"
    wait(browser, f"return {place}.data.flatMap((trace) => trace.customdata ?? []).length === {number}")
    assert points("size") == known(rows, "bytes", "quality")
    assert points("latency") == known(rows, "p50", "quality")
    assert len(drawn("parallel", "[0].dimensions[0].values")) == len(known(rows, "bytes", "quality", "p50", "IS"))
    assert sorted(drawn("bars", ".map((trace) => trace.meta.entry)")) == best(rows)
    assert set(drawn("shapes", ".map((trace) => trace.meta.entry)")) <= set(rows)
    assert drawn("size", "[0].x") == line
    browser.execute_script("arguments[0].value = ''; arguments[0].dispatchEvent(new Event('input'))", box)
    whole = len(known(list(range(len(entries))), "bytes", "quality"))
    wait(browser, f"return {place}.data.flatMap((trace) => trace.customdata ?? []).length === {whole}")


def test_sliders_rank_the_rows_anew(browser: Any) -> None:
    show(browser, 0)
    entries = data(browser)["sections"][0]["entries"]
    weigh(browser, "compression", 0)
    weigh(browser, "speed", 2.5)
    scores = scored(entries, {"accuracy": 1, "compression": 0, "speed": 2.5})
    ranked = [scores[index] for index in shown(browser)]
    known = [value for value in ranked if value is not None]
    assert known == sorted(known, reverse=True)
    assert len(known) == sum(value is not None for value in scores)
    first = shown(browser)[0]
    cells = f"return document.querySelector('section.task:not([hidden]) tr[data-index=\"{first}\"]').textContent"
    assert f"{scores[first]:.2f}" in browser.execute_script(cells)
    runs = [index for index in shown(browser) if not entries[index]["dense"]]
    card = one(browser, "[data-card='best weighted score']").text
    assert f"{scores[runs[0]]:.2f}" in card
    assert entries[runs[0]]["label"] in card
    one(browser, "form.weights button[type=reset]").click()
    assert scored(entries, {"accuracy": 1, "compression": 1, "speed": 1})[shown(browser)[0]] == max(
        value for value in scored(entries, {"accuracy": 1, "compression": 1, "speed": 1}) if value is not None
    )


def test_choose_agrees_with_brute_force(browser: Any) -> None:
    chance = random.Random(3)
    questions = [
        (
            {
                "megabytes": chance.choice([None, chance.uniform(0.3, 300)]),
                "retained": chance.choice([None, chance.uniform(94, 101)]),
                "milliseconds": chance.choice([None, chance.uniform(2, 80)]),
            },
            {name: chance.choice([0, 1, chance.uniform(0, 5)]) for name in ("accuracy", "compression", "speed")},
        )
        for _ in range(60)
    ]
    ask = """return arguments[0].map(([limits, weights]) =>
        sections.map(({entries}) => choose(entries, limits, weights)))"""
    parts = data(browser)["sections"]
    some = none = 0
    for (limits, weights), answers in zip(questions, browser.execute_script(ask, questions), strict=True):
        for part, found in zip(parts, answers, strict=True):
            entries = part["entries"]
            scores = scored(entries, weights)
            fit = [index for index, entry in enumerate(entries) if not entry["dense"] and fits(entry, limits)]
            if not fit:
                none += 1
                assert "index" not in found
                assert found["reason"]
                continue
            some += 1
            best = max((score for i in fit if (score := scores[i]) is not None), default=None)
            assert found["index"] in fit
            assert found["among"] == len(fit)
            assert scores[found["index"]] == pytest.approx(best)
    assert some > 50
    assert none > 50


def fits(entry: dict[str, Any], limits: dict[str, float | None]) -> bool:
    values = {
        "megabytes": None if entry["bytes"] is None else entry["bytes"] / 1e6,
        "retained": None if entry["retained"] is None else -entry["retained"] * 100,
        "milliseconds": entry["p50"],
    }
    signs = {"megabytes": 1, "retained": -1, "milliseconds": 1}
    return all(
        limit is None or (values[name] is not None and values[name] <= signs[name] * limit)
        for name, limit in limits.items()
    )


def test_choose_names_the_limit_that_excludes_all(browser: Any) -> None:
    run = {"dense": False, "A": 0.9, "CR": 1, "IS": 1, "bytes": 4e6, "retained": 0.98, "p50": 1.0}
    entries = [run, run | {"bytes": 1e6, "retained": 0.9}, run | {"dense": True, "bytes": 1, "retained": 1}]
    ones = {"accuracy": 1, "compression": 1, "speed": 1}

    def reason(**limits: float) -> str:
        return str(browser.execute_script("return choose(...arguments)", entries, limits, ones)["reason"])

    assert reason(megabytes=0.5) == "“at most 0.5 MB” excludes all runs: the smallest has 1 MB."
    assert reason(retained=99) == "“at least 99 % of the quality kept” excludes all runs: the best keeps 98 %."
    together = reason(megabytes=2, retained=95)
    assert together.startswith("Each limit can be met, but not all together")
    assert "without “at most 2 MB” there is 1 run" in together


def test_the_box_names_the_run_and_its_command(browser: Any) -> None:
    show(browser, 0)
    entries = data(browser)["sections"][0]["entries"]
    box = one(browser, "input[name=retained]")
    box.clear()
    box.send_keys("98")
    one(browser, "form.choose button").click()
    fit = [i for i, entry in enumerate(entries) if not entry["dense"] and fits(entry, {"retained": 98.0})]
    scores = scored(entries, data(browser)["weights"])
    best = max(fit, key=lambda index: scores[index] or -1)
    answer = one(browser, ".answer").text
    assert entries[best]["label"] in answer
    assert entries[best]["command"] in answer
    assert one(browser, ".detail h3").text == entries[best]["label"]
    box.send_keys("00")
    one(browser, "form.choose button").click()
    assert "excludes all runs" in one(browser, ".answer").text


def test_a_point_tells_its_configuration_and_opens_its_run(browser: Any) -> None:
    show(browser, 0)
    text = hover(browser)
    assert "python -m compress_exp" in text
    assert "seed" in text
    title = one(browser, ".detail h3").text
    assert title in text
    assert any(entry["label"] == title for entry in data(browser)["sections"][0]["entries"])


def test_every_section_draws_nothing_is_asked_of_a_network_and_no_error_is_told(browser: Any) -> None:
    draws_everything(browser)
    assert browser.execute_script("return window.harm === undefined && !document.querySelector('img')")


def test_sections_seen_again_and_again_keep_their_figures(browser: Any) -> None:
    place = "section.task:not([hidden]) [data-figure=parallel]"
    parts = data(browser)["sections"]
    several = [number for number, part in enumerate(parts) if part["figures"]["parallel"]]
    assert len(several) > 2
    for number in several * 5:  # three WebGL contexts each, of the sixteen that a browser allows
        show(browser, number)
        browser.execute_script(f"document.querySelector('{place}').scrollIntoView()")
        wait(browser, f"return document.querySelectorAll('{place} canvas').length === 3")
    told = [entry["message"] for entry in browser.get_log("browser")]
    assert [message for message in told if "ReadPixels" not in message] == []
    assert one(browser, ".detail h3").text not in ("", hover(browser))


def test_a_legend_stays_off_the_axis_when_the_window_grows(browser: Any) -> None:
    parts = data(browser)["sections"]
    show(browser, min(range(len(parts)), key=lambda number: len(parts[number]["entries"])))
    place = "document.querySelector('section.task:not([hidden]) [data-figure=cost]')"
    browser.execute_script(f"{place}.scrollIntoView({{block: 'center'}})")
    wait(browser, f"return {place}.classList.contains('js-plotly-plot')")
    for width in (1440, 390, 1440):
        metrics = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": width < 500}
        browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
        time.sleep(1)
        top, bottom = "'.legend').getBoundingClientRect().top", "'.xaxislayer-above').getBoundingClientRect().bottom"
        wait(browser, f"return {place}.querySelector({top} >= {place}.querySelector({bottom}", seconds=5)


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [1440, 390])
def test_nothing_is_wider_than_the_window_and_text_can_be_read(browser: Any, width: int, scheme: str) -> None:
    metrics = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": width < 500}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
    media = {"features": [{"name": "prefers-color-scheme", "value": scheme}]}
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", media)
    wait(browser, f"return document.documentElement.scrollWidth <= {width} && innerWidth === {width}")
    contrast = """const light = (colour) => {
        const linear = (part) => part <= 0.03928 ? part / 12.92 : ((part + 0.055) / 1.055) ** 2.4;
        const [r, g, b] = colour.match(/[\\d.]+/g).map((part) => linear(part / 255));
        return 0.2126 * r + 0.7152 * g + 0.0722 * b;
    };
    const style = getComputedStyle(document.body);
    const [one, other] = [light(style.color), light(style.backgroundColor)].sort();
    return [(other + 0.05) / (one + 0.05), light(style.backgroundColor)];"""
    ratio, back = browser.execute_script(contrast)
    assert ratio > 7
    assert (back > 0.5) == (scheme == "light")
