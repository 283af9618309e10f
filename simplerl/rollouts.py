"""Where a step's rollouts come from: functions (RolloutSource, step, State) -> (rollouts, State), named in
conf/algorithm/rollouts/. The state is the function's cursor in the data; it is saved with each checkpoint, so that a
resumed run samples what the interrupted one would have sampled.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, replace

from simplerl.types import Count, Fraction, Prompt, Rollout, Shape, State, group_rollouts, score_of

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class RolloutSource:
    """What a rollouts function samples from."""

    prompts: Callable[[int], list[Prompt]]  # batch number (0, 1, ... over all passes) -> train.prompts_per_step prompts
    sample: Callable[[list[Prompt], int], list[Rollout]]  # (prompts, batch number) -> graded rollouts, by prompt
    prompts_per_step: int


def on_time(source: RolloutSource, step: int, state: State) -> tuple[list[Rollout], State]:
    """Sample the next batch of prompts."""
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
    """Sample batches of prompts until the step is full of groups whose fraction of correct responses is in [low, high]
    and neither 0 nor 1 (dynamic sampling, DAPO, arXiv:2503.14476, section 3.2).

    After `max_batches` batches the step is trained with the groups there are; raises RuntimeError where there are none.
    State: batches, how many have been sampled since the start of the run."""
    number, kept = int(state.get("batches", 0)), dict[str, list[Rollout]]()
    for _ in range(max_batches):
        rollouts = source.sample(source.prompts(number), number)
        number += 1
        for group in group_rollouts(rollouts):
            accuracy = _accuracy(group)
            if low <= accuracy <= high and 0 < accuracy < 1:
                kept.setdefault(group[0].prompt.problem.id, group)  # small data may come again within a step
        if len(kept) >= source.prompts_per_step:
            break
    else:
        if not kept:
            raise RuntimeError(
                f"algorithm.rollouts: {max_batches} batches of {source.prompts_per_step} prompts gave no group whose "
                f"fraction of correct responses is within [{low}, {high}] and neither 0 nor 1: the problems are too "
                "easy or too hard for the model (data=...), or all responses are truncated (sampling.max_new_tokens)."
            )
        logger.warning(
            "step %d: only %d of %d groups after %d batches", step, len(kept), source.prompts_per_step, max_batches
        )
    groups = list(kept.values())[: source.prompts_per_step]
    return [rollout for group in groups for rollout in group], {**state, "batches": number}


def _accuracy(group: list[Rollout]) -> float:
    return sum(score_of(rollout).correct for rollout in group) / len(group)


@dataclass(frozen=True)
class StepRollouts:
    """The rollouts of one step."""

    rollouts: list[Rollout]
    state: State  # of the rollouts function after this step
    lag: int  # updates by which the weights that sampled them are behind
    metrics: dict[str, float]


class Prefetcher:
    """Calls the rollouts function when the loop asks, or, with ahead=1, one step early in a second thread while the
    step before trains; training is then one update off-policy.

    Where the loop ends early, that thread ends with the grader or the engines, which the loop closes."""

    def __init__(
        self,
        rollouts: Callable[[RolloutSource, int, State], tuple[list[Rollout], State]],
        source: RolloutSource,
        shape: Mapping[str, Shape],
        steps: int,
        ahead: int = 0,
    ) -> None:
        self._rollouts, self._source, self._shape, self._steps, self._ahead = rollouts, source, shape, steps, ahead
        self._pending: tuple[int, Future[StepRollouts]] | None = None  # the step at which it was started
        self._thread = ThreadPoolExecutor(1, "ahead")

    def take(self, step: int, state: State) -> StepRollouts:
        """Return the rollouts of `step`. The first ones after a start have no lag."""
        if self._pending is None:
            taken = self._sample(step, state, 0)
        else:
            taken = self._pending[1].result()
            self._pending = None
        if self._ahead and step + 1 < self._steps:
            self._pending = step, self._thread.submit(self._sample, step + 1, taken.state, 1)
        return taken

    def _sample(self, step: int, state: State, lag: int) -> StepRollouts:
        begin, sampled = time.perf_counter(), []

        def sample(prompts: list[Prompt], number: int) -> list[Rollout]:
            sampled.append(self._source.sample(prompts, number))
            return sampled[-1]

        rollouts, state = self._rollouts(replace(self._source, sample=sample), step, state)
        for shape in self._shape.values():
            rollouts = shape(rollouts)
        seconds = time.perf_counter() - begin
        tokens = sum(len(rollout.token_ids) for batch in sampled for rollout in batch)
        metrics = {
            "rollout/lag": float(lag),
            "rollout/sampled": float(sum(map(len, sampled))),  # responses, those that were not kept included
            "time/rollouts": seconds,  # with ahead=1 beside the update of the step before
            "time/sample_tokens_per_second": tokens / seconds,
        }
        return StepRollouts(rollouts, state, lag, metrics)

    def settle(self) -> None:
        """Wait until nothing is being sampled: the sampler's weights may change now. An exception of sampling is raised
        by the next `take`."""
        if self._pending is not None:
            wait([self._pending[1]])
