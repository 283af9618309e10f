"""Grading in worker processes, while responses are still being sampled, under a hard limit per answer.

Each worker is a long-lived subprocess (never a fork: the parent may hold CUDA, Ray or gRPC threads) served
by one daemon thread of the parent. The whole reward function runs in it, a user's own too. An answer over its
limit is killed with its worker (SIGKILL: nothing softer stops a C loop), marked, and the worker replaced;
the rest of its chunk is graded by the next one, so that a kill costs one answer.
`simplerl.cluster.graders` has the same workers on other nodes.
"""

from __future__ import annotations

import hashlib
import inspect
import logging
import pickle
import threading
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from simplerl.errors import ConfigError
from simplerl.rewards.equal import FAILED, TIMEOUT, check_rule
from simplerl.rewards.worker_client import Lane, LocalLane, Verdict
from simplerl.types import Problem, Prompt, Reward, Rollout, Score

log = logging.getLogger(__name__)

ALL = 4  # so many answers and not one verdict: the reward is at fault, not they
CHUNK = 16  # answers per message; more saves nothing, less keeps workers evenly busy


@dataclass
class _Work:
    """One call of `grade`: what has come back so far."""

    results: dict[int, tuple[Score, float]] = field(default_factory=dict)
    errors: list[str] = field(default_factory=list)


_Item = tuple[_Work, int, str, Problem]


