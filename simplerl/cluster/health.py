"""Waits for Ray actors and detects those that die or hang.

A death is reported with the role of the process; an actor that makes no progress is reported with its thread stacks.
"""

from __future__ import annotations

import logging
import os
import socket
import sys
import threading
import time
import traceback
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import ray
from ray.exceptions import (
    GetTimeoutError,
    NodeDiedError,
    OutOfMemoryError,
    RayActorError,
    RayTaskError,
    WorkerCrashedError,
)

from simplerl.errors import Lost

logger = logging.getLogger(__name__)

DEATHS = (RayActorError, WorkerCrashedError, NodeDiedError, OutOfMemoryError)  # the last: killed to free memory
POLL_SECONDS = 5.0  # between two queries of the actors' progress
DEATH_SECONDS = 10.0  # how long Ray may take to report the death that made another rank's collective fail


@dataclass(frozen=True)
class Limits:
    """Sets after how many seconds without progress a role counts as lost."""

    start_seconds: float = 600.0  # while processes start, connect and load models
    silence_seconds: float = 600.0  # afterwards


class Process(NamedTuple):
    pid: int
    host: str

    def __str__(self) -> str:
        return f"{self.pid} on {self.host}"


def this_process() -> Process:
    return Process(os.getpid(), socket.gethostname())


def thread_stacks() -> str:
    """Return the stack traces of this process's other Python threads."""
    names = {thread.ident: thread.name for thread in threading.enumerate()}
    texts = [
        f"thread {names[ident]}:\n" + "".join(traceback.format_stack(frame))
        for ident, frame in sys._current_frames().items()
        if ident in names and ident != threading.get_ident()
    ]
    return "\n".join(texts)


def stacks_of(actor: Any, seconds: float = 5.0) -> str:
    """Return the stack traces of an actor, or the reason why there are none, such as no answer within `seconds`.

    The actor must have a method `stacks`, in a separate concurrency group, that returns `thread_stacks()`.
    """
    try:
        text: str = ray.get(actor.stacks.remote(), timeout=seconds)
    except (*DEATHS, GetTimeoutError) as error:
        return f"no stacks ({type(error).__name__}): the process has ended, or native code blocks it"
    return text


def wait_for_results(
    role: str, actors: Sequence[Any], references: Sequence[Any], silence: float, method: str
) -> list[Any]:
    """Wait for `references`, the pending calls of `method` on `actors`, and return their values.

    Each actor must have a method `progress`, which returns a growing count and answers while another method runs.
    Raises `Lost` if an actor dies, or if no count changes for `silence` seconds. An exception raised by an actor is
    raised here again."""
    counts: list[int | None] = [None] * len(actors)
    changed = time.monotonic()
    waiting = list(references)
    poll_seconds = min(POLL_SECONDS, silence / 4)
    while waiting:
        done, waiting = ray.wait(waiting, num_returns=len(waiting), timeout=poll_seconds)
        for reference in done:
            _raise_failure(role, actors, reference)
        if waiting:
            current = [_progress(actor, poll_seconds) for actor in actors]
            if any(count is not None and count != before for count, before in zip(current, counts, strict=True)):
                changed, counts = time.monotonic(), current
            if time.monotonic() - changed > silence:
                for number, actor in enumerate(actors):
                    logger.error("%s rank %d does not respond; its threads:\n%s", role, number, stacks_of(actor))
                reason = f"no progress in `{method}` for {silence:g} s; the stacks of its ranks are in the log"
                raise Lost(role, reason)
    return list(ray.get(list(references)))


def _raise_failure(role: str, actors: Sequence[Any], reference: Any) -> None:
    try:
        ray.get(reference)
    except DEATHS as error:
        raise Lost(role, _ended(error)) from error
    except RayTaskError as error:
        _raise_death(role, actors, error)
        raise error.as_instanceof_cause() from None


def _progress(actor: Any, seconds: float) -> int | None:
    try:
        count: int = ray.get(actor.progress.remote(), timeout=seconds)
    except (GetTimeoutError, *DEATHS):  # a death also fails the call that is waited for
        return None
    return count


def _raise_death(role: str, actors: Sequence[Any], cause: RayTaskError) -> None:
    """Raise `Lost` if a rank has died, which makes the collectives of other ranks fail with errors such as `cause`, or
    if `cause` is another failure of their communication."""
    deadline = time.monotonic() + (DEATH_SECONDS if _is_communication_error(cause) else 0.0)
    while True:
        for number, actor in enumerate(actors):
            try:
                ray.get(actor.progress.remote(), timeout=POLL_SECONDS)
            except GetTimeoutError:
                continue
            except DEATHS as error:
                raise Lost(f"{role} rank {number}", _ended(error)) from error
        if time.monotonic() > deadline:
            break
        time.sleep(0.5)
    if _is_communication_error(cause):
        raise Lost(role, f"its ranks cannot communicate: {last_line(cause)}") from cause


def _is_communication_error(error: RayTaskError) -> bool:
    """Return whether gloo or NCCL raised the error, which is recognised by its text."""
    text = str(error).lower()
    return any(word in text for word in ("gloo", "nccl", "distbackenderror", "distnetworkerror", "connection closed"))


def _ended(error: Exception) -> str:
    return f"its process has ended ({last_line(error)})"


def last_line(error: Exception) -> str:
    return str(error).strip().splitlines()[-1].strip()
