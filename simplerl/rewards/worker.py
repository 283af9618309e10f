"""Runs a reward function in a process of its own, and supervises that process.

`LocalGradingWorker` starts this module as `python -m simplerl.rewards.worker FD` and sends it responses through a pipe;
`simplerl.rewards.pool` and the Ray graders are built on it. In the process the reward runs in the main thread, the only
one in which the timers of math-verify and of `simplerl.rewards.symbolic` work. The process is killed when the thread
that started it ends.
"""

from __future__ import annotations

import ctypes
import math
import multiprocessing
import os
import pickle
import resource
import signal
import subprocess
import sys
import time
import traceback
from array import array
from collections.abc import Iterator
from dataclasses import replace
from multiprocessing.connection import Connection
from numbers import Real
from typing import Any, NamedTuple, Protocol

from simplerl.errors import ConfigError
from simplerl.rewards.rules import FAILED, TIMEOUT
from simplerl.types import Problem, Response, Score

START_SECONDS = 120.0  # time for a worker's imports on a busy machine
START_ATTEMPTS = 3
_DEATH = (EOFError, ConnectionError)  # what the pipe of a dead process raises
READY, UNUSABLE, IDLE, RETIRED = "ready", "unusable", "idle", "retired"  # what a worker says of itself
MAX_ANSWERS = 20_000  # a worker that has graded as many is replaced
MAX_GROWTH = 400 * 2**20  # bytes above the size after its first answers


class PackedResponse(NamedTuple):
    """Holds a response in the form in which it is sent to a worker process: tokens are 32-bit integers."""

    text: str
    tokens: array[int]
    finish_reason: str


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
                [sys.executable, "-m", "simplerl.rewards.worker", str(theirs.fileno())],
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


class _ReceivedResponse(Response):
    """Builds the tuple `tokens` only when a reward reads it, because most rewards do not."""

    packed_tokens: array[int]

    def __new__(cls, packed: PackedResponse) -> _ReceivedResponse:
        response = str.__new__(cls, packed.text)
        response.packed_tokens, response.finish_reason = packed.tokens, packed.finish_reason
        return response

    @property
    def tokens(self) -> tuple[int, ...]:  # type: ignore[override]
        return tuple(self.packed_tokens)


def resident_bytes() -> int:
    """Return the resident memory of this process (Linux)."""
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * resource.getpagesize()


def _isolate() -> None:
    """Die with the parent, and ignore signals that a terminal or SLURM sends to the whole process group."""
    pr_set_pdeathsig = 1
    ctypes.CDLL(None).prctl(pr_set_pdeathsig, signal.SIGKILL)
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)


def _limit_memory(gib: float) -> None:
    """Limit the address space of this process and disable core dumps."""
    size = int(gib * 2**30)
    _, hard = resource.getrlimit(resource.RLIMIT_AS)
    if hard != resource.RLIM_INFINITY:
        size = min(size, hard)
    resource.setrlimit(resource.RLIMIT_AS, (size, hard))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def _score(reward: Any, response: Response, problem: Problem) -> tuple[Score | None, str | None]:
    """Return the score, or None and the error. A reward may raise anything, even SystemExit."""
    try:
        score = reward(response, problem)
    except BaseException:
        return None, traceback.format_exc(limit=-4)
    if not isinstance(score, Score):
        return None, f"the reward returned {type(score).__name__}; it must return a simplerl.types.Score"
    if (invalid := _invalid_field(score)) is not None:
        return None, invalid
    if isinstance(score.extracted, Response):  # send the text back without its tokens
        score = replace(score, extracted=str(score.extracted))
    return score, None


def _invalid_field(score: Score) -> str | None:
    """Describe a field that would break or distort the statistics of the whole step, or return None."""
    for name, value in [("reward", score.reward), *score.parts.items()]:
        if not isinstance(value, Real) or not math.isfinite(value):
            return f"the score's {name} is {value!r}; it must be a finite number"
    if score.correct not in (True, False):
        return f"the score's correct is {score.correct!r}; it must be True or False"
    if not isinstance(score.extracted, str | None):
        return f"the score's extracted is {score.extracted!r}; it must be a string or None"
    return None


def serve(pipe: Connection) -> None:
    """Load the reward that the pipe names, then answer lists of (response, problem) until the pipe closes.

    Each item is answered by (score, seconds, error), each list by (IDLE, None), or by (RETIRED, None) before
    the process ends because it ran out of memory, grew too large or has graded enough answers.
    """
    payload, memory_gib, uses_math_grader = pipe.recv()
    try:
        reward = pickle.loads(payload)
        if uses_math_grader:
            from simplerl.rewards import equality

            equality.warm_up()
        _limit_memory(memory_gib)
    except BaseException:  # reported to the parent, which raises it
        pipe.send((UNUSABLE, traceback.format_exc(limit=-2)))
        return
    pipe.send((READY, None))
    answers, size_at_start = 0, None
    while True:
        try:
            items = pipe.recv()
        except EOFError:
            return
        out_of_memory = False
        for packed, problem in items:
            response = _ReceivedResponse(packed)
            start = time.perf_counter()
            score, error = _score(reward, response, problem)
            out_of_memory |= error is not None and "MemoryError" in error
            pipe.send((score, time.perf_counter() - start, error))
        answers += len(items)
        size = resident_bytes()
        size_at_start = size if size_at_start is None else size_at_start
        if out_of_memory or answers >= MAX_ANSWERS or size > size_at_start + MAX_GROWTH:
            pipe.send((RETIRED, None))
            return
        pipe.send((IDLE, None))


if __name__ == "__main__":
    _isolate()
    serve(Connection(int(sys.argv[1])))
