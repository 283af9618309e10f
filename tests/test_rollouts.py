"""Where rollouts come from: sampled when asked or one step ahead, in order or refilled until groups have spread."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from light_rewards import patient

from simplerl.engine.batching import collate_rollouts
from simplerl.rewards.pool import Grader
from simplerl.rollouts import (
    Prefetcher,
    RolloutSource,
    difficulty_gate,
    drop_equal,
    greedy_baseline,
    on_time,
    refill,
)
from simplerl.types import Problem, Prompt, Rollout, Score, State, score_of


def prompt(name: str) -> Prompt:
    return Prompt(Problem(name, "?", "1"), "?", (1,))


def rollouts(step: int) -> list[Rollout]:
    return [Rollout(prompt(str(step)), 0, "1", (1,), (-0.5,), "stop")]


def prefetcher(sample: Callable[[int], list[Rollout]], steps: int, ahead: int = 0) -> Prefetcher:
    """One that samples a batch for each step by `sample(step)`."""
    source = RolloutSource(lambda number: [prompt(str(number))], lambda _, number, greedy: sample(number), 1)
    return Prefetcher(on_time, source, {}, steps, ahead)


# When


def test_without_ahead_a_step_is_sampled_when_it_is_taken() -> None:
    sampled: list[int] = []

    def sample(step: int) -> list[Rollout]:
        sampled.append(step)
        return rollouts(step)

    source = prefetcher(sample, 3)
    for step in range(3):
        taken = source.take(step, {})
        assert (taken.rollouts, taken.lag, taken.metrics["rollout/lag"]) == (rollouts(step), 0, 0.0)
        source.wait_until_idle()
        assert sampled == list(range(step + 1))


def test_one_step_ahead_samples_the_next_step_with_the_weights_of_this_one() -> None:
    weights = 0  # updates so far
    seen: dict[int, int] = {}

    def sample(step: int) -> list[Rollout]:
        seen[step] = weights
        return rollouts(step)

    source = prefetcher(sample, 4, ahead=1)
    lags = []
    for step in range(4):
        taken = source.take(step, {})
        assert taken.rollouts == rollouts(step)
        lags.append(taken.lag)
        source.wait_until_idle()
        weights += 1
    assert seen == {0: 0, 1: 0, 2: 1, 3: 2}, "no step beyond the last, and each a single update behind"
    assert lags == [0, 1, 1, 1] == [step - seen[step] for step in range(4)]


@pytest.mark.parametrize("ahead", [0, 1])
def test_the_state_of_each_step_is_passed_to_the_next(ahead: int) -> None:
    """And what a checkpoint holds belongs to the rollouts that were taken, not to those being sampled ahead."""

    def counted(source: RolloutSource, step: int, state: State) -> tuple[list[Rollout], State]:
        return source.sample([], step), {"count": state.get("count", 10) + 1}

    source = RolloutSource(lambda _: [], lambda _, step, greedy: rollouts(step), 1)
    fetcher = Prefetcher(counted, source, {}, 4, ahead)
    state: State = {}
    for step in range(4):
        state = fetcher.take(step, state).state
        fetcher.wait_until_idle()
        assert state == {"count": 11 + step}
    resumed = Prefetcher(counted, source, {}, 4, ahead)
    assert resumed.take(2, {"count": 12}).state == {"count": 13}


def test_reward_stages_follow_sampling_and_what_was_sampled_is_counted() -> None:
    """Also responses that the rollouts function did not keep."""

    def half(source: RolloutSource, step: int, state: State) -> tuple[list[Rollout], State]:
        return (source.sample([], step) + source.sample([], step + 1))[:1], state

    def shout(found: list[Rollout], mark: str) -> list[Rollout]:
        return [replace(one, text=one.text + mark) for one in found]

    source = RolloutSource(lambda _: [], lambda _, step, greedy: rollouts(step), 1)
    shape = {"first": partial(shout, mark="!"), "second": partial(shout, mark="?")}
    taken = Prefetcher(half, source, shape, 1).take(0, {})
    assert [one.text for one in taken.rollouts] == ["1!?"]
    assert taken.metrics["rollout/sampled"] == 2.0


def test_a_loop_that_fails_leaves_no_thread_behind(tmp_path: Path) -> None:
    """The step ahead is being graded, slowly, when the step before fails."""
    hold = tmp_path / "hold"
    hold.touch()
    many = [replace(one, sample=i) for one in rollouts(1) for i in range(1000)]
    begun = threading.Event()

    def sample(step: int) -> list[Rollout]:
        if step == 0:
            return rollouts(0)
        begun.set()
        return grader.grade(iter(many))

    with Grader(partial(patient, hold=str(hold))) as grader:
        source = prefetcher(sample, 3, ahead=1)
        source.take(0, {})
        assert begun.wait(10)
    with pytest.raises(RuntimeError, match="The grader was closed"):
        source.take(1, {})


def test_the_weights_wait_for_what_is_being_sampled() -> None:
    go, done = threading.Event(), threading.Event()

    def sample(step: int) -> list[Rollout]:
        if step == 1:
            assert go.wait(10)
            done.set()
        return rollouts(step)

    source = prefetcher(sample, 2, ahead=1)
    source.take(0, {})
    threading.Timer(0.1, go.set).start()
    source.wait_until_idle()
    assert done.is_set()


def test_a_fault_while_sampling_ahead_is_raised_when_the_step_is_taken() -> None:
    def sample(step: int) -> list[Rollout]:
        if step == 1:
            raise RuntimeError("the engine is gone")
        return rollouts(step)

    source = prefetcher(sample, 3, ahead=1)
    source.take(0, {})
    source.wait_until_idle()
    with pytest.raises(RuntimeError, match="the engine is gone"):
        source.take(1, {})


# Which


@dataclass
class Graded:
    """Batches of four prompts, of which each has four samples; `correct[name]` of them are correct."""

    correct: dict[str, int]
    problems: int = 1000  # then the data repeat
    sampled: list[int] = field(default_factory=list)
    greedy: dict[str, float] = field(default_factory=dict)  # rewards of greedy responses

    def prompts(self, number: int) -> list[Prompt]:
        return [prompt(f"p{(4 * number + i) % self.problems}") for i in range(4)]

    def sample(self, prompts: Sequence[Prompt], number: int, greedy: bool = False) -> list[Rollout]:
        if greedy:
            scores = {one.problem.id: Score(self.greedy[one.problem.id], False, "equal") for one in prompts}
            return [Rollout(one, 0, "", (1,), (-0.5,), "stop", scores[one.problem.id]) for one in prompts]
        self.sampled.append(number)
        found = []
        for one in prompts:
            for sample in range(4):
                right = sample < self.correct.get(one.problem.id, 0)
                score = Score(float(right), right, "equal")
                found.append(Rollout(one, sample, f"batch {number}", (1,), (-0.5,), "stop", score))
        return found

    @property
    def source(self) -> RolloutSource:
        return RolloutSource(self.prompts, self.sample, 4)


def names(found: Sequence[Rollout]) -> list[str]:
    """The problems of whole groups of four."""
    assert all(one.prompt == found[i - i % 4].prompt and one.sample == i % 4 for i, one in enumerate(found))
    return [one.prompt.problem.id for one in found[::4]]


# Of the first three batches p0, p3, p6, p7, p9 and p11 have spread.
SPREAD = {"p0": 1, "p1": 4, "p2": 0, "p3": 3, "p6": 2, "p7": 1, "p8": 4, "p9": 2, "p11": 3}


def test_refill_fills_the_step_with_groups_of_spread() -> None:
    graded = Graded(SPREAD)
    found, state = refill(graded.source, 0, {})
    assert names(found) == ["p0", "p3", "p6", "p7"]
    assert graded.sampled == [0, 1] and state == {"batches": 2}
    assert 0 < min(score_of(one).correct for one in found) + sum(score_of(one).correct for one in found) < len(found)


def test_refill_goes_on_where_it_stopped_and_not_at_the_number_of_the_step() -> None:
    graded = Graded(SPREAD | {f"p{i}": 2 for i in range(12, 16)})
    _, state = refill(graded.source, 0, {})
    second, state = refill(graded.source, 1, state)
    assert names(second) == ["p9", "p11", "p12", "p13"] and state == {"batches": 4}
    assert graded.sampled == [0, 1, 2, 3]
    again, other = refill(Graded(SPREAD | {f"p{i}": 2 for i in range(12, 16)}).source, 1, {"batches": 2})
    assert (again, other) == (second, state), "the same from the saved cursor"


@pytest.mark.parametrize(
    ("low", "high", "kept"), [(0.0, 0.5, ["p0", "p6", "p7", "p9"]), (0.5, 0.75, ["p3", "p6", "p9", "p11"])]
)
def test_refill_keeps_groups_of_an_accuracy(low: float, high: float, kept: list[str]) -> None:
    """Bounds count as within, but all correct and all wrong never have spread."""
    found, _ = refill(Graded(SPREAD).source, 0, {}, low=low, high=high, max_batches=3)
    assert names(found) == kept


def test_refill_trains_with_fewer_groups_after_the_last_batch(caplog: pytest.LogCaptureFixture) -> None:
    graded = Graded(SPREAD)
    with caplog.at_level(logging.WARNING):
        found, state = refill(graded.source, 5, {}, max_batches=1)
    assert names(found) == ["p0", "p3"] and state == {"batches": 1}
    assert "step 5: only 2 of 4 groups found after 1 batches" in caplog.text
    full, _ = refill(Graded(SPREAD).source, 0, {}, max_batches=2)
    assert names(full) == ["p0", "p3", "p6", "p7"]
    assert caplog.text.count("only") == 1, "no warning where the last batch fills the step"


def test_refill_without_any_group_is_refused() -> None:
    graded = Graded({"p1": 4})
    with pytest.raises(RuntimeError, match=r"algorithm.rollouts: no group among 3 batches of 4 prompts has a fraction"):
        refill(graded.source, 0, {}, max_batches=3)
    assert graded.sampled == [0, 1, 2]


def test_refill_takes_a_problem_once_a_step() -> None:
    """Small data repeat within a step: two groups of one problem would become a single one of twice the size."""
    graded = Graded({"p0": 2, "p5": 2}, problems=8)
    found, state = refill(graded.source, 0, {}, max_batches=5)
    assert names(found) == ["p0", "p5"] and state == {"batches": 5}
    assert {one.text for one in found} == {"batch 0", "batch 1"}


def test_refill_keeps_what_other_states_hold() -> None:
    _, state = refill(Graded(SPREAD).source, 0, {"batches": 0, "mine": 7})
    assert state == {"batches": 2, "mine": 7}
    any_state: Any = {"batches": 1.0}  # as JSON of another program may give it
    assert refill(Graded(SPREAD).source, 0, any_state, max_batches=1)[1] == {"batches": 2}


def test_on_time_samples_the_batch_of_the_step() -> None:
    graded = Graded(SPREAD)
    found, state = on_time(graded.source, 2, {"mine": 1})
    assert names(found) == ["p8", "p9", "p10", "p11"] and graded.sampled == [2] and state == {"mine": 1}


def test_groups_with_equal_rewards_are_dropped() -> None:
    found, state = drop_equal(Graded(SPREAD).source, 0, {"mine": 1})
    assert names(found) == ["p0", "p3"] and state == {"mine": 1}
    without_spread, _ = drop_equal(Graded({"p1": 4}).source, 0, {})
    assert names(without_spread) == ["p0", "p1", "p2", "p3"], "a step is never empty"


def test_solved_prompts_are_passed_over() -> None:
    """Problems repeat after two batches: those that were all correct at first give way to the next ones."""
    graded = Graded({"p1": 4, "p4": 4}, problems=8)
    first, state = difficulty_gate(graded.source, 0, {})
    second, state = difficulty_gate(graded.source, 1, state)
    assert names(first) == ["p0", "p1", "p2", "p3"] and names(second) == ["p4", "p5", "p6", "p7"]
    third, state = difficulty_gate(graded.source, 2, state)
    assert names(third) == ["p0", "p2", "p3", "p5"] and state["batches"] == 4
    assert state["accuracy"]["p1"] == 1.0 and state["accuracy"]["p0"] == 0.0
    gated, _ = difficulty_gate(Graded({}, problems=4).source, 0, {"accuracy": {f"p{i}": 1.0 for i in range(3)}})
    assert names(gated) == ["p3", "p0", "p1", "p2"], "a step is never short"


def test_a_greedy_response_is_the_baseline_of_its_prompt() -> None:
    graded = Graded(SPREAD, greedy={f"p{i}": float(i) for i in range(4)})
    found, _ = greedy_baseline(graded.source, 0, {})
    assert names(found) == ["p0", "p1", "p2", "p3"]
    assert [one.extra["greedy_reward"] for one in found[::4]] == [0.0, 1.0, 2.0, 3.0]
    batch = collate_rollouts([replace(one, prompt=replace(one.prompt, token_ids=(3,))) for one in found])
    assert batch.extra["greedy_reward"].tolist() == [0.0] * 4 + [1.0] * 4 + [2.0] * 4 + [3.0] * 4