class Grader:
    """Scores responses in `workers` processes.

    `seconds_per_answer`: then the worker is killed and the answer counts as status "timeout".
    `memory_gib`: address space of a worker; an answer that needs more has status "failed".
    Such answers get the reward of the function's parameter `wrong`, or 0 where it has none.
    `metrics`: reward/timeout_fraction and reward/failed_fraction of the last call.
    """

    def __init__(
        self,
        reward: Reward,
        workers: int = 1,
        seconds_per_answer: float = 8.0,
        memory_gib: float = 2.0,
        lane: Callable[[bytes, float, float, bool], Lane] | None = None,
    ) -> None:
        if workers < 1:
            raise ConfigError(f"grading.workers is {workers}, but must be at least 1.")
        if isinstance(reward, partial) and "rule" in reward.keywords and _name(reward).startswith("simplerl."):
            check_rule(reward.keywords["rule"])
        self.payload = _pickled(reward)
        self.name = _name(reward)
        self.keywords: dict[str, Any] = dict(reward.keywords) if isinstance(reward, partial) else {}
        self.source = source_of(reward)
        self.lost_reward = _reward_of_lost(reward)
        warm = self.name.startswith("simplerl.")
        kind = lane or LocalLane
        self.lanes = [kind(self.payload, seconds_per_answer, memory_gib, warm) for _ in range(workers)]
        self.metrics: dict[str, float] = {}
        self._queue: deque[_Item] = deque()
        self._changed = threading.Condition()
        self._failure: BaseException | None = None
        self._closing = False
        self._busy = threading.Lock()
        self._threads = [
            threading.Thread(target=self._run, args=(one,), name=f"grader-{i}", daemon=True)
            for i, one in enumerate(self.lanes)
        ]

    def __enter__(self) -> Self:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with self._changed:
            self._closing = True
            self._queue.clear()
            self._changed.notify_all()
        for thread in self._threads:
            thread.join()

    def grade(self, rollouts: Iterable[Rollout], prompts: Sequence[Prompt] | None = None) -> list[Rollout]:
        """The rollouts with scores, grading while the stream still produces.

        In the order of `prompts` where given, otherwise of problem ids; then of samples.
        """
        taken: list[Rollout] = []

        def pairs() -> Iterable[tuple[str, Problem]]:
            for rollout in rollouts:
                taken.append(rollout)
                yield rollout.text, rollout.prompt.problem

        scored = [replace(r, score=score) for (score, _), r in zip(self.grade_timed(pairs()), taken, strict=True)]
        if prompts is None:
            return sorted(scored, key=lambda r: (r.prompt.problem.id, r.sample))
        place = {prompt.problem.id: i for i, prompt in enumerate(prompts)}
        return sorted(scored, key=lambda r: (place[r.prompt.problem.id], r.sample))

    def grade_pairs(self, pairs: Iterable[tuple[str, Problem]]) -> list[Score]:
        """Scores of (response, problem), in their order."""
        return [score for score, _ in self.grade_timed(pairs)]

    def grade_timed(self, pairs: Iterable[tuple[str, Problem]]) -> list[tuple[Score, float]]:
        """(score, seconds in the reward function) of each (response, problem), in their order."""
        if not self._threads[0].is_alive() and self._failure is None:
            raise RuntimeError("A Grader works inside `with Grader(...) as grader:` only.")
        with self._busy:
            work, count = _Work(), 0
            try:
                for response, problem in pairs:
                    self._put((work, count, response, problem))
                    count += 1
                return self._collect(work, count)
            finally:
                with self._changed:
                    self._queue.clear()

    def _put(self, item: _Item) -> None:
        with self._changed:
            self._raise_failure()
            self._queue.append(item)
            self._changed.notify()

    def _collect(self, work: _Work, count: int) -> list[tuple[Score, float]]:
        with self._changed:
            while len(work.results) < count:
                self._raise_failure()
                self._changed.wait(timeout=1.0)
        results = [work.results[i] for i in range(count)]
        statuses = [score.status for score, _ in results]
        self.metrics = {
            "reward/timeout_fraction": statuses.count(TIMEOUT) / max(count, 1),
            "reward/failed_fraction": statuses.count(FAILED) / max(count, 1),
        }
        if statuses.count(TIMEOUT) == count >= ALL:
            raise RuntimeError(f"{self.name} ran into the time limit on every one of {count} answers.")
        if work.errors:
            if len(work.errors) == count >= ALL:
                raise RuntimeError(f"{self.name} failed on every one of {count} answers; the first: {work.errors[0]}")
            log.warning(
                "%s failed on %d of %d answers; the first: %s", self.name, len(work.errors), count, work.errors[0]
            )
        return results

    def _raise_failure(self) -> None:
        if self._failure is not None:
            raise self._failure
        if self._closing:  # by another thread: nobody will grade what is left
            raise RuntimeError("the grader has closed")

    def _run(self, lane: Lane) -> None:
        """A worker's life in the parent: the body of one daemon thread."""
        try:
            lane.start()
            while chunk := self._take():
                pairs = [(response, problem) for _, _, response, problem in chunk]
                for item, verdict in zip(chunk, lane.grade(pairs), strict=True):
                    self._store(item, verdict)
                    if self._closing:
                        return
        except BaseException as error:  # raised again by the caller's next wait
            with self._changed:
                self._failure = error
                self._changed.notify_all()
        finally:
            lane.kill()

    def _take(self) -> list[_Item]:
        """The next answers to grade, or nothing when the grader closes."""
        with self._changed:
            self._changed.wait_for(lambda: bool(self._queue) or self._closing)
            if self._closing:
                return []
            share = -(-len(self._queue) // len(self._threads))
            return [self._queue.popleft() for _ in range(min(CHUNK, share))]

    def _store(self, item: _Item, verdict: Verdict) -> None:
        work, index, _, _ = item
        score, seconds, error, status = verdict
        if score is None:
            score = Score(self.lost_reward, False, status, None, {})
        with self._changed:
            work.results[index] = (score, seconds)
            if error is not None:
                work.errors.append(error)
            if not self._queue:
                self._changed.notify_all()


def _function(reward: Reward) -> Callable[..., Any]:
    return reward.func if isinstance(reward, partial) else reward


def source_of(reward: Reward) -> str:
    """A digest of the code that a reward function stands in: its file, or all of `simplerl.rewards`."""
    file = Path(inspect.getfile(reward.func if isinstance(reward, partial) else reward))
    files = sorted(file.parent.glob("*.py")) if file.parent == Path(__file__).parent else [file]
    return hashlib.sha256(b"".join(one.read_bytes() for one in files)).hexdigest()[:16]


def _name(reward: Reward) -> str:
    function = _function(reward)
    return f"{function.__module__}.{function.__qualname__}"


def _pickled(reward: Reward) -> bytes:
    if _function(reward).__module__ == "__main__":
        raise ConfigError(f"reward {_name(reward)} cannot be imported by the grading workers: put it in a module.")
    try:
        return pickle.dumps(reward)
    except (pickle.PicklingError, AttributeError, TypeError) as error:
        raise ConfigError(
            f"reward {_name(reward)} cannot be sent to the grading workers ({error}): "
            "make it a plain function of a module, with plain values as keywords."
        ) from error


def _reward_of_lost(reward: Reward) -> float:
    """What an answer earns whose grading did not finish: the same as a wrong one."""
    parameter = inspect.signature(reward).parameters.get("wrong")
    return 0.0 if parameter is None or parameter.default is parameter.empty else float(parameter.default)
