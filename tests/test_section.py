"""The result section of made-up runs: table of the arms, gain over the random reward, marks, figure, formats."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from html.parser import HTMLParser
from pathlib import Path

import pytest
from claim_runs import run

from analysis.arms import select_runs
from analysis.differences import DEFAULT, Options
from analysis.forest import forest, path_of, short_labels
from analysis.result_table import control_arm, result_table, results
from analysis.run_data import SourceError
from analysis.section import main, summary
from analysis.section_formats import Heading, Text, as_latex, as_markdown, as_page
from analysis.sources import load
from analysis.tables import statistics_tables

RANDOM = "simplerl.rewards.controls.random_reward"
CURVES = {"rollout/box_share": [0.5] * 40, "rollout/response_length": [60.0] * 40, "reward/mean": [0.1] * 40}


def write_runs(root: Path, control: bool = True) -> Path:
    arms = {"a_good": ("grpo", "strict", 0.8), "b_equal": ("rloo", "strict", 0.8), "c_bad": ("ppo", "strict", 0.5)}
    arms |= {"d_random": ("grpo", "random", 0.1)} if control else {}
    for name, (algorithm, reward, accuracy) in arms.items():
        target = RANDOM if reward == "random" else "simplerl.rewards.strict"
        settings = {"choices.algorithm": algorithm, "choices.reward": reward, "reward._target_": target}
        for seed in range(3):
            run(root, name, seed, settings, (0.3, accuracy), CURVES)
    return root


def test_the_table_of_the_arms(tmp_path: Path) -> None:
    frames, arms = select_runs(load([write_runs(tmp_path)]))
    found = results(frames, arms, DEFAULT)
    table = result_table(frames, arms, DEFAULT, found)
    assert table is not None
    rows = {str(row[0].value): dict(zip(table.columns, row, strict=True)) for row in table.rows}
    good, equal, bad, control = rows.values()
    assert [row["at 0.05"].text() for row in (good, equal, bad)] == ["baseline", "not significant", "significant"]
    assert float(bad["Δ step 0"].value.value) == pytest.approx(20, abs=8)  # type: ignore[union-attr]
    assert float(control["Δ step 0"].value.value) == pytest.approx(-20, abs=8)  # type: ignore[union-attr]
    assert float(bad["Δ baseline"].value.value) == pytest.approx(-30, abs=8)  # type: ignore[union-attr]
    gain = good["Δ random reward"]
    assert gain.bold and float(gain.value.value) == pytest.approx(70, abs=8)  # type: ignore[union-attr]
    assert control["Δ random reward"].value is None and control["at 0.05"].text() == "significant"
    assert [good[name].text() for name in ("responses", "seconds", "seeds")] == ["320", "80", "3"]
    assert 0 < float(equal["80 % power from"].text()) < 30
    assert control_arm(frames, arms) is arms.arms[3]
    text = summary(frames, arms, found, DEFAULT)
    assert "12 runs in 4 arms" in text and "2 of 3 arms differ significantly" in text and "0 above it, 2 below" in text
    assert "random reward (algorithm=grpo, reward=random), algorithm=" in text


def test_another_baseline_reverses_the_sign(tmp_path: Path) -> None:
    frames, arms = select_runs(load([write_runs(tmp_path, control=False)]))
    table = result_table(frames, arms, Options(baseline="ppo"))
    assert table is not None and "Δ random reward" not in table.columns
    changes = [row[3].value for row in table.rows[:2]]
    assert [float(one.value) for one in changes] == pytest.approx([30, 30], abs=8)  # type: ignore[union-attr]
    with pytest.raises(SourceError, match="--baseline 'x'"):
        results(frames, arms, Options(baseline="x"))


def test_tables_and_report_state_the_gain_over_the_random_reward(tmp_path: Path) -> None:
    frames, arms = select_runs(load([write_runs(tmp_path)]))
    built = {table.name: table for table in statistics_tables(frames, arms, DEFAULT)}
    assert list(built) == ["results", "differences", "learning"] and "Δ random reward" in built["results"].columns


def test_a_single_arm_has_an_accuracy_and_no_comparison(tmp_path: Path) -> None:
    for seed in (0, 1):
        run(tmp_path, "a", seed, {}, (0.3, 0.8))
    frames, arms = select_runs(load([tmp_path]))
    [one] = results(frames, arms, DEFAULT)
    assert 0.6 < one.accuracy.mean < 0.9 and one.gain is None
    assert "Δ baseline" not in result_table(frames, arms, DEFAULT).columns  # type: ignore[union-attr]


def test_the_figure_orders_and_names_the_arms(tmp_path: Path) -> None:
    import matplotlib.pyplot as plt

    frames, arms = select_runs(load([write_runs(tmp_path)]))
    found = results(frames, arms, DEFAULT)
    figure = forest(frames, arms, DEFAULT, found)
    left, right = figure.axes
    names = [label.get_text() for label in left.get_yticklabels()]
    assert (
        names[0] == "reward=random (3)"
        and names[1] == "algorithm=ppo (3)"
        and "algorithm=grpo, reward=strict (3)" in names
    )
    written = [text.get_text() for text in left.texts]
    assert any(text.startswith("◂ 1") for text in written), "an arm far below the others is written as text"
    assert right.get_xlabel() == "responses" and "step 0" in figure.get_supxlabel()
    path, recorded = path_of(frames, arms.arms[0])  # type: ignore[misc]
    assert recorded and list(path.index) == [0.0, 320.0]
    assert short_labels(found)["algorithm=ppo, reward=strict"] == "algorithm=ppo"
    plt.close(figure)


def test_every_format_has_every_block(tmp_path: Path) -> None:
    frames, arms = select_runs(load([write_runs(tmp_path)]))
    table = result_table(frames, arms, DEFAULT)
    assert table is not None
    blocks = [Heading("A & B", 1), Text("50 % of <b> & *c*"), table]
    assert as_markdown(blocks, tmp_path).startswith("# A & B\n\n50 % of \\<b> & \\*c\\*\n")
    assert r"\section{A \& B}" in as_latex(blocks, tmp_path) and r"50 \% of" in as_latex(blocks, tmp_path)
    assert "<h1>A &amp; B</h1>" in as_page(blocks, tmp_path) and "&lt;b&gt;" in as_page(blocks, tmp_path)


class External(HTMLParser):
    """Collects what a page would load."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found += [value or "" for name, value in attrs if name in ("src", "href")]


