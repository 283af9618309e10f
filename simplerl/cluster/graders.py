"""Grades responses in Ray actors on any node, behind the same interface as `simplerl.rewards.pool`.

Each actor supervises one worker process of the same kind as the local pool. An actor that dies or stops responding is
replaced, and the answers that it had not graded are graded again. An answer that kills the worker process inside an
actor costs only that answer.
"""

from __future__ import annotations

import logging
import math
import os
import sys
import time
from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any

import ray

from simplerl.cluster.health import DEATHS, Process, this_process
from simplerl.errors import Lost
from simplerl.rewards.channel import PackedResponse
from simplerl.rewards.pool import Grader
from simplerl.rewards.worker import (
    START_ATTEMPTS,
    START_SECONDS,
    WALL_FACTOR,
    GradingResult,
    LocalGradingWorker,
    Stopped,
)
from simplerl.types import Problem, Reward

logger = logging.getLogger(__name__)

_RESTART_SECONDS = START_ATTEMPTS * START_SECONDS  # time to replace the worker process inside an actor
_BATCH_SECONDS = 0.2  # the results of this many seconds are sent in one message


class GradingActor:
    """Runs a LocalGradingWorker as a Ray actor.

    path: folders to append to sys.path, so that a user's reward can be imported. The other arguments are those of
    LocalGradingWorker.
    """

    def __init__(self, path: Sequence[str], *arguments: Any) -> None:
        sys.path += [folder for folder in path if folder not in sys.path]
        self.worker = LocalGradingWorker(*arguments)

    def start(self) -> Process:
        self.worker.start()
        return this_process()

    def grade(self, items: list[tuple[PackedResponse, Problem]]) -> Iterator[list[GradingResult]]:
        """Yield the results in order, a few at a time."""
        begin, results = time.monotonic(), []
        for result in self.worker.grade(items):
            results.append(result)
            if time.monotonic() - begin > _BATCH_SECONDS:
                yield results
                begin, results = time.monotonic(), []
        if results:
            yield results


class RayGradingWorker:
    """Represents one GradingActor in the driver process; implements `simplerl.rewards.worker.GradingWorker`.

    strategy: Ray scheduling strategy. max_restarts: number of deaths without a result in between that are tolerated;
    the next one raises Lost.
    """

    def __init__(
        self,
        payload: bytes,
        seconds_per_answer: float,
        memory_gib: float,
        uses_math_grader: bool,
        *,
        strategy: Any,
        max_restarts: int,
    ) -> None:
        path = [folder or os.getcwd() for folder in sys.path]
        self.arguments = (path, payload, seconds_per_answer, memory_gib, uses_math_grader)
        self.silence_seconds = 2 * WALL_FACTOR * seconds_per_answer + _RESTART_SECONDS
        remote: Any = ray.remote
        # Reserve no CPU: graders work while the accelerators do, and must not wait for a free slot.
        self.actor_class = remote(num_cpus=0, scheduling_strategy=strategy)(GradingActor)
        self.max_restarts, self.restarts = max_restarts, 0
        self.actor: Any = None
        self.pid = 0
        self._stopping = False

    def start(self) -> None:
        """Start the actor and its worker process. Raises ConfigError if the reward cannot be loaded, `Lost` if the
        actor dies too often (see `_kill_and_count`), and `Stopped` if the worker is being stopped."""
        while True:
            self.actor = self.actor_class.remote(*self.arguments)
            if self._stopping:
                raise Stopped
            try:
                process = ray.get(self.actor.start.remote(), timeout=2 * _RESTART_SECONDS)
                self.pid = process.pid
                logger.info("grader: process %s", process)
                return
            except ray.exceptions.RayTaskError as error:
                raise error.cause from None
            except (*DEATHS, ray.exceptions.GetTimeoutError) as error:
                self._kill_and_count(error)

    def grade(self, items: list[tuple[PackedResponse, Problem]]) -> Iterator[GradingResult]:
        """Yield one result per item, in order; items that a dead actor left ungraded are graded by its successor.
        Raises `Lost` after more than `max_restarts` deaths without a result in between."""
        while items:
            stream = self.actor.grade.options(num_returns="streaming").remote(items)
            try:
                while items:
                    if not ray.wait([stream], timeout=self.silence_seconds)[0]:
                        raise ray.exceptions.GetTimeoutError(f"no result for {self.silence_seconds:g} s")
                    results: list[GradingResult] = ray.get(next(stream))
                    items = items[len(results) :]
                    yield from results
                    self.restarts = 0
            except ray.exceptions.RayTaskError as error:
                raise error.cause from None
            except (*DEATHS, ray.exceptions.GetTimeoutError) as error:
                self._kill_and_count(error)
                self.start()

    def _kill_and_count(self, error: Exception) -> None:
        """Kill the actor and count its death. Raises Lost after more than `max_restarts` deaths in a row."""
        self.kill()
        self.restarts += 1
        reason = str(error).strip().splitlines()[-1].strip()
        if self.restarts > self.max_restarts:
            raise Lost("a grader", f"{self.restarts} of its processes died in a row; the last error: {reason}")
        logger.warning("A grader died and is restarted; its unfinished answers are graded again (%s)", reason)

    def kill(self) -> None:
        """Kill the actor, if there is one; its worker process ends with it."""
        if self.actor is not None:
            ray.kill(self.actor)
            self.actor = None

    def stop(self) -> None:
        self._stopping = True
        actor = self.actor
        if actor is not None:
            ray.kill(actor)


def ray_grader(
    reward: Reward,
    workers: int = 1,
    seconds_per_answer: float = 8.0,
    memory_gib: float = 2.0,
    seconds_per_step: float = math.inf,
    *,
    strategy: Any = "SPREAD",
    max_restarts: int = 3,
) -> Grader:
    """Return a `simplerl.rewards.pool.Grader` whose workers are Ray actors. Ray must be initialised.

    If one actor dies `max_restarts` + 1 times without a result in between, grading raises
    `simplerl.errors.Lost`.
    """
    worker_type = partial(RayGradingWorker, strategy=strategy, max_restarts=max_restarts)
    return Grader(reward, workers, seconds_per_answer, memory_gib, seconds_per_step, worker_type)
