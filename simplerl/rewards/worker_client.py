"""One grading worker, and what all kinds of it have in common: see `simplerl.rewards.pool`."""

from __future__ import annotations

import multiprocessing
import os
import subprocess
import sys
from collections.abc import Iterator
from multiprocessing.connection import Connection
from typing import Any, NamedTuple, Protocol

from simplerl.errors import ConfigError
from simplerl.rewards.equal import FAILED, TIMEOUT
from simplerl.rewards.worker_process import READY, RETIRED, UNUSABLE
from simplerl.types import Problem, Score

START_SECONDS = 120.0  # a worker's imports, on a busy machine
START_ATTEMPTS = 3


class Verdict(NamedTuple):
    """Of one answer; without a score, `error` or `status` says why."""

    score: Score | None
    seconds: float  # in the reward function
    error: str | None = None
    status: str = FAILED


class Lane(Protocol):
    """A worker, wherever it is, used by one thread; it replaces what breaks in it."""

    def start(self) -> None: ...
    def grade(self, items: list[tuple[str, Problem]]) -> Iterator[Verdict]: ...
    def kill(self) -> None: ...


class _Lost(Exception):
    """The worker died, or ran past the limit and was killed."""


class LocalLane:
    """One subprocess of this process, and its pipe."""

    def __init__(self, payload: bytes, seconds_per_answer: float, memory_gib: float, warm: bool) -> None:
        self.greeting = (payload, memory_gib, warm)
        self.seconds = seconds_per_answer
        self.process: subprocess.Popen[bytes] | None = None
        self.pipe: Connection | None = None

    def grade(self, items: list[tuple[str, Problem]]) -> Iterator[Verdict]:
        while items:
            done = 0
            try:
                self._send([(i, response, problem) for i, (response, problem) in enumerate(items)])
                for _ in items:
                    _, score, seconds, error = self._receive(self.seconds)
                    yield Verdict(score, seconds, error)
                    done += 1
                self._finish_chunk()
            except TimeoutError:
                if done < len(items):
                    yield Verdict(None, self.seconds, status=TIMEOUT)
                    done += 1
                self._restart()
            except _Lost as death:
                if done < len(items):
                    yield Verdict(None, 0.0, f"the worker died ({death})")
                    done += 1
                self._restart()
            items = items[done:]

    def start(self) -> None:
        for _ in range(START_ATTEMPTS):
            ours, theirs = multiprocessing.Pipe()
            environment = os.environ | {
                "PYTHONPATH": os.pathsep.join(p or os.getcwd() for p in sys.path),
                "PYTHONHASHSEED": "0",  # sympy's choices depend on it: verdicts must not
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
                ours.send(self.greeting)
                kind, detail = self._receive(START_SECONDS)
            except (_Lost, TimeoutError, BrokenPipeError):
                self.kill()
                continue
            if kind == UNUSABLE:
                raise ConfigError(f"A grading worker cannot load the reward: {detail}")
            assert kind == READY
            return
        raise RuntimeError(f"No grading worker could be started in {START_ATTEMPTS} attempts: see its output above.")

    def _restart(self) -> None:
        self.kill()
        self.start()

    def kill(self) -> None:
        if self.process is not None and self.pipe is not None:
            self.process.kill()
            self.process.wait()
            self.pipe.close()
            self.process = self.pipe = None

    def _send(self, items: list[tuple[int, str, Problem]]) -> None:
        assert self.pipe is not None
        try:
            self.pipe.send(items)
        except (BrokenPipeError, ConnectionResetError) as error:
            raise _Lost("before it read its work") from error

    def _finish_chunk(self) -> None:
        """After its last answer a worker says whether it goes on; one that grew too large does not."""
        kind, _ = self._receive(START_SECONDS)
        if kind == RETIRED:
            self._restart()

    def _receive(self, seconds: float) -> Any:
        assert self.pipe is not None
        try:
            if not self.pipe.poll(seconds):
                raise TimeoutError
            return self.pipe.recv()
        except (EOFError, ConnectionResetError) as error:
            assert self.process is not None
            raise _Lost(f"exit status {self.process.wait()}") from error
