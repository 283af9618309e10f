"""Defines rollouts functions, which choose the rollouts of a step: (RolloutSource, step, State) -> (rollouts, State).

They are configured in conf/algorithm/rollouts/. The state holds the function's position in the data. It is saved with
each checkpoint, so that a resumed run samples the same rollouts as an uninterrupted one.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, replace
from typing import Protocol

from simplerl.data.difficulty import read_solve_rates
from simplerl.types import Count, Fraction, Prompt, RewardShaping, Rollout, State, group_rollouts, score_of

logger = logging.getLogger(__name__)


class Sample(Protocol):
    """Sample and grade train.samples_per_prompt responses to each prompt, or one greedy response. Returns graded
    rollouts in the order of the prompts. `number`: batch number, which seeds the samples."""

    def __call__(self, prompts: list[Prompt], number: int, greedy: bool = False) -> list[Rollout]: ...


@dataclass(frozen=True)
class RolloutSource:
    """Provides the prompts and the sampling function that a rollouts function uses."""

    prompts: Callable[[int], list[Prompt]]  # batch number (0, 1, ... over all passes) -> train.prompts_per_step prompts
    sample: Sample
    prompts_per_step: int


def on_time(source: RolloutSource, step: int, state: State) -> tuple[list[Rollout], State]:
    """Sample one batch of prompts per step (on-policy)."""
    return source.sample(source.prompts(step), step), state


def refill(
    source: RolloutSource,
    step: int,
    state: State,
    *,
    low: Fraction = 0.0,
    high: Fraction = 1.0,
    max_batches: Count = 10,
) -> tuple[list[Rollout], State]:
    """Sample batches of prompts until the step has train.prompts_per_step groups whose fraction of correct responses is
    in [low, high] and neither 0 nor 1 (dynamic sampling, DAPO, arXiv:2503.14476, section 3.2).

    After `max_batches` batches the step uses the groups found so far; raises RuntimeError if there are none.
    state["batches"]: batches sampled since the start of the run."""
    number, kept = int(state.get("batches", 0)), dict[str, list[Rollout]]()
    for _ in range(max_batches):
        rollouts = source.sample(source.prompts(number), number)
        number += 1
        for group in group_rollouts(rollouts):
            accuracy = _accuracy(group)
            if low <= accuracy <= high and 0 < accuracy < 1:
                kept.setdefault(group[0].prompt.problem.id, group)  # a small data set may repeat within a step
        if len(kept) >= source.prompts_per_step:
            break
    else:
        if not kept:
            raise RuntimeError(
                f"algorithm.rollouts: no group among {max_batches} batches of {source.prompts_per_step} prompts has a "
                f"fraction of correct responses within [{low}, {high}] that is neither 0 nor 1. The problems may be "
                "too easy or too hard for the model (choose another data=...), or all responses may be truncated "
                "(raise sampling.max_new_tokens)."
            )
        found = len(kept), source.prompts_per_step
        logger.warning("step %d: only %d of %d groups found after %d batches", step, *found, max_batches)
    groups = list(kept.values())[: source.prompts_per_step]
    return [rollout for group in groups for rollout in group], {**state, "batches": number}


def drop_equal(source: RolloutSource, step: int, state: State) -> tuple[list[Rollout], State]:
    """Sample one batch of prompts and drop the groups whose rewards are all equal, without replacing them: the step
    then makes fewer optimizer updates. If the rewards are equal in every group, all groups are kept."""
    rollouts = source.sample(source.prompts(step), step)
    groups = group_rollouts(rollouts)
    kept = [group for group in groups if len({score_of(rollout).reward for rollout in group}) > 1]
    return [rollout for group in kept or groups for rollout in group], state


def difficulty_gate(
    source: RolloutSource,
    step: int,
    state: State,
    *,
    low: Fraction = 0.0,
    high: Fraction = 0.9,
    max_batches: Count = 10,
    solve_rates: str | None = None,
) -> tuple[list[Rollout], State]:
    """Prefer prompts whose fraction of correct responses, when last sampled, was in [low, high]; prompts never sampled
    always qualify (with high=0.9, the curriculum of ScaleRL, arXiv:2510.13786).

    Up to `max_batches` batches of prompts are examined per step; if too few prompts qualify, excluded ones fill it.
    solve_rates: the difficulty.jsonl of distill.py, whose fractions count until a prompt is sampled; null: none.
    state["batches"]: batches examined since the start of the run. state["accuracy"]: last fraction by problem id."""
    known = read_solve_rates(solve_rates) if solve_rates and "accuracy" not in state else {}
    number, accuracy = int(state.get("batches", 0)), {**known, **state.get("accuracy", {})}
    passing: dict[str, Prompt] = {}
    excluded: dict[str, Prompt] = {}
    for _ in range(max_batches):
        for prompt in source.prompts(number):
            passes = low <= accuracy.get(prompt.problem.id, low) <= high
            (passing if passes else excluded).setdefault(prompt.problem.id, prompt)
        number += 1
        if len(passing) >= source.prompts_per_step:
            break
    chosen = [*passing.values(), *excluded.values()][: source.prompts_per_step]
    rollouts = source.sample(chosen, step)
    accuracy |= {group[0].prompt.problem.id: _accuracy(group) for group in group_rollouts(rollouts)}
    return rollouts, {**state, "batches": number, "accuracy": accuracy}


def greedy_baseline(source: RolloutSource, step: int, state: State) -> tuple[list[Rollout], State]:
    """Sample one batch of prompts per step and, for each prompt, one greedy response, whose reward becomes the column
    `greedy_reward` (ReMax, arXiv:2310.10505). Greedy responses are not trained on."""
    prompts = source.prompts(step)
    rewards = {r.prompt.problem.id: score_of(r).reward for r in source.sample(prompts, step, greedy=True)}
    rollouts = source.sample(prompts, step)
    return [replace(r, extra={**r.extra, "greedy_reward": rewards[r.prompt.problem.id]}) for r in rollouts], state


def _accuracy(group: list[Rollout]) -> float:
    return sum(score_of(rollout).correct for rollout in group) / len(group)


@dataclass(frozen=True)
class StepRollouts:
    """Holds the rollouts of one step and their metrics."""

    rollouts: list[Rollout]
    state: State  # of the rollouts function after this step
    lag: int  # number of updates between the weights that sampled them and the current policy
    metrics: dict[str, float]


class Prefetcher:
    """Provides the rollouts of each step: on request or, with ahead=1, sampled in a thread during the update of the
    previous step, which makes training one update off-policy.

    If the loop ends early, the thread ends when the loop closes the grader or the engines."""

    def __init__(
        self,
        rollouts: Callable[[RolloutSource, int, State], tuple[list[Rollout], State]],
        source: RolloutSource,
        shape: Mapping[str, RewardShaping],
        steps: int,
        ahead: int = 0,
    ) -> None:
        self._rollouts, self._source, self._shape, self._steps, self._ahead = rollouts, source, shape, steps, ahead
        self._pending: Future[StepRollouts] | None = None
        self._thread = ThreadPoolExecutor(1, "ahead")

    def take(self, step: int, state: State) -> StepRollouts:
        """Return the rollouts of `step`. The first step after a start or resume has no lag."""
        if self._pending is None:
            taken = self._sample(step, state, 0)
        else:
            taken = self._pending.result()
            self._pending = None
        if self._ahead and step + 1 < self._steps:
            self._pending = self._thread.submit(self._sample, step + 1, taken.state, 1)
        return taken

    def _sample(self, step: int, state: State, lag: int) -> StepRollouts:
        begin, sampled = time.perf_counter(), []

        def sample(prompts: list[Prompt], number: int, greedy: bool = False) -> list[Rollout]:
            sampled.append(self._source.sample(prompts, number, greedy))
            return sampled[-1]

        rollouts, state = self._rollouts(replace(self._source, sample=sample), step, state)
        for shape in self._shape.values():
            rollouts = shape(rollouts)
        seconds = time.perf_counter() - begin
        tokens = sum(len(rollout.token_ids) for batch in sampled for rollout in batch)
        metrics = {
            "rollout/lag": float(lag),
            "rollout/sampled": float(sum(map(len, sampled))),  # responses, including those that were discarded
            "time/rollouts": seconds,  # with ahead=1, overlaps the update of the previous step
            "time/sample_tokens_per_second": tokens / seconds,
        }
        return StepRollouts(rollouts, state, lag, metrics)

    def wait_until_idle(self) -> None:
        """Block until sampling has finished, so that the sampler's weights may be replaced. An exception raised while
        sampling is re-raised by the next `take`."""
        if self._pending is not None:
            wait([self._pending])
