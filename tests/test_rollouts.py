"""Rollouts drawn when asked, or one step ahead."""

from __future__ import annotations

import threading
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
from light_rewards import patient

from simplerl.rewards.pool import Grader
from simplerl.rollouts import RolloutSource
from simplerl.types import Problem, Prompt, Rollout


def rollouts(step: int) -> list[Rollout]:
    prompt = Prompt(Problem(str(step), "?", "1"), "?", (1,))
    return [Rollout(prompt, 0, "1", (1,), (-0.5,), "stop")]


def test_without_ahead_a_step_is_drawn_when_it_is_taken() -> None:
    drawn: list[int] = []

    def draw(step: int) -> list[Rollout]:
        drawn.append(step)
        return rollouts(step)

    source = RolloutSource(draw, 0, 3)
    for step in range(3):
        assert source.take(step) == (rollouts(step), 0)
        source.settle()
        assert drawn == list(range(step + 1))


def test_one_step_ahead_draws_the_next_step_with_the_weights_of_this_one() -> None:
    weights = 0  # updates so far
    seen: dict[int, int] = {}

    def draw(step: int) -> list[Rollout]:
        seen[step] = weights
        return rollouts(step)

    source = RolloutSource(draw, 1, 4)
    lags = []
    for step in range(4):
        taken, lag = source.take(step)
        assert taken == rollouts(step)
        lags.append(lag)
        source.settle()
        weights += 1
    assert seen == {0: 0, 1: 0, 2: 1, 3: 2}, "no step beyond the last, and each a single update behind"
    assert lags == [0, 1, 1, 1] == [step - seen[step] for step in range(4)]


def test_a_loop_that_fails_leaves_no_thread_behind(tmp_path: Path) -> None:
    """The step ahead is being graded, slowly, when the step before fails."""
    hold = tmp_path / "hold"
    hold.touch()
    many = [replace(one, sample=i) for one in rollouts(1) for i in range(1000)]
    begun = threading.Event()

    def draw(step: int) -> list[Rollout]:
        if step == 0:
            return rollouts(0)
        begun.set()
        return grader.grade(iter(many))

    with Grader(partial(patient, hold=str(hold))) as grader:
        source = RolloutSource(draw, 1, 3)
        source.take(0)
        assert begun.wait(10)
    with pytest.raises(RuntimeError, match="the grader has closed"):
        source.take(1)


def test_the_weights_wait_for_what_is_being_drawn() -> None:
    go, done = threading.Event(), threading.Event()

    def draw(step: int) -> list[Rollout]:
        if step == 1:
            assert go.wait(10)
            done.set()
        return rollouts(step)

    source = RolloutSource(draw, 1, 2)
    source.take(0)
    threading.Timer(0.1, go.set).start()
    source.settle()
    assert done.is_set()


def test_a_fault_while_drawing_ahead_is_raised_when_the_step_is_taken() -> None:
    def draw(step: int) -> list[Rollout]:
        if step == 1:
            raise RuntimeError("the engine is gone")
        return rollouts(step)

    source = RolloutSource(draw, 1, 3)
    source.take(0)
    source.settle()
    with pytest.raises(RuntimeError, match="the engine is gone"):
        source.take(1)
