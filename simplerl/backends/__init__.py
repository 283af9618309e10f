"""Defines the interface of a backend, which builds models, samplers and graders for the training loops.

`simplerl.backends.local` runs everything in one process; `simplerl.cluster.backend` runs it on Ray.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Protocol

from simplerl.backends.roles import Roles, Trainable
from simplerl.config import OptimizerConfig
from simplerl.errors import Lost
from simplerl.rewards.pool import Grader
from simplerl.samplers import Sampler
from simplerl.types import Reward

logger = logging.getLogger(__name__)


class Backend(Protocol):
    """Builds models, samplers and graders."""

    max_restarts: int  # restarts after `Lost` errors, from the last checkpoint, that one run of a command may make

    def grader(self, reward: Reward) -> Grader:
        """Return a context manager that grades responses with `reward`."""

    def close(self) -> None:
        """Stop all processes. May be called repeatedly; the backend can be used again afterwards."""

    def sft_model(self, path: str, optimizer: OptimizerConfig, steps: int, checkpoint: Path | None) -> Trainable:
        """Load the model at `path`, or resume from `checkpoint`, for `steps` optimizer steps of SFT."""

    def roles(self, start: str, checkpoint: Path | None) -> Roles:
        """Load all roles of RL and the sampler. Trained roles resume from `checkpoint` if given; otherwise a role is
        loaded from its own model or from `start`. Frozen roles ignore `checkpoint`."""

    def sampler(self, path: str) -> Sampler:
        """Return a sampler of the model at `path`, for evaluation."""


def attempts(backend: Backend, record: Callable[[int], object]) -> Iterator[AbstractContextManager[None]]:
    """Yield blocks until one ends without losing a worker process: `for attempt in attempts(...): with attempt: ...`.

    After a loss, closes the backend and calls `record` with the number of restarts so far. The block after
    `backend.max_restarts` restarts raises its `Lost`."""
    losses: list[Lost] = []

    @contextmanager
    def attempt() -> Iterator[None]:
        try:
            yield
        except Lost as lost:
            losses.append(lost)
            if len(losses) > backend.max_restarts:
                raise

    while True:
        seen = len(losses)
        yield attempt()
        if len(losses) == seen:
            return
        text = "%s; restart %d of %d, from the last checkpoint"
        logger.error(text, losses[-1], len(losses), backend.max_restarts, exc_info=losses[-1])
        backend.close()
        record(len(losses))
