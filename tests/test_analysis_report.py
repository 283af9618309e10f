from __future__ import annotations

import base64
import gzip
import json
import math
import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from plotly.offline import get_plotlyjs
from test_analysis_frames import write_run

from analysis import aha, compare, report_data
from analysis.report import main, write_report
from analysis.report_data import response_data, thin_curve
from simplerl.runs.rollout_table import SCHEMA

HOSTILE = (
    "</script><script>window.hacked = 1</script><img src=x onerror='window.hacked = 2'><!-- "
    "<style>body{display:none}</style> javascript:alert(1) {{x}} \\u003c $js ${nonce} \u2028"
)


def row(problem: str, step: int, sample: int, **changes: Any) -> dict[str, Any]:
    right = sample % 2 == 0
    text = (
        "```python\nprint(4)\n```"
        if sample == 3
        else f"First 2 + 2 = 4\nwait, recheck: 4\nThe answer is \\boxed{{{4 if right else 5}}}"
    )
    found = {
        **{
            "step": step,
            "problem_id": problem,
            "source": "s",
            "level": "1",
            "question": f"What is 2 + 2? ({problem})",
            "gold": "4",
        },
        **{
            "sample": sample,
            "prompt": f"Q: {problem}\nA:",
            "response": text,
            "finish_reason": "length" if sample == 3 else "stop",
        },
        **{
            "length": 10 + sample,
            "reward": 1.0 if right else -0.5,
            "correct": right,
            "status": "equal" if right else "different",
        },
        **{"extracted": "4" if right else "5", "parts": json.dumps({"boxed": 1.0}), "tokens": [1], "logprobs": [0.0]},
    }
    return found | changes


def with_responses(folder: Path, steps: int, problems: int, samples: int = 4, **changes: Any) -> Path:
    (folder / "rollouts").mkdir()
    for step in range(steps):
        rows = [row(f"p{i}", step, sample, **changes) for i in range(problems) for sample in range(samples)]
        pq.write_table(pa.Table.from_pylist(rows, schema=SCHEMA), folder / f"rollouts/step_{step:06d}.parquet")
        place = folder / f"evals/step_{step:06d}"
        place.mkdir(parents=True)
        (place / "results.json").write_text("{}")
        schema = pa.schema([("set", pa.string()), *SCHEMA])
        held_out = [{"set": "aime24", **row(f"h{i}", step, 0, **changes)} for i in range(problems)]
        pq.write_table(pa.Table.from_pylist(held_out, schema=schema), place / "samples.parquet")
    return folder


def metrics(steps: int) -> list[dict[str, float]]:
    return [
        {
            "step": step,
            "reward/mean": step / steps,
            "eval/aime24/accuracy": 0.1 + 0.01 * step,
            "eval/mean/accuracy": 0.1,
        }
        for step in range(steps)
    ]


