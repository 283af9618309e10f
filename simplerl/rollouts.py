"""Where the loop takes a step's rollouts from: drawn when it asks, or, with rollout.ahead=1, drawn and graded by a
second thread while the step before trains. The latter makes training one step off-policy. Where the loop ends early,
that thread ends with the grader or the engines, which the loop closes."""

from __future__ import annotations

import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor, wait

from simplerl.types import Rollout


class RolloutSource:
    """draw: (step) -> the graded rollouts of a step, with the weights that the sampler holds at that moment.
    ahead: 0 or 1. steps: of the whole run. `seconds`: that drawing and grading what was last taken lasted."""

    def __init__(self, draw: Callable[[int], list[Rollout]], ahead: int, steps: int) -> None:
        self._draw, self._ahead, self._steps = draw, ahead, steps
        self._drawn: tuple[int, Future[tuple[list[Rollout], float]]] | None = None  # of a later step, since a step
        self.seconds = 0.0
        self._thread = ThreadPoolExecutor(1, "ahead")

    def take(self, step: int) -> tuple[list[Rollout], int]:
        """The rollouts of `step`, and its lag: how many updates the weights that drew them are behind. The first
        rollouts after a start have none."""
        if self._drawn is None:
            (rollouts, self.seconds), lag = self._timed(step), 0
        else:
            since, drawn = self._drawn
            (rollouts, self.seconds), lag = drawn.result(), step - since
        self._drawn = None
        if self._ahead and step + 1 < self._steps:
            self._drawn = step, self._thread.submit(self._timed, step + 1)
        return rollouts, lag

    def _timed(self, step: int) -> tuple[list[Rollout], float]:
        begin = time.perf_counter()
        return self._draw(step), time.perf_counter() - begin

    def settle(self) -> None:
        """Waits until nothing is being drawn: the sampler's weights may change now. What drawing raised is raised
        by the next `take`."""
        if self._drawn is not None:
            wait([self._drawn[1]])
