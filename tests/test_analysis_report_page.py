"""The report's page in a real browser."""

from __future__ import annotations

import json
import re
import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from report_runs import three_runs

from analysis.report import write_report


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    webdriver = pytest.importorskip("selenium.webdriver", reason="needs selenium (the dev extra)")
    programs = shutil.which("chromium") or shutil.which("google-chrome"), shutil.which("chromedriver")
    if None in programs:
        pytest.skip("needs Chromium and its driver (Debian: apt-get install chromium chromium-driver)")
    options = webdriver.ChromeOptions()
    options.binary_location = str(programs[0])
    for argument in ("--headless=new", "--no-sandbox", "--disable-dev-shm-usage", "--window-size=1280,900"):
        options.add_argument(argument)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    driver = webdriver.Chrome(options=options, service=webdriver.ChromeService(str(programs[1])))
    yield driver
    driver.quit()


def opened(browser: Any, page: Path) -> Any:
    browser.get_log("browser")
    browser.get_log("performance")
    browser.get(page.as_uri())
    wait(lambda: browser.find_element("id", "count").text)
    return browser


def wait(condition: Any, seconds: float = 30.0) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "the page did not get there"
        time.sleep(0.05)


def choose(browser: Any, name: str, value: str) -> None:
    script = (
        "const e = document.getElementById(arguments[0]); e.value = arguments[1]; e.dispatchEvent(new Event('change'))"
    )
    browser.execute_script(script, name, value)


def search(browser: Any, text: str) -> None:
    script = "const e = document.getElementById('f-text'); e.value = arguments[0]; e.dispatchEvent(new Event('input'))"
    browser.execute_script(script, text)


def count(browser: Any) -> int:
    return int(browser.find_element("id", "count").text.split(" of ")[0].replace(",", ""))


def quiet(browser: Any) -> None:
    """No error on the console, and nothing asked of a network."""
    assert [entry for entry in browser.get_log("browser") if entry["level"] in ("SEVERE", "WARNING")] == []
    events = [json.loads(entry["message"])["message"] for entry in browser.get_log("performance")]
    urls = [event["params"]["request"]["url"] for event in events if event["method"] == "Network.requestWillBeSent"]
    assert [url for url in urls if not url.startswith(("file:", "data:", "blob:"))] == []


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    runs = three_runs(tmp_path_factory.mktemp("runs"))
    return write_report([runs], tmp_path_factory.mktemp("page") / "report.html")


@pytest.mark.slow
def test_filters_search_and_side_by_side(browser: Any, page: Path) -> None:
    opened(browser, page)
    assert count(browser) == 160
    choose(browser, "f-kind", "0")
    assert count(browser) == 32
    choose(browser, "f-kind", "1")
    choose(browser, "f-verdict", "0")
    assert count(browser) == 64
    choose(browser, "f-end", "1")
    choose(browser, "f-shows", "2")
    assert count(browser) == 30  # sample 3 of the two tame runs
    browser.execute_script("document.dispatchEvent(new KeyboardEvent('keydown', {key: 'Escape'}))")
    assert count(browser) == 160
    search(browser, "what is 2 + 2? (p3)")
    wait(lambda: count(browser) == 24)
    search(browser, "2? (P3)")  # any case
    wait(lambda: count(browser) == 24)
    browser.find_element("id", "only").click()
    browser.find_element("id", "both").click()
    left, right = browser.find_element("id", "left").text, browser.find_element("id", "right").text
    assert "(p3)" in left and "(p3)" in right and left.splitlines()[0] != right.splitlines()[0]
    assert "gold\n4" in left and "· boxed\n1" in left
    assert browser.find_element("css selector", "#left .m-box").text.startswith("\\boxed{")
    assert browser.find_element("css selector", "#left .m-reflect").text == "wait"
    quiet(browser)


@pytest.mark.slow
def test_the_keyboard_moves_through_responses(browser: Any, page: Path) -> None:
    opened(browser, page)
    titles: list[str] = []
    body = browser.find_element("tag name", "body")
    for key in ("j", "j", "k"):
        body.send_keys(key)
        titles.append(browser.find_element("css selector", "#list [aria-selected=true]").get_attribute("id"))
    assert titles == ["row-1", "row-2", "row-1"]
    body.send_keys("/")
    assert browser.switch_to.active_element.get_attribute("id") == "f-text"
    quiet(browser)


