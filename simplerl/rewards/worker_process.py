"""A grading process: reads (index, response, problem) from a pipe, answers (index, score, seconds, error).

Started by `simplerl.rewards.pool` as `python -m simplerl.rewards.worker_process FD`. It runs the reward in its main
thread (math-verify's and our own alarms work only there) and dies with the thread that started it.
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
from multiprocessing.connection import Connection
from numbers import Real
from typing import Any

from simplerl.types import Score

READY, UNUSABLE, IDLE, RETIRED = "ready", "unusable", "idle", "retired"
RECYCLE_CALLS = 20_000
RECYCLE_GROWTH = 400 * 2**20  # bytes above the worker's size after its first answers


def resident_bytes() -> int:
    """Resident memory of this process (Linux)."""
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * resource.getpagesize()


def _isolate() -> None:
    """Dies with its parent; leaves signals that are meant for the training process to it."""
    pr_set_pdeathsig = 1
    ctypes.CDLL(None).prctl(pr_set_pdeathsig, signal.SIGKILL)
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)


def _limit_memory(gib: float) -> None:
    size = int(gib * 2**30)
    _, hard = resource.getrlimit(resource.RLIMIT_AS)
    if hard != resource.RLIM_INFINITY:
        size = min(size, hard)
    resource.setrlimit(resource.RLIMIT_AS, (size, hard))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def _score(reward: Any, response: str, problem: Any) -> tuple[Score | None, str | None]:
    """The score, or None and what went wrong. A reward may raise anything, even SystemExit."""
    try:
        score = reward(response, problem)
    except BaseException:
        return None, traceback.format_exc(limit=-4)
    if not isinstance(score, Score):
        return None, f"the reward returned {type(score).__name__}, not a simplerl.types.Score"
    fault = _fault(score)
    return (None, fault) if fault else (score, None)


def _fault(score: Score) -> str | None:
    """What would otherwise fail, or spread, in the statistics of the whole step."""
    for name, value in [("reward", score.reward), *score.parts.items()]:
        if not isinstance(value, Real) or not math.isfinite(value):
            return f"the score's {name} is {value!r}, not a finite number"
    if score.correct not in (True, False):
        return f"the score's correct is {score.correct!r}, not true or false"
    if not isinstance(score.extracted, str | None):
        return f"the score's extracted is {score.extracted!r}, not text or None"
    return None


def serve(pipe: Connection) -> None:
    payload, memory_gib, warm = pipe.recv()
    try:
        reward = pickle.loads(payload)
        if warm:
            from simplerl.rewards import equal

            equal.warm()
        _limit_memory(memory_gib)
    except BaseException:  # told to the parent, which raises it
        pipe.send((UNUSABLE, traceback.format_exc(limit=-2)))
        return
    pipe.send((READY, None))
    calls, size_at_start = 0, None
    while True:
        try:
            items = pipe.recv()
        except EOFError:
            return
        out_of_memory = False
        for index, response, problem in items:
            start = time.perf_counter()
            score, error = _score(reward, response, problem)
            out_of_memory |= error is not None and "MemoryError" in error
            pipe.send((index, score, time.perf_counter() - start, error))
        calls += len(items)
        size = resident_bytes()
        size_at_start = size if size_at_start is None else size_at_start
        if out_of_memory or calls >= RECYCLE_CALLS or size > size_at_start + RECYCLE_GROWTH:
            pipe.send((RETIRED, None))
            return
        pipe.send((IDLE, None))


if __name__ == "__main__":
    _isolate()
    serve(Connection(int(sys.argv[1])))