@pytest.mark.slow
def test_one_command_writes_the_section(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_runs(tmp_path / "runs")
    for seed in range(3):  # an unfair arm: other evaluation items
        file = tmp_path / f"runs/c_bad-{seed}/environment.json"
        known = json.loads(file.read_text())
        file.write_text(json.dumps(known | {"inputs": known["inputs"] | {"evals.sets.micro": "m2"}}))
        for name in ("a_good", "b_equal", "d_random"):
            other = tmp_path / f"runs/{name}-{seed}/environment.json"
            known = json.loads(other.read_text())
            other.write_text(json.dumps(known | {"inputs": known["inputs"] | {"evals.sets.micro": "m1"}}))
    out = tmp_path / "out"
    assert main([str(tmp_path / "runs"), "--out", str(out), "--title", "Arms"]) == 0
    assert [Path(line).name for line in capsys.readouterr().out.split()] == [
        "section.md", "section.html", "section_body.tex", "section.tex",
    ]  # fmt: skip
    text = (out / "section.md").read_text()
    [bad] = [line for line in text.splitlines() if line.startswith("| algorithm=ppo")][:1]
    assert bad.endswith("| a |") and "| a | data and weights | evals.sets.micro: m" in text
    assert all((out / path).is_file() for path in re.findall(r"\]\((figures/\S+)\)", text))
    assert {path.name for path in (out / "tables").glob("*.csv")} >= {"results.csv", "fairness.csv", "learning.csv"}
    page = External()
    page.feed((out / "section.html").read_text())
    assert page.found and all(one.startswith("data:image/png;base64,") for one in page.found)
    if shutil.which("pdflatex"):
        command = ["pdflatex", "-interaction=nonstopmode", "-halt-on-error", "section.tex"]
        done = subprocess.run(command, cwd=out, capture_output=True, text=True, check=False)
        assert r"\begin{longtable}" in (out / "section_body.tex").read_text()
        assert done.returncode == 0 and (out / "section.pdf").stat().st_size > 10_000, done.stdout[-2000:]


def test_runs_without_an_evaluation_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "runs/a"
    folder.mkdir(parents=True)
    (folder / "config.yaml").write_text("seed: 0\n")
    (folder / "metrics.jsonl").write_text('{"step": 0, "reward/mean": 1.0}\n')
    (folder / "environment.json").write_text("{}")
    assert main([str(tmp_path / "runs"), "--out", str(tmp_path / "out")]) == 2
    assert "name runs with evaluations" in capsys.readouterr().err and not (tmp_path / "out").exists()
