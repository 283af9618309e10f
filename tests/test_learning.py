"""Learning curves: time to an accuracy, area, sigmoid fit, by hand and on curves with known parameters."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from analysis.arms import select_runs
from analysis.frames import Frames, assemble
from analysis.learning import amounts, default_target, fit_sigmoid, geometric_mean, learning_table, mean_height, reached
from analysis.report_data import curve_data
from analysis.run_data import RunData
from simplerl.io.tables import markdown


def run_with(name: str, seed: int, accuracies: list[float], every: int = 2) -> RunData:
    """Return a run with 8 responses and 3 seconds per step, evaluated every `every` steps."""
    steps = list(range(every * (len(accuracies) - 1) + 1))
    table = pd.DataFrame({"phase": "rl", "step": steps, "rollout/responses": 8.0, "time/step": 3.0})
    table["eval/mean/accuracy"] = table["eval/x/accuracy"] = np.nan
    table.loc[::every, ["eval/mean/accuracy", "eval/x/accuracy"]] = np.repeat(np.array(accuracies)[:, None], 2, 1)
    return RunData(f"{name}{seed}", name, "finished", "folder", "", {"optimizer.lr": name, "seed": seed}, metrics=table)


def frames_of(runs: list[RunData]) -> Frames:
    return assemble(runs)


def test_amounts_are_those_used_before_the_evaluation() -> None:
    frames = frames_of([run_with("a", 0, [0.1, 0.3, 0.5])])
    assert amounts(frames, "a0", "steps").index.tolist() == [0, 2, 4]  # type: ignore[union-attr]
    assert amounts(frames, "a0", "responses").index.tolist() == [0, 16, 32]  # type: ignore[union-attr]
    assert amounts(frames, "a0", "seconds").index.tolist() == [0, 6, 12]  # type: ignore[union-attr]


def test_a_target_is_reached_between_evaluations() -> None:
    curve = pd.Series([0.1, 0.3, 0.7], index=[0, 10, 20])
    assert reached(curve, 0.4) == pytest.approx(12.5)
    assert reached(curve, 0.1) == 0 and reached(curve, 0.8) == math.inf
    # 0.2 on average to 10, then 0.4 at 15: (10 * 0.2 + 5 * 0.4) / 15
    assert mean_height(curve, 15) == pytest.approx((2 + 5 * 0.4) / 15)


def test_geometric_means_by_hand() -> None:
    found = geometric_mean([10.0, 40.0])
    # The logarithms differ by 2 log 2, so their mean has the standard error log 2.
    assert found.mean == pytest.approx(20) and found.high == pytest.approx(20 * 2**12.7062, rel=1e-3)
    assert geometric_mean([10.0, math.inf]).mean == math.inf and geometric_mean([10.0]).low is None


def test_the_fit_recovers_a_sigmoid() -> None:
    compute = np.arange(0, 101, 10)
    with np.errstate(divide="ignore"):
        values = 0.2 + (0.8 - 0.2) / (1 + (30 / compute) ** 1.7)
    noise = 0.002 * np.random.default_rng(0).standard_normal(len(compute))
    found = fit_sigmoid(pd.Series(values + noise * (compute > 0), index=compute))
    assert found is not None
    assert (found.ceiling, found.efficiency, found.middle) == pytest.approx((0.8, 1.7, 30), rel=0.06)
    falling = pd.Series([0.5, 0.4, 0.3, 0.3, 0.2, 0.2], index=range(6))
    assert fit_sigmoid(falling) is None
    line = pd.Series(np.linspace(0.1, 0.4, 8), index=range(8))
    assert fit_sigmoid(line) is None  # a curve that still rises does not determine its ceiling
    assert fit_sigmoid(pd.Series(values[:4], index=compute[:4])) is None
    assert fit_sigmoid(pd.Series(values[1:], index=compute[1:])) is None  # the accuracy at 0 is unknown


def test_the_table_has_a_row_for_each_arm() -> None:
    fast, slow = [0.1, 0.5, 0.8, 0.85, 0.88, 0.9], [0.1, 0.2, 0.4, 0.6, 0.65, 0.7]
    runs = [
        run_with(name, seed, [x + 0.01 * seed * (x > 0.1) for x in curve])
        for name, curve in (("fast", fast), ("slow", slow))
        for seed in (0, 1, 2)
    ]
    frames, arms = select_runs(frames_of(runs))
    assert default_target(frames, arms) == pytest.approx(0.1 + 0.9 * (0.71 - 0.1), abs=1e-3)
    table = learning_table(frames, arms, 0.85)
    assert table is not None and table.columns[1:4] == ["steps to 85.0 %", "responses to 85.0 %", "seconds to 85.0 %"]
    text = markdown(table)
    assert "| 0 of 3 | 0 of 3 | 0 of 3 |" in text
    steps = str(table.rows[0][1].value)  # reached at 6, 5.67 and 5.33
    assert steps.startswith("6 [5, ")
    assert learning_table(*select_runs(frames_of([run_with("a", 0, [0.1])]))) is None


def test_an_arm_that_does_not_learn_does_not_set_the_target() -> None:
    learners = [run_with("a", 0, [0.1, 0.9]), run_with("b", 0, [0.1, 0.7])]
    worse = [run_with("c", 0, [0.1, 0.05]), run_with("d", 0, [0.1, 0.3])]
    target = default_target(*select_runs(frames_of([*learners, *worse])))
    assert target == pytest.approx(0.1 + 0.9 * 0.6, abs=1e-3)
    assert default_target(*select_runs(frames_of(worse[:1]))) == pytest.approx(0.1, abs=1e-3)


def test_a_run_that_was_not_evaluated_yet_leaves_the_curves_of_its_arm() -> None:
    runs = [run_with("a", 0, [0.1, 0.3]), replace(run_with("a", 1, [0.1, 0.3]), metrics=None)]
    shown = curve_data(*select_runs(frames_of(runs)))
    bands = shown["metrics"]["eval/mean/accuracy"]["bands"]
    assert [len(run["x"]) for run in bands[0]["runs"]] == [2, 0]
