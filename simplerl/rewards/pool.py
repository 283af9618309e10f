"""Grades responses in worker processes while others are still being sampled, with a hard time limit per answer.

Each worker is a long-lived subprocess, served by one daemon thread of the parent. It is not forked, because the parent
may have CUDA, Ray or gRPC threads. The whole reward function runs in the worker, whether built in or a user's own. A
worker whose answer exceeds the limit is killed by SIGKILL (nothing less stops a loop in C) and replaced; the answer
gets status "timeout", and the new worker grades the rest of the chunk. `simplerl.cluster.graders` runs the same
workers on other nodes.
"""

from __future__ import annotations

import hashlib
import inspect
import logging
import pickle
import threading
from array import array
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from simplerl.errors import ConfigError
from simplerl.rewards import binary, lenient, strict
from simplerl.rewards.rules import FAILED, TIMEOUT, check_rule
from simplerl.rewards.symbolic import math_verify_alone
from simplerl.rewards.worker_client import GradingResult, GradingWorker, LocalGradingWorker
from simplerl.rewards.worker_process import PackedResponse
from simplerl.types import FINISH_STOP, Problem, Prompt, Response, Reward, Rollout, Score

log = logging.getLogger(__name__)

# Rewards of this package that compare mathematics: their `rule` is checked, and workers load math-verify at the start.
MATH_REWARDS = (strict, binary, lenient, math_verify_alone)
MIN_ALL_FAILED = 4  # if at least this many answers all fail, assume that the reward function is broken and stop
CHUNK = 16  # answers per message; a larger chunk saves nothing, a smaller one spreads work more evenly


@dataclass
class _Call:
    """Collects the results of one call of `grade`, by index."""

    results: dict[int, tuple[Score, float]] = field(default_factory=dict)
    errors: list[str] = field(default_factory=list)


_Answer = tuple[str, Sequence[int], str, Problem]  # text, tokens, finish reason
_Item = tuple[_Call, int, _Answer]


