"""Arms against the baseline arm: corrections, verdicts, pairing, and the tables in which they are shown."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import yaml

from analysis import compare, tables
from analysis.arms import select_runs
from analysis.differences import BENJAMINI_HOCHBERG, HOLM, NONE, Options, adjusted, compare_arms, difference_table
from analysis.run_data import SourceError
from analysis.sources import load
from simplerl.evals.two_level import INDEPENDENT, POOLED
from simplerl.io.tables import markdown


def write_run(folder: Path, axis: float, seed: int, correct: np.ndarray, order: np.ndarray | None = None) -> None:
    """Write a run folder with one evaluation at step 4; `order` is that in which the items were answered."""
    place = folder / "evals" / "step_000004"
    place.mkdir(parents=True)
    settings = {"seed": seed, "optimizer": {"lr": axis}, "evals": {"reward": {"_target_": "simplerl.rewards.strict"}}}
    (folder / "config.yaml").write_text(yaml.safe_dump(settings))
    (folder / "status.json").write_text(json.dumps({"state": "finished"}))
    metrics = {"eval/x/accuracy": float(correct.mean()), "eval/mean/accuracy": float(correct.mean())}
    (folder / "metrics.jsonl").write_text(json.dumps({"step": 4, "phase": "rl", **metrics}) + "\n")
    order = np.arange(len(correct)) if order is None else order
    ids = [f"x/{i:03}" for i in order]
    rows = pd.DataFrame({"set": "x", "problem_id": ids, "correct": correct[order], "correct_strict": correct[order]})
    rows.to_parquet(place / "samples.parquet")
    (place / "results.json").write_text("{}")


def sweep(folder: Path, accuracies: list[float], seeds: int = 3, items: int = 200, noise: float = 0.01) -> None:
    """Write arms lr = 0, 1, ...; an arm solves the easiest items, and a random tenth of answers is swapped."""
    rng = np.random.default_rng(0)
    difficulty = rng.permutation(items)
    for arm, accuracy in enumerate(accuracies):
        for seed in range(seeds):
            level = accuracy + noise * rng.standard_normal()
            correct = (difficulty < level * items) ^ (rng.random(items) < 0.1)
            write_run(folder / f"lr{arm}-{seed}", float(arm), seed, correct, rng.permutation(items))


def test_corrected_p_values_by_hand() -> None:
    """Holm: 3 * 0.01, max(2 * 0.02, 0.03), 0.04 at most 1 and never falling; BH: 3/1 * 0.01, 3/2 * 0.02, 0.04."""
    assert adjusted([0.02, 0.01, 0.04], HOLM) == pytest.approx([0.04, 0.03, 0.04])
    assert adjusted([0.02, 0.01, 0.04], BENJAMINI_HOCHBERG) == pytest.approx([0.03, 0.03, 0.04])
    assert adjusted([0.6, 0.9], HOLM) == [1.0, 1.0] and adjusted([0.6, 0.9], NONE) == [0.6, 0.9]
    assert adjusted([], HOLM) == []


def test_each_arm_is_compared_with_the_baseline(tmp_path: Path) -> None:
    sweep(tmp_path, [0.5, 0.52, 0.9])
    frames, arms = select_runs(load([tmp_path]))
    base, same, better = compare_arms(frames, arms, Options())
    assert [one.verdict for one in (base, same, better)] == ["baseline", "not significant", "significant"]
    assert better.found is not None and better.found.paired and better.found.both.n_items == 200
    assert better.found.both.mean == pytest.approx(0.32, abs=0.05) and better.p is not None
    assert better.p == pytest.approx(2 * better.found.p) and same.smallest is not None and same.smallest < 0.5
    text = markdown(difference_table(frames, arms, Options()))  # type: ignore[arg-type]
    assert "| **significant** |" in text and "| not significant |" in text and "| 3, paired | 200 |" in text
    reversed_signs = compare_arms(frames, arms, Options(baseline="lr=2"))
    assert reversed_signs[2].verdict == "baseline" and reversed_signs[0].found is not None
    assert reversed_signs[0].found.both.mean == pytest.approx(-better.found.both.mean)
    with pytest.raises(SourceError, match=r"--baseline 'x' names 0 evaluated arms, not one: choose from .*lr=0"):
        compare_arms(frames, arms, Options(baseline="x"))


def test_pooled_noise_narrows_the_interval_of_few_seeds(tmp_path: Path) -> None:
    sweep(tmp_path, [0.5] * 6, seeds=2, noise=0.05)
    frames, arms = select_runs(load([tmp_path]))
    widths = {}
    for design in (INDEPENDENT, POOLED):
        found = [one.found for one in compare_arms(frames, arms, Options(design=design)) if one.found]
        widths[design] = np.mean([one.both.half_width for one in found])
    assert widths[POOLED] < 0.5 * widths[INDEPENDENT]


def test_what_cannot_be_compared_is_said(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    for seed in (0, 1):
        write_run(tmp_path / f"a-{seed}", 0.0, seed, rng.random(50) < 0.5)
        write_run(tmp_path / f"b-{seed}", 1.0, seed, rng.random(60) < 0.5)
    write_run(tmp_path / "c-0", 2.0, 5, rng.random(50) < 0.5)
    frames, arms = select_runs(load([tmp_path]))
    _, other, single = compare_arms(frames, arms, Options())
    assert other.verdict == "evaluated on other items" and other.accuracy is not None
    assert single.found is not None and single.found.both.method == "items" and not single.found.paired
    assert single.verdict == "not significant for these runs"
    one_arm = frames.select(["a-0", "a-1"])
    assert difference_table(*select_runs(one_arm), Options()) is None


def test_runs_without_answers_are_compared_by_their_means(tmp_path: Path) -> None:
    sweep(tmp_path, [0.5, 0.9])
    for file in tmp_path.glob("*/evals/*/samples.parquet"):
        file.unlink()
    frames, arms = select_runs(load([tmp_path]))
    _, better = compare_arms(frames, arms, Options())
    assert better.found is not None and better.found.both.n_items == 1 and better.found.both.method == "seeds"
    notes = difference_table(frames, arms, Options()).notes  # type: ignore[union-attr]
    assert any("name run folders" in note for note in notes)


def test_the_command_writes_the_table(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    sweep(tmp_path / "runs", [0.5, 0.9], seeds=2, items=60)
    command = [str(tmp_path / "runs"), "--out", str(tmp_path / "out"), "--seeds", "pooled", "--correction", "bh"]
    assert tables.main(command) == 0
    assert "Benjamini and Hochberg" in capsys.readouterr().out
    csv = pd.read_csv(tmp_path / "out" / "differences.csv")
    assert {"Δ (seeds and items) low", "Δ (seeds and items) high", "corrected p"} <= set(csv)


def test_two_arms_are_compared_by_patterns(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    sweep(tmp_path, [0.4, 0.8])
    assert compare.main([f"{tmp_path}/lr0-*", f"{tmp_path}/lr1-*"]) == 0
    shown = capsys.readouterr().out
    assert "A: 3 runs; B: 3 runs; paired by seed and item." in shown and "| yes |" in shown
    frames, arms = select_runs(load([tmp_path]))
    found = compare_arms(frames, arms, Options())[1].found
    assert found is not None and f"| {100 * found.both.mean:+.1f} |" in shown
    assert compare.main([f"{tmp_path}/lr0-*", f"{tmp_path}/lr1-0"]) == 0
    assert "independent seeds, paired by item" in capsys.readouterr().out
    assert compare.main([f"{tmp_path}/lr0-*", f"{tmp_path}/nothing-*"]) == 2
    assert "name run folders, or a pattern of them in quotes" in capsys.readouterr().err
