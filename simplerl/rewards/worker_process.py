"""Runs a reward function in a process of its own: reads responses from a pipe and writes scores to it.

`simplerl.rewards.worker_client` starts it as `python -m simplerl.rewards.worker_process FD` and holds the other end of
the pipe. The reward runs in the main thread, the only one in which the timers of math-verify and of
`simplerl.rewards.symbolic` work. The process is killed when the thread that started it ends.
"""

from __future__ import annotations

import ctypes
import math
import pickle
import resource
import signal
import sys
import time
import traceback
from array import array
from dataclasses import replace
from multiprocessing.connection import Connection
from numbers import Real
from typing import Any, NamedTuple

from simplerl.types import Problem, Response, Score

READY, UNUSABLE, IDLE, RETIRED = "ready", "unusable", "idle", "retired"  # what a worker says of itself
MAX_ANSWERS = 20_000  # a worker that has graded as many is replaced
MAX_GROWTH = 400 * 2**20  # bytes above the size after its first answers


class PackedResponse(NamedTuple):
    """Holds a response in the form in which it is sent to a worker process: tokens are 32-bit integers."""

    text: str
    tokens: array[int]
    finish_reason: str


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