def unpacked(packed: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(gzip.decompress(base64.b64decode(packed)))
    return found


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("runs")
    for reward in ("strict", "lenient"):
        own = {"choices": {"reward": reward}, "reward": {"_target_": f"<b>{reward}</b>"}, "seed": 0}
        with_responses(write_run(root, reward, metrics(4), **own), 3, 5)
    own = {"choices": {"reward": HOSTILE}, "reward": {"_target_": HOSTILE}, "seed": 0}
    hostile = {"question": HOSTILE, "response": HOSTILE, "gold": HOSTILE, "extracted": HOSTILE, "prompt": HOSTILE}
    with_responses(write_run(root, "hostile", metrics(4), **own), 1, 2, **hostile)
    return root


def test_responses_are_packed_whole(runs: Path) -> None:
    found = response_data([("strict", runs / "strict"), ("lenient", runs / "lenient")])
    data = unpacked(found.packed)
    assert found.note == "All 150 responses." and len(data["step"]) == 150  # 2 runs x 3 steps x (5 x 4 + 5)
    assert data["kinds"] == ["aime24", "training"] and data["runs"] == ["strict", "lenient"]
    assert len(data["problems"]["id"]) == 10  # the same problem in two runs is one
    place = next(i for i in range(150) if data["kind"][i] == 1 and data["sample"][i] == 3)
    assert data["shows"][place] == 2 and data["truncated"][place] == 1 and data["correct"][place] == 0
    assert data["shows"][0] == 1 | 4


def test_a_report_that_would_be_too_large_is_thinned_and_says_so(runs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(report_data, "MAX_RESPONSES", 50)
    found = response_data([("strict", runs / "strict")])
    data = unpacked(found.packed)
    assert len(data["step"]) <= 50 and {0, 2} <= set(data["step"])
    assert found.note.startswith(f"{len(data['step'])} of 75 responses: evenly spaced steps")
    monkeypatch.setattr(report_data, "MAX_PACKED_BYTES", 600)
    assert len(response_data([("strict", runs / "strict")]).packed) < len(found.packed)


def test_damaged_responses_are_left_out_and_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("one", "two"):
        with_responses(write_run(tmp_path, name, metrics(3), choices={"reward": name}), 3, 2)
    whole = unpacked(response_data([("one", tmp_path / "one")]).packed)
    broken = [tmp_path / "one" / name for name in ("rollouts/step_000001.parquet", "evals/step_000002/samples.parquet")]
    broken[0].write_bytes(broken[0].read_bytes()[:-40])
    pq.write_table(pa.table({"response": ["x"]}), broken[1])
    (tmp_path / "one/rollouts/step_last.parquet").write_text("")
    found = response_data([("one", tmp_path / "one"), ("two", tmp_path / "two")])
    rows = unpacked(found.packed)
    assert len(rows["response"]) == 2 * len(whole["response"]) - 8 - 2
    assert all(str(path) in found.note for path in broken) and "it has no column correct" in found.note
    assert aha.main([str(tmp_path)]) == 0
    printed = capsys.readouterr()
    assert "# two" in printed.out and f"note: Left out: {broken[0]}" in printed.err
    assert aha.main([str(tmp_path / "one")]) == 2 and f"error: {broken[0]}" in capsys.readouterr().err
    assert compare.main([str(tmp_path / "one"), str(tmp_path / "two")]) == 2
    assert f"error: {broken[1]} cannot be read (it has no column correct)" in capsys.readouterr().err
    (tmp_path / "two/evals/step_000002/results.json").write_text("[")
    assert compare.main([str(tmp_path / "one"), str(tmp_path / "two"), "--step", "1"]) == 0
    assert compare.main([str(tmp_path / "two"), str(tmp_path / "two")]) == 2
    assert "results.json is damaged" in capsys.readouterr().err


def test_long_curves_keep_their_ends_and_means() -> None:
    table = pd.DataFrame({"mean": [float(i) for i in range(1000)]}, index=range(0, 2000, 2))
    short = thin_curve(table)
    assert len(short) == 334 and short.index[0] == 0 and short.index[-1] == 1998
    assert short["mean"].iloc[0] == 1.0 and short["mean"].iloc[-1] == 999.0


def test_the_page_is_whole_and_escaped(runs: Path, tmp_path: Path) -> None:
    out = write_report([runs], tmp_path / "report.html", title="<b>mine</b>")
    text = out.read_text()
    assert out.stat().st_size < 20e6
    assert "&lt;b&gt;mine&lt;/b&gt;" in text and "<b>mine" not in text
    assert "<script>window.hacked" not in text and "<img src=x" not in text
    assert text.count("</script>") == 4  # ours
    text = text.replace(get_plotlyjs(), "")
    assert 'src="http' not in text and 'href="http' not in text
    assert "Table 1" in text and "&lt;b&gt;strict&lt;/b&gt;" in text


def test_runs_without_responses_or_metrics_have_a_report(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_run(tmp_path / "runs", "bare", [{"step": 0, "a/b": math.nan}], seed=0)
    assert main([str(tmp_path / "runs"), "--out", str(tmp_path / "r.html")]) == 0
    assert main([str(tmp_path / "absent"), "--out", str(tmp_path / "r.html")]) == 2
    assert "does not exist" in capsys.readouterr().err


# In a real browser


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
def page(runs: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_report([runs], tmp_path_factory.mktemp("page") / "report.html")


@pytest.mark.slow
def test_filters_search_and_side_by_side(browser: Any, page: Path) -> None:
    opened(browser, page)
    assert count(browser) == 160
    choose(browser, "f-kind", "0")
    assert count(browser) == 32
    choose(browser, "f-kind", "1")
    choose(browser, "f-verdict", "incorrect")
    assert count(browser) == 64
    choose(browser, "f-end", "truncated")
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
    titles = []
    body = browser.find_element("tag name", "body")
    for key in ("j", "j", "k"):
        body.send_keys(key)
        titles.append(browser.find_element("css selector", "#left h3").text)
    assert titles[0] == titles[2] != titles[1]
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
    lines = "return document.querySelectorAll('#plots .plot:first-child .scatterlayer .trace').length"
    assert browser.execute_script(lines) == 3
    browser.find_element("css selector", "#arms input").click()
    assert browser.execute_script(lines) == 2
    colour = "return getComputedStyle(document.body).backgroundColor"
    before = browser.execute_script(colour)
    browser.find_element("id", "theme").click()
    assert browser.execute_script(colour) != before
    quiet(browser)


@pytest.mark.slow
def test_a_phone_needs_no_sideways_scrolling(browser: Any, page: Path) -> None:
    size = {"width": 390, "height": 844, "deviceScaleFactor": 1, "mobile": True}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
    opened(browser, page)
    assert browser.execute_script("return document.documentElement.scrollWidth") <= 390
    browser.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})


@pytest.mark.slow
def test_twenty_thousand_responses_are_filtered_within_a_second(browser: Any, tmp_path: Path) -> None:
    folder = write_run(tmp_path, "long", metrics(20), seed=0)
    with_responses(folder, 20, 200, response="step by step " * 60 + "\\boxed{4}")
    out = write_report([folder], tmp_path / "report.html")
    assert out.stat().st_size < 20e6
    opened(browser, out)
    assert count(browser) == 20_000
    timed = (
        "const start = performance.now(); const e = document.getElementById(arguments[0]); e.value = arguments[1];"
        "filter(); return performance.now() - start"
    )
    seconds = [
        browser.execute_script(timed, *change) / 1000 for change in (("f-text", "step \\b"), ("f-verdict", "incorrect"))
    ]
    assert max(seconds) < 1.0, seconds
    quiet(browser)