@pytest.mark.slow
def test_hostile_responses_are_text(browser: Any, page: Path) -> None:
    opened(browser, page)
    search(browser, "window.hacked")
    wait(lambda: count(browser) == 10)
    assert "<img src=x onerror" in browser.find_element("id", "left").text
    assert browser.execute_script("return window.hacked === undefined && document.images.length === 0")
    assert browser.find_element("tag name", "body").is_displayed()
    quiet(browser)


@pytest.mark.slow
def test_curves_toggle_and_dark_mode(browser: Any, page: Path) -> None:
    opened(browser, page)
    lines = "return document.querySelectorAll('#first-plots .plot:first-child .line').length"
    assert browser.execute_script(lines) == 3
    browser.find_element("css selector", "#arms input").click()
    assert browser.execute_script(lines) == 2
    colour = "return getComputedStyle(document.body).backgroundColor"
    before = browser.execute_script(colour)
    browser.find_element("id", "theme").click()
    assert browser.execute_script(colour) != before
    assert browser.find_element("id", "theme").get_attribute("aria-pressed") == "true"
    quiet(browser)


@pytest.mark.slow
def test_a_curve_says_its_values_to_the_keyboard(browser: Any, page: Path) -> None:
    opened(browser, page)
    chart = browser.find_element("css selector", "#first-plots svg")
    assert "at step 3" in chart.get_attribute("aria-label")
    chart.send_keys("\ue010")  # End
    spoken = browser.find_element("id", "spoken").get_attribute("textContent")
    assert "step 3: " in spoken and "reward=" in spoken
    tip = browser.find_element("css selector", "#first-plots .tip")
    assert tip.is_displayed() and (tip.get_attribute("textContent") or "").startswith("step 3")


@pytest.mark.slow
def test_order_and_permanent_link(browser: Any, page: Path) -> None:
    opened(browser, page)
    choose(browser, "f-kind", "1")
    choose(browser, "f-sort", "length")
    browser.find_element("id", "f-descending").click()
    wait(lambda: "13 tokens" in browser.find_element("css selector", "#list .row").text)
    browser.find_element("css selector", "#list .row:nth-child(2)").click()
    address = browser.current_url
    assert re.search(r"#response=\w+/training/\d/p\d/3$", address)
    heading = browser.find_element("css selector", "#left h3").text
    browser.get("about:blank")
    browser.get(address)
    wait(lambda: browser.find_elements("css selector", "#left h3"))
    assert browser.find_element("css selector", "#left h3").text == heading
    assert browser.find_element("css selector", "#list [aria-selected=true]").is_displayed()
    quiet(browser)


@pytest.mark.slow
def test_a_row_of_the_heat_map_leads_to_its_responses(browser: Any, page: Path) -> None:
    opened(browser, page)
    canvas = browser.find_element("css selector", "#heat canvas")
    canvas.send_keys("\ue015")  # arrow down
    assert "% correct" in browser.find_element("id", "spoken").get_attribute("textContent")
    canvas.send_keys("\ue007")  # Enter
    wait(lambda: browser.find_element("id", "f-problem").is_displayed())
    assert 0 < count(browser) < 20
    quiet(browser)


@pytest.mark.slow
def test_a_phone_needs_no_sideways_scrolling(browser: Any, page: Path) -> None:
    size = {"width": 390, "height": 844, "deviceScaleFactor": 1, "mobile": True}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
    opened(browser, page)
    assert browser.execute_script("return document.documentElement.scrollWidth") <= 390
    browser.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})


@pytest.mark.slow
@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
def test_axe_finds_no_barrier(browser: Any, page: Path, dark: bool) -> None:
    """Rules of axe-core: contrast, names, roles, focus, tables and headings, with all responses loaded."""
    package = pytest.importorskip("axe_core_python", reason="needs axe-core-python (the dev extra)")
    colours = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [colours]})
    opened(browser, page)
    browser.execute_script((Path(package.__file__).parent / "axe.min.js").read_text())
    run = "const done = arguments[arguments.length - 1]; axe.run().then((found) => done(found.violations))"
    found = browser.execute_async_script(run)
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": []})
    assert [(one["id"], one["impact"], [node["html"] for node in one["nodes"][:3]]) for one in found] == []
