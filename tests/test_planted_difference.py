"""A planted difference is found as often as predicted, and a noisy reward errs as often as it is told to."""

from __future__ import annotations

import numpy as np
import pytest

from simplerl.bench import planted_difference as bench
from simplerl.bench.coverage import World, simulate
from simplerl.errors import ConfigError
from simplerl.rewards.controls import noisy
from simplerl.types import Problem, Response


def arms(effect: float, runs: int = 40) -> tuple[np.ndarray, np.ndarray]:
    """Return the answers [runs, items] of two simulated arms that differ by `effect` in accuracy."""
    world = World("test", seed=0.1, items=400)
    [values] = simulate(world, [0.0, effect], runs, 1, np.random.default_rng(1))
    return values[0, 0], values[0, 1]


def test_planted_in_the_answers() -> None:
    first, _ = arms(0.0)
    rows = bench.examine(first, None, 3, 200, 600, np.random.default_rng(0))
    assert len(rows) >= 6 and all(abs(one.found - one.predicted) < 0.1 for one in rows), rows
    assert {one.design for one in rows} == {"paired", "independent"}
    for design in ("paired", "independent"):
        found = [one.found for one in rows if one.design == design]
        assert found == sorted(found) and found[-1] > 0.6


def test_planted_in_the_reward() -> None:
    """The second arm are other runs; without an effect, about 5 % of the comparisons find one."""
    for effect, least, most in ((-0.15, 0.5, 1.0), (0.0, 0.0, 0.12)):
        first, second = arms(effect)
        rows = bench.examine(first, second, 3, 200, 400, np.random.default_rng(0))
        assert all(least <= one.found <= most for one in rows), rows
        assert effect == 0 or all(abs(one.found - one.predicted) < 0.15 for one in rows), rows


def test_the_expected_accuracy_falls_by_the_difference() -> None:
    values = (np.random.default_rng(0).random((50, 1000)) < 0.8) * 1.0
    planted = bench.plant(values, 0.1, np.random.default_rng(1))
    assert values.mean() - planted.mean() == pytest.approx(0.1, abs=0.005) and (planted <= values).all()


def test_runs_without_an_evaluation_are_named(tmp_path, capsys) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(ConfigError, match=r"has no finished evaluation: name folders"):
        bench.answers([tmp_path])
    assert bench.main([str(tmp_path)]) == 2 and str(tmp_path) in capsys.readouterr().err


@pytest.mark.parametrize(("text", "correct"), [("\\boxed{4}", True), ("\\boxed{5}", False), ("4", False)])
def test_a_noisy_reward_reverses_a_fraction_of_the_verdicts(text: str, correct: bool) -> None:
    problems = [Problem(str(i), "", "4") for i in range(300)]
    scores = [noisy(Response(text), problem, flip=0.2) for problem in problems]
    assert all(score.correct == correct for score in scores), "the logged fraction correct is without noise"
    assert np.mean([score.reward != correct for score in scores]) == pytest.approx(0.2, abs=0.07)
    assert [noisy(Response(text), problem, flip=0.2) for problem in problems] == scores
    assert noisy(Response(text), problems[0], flip=0.0).reward == correct