class Grader:
    """Scores responses in `workers` processes. Use it as a context manager, which starts and ends the processes.

    reward: called as reward(response, problem); `response` is a `simplerl.types.Response`.
    seconds_per_answer: a worker that takes longer is killed, and the answer gets status "timeout".
    memory_gib: address space of a worker; an answer that needs more gets status "failed".
    worker_type: makes a worker from (pickled reward, seconds_per_answer, memory_gib, uses_math_grader).

    An answer that times out or fails gets `failure_reward`: the value of the function's parameter `wrong`, or 0 if it
    has none. `metrics` holds reward/timeout_fraction and reward/failed_fraction of the last call.
    """

    def __init__(
        self,
        reward: Reward,
        workers: int = 1,
        seconds_per_answer: float = 8.0,
        memory_gib: float = 2.0,
        worker_type: Callable[[bytes, float, float, bool], GradingWorker] = LocalGradingWorker,
    ) -> None:
        if workers < 1:
            raise ConfigError(f"grading.workers is {workers}, but must be at least 1.")
        uses_math_grader = _function(reward) in MATH_REWARDS
        self.keywords: dict[str, Any] = dict(reward.keywords) if isinstance(reward, partial) else {}
        if uses_math_grader and "rule" in self.keywords:
            check_rule(self.keywords["rule"])
        payload = _pickled(reward)
        self.name = _name(reward)
        self.source = source_digest(reward)
        self.failure_reward = _failure_reward(reward)
        self.workers = [worker_type(payload, seconds_per_answer, memory_gib, uses_math_grader) for _ in range(workers)]
        self.metrics: dict[str, float] = {}
        self._queue: deque[_Item] = deque()
        self._changed = threading.Condition()
        self._failure: BaseException | None = None
        self._closing = False
        self._busy = threading.Lock()
        self._threads = [
            threading.Thread(target=self._run, args=(one,), name=f"grader-{i}", daemon=True)
            for i, one in enumerate(self.workers)
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
        """Return the rollouts with their scores; grading starts with the first rollout of the stream.

        They are sorted by the order of `prompts`, or by problem id if that is None, and then by sample.
        """
        received: list[Rollout] = []

        def answers() -> Iterable[_Answer]:
            for rollout in rollouts:
                received.append(rollout)
                yield rollout.text, rollout.token_ids, rollout.finish_reason, rollout.prompt.problem

        results = self._grade(answers())
        scored = [replace(r, score=score) for (score, _), r in zip(results, received, strict=True)]
        if prompts is None:
            return sorted(scored, key=lambda r: (r.prompt.problem.id, r.sample))
        position = {prompt.problem.id: i for i, prompt in enumerate(prompts)}
        return sorted(scored, key=lambda r: (position[r.prompt.problem.id], r.sample))

    def grade_pairs(self, pairs: Iterable[tuple[str, Problem]]) -> list[Score]:
        """Return the score of each (response, problem), in order. A response that is a plain string has no tokens."""
        return [score for score, _ in self.grade_timed(pairs)]

    def grade_timed(self, pairs: Iterable[tuple[str, Problem]]) -> list[tuple[Score, float]]:
        """Return (score, seconds in the reward function) of each (response, problem), in order."""

        def answers() -> Iterable[_Answer]:
            for text, problem in pairs:
                if isinstance(text, Response):
                    yield str(text), text.tokens, text.finish_reason, problem
                else:
                    yield text, (), FINISH_STOP, problem

        return self._grade(answers())

    def _grade(self, answers: Iterable[_Answer]) -> list[tuple[Score, float]]:
        """Queue the answers as they come, and wait for their results."""
        if not self._threads[0].is_alive() and self._failure is None:
            raise RuntimeError("A Grader has no workers outside its context: use `with Grader(...) as grader:`.")
        with self._busy:
            call, count = _Call(), 0
            try:
                for answer in answers:
                    self._put((call, count, answer))
                    count += 1
                return self._collect(call, count)
            finally:
                with self._changed:
                    self._queue.clear()

    def _put(self, item: _Item) -> None:
        with self._changed:
            self._raise_failure()
            self._queue.append(item)
            self._changed.notify()

    def _collect(self, call: _Call, count: int) -> list[tuple[Score, float]]:
        """Wait for all results of a call. Raises RuntimeError if every answer failed."""
        with self._changed:
            while len(call.results) < count:
                self._raise_failure()
                self._changed.wait(timeout=1.0)
        results = [call.results[i] for i in range(count)]
        statuses = [score.status for score, _ in results]
        self.metrics = {
            "reward/timeout_fraction": statuses.count(TIMEOUT) / max(count, 1),
            "reward/failed_fraction": statuses.count(FAILED) / max(count, 1),
        }
        if statuses.count(TIMEOUT) == count >= MIN_ALL_FAILED:
            raise RuntimeError(
                f"The reward {self.name} timed out on all {count} answers: make it faster or raise "
                "grading.seconds_per_answer."
            )
        if call.errors:
            first = call.errors[0]
            if len(call.errors) == count >= MIN_ALL_FAILED:
                raise RuntimeError(f"The reward {self.name} failed on all {count} answers; the first error: {first}")
            log.warning(
                "The reward %s failed on %d of %d answers; the first error: %s",
                self.name,
                len(call.errors),
                count,
                first,
            )
        return results

    def _raise_failure(self) -> None:
        if self._failure is not None:
            raise self._failure
        if self._closing:  # by another thread, so the rest of the queue will not be graded
            raise RuntimeError("The grader was closed while answers were still waiting to be graded.")

    def _run(self, worker: GradingWorker) -> None:
        """Feed one worker until the grader closes: the body of a daemon thread."""
        try:
            worker.start()
            while chunk := self._take():
                items = [
                    (PackedResponse(text, array("i", tokens), finish_reason), problem)
                    for _, _, (text, tokens, finish_reason, problem) in chunk
                ]
                for item, result in zip(chunk, worker.grade(items), strict=True):
                    self._store(item, result)
                    if self._closing:
                        return
        except BaseException as error:  # raised again by the caller's next wait
            with self._changed:
                self._failure = error
                self._changed.notify_all()
        finally:
            worker.kill()

    def _take(self) -> list[_Item]:
        """Wait for answers to grade and take a chunk of them from the queue; empty if the grader closes."""
        with self._changed:
            self._changed.wait_for(lambda: bool(self._queue) or self._closing)
            if self._closing:
                return []
            share = -(-len(self._queue) // len(self._threads))
            return [self._queue.popleft() for _ in range(min(CHUNK, share))]

    def _store(self, item: _Item, result: GradingResult) -> None:
        call, index, _ = item
        score, seconds, error, status = result
        if score is None:
            score = Score(self.failure_reward, False, status, None, {})
        with self._changed:
            call.results[index] = (score, seconds)
            if error is not None:
                call.errors.append(error)
            if not self._queue:
                self._changed.notify_all()


def _function(reward: Reward) -> Callable[..., Any]:
    return reward.func if isinstance(reward, partial) else reward


def source_digest(reward: Reward) -> str:
    """Return a digest of the source of a reward: of its file, or of all of `simplerl.rewards` if it is built in."""
    file = Path(inspect.getfile(_function(reward)))
    files = sorted(file.parent.glob("*.py")) if file.parent == Path(__file__).parent else [file]
    return hashlib.sha256(b"".join(one.read_bytes() for one in files)).hexdigest()[:16]


def _name(reward: Reward) -> str:
    function = _function(reward)
    return f"{function.__module__}.{function.__qualname__}"


def _pickled(reward: Reward) -> bytes:
    if _function(reward).__module__ == "__main__":
        raise ConfigError(
            f"reward {_name(reward)} is defined in the main script, which grading workers cannot import: move it to a "
            "module."
        )
    try:
        return pickle.dumps(reward)
    except (pickle.PicklingError, AttributeError, TypeError) as error:
        raise ConfigError(
            f"reward {_name(reward)} cannot be sent to the grading workers ({error}): "
            "make it a function at the top level of a module, with plain values as keywords."
        ) from error


def _failure_reward(reward: Reward) -> float:
    """Return the reward of an answer whose grading did not finish: that of a wrong answer."""
    parameter = inspect.signature(reward).parameters.get("wrong")
    return 0.0 if parameter is None or parameter.default is parameter.empty else float(parameter.default)
