"""Where the models live: what a backend offers to the loops. `local` is one process; `simplerl.cluster` is Ray."""

from __future__ import annotations

from pathlib import Path
from typing import Protocol

from simplerl.backends.roles import Roles, Trainable
from simplerl.config import OptimizerConfig
from simplerl.rewards.pool import Grader
from simplerl.samplers import Sampler
from simplerl.types import Reward


class Lost(RuntimeError):
    """A worker process died or stopped responding; the run can resume from its last checkpoint."""

    def __init__(self, role: str, reason: str) -> None:
        super().__init__(f"{role} is lost: {reason}")
        self.role = role


class Backend(Protocol):
    """Builds models, samplers and graders, here or on a cluster."""

    max_restarts: int  # from the last checkpoint, after a `Lost`

    def grader(self, reward: Reward) -> Grader:
        """Return what grades responses, as a context manager."""

    def close(self) -> None:
        """End all that was started. May be called more than once; the backend can be used again afterwards."""

    def student(self, path: str, optimizer: OptimizerConfig, steps: int, checkpoint: Path | None) -> Trainable:
        """Return a policy alone, for supervised fine-tuning from the model at `path` or from a checkpoint of it."""

    def roles(self, start: str, checkpoint: Path | None) -> Roles:
        """Return every role of RL. Trained roles load from the checkpoint where there is one; frozen ones always from
        their own model or from `start`."""

    def sampler(self, path: str) -> Sampler:
        """Return a sampler alone, for evaluation."""
