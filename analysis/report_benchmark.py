"""Measure the report of a made-up run with many long responses: python -m analysis.report_benchmark

Prints the time and peak memory of writing the page and its size. With --browser, opens the page in Chromium
(needs selenium) and prints the growth of its memory while responses are shown, and the time of filters and a search."""

from __future__ import annotations

import argparse
import json
import resource
import shutil
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import yaml

from analysis.report import write_report
from simplerl.runs.rollout_table import SCHEMA

STEPS = 20
CHARACTERS = 3.5  # of a token
SHOW = """
const done = arguments[arguments.length - 1], count = arguments[0];
const place = (i) => Math.floor((i * rows.length) / count);
(async () => { for (let i = 0; i < count; i++) await select(place(i), false); done(true); })();
"""
FILTER = """
const start = performance.now();
byId(arguments[0]).value = arguments[1];
filter();
return performance.now() - start;
"""
SEARCH = """
const done = arguments[arguments.length - 1], start = performance.now();
byId("f-text").value = arguments[0]; search().then(() => done(performance.now() - start));
"""


def write_run(folder: Path, responses: int, tokens: int) -> Path:
    """Write a run with this number of responses of about this many tokens each, without token columns, and return its
    folder."""
    rng = np.random.default_rng(0)
    words = ["".join(rng.choice(list("abcdefghijklmnopqrstuvwxyz"), rng.integers(2, 9))) for _ in range(4000)]
    sentences = np.array([" ".join(rng.choice(words, 30)) + f" = {rng.integers(10**6)}.\n" for _ in range(20_000)])
    per_response = max(int(tokens * CHARACTERS / np.mean([len(one) for one in sentences[:200]])), 1)
    (folder / "rollouts").mkdir(parents=True)
    (folder / "config.yaml").write_text(yaml.safe_dump({"seed": 0, "choices": {"reward": "strict"}, "run": {}}))
    (folder / "environment.json").write_text("{}")
    rows = [{"step": step, "phase": "rl", "reward/mean": step / STEPS} for step in range(STEPS)]
    (folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    for step in range(STEPS):
        texts = ["".join(rng.choice(sentences, per_response)) for _ in range(responses // STEPS)]
        table = [_row(step, number, text, tokens) for number, text in enumerate(texts)]
        path = folder / f"rollouts/step_{step:06d}.parquet"
        pq.write_table(pa.Table.from_pylist(table, schema=SCHEMA), path)
    return folder


def _row(step: int, number: int, text: str, tokens: int) -> dict[str, Any]:
    question = f"Question {number // 8}?"
    return {
        **{"step": step, "problem_id": f"p{number // 8}", "question": question, "gold": "1", "sample": number % 8},
        **{"prompt": question, "response": text, "finish_reason": "stop", "length": tokens, "reward": number % 2},
        **{"correct": number % 2 == 1, "status": "equal" if number % 2 else "different", "parts": "{}"},
        **{"tokens": [], "logprobs": []},
    }


def measure_browser(page: Path, shown: int) -> list[str]:
    """Return lines on the memory and the times of the page in Chromium."""
    from selenium import webdriver

    options = webdriver.ChromeOptions()
    options.binary_location = str(shutil.which("chromium") or shutil.which("google-chrome"))
    for argument in ("--headless=new", "--no-sandbox", "--disable-dev-shm-usage", "--enable-precise-memory-info"):
        options.add_argument(argument)
    driver = webdriver.Chrome(options=options, service=webdriver.ChromeService(str(shutil.which("chromedriver"))))
    try:
        driver.set_script_timeout(600)
        driver.get(page.as_uri())
        while not driver.find_element("id", "count").text:
            time.sleep(0.1)
        before = _heap(driver)
        driver.execute_async_script(SHOW, shown)
        growth = _heap(driver) - before
        changes = [("f-verdict", "0"), ("f-sort", "length"), ("f-verdict", "")]
        filters = [driver.execute_script(FILTER, *change) / 1000 for change in changes]
        searches = [driver.execute_async_script(SEARCH, text) / 1000 for text in ("= 12345", "= 54321")]
    finally:
        driver.quit()
    return [
        f"JavaScript heap: {before:.0f} MB when loaded, {growth:+.0f} MB after showing {shown:,} responses",
        f"filter and sort: at most {max(filters):.2f} s; search in all texts: {searches[0]:.2f} s at first, then "
        f"{searches[1]:.2f} s",
    ]


def _heap(driver: Any) -> float:
    driver.execute_cdp_cmd("HeapProfiler.collectGarbage", {})
    return float(driver.execute_script("return performance.memory.usedJSHeapSize")) / 1e6


def main(arguments: Sequence[str] | None = None) -> int:
    formatter = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(
        "python -m analysis.report_benchmark", description=__doc__, formatter_class=formatter
    )
    parser.add_argument("--responses", type=int, default=20_000, help="number of responses (default: %(default)s)")
    parser.add_argument("--tokens", type=int, default=8000, help="tokens of each response (default: %(default)s)")
    parser.add_argument("--shown", type=int, default=1000, help="responses that are shown (default: %(default)s)")
    parser.add_argument("--browser", action="store_true", help="also open the page in Chromium")
    chosen = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory() as place:
        run = write_run(Path(place) / "run", chosen.responses, chosen.tokens)
        before, start = _peak(), time.process_time()
        page = write_report([run], Path(place) / "report.html")
        seconds, peak = time.process_time() - start, _peak()
        size = page.stat().st_size / 1e6
        print(
            f"{chosen.responses:,} responses of {chosen.tokens:,} tokens: page of {size:.1f} MB in {seconds:.1f} CPU s"
        )
        print(f"peak memory: {peak:.0f} MB ({before:.0f} MB before writing the page)", flush=True)
        for line in measure_browser(page, chosen.shown) if chosen.browser else []:
            print(line)
    return 0


def _peak() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3


if __name__ == "__main__":
    sys.exit(main())
