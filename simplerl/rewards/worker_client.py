"""Starts and supervises one grading worker process; `simplerl.rewards.pool` and Ray graders are built on it."""

from __future__ import annotations

import multiprocessing
import os
import subprocess
import sys
from collections.abc import Iterator
from multiprocessing.connection import Connection
from typing import Any, NamedTuple, Protocol

from simplerl.errors import ConfigError
from simplerl.rewards.rules import FAILED, TIMEOUT
from simplerl.rewards.worker_process import READY, RETIRED, UNUSABLE, PackedResponse
from simplerl.types import Problem, Score

START_SECONDS = 120.0  # time for a worker's imports on a busy machine
START_ATTEMPTS = 3
_DEATH = (EOFError, ConnectionError)  # what the pipe of a dead process raises


class GradingResult(NamedTuple):
    """Holds the score of one answer or, if `score` is None, the reason in `error` or `status`."""

    score: Score | None
    seconds: float  # time in the reward function
    error: str | None = None
    status: str = FAILED


class GradingWorker(Protocol):
    """Defines a worker on any machine. One thread uses it, and it restarts its process if that dies or hangs."""

    def start(self) -> None: ...
    def grade(self, items: list[tuple[PackedResponse, Problem]]) -> Iterator[GradingResult]: ...
    def kill(self) -> None: ...


class LocalGradingWorker:
    """Runs a worker as a subprocess of this process.

    payload: the pickled reward function. seconds_per_answer: the process is killed if one answer takes longer.
    memory_gib: address space of the process. uses_math_grader: load math-verify before the first answer.
    """

    def __init__(self, payload: bytes, seconds_per_answer: float, memory_gib: float, uses_math_grader: bool) -> None:
        self.setup = (payload, memory_gib, uses_math_grader)
        self.seconds_per_answer = seconds_per_answer
        self.process: subprocess.Popen[bytes] | None = None
        self.pipe: Connection | None = None

    def grade(self, items: list[tuple[PackedResponse, Problem]]) -> Iterator[GradingResult]:
        """Yield one result per item, in order. An answer that kills or hangs the process costs only that answer."""
        while items:
            assert self.process is not None and self.pipe is not None
            done = 0
            try:
                self.pipe.send(items)
                for _ in items:
                    yield GradingResult(*self._receive(self.seconds_per_answer))
                    done += 1
                if self._receive(START_SECONDS) == (RETIRED, None):
                    self._restart()
            except TimeoutError:
                if done < len(items):
                    yield GradingResult(None, self.seconds_per_answer, status=TIMEOUT)
                    done += 1
                self._restart()
            except _DEATH:
                if done < len(items):
                    yield GradingResult(None, 0.0, f"the grading worker died (exit status {self.process.wait()})")
                    done += 1
                self._restart()
            items = items[done:]

    def start(self) -> None:
        """Start the process and wait until it has loaded the reward.

        Raises ConfigError if the reward cannot be loaded, RuntimeError if the process dies START_ATTEMPTS times.
        """
        for _ in range(START_ATTEMPTS):
            ours, theirs = multiprocessing.Pipe()
            environment = os.environ | {
                "PYTHONPATH": os.pathsep.join(p or os.getcwd() for p in sys.path),
                "PYTHONHASHSEED": "0",  # sympy's results depend on it, verdicts must not
                "OMP_NUM_THREADS": "1",
            }
            self.process = subprocess.Popen(
                [sys.executable, "-m", "simplerl.rewards.worker_process", str(theirs.fileno())],
                pass_fds=[theirs.fileno()],
                stdin=subprocess.DEVNULL,
                env=environment,
            )
            theirs.close()
            self.pipe = ours
            try:
                ours.send(self.setup)
                kind, detail = self._receive(START_SECONDS)
            except (*_DEATH, TimeoutError):
                self.kill()
                continue
            if kind == UNUSABLE:
                raise ConfigError(f"A grading worker cannot load the reward: {detail}")
            assert kind == READY
            return
        raise RuntimeError(
            f"No grading worker could be started in {START_ATTEMPTS} attempts: see the error that it printed above."
        )

    def _restart(self) -> None:
        self.kill()
        self.start()

    def kill(self) -> None:
        """Kill the process, if there is one, and wait for its end."""
        if self.process is not None and self.pipe is not None:
            self.process.kill()
            self.process.wait()
            self.pipe.close()
            self.process = self.pipe = None

    def _receive(self, seconds: float) -> Any:
        assert self.pipe is not None
        if not self.pipe.poll(seconds):
            raise TimeoutError
        return self.pipe.recv()
