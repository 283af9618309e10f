"""Grading in Ray actors, on whichever nodes have room, with the queue and the interface of `simplerl.rewards.pool`.

Each actor holds one worker process of the same kind as the local pool. An actor that dies or falls silent is replaced
and what it had not graded yet is graded again; an answer that kills the worker inside it costs that answer alone.
"""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Iterator
from functools import partial
from typing import Any

import ray

from simplerl.backends import Lost
from simplerl.cluster.grading_actor import GradingActor
from simplerl.cluster.health import DEATHS
from simplerl.rewards.pool import Grader
from simplerl.rewards.worker_client import START_ATTEMPTS, START_SECONDS, Verdict
from simplerl.types import Problem, Reward

logger = logging.getLogger(__name__)

_GRACE = START_ATTEMPTS * START_SECONDS  # a replacement of the worker inside the actor may take


class RayLane:
    """One `GradingActor`, as the thread that feeds it sees it; see `simplerl.rewards.worker_client.Lane`."""

    def __init__(
        self,
        payload: bytes,
        seconds: float,
        memory_gib: float,
        warm: bool,
        *,
        strategy: Any,
        max_restarts: int,
    ) -> None:
        self.arguments = ([folder or os.getcwd() for folder in sys.path], payload, seconds, memory_gib, warm)
        self.limit = seconds + _GRACE
        remote: Any = ray.remote
        # No CPU of Ray's account: graders work while the accelerators do, and must not wait for room.
        self.kind = remote(num_cpus=0, scheduling_strategy=strategy)(GradingActor)
        self.max_restarts, self.restarts = max_restarts, 0
        self.actor: Any = None
        self.pid = 0

    def start(self) -> None:
        while True:
            self.actor = self.kind.remote(*self.arguments)
            try:
                process = ray.get(self.actor.start.remote(), timeout=2 * _GRACE)
                self.pid = process.pid
                logger.info("grader: process %s", process)
                return
            except ray.exceptions.RayTaskError as error:
                raise error.cause from None
            except (*DEATHS, ray.exceptions.GetTimeoutError) as error:
                self._count(error)

    def grade(self, items: list[tuple[str, Problem]]) -> Iterator[Verdict]:
        while items:
            stream = self.actor.grade.options(num_returns="streaming").remote(items)
            try:
                while items:
                    if not ray.wait([stream], timeout=self.limit)[0]:
                        raise ray.exceptions.GetTimeoutError(f"no verdict for {self.limit:g} s")
                    verdicts: list[Verdict] = ray.get(next(stream))
                    items = items[len(verdicts) :]
                    yield from verdicts
                    self.restarts = 0
            except ray.exceptions.RayTaskError as error:
                raise error.cause from None
            except (*DEATHS, ray.exceptions.GetTimeoutError) as error:
                self._count(error)
                self.start()

    def _count(self, error: Exception) -> None:
        self.kill()
        self.restarts += 1
        reason = str(error).strip().splitlines()[-1].strip()
        if self.restarts > self.max_restarts:
            raise Lost("a grader", f"{self.restarts} of its processes ended one after the other; the last: {reason}")
        logger.warning("a grader is started again, its answers are graded again (%s)", reason)

    def kill(self) -> None:
        if self.actor is not None:
            ray.kill(self.actor)
            self.actor = None


def ray_grader(
    reward: Reward,
    workers: int = 1,
    seconds_per_answer: float = 8.0,
    memory_gib: float = 2.0,
    *,
    strategy: Any = "SPREAD",
    max_restarts: int = 3,
) -> Grader:
    """A `simplerl.rewards.pool.Grader` with `workers` Ray actors. One that dies `max_restarts` + 1 times without a
    verdict in between ends in `simplerl.backends.Lost`. Ray must have been initialised."""
    lane = partial(RayLane, strategy=strategy, max_restarts=max_restarts)
    return Grader(reward, workers, seconds_per_answer, memory_gib, lane)
