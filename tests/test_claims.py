"""The verdict on each claim follows from the data of the runs, and flips when they do."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from claim_runs import STEPS, run, write_rollouts

from analysis.claim_measures import MEASURES, Measured
from analysis.claims import (
    AMBIGUOUS,
    HELD,
    NOT_HELD,
    NOT_RUN,
    UNDECIDED,
    Claim,
    Verdict,
    decide,
    examine,
    main,
    measured_text,
    read_claims,
)
from analysis.sources import load
from simplerl.evals.statistics import Interval

ROOT = Path(__file__).resolve().parent.parent
CLAIMS = {claim.id: claim for claim in read_claims()}


def settings_of(claim: Claim, side: str) -> dict[str, Any]:
    """Return the settings by which a run is found: of alternatives the first, without those that must be absent."""
    found = {key: value[0] if isinstance(value, list) else value for key, value in claim.arms[side].items()}
    return {key: value for key, value in found.items() if value is not None}


def step_curve(before: float, after: float, at: int, seed: int) -> np.ndarray:
    """Return a curve that changes at one step, with a little noise of the seed."""
    noise = np.random.default_rng(seed).normal(0, 0.01, STEPS)
    return np.where(np.arange(STEPS) < at, before, after) * (1 + noise)


def make_runs(root: Path, claim: Claim, effect: int, seeds: int = 3) -> None:
    """Write the runs of a claim; effect: 1 if it is true in them, -1 if the opposite is."""
    up = effect * claim.sign > 0
    for index, side in enumerate(claim.arms):
        for seed in range(seeds):
            accuracies, curves = (0.4, 0.4), {}
            match claim.measure:
                case "change":
                    first, last = (claim.keywords[part] for part in ("first", "last"))
                    middle = math.ceil((first[1] + last[0]) / 2 * STEPS)
                    curves = {claim.keywords["metric"]: step_curve(*((50, 70) if up else (70, 50)), middle, seed)}
                case "reflection":
                    curves = {"rollout/reflection_share": step_curve(*((0.1, 0.6) if up else (0.6, 0.1)), 20, seed)}
                case "half_rise_earlier":
                    early, late = (claim.keywords[name] for name in (("than", "metric") if up else ("metric", "than")))
                    curves = {early: step_curve(0.2, 0.9, 8 + seed % 2, seed), late: step_curve(0.2, 0.9, 25, seed)}
                case "gain":
                    accuracies = (0.3, 0.7) if up else (0.7, 0.3)
                case "difference":
                    accuracies = (0.4, 0.5 + (0.2 if up else -0.2) * index)
            name = claim.keywords.get("benchmark", "micro")
            folder = run(root, side, seed, settings_of(claim, side), accuracies, curves, (name,))
            if claim.measure == "fall_explained_by_code":  # the opposite: the other responses become shorter
                at = np.arange(STEPS)
                shares = np.where(at < 5, 0.4, 0.0 if up else 0.4)
                write_rollouts(folder, shares, np.where(at < 5, 40.0 + seed, 40.0 + seed if up else 15.0))


@pytest.mark.parametrize("name", CLAIMS)
def test_a_verdict_flips_with_the_data(tmp_path: Path, name: str) -> None:
    for effect, expected in ((1, HELD), (-1, NOT_HELD)):
        root = tmp_path / str(effect)
        make_runs(root, CLAIMS[name], effect)
        [verdict] = examine(load([root]), [CLAIMS[name]])
        assert verdict.word == expected, (verdict.text, measured_text(verdict.measured))
        assert verdict.runs == 3 * len(CLAIMS[name].arms) and verdict.text == ""


def test_every_measure_has_a_claim() -> None:
    assert {claim.measure for claim in CLAIMS.values()} == set(MEASURES)


GAIN, LESS_DATA = CLAIMS["rl_gains"], CLAIMS["less_data"]


@pytest.mark.parametrize(
    ("low", "high", "above", "below"),
    [(1.0, 2.0, HELD, NOT_HELD), (-2.0, -1.0, NOT_HELD, HELD), (-1.0, 1.0, UNDECIDED, UNDECIDED)],
)
def test_the_whole_interval_decides(low: float, high: float, above: str, below: str) -> None:
    value = Measured(Interval((low + high) / 2, 1.0, low, high), "tokens")
    assert decide(CLAIMS["length_grows_again"], value) == above
    assert decide(CLAIMS["length_falls_first"], value) == below
    assert decide(GAIN, Measured(Interval(1.0, None, None, None), "points")) == UNDECIDED


@pytest.mark.parametrize(("low", "expected"), [(-1.9, HELD), (-2.1, UNDECIDED)])
def test_a_margin_is_in_percentage_points(low: float, expected: str) -> None:
    assert decide(LESS_DATA, Measured(Interval(0.0, 1.0, low, 2.0), "points")) == expected


def test_one_seed_does_not_decide(tmp_path: Path) -> None:
    make_runs(tmp_path, GAIN, 1, seeds=1)
    [verdict] = examine(load([tmp_path]), [GAIN])
    assert verdict.word == UNDECIDED and "no interval" in measured_text(verdict.measured)


def test_runs_that_are_missing_or_not_comparable(tmp_path: Path) -> None:
    def verdict(claim: Claim) -> Verdict:
        return examine(load([tmp_path]), [claim])[0]

    make_runs(tmp_path, GAIN, 1)
    assert verdict(LESS_DATA).word == NOT_RUN and "arm small" in verdict(LESS_DATA).text
    run(tmp_path, "other", 0, settings_of(GAIN, "run") | {"train.policy.lr": 1.0})
    assert verdict(GAIN).word == AMBIGUOUS and "train.policy.lr" in verdict(GAIN).text
    for seed in (0, 1):
        run(tmp_path, "failed", seed, settings_of(LESS_DATA, "small"))
        status = tmp_path / f"failed-{seed}/status.json"
        status.write_text(json.dumps({"state": "interrupted"}))
    assert verdict(LESS_DATA).word == NOT_RUN, "unfinished runs count"


def test_arms_that_differ_in_another_setting(tmp_path: Path) -> None:
    for side, rate in (("all", 1.0), ("small", 2.0)):
        for seed in (0, 1):
            run(tmp_path, side, seed, settings_of(LESS_DATA, side) | {"train.policy.lr": rate})
    [verdict] = examine(load([tmp_path]), [LESS_DATA])
    assert verdict.word == AMBIGUOUS and "train.policy.lr" in verdict.text


def test_a_choice_explains_the_settings_that_it_makes(tmp_path: Path) -> None:
    claim = CLAIMS["rl_beats_sft"]
    for side, loss in (("sft", "none"), ("rl", "ppo_clip")):
        for seed in (0, 1):
            run(tmp_path, side, seed, settings_of(claim, side) | {"algorithm.loss._target_": loss})
    assert examine(load([tmp_path]), [claim])[0].tested


def test_the_page_names_what_is_unfair(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    make_runs(tmp_path / "runs", LESS_DATA, 1)
    for seed in range(3):
        file = tmp_path / f"runs/small-{seed}/environment.json"
        file.write_text(json.dumps(json.loads(file.read_text()) | {"commit": "fedcba9876543210"}))
    assert main([str(tmp_path / "runs"), "--out", str(tmp_path / "claims.md")]) == 0
    text = (tmp_path / "claims.md").read_text()
    assert "- Marks: commit 01234567" in text and "commit fedcba98" in text
    assert "**held**" in capsys.readouterr().out and text.count("not run") >= len(CLAIMS) - 1


def test_without_runs_the_page_says_what_to_run(tmp_path: Path) -> None:
    assert main(["--out", str(tmp_path / "claims.md")]) == 0
    text = (tmp_path / "claims.md").read_text()
    assert all(claim.command in text for claim in CLAIMS.values()) and "**held**" not in text


def test_the_documented_page_has_every_claim() -> None:
    text = (ROOT / "docs/claims.md").read_text()
    for claim in CLAIMS.values():
        assert f"## {claim.claim}" in text and claim.command in text and claim.published.split("(")[0] in text


def test_the_sweep_of_a_claim_contains_its_arms() -> None:
    """A command with sweep=NAME runs every value by which the arms of its claim differ."""
    for claim in CLAIMS.values():
        name = claim.command.partition("sweep=")[2]
        if name:
            params = yaml.safe_load((ROOT / f"sweeps/{name}.yaml").read_text())["hydra"]["sweeper"]["params"]
            for side in claim.arms.values():
                differing = {key for key in side if any(other.get(key) != side[key] for other in claim.arms.values())}
                for key in differing:
                    values = side[key] if isinstance(side[key], list) else [side[key]]
                    swept = str(params[key.removeprefix("choices.")]).split(",")
                    assert set(map(str, values)) & set(swept), (claim.id, key)
