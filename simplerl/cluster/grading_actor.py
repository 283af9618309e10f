"""One grading worker in a Ray actor. Imports little, for there are many of them and they start often."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator, Sequence

from simplerl.cluster.health import Process, this_process
from simplerl.rewards.worker_client import LocalLane, Verdict
from simplerl.types import Problem

_TOGETHER = 0.2  # seconds of verdicts that travel in one message


class GradingActor:
    def __init__(self, path: Sequence[str], payload: bytes, seconds: float, memory_gib: float, warm: bool) -> None:
        sys.path += [folder for folder in path if folder not in sys.path]  # where a user's reward may be
        self.lane = LocalLane(payload, seconds, memory_gib, warm)

    def start(self) -> Process:
        self.lane.start()
        return this_process()

    def grade(self, items: list[tuple[str, Problem]]) -> Iterator[list[Verdict]]:
        """A verdict for each item, in order, a few at a time."""
        begin, verdicts = time.monotonic(), []
        for verdict in self.lane.grade(items):
            verdicts.append(verdict)
            if time.monotonic() - begin > _TOGETHER:
                yield verdicts
                begin, verdicts = time.monotonic(), []
        if verdicts:
            yield verdicts
