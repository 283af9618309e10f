"""Which process an actor is, and what it does when it is silent."""

from __future__ import annotations

import os
import socket
import sys
import threading
import traceback
from typing import Any, NamedTuple

import ray
from ray.exceptions import GetTimeoutError, NodeDiedError, OutOfMemoryError, RayActorError, WorkerCrashedError

DEATHS = (RayActorError, WorkerCrashedError, NodeDiedError, OutOfMemoryError)  # the last: by Ray's memory monitor


class Process(NamedTuple):
    pid: int
    host: str

    def __str__(self) -> str:
        return f"{self.pid} on {self.host}"


def this_process() -> Process:
    return Process(os.getpid(), socket.gethostname())


def stacks() -> str:
    """Where every Python thread of this process is."""
    names = {thread.ident: thread.name for thread in threading.enumerate()}
    texts = [
        f"thread {names[ident]}:\n" + "".join(traceback.format_stack(frame))
        for ident, frame in sys._current_frames().items()
        if ident in names and ident != threading.get_ident()
    ]
    return "\n".join(texts)


def stacks_of(actor: Any, seconds: float = 5.0) -> str:
    """The stacks of an actor that has a method `stacks` in a concurrency group of its own, or why there are none."""
    try:
        text: str = ray.get(actor.stacks.remote(), timeout=seconds)
    except (*DEATHS, GetTimeoutError) as error:
        return f"no stacks ({type(error).__name__}): it is gone, or native code holds it"
    return text
