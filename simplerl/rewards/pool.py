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
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from simplerl.errors import ConfigError
from simplerl.rewards import FIXED_RULES, WithFixedRules, binary, lenient, strict
from simplerl.rewards.rules import FAILED, TIMEOUT, check_rule
from simplerl.rewards.symbolic import math_verify_alone
from simplerl.rewards.units import WORD_LIST
from simplerl.rewards.worker import GradingResult, GradingWorker, LocalGradingWorker, PackedResponse
from simplerl.types import Problem, Prompt, Response, Reward, Rollout, Score

log = logging.getLogger(__name__)

# Rewards of this package that compare mathematics: their `rule` is checked, and workers load math-verify at the start.
MATH_REWARDS = (strict, binary, lenient, math_verify_alone)
MIN_ALL_FAILED = 4  # if at least this many answers all fail, assume that the reward function is broken and stop
CHUNK = 16  # answers per message; a larger chunk saves nothing, a smaller one spreads work more evenly


_Results = dict[int, GradingResult]  # of one call of `grade`, by index
_Item = tuple[_Results, int, tuple[PackedResponse, Problem]]


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
        function = _function(reward)
        self.name = f"{function.__module__}.{function.__qualname__}"
        self.keywords: dict[str, Any] = dict(reward.keywords) if isinstance(reward, partial) else {}
        self.fixed_rules = list(FIXED_RULES) if isinstance(reward, WithFixedRules) else []
        uses_math_grader = function in MATH_REWARDS or isinstance(reward, WithFixedRules)
        if function in MATH_REWARDS and "rule" in self.keywords:
            check_rule(self.keywords["rule"])
        payload = self._pickled(reward)
        self.source = source_digest(reward)
        wrong = inspect.signature(reward).parameters.get("wrong")
        self.failure_reward = 0.0 if wrong is None or wrong.default is wrong.empty else float(wrong.default)
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

    def _pickled(self, reward: Reward) -> bytes:
        if _function(reward).__module__ == "__main__":
            raise ConfigError(
                f"reward {self.name} is defined in the main script, which grading workers cannot import: move it to a "
                "module."
            )
        try:
            return pickle.dumps(reward)
        except (pickle.PicklingError, AttributeError, TypeError) as error:
            raise ConfigError(
                f"reward {self.name} cannot be sent to the grading workers ({error}): "
                "make it a function at the top level of a module, with plain values as keywords."
            ) from error

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

        def pairs() -> Iterator[tuple[Response, Problem]]:
            for rollout in rollouts:
                received.append(rollout)
                yield Response(rollout.text, rollout.token_ids, rollout.finish_reason), rollout.prompt.problem

        scores = self.grade_pairs(pairs())
        scored = [replace(r, score=score) for score, r in zip(scores, received, strict=True)]
        if prompts is None:
            return sorted(scored, key=lambda r: (r.prompt.problem.id, r.sample))
        position = {prompt.problem.id: i for i, prompt in enumerate(prompts)}
        return sorted(scored, key=lambda r: (position[r.prompt.problem.id], r.sample))

    def grade_pairs(self, pairs: Iterable[tuple[str, Problem]]) -> list[Score]:
        """Return the score of each (response, problem), in order. A response that is a plain string has no tokens."""
        return [score for score, _ in self.grade_timed(pairs)]

    def grade_timed(self, pairs: Iterable[tuple[str, Problem]]) -> list[tuple[Score, float]]:
        """Return (score, seconds in the reward function) of each (response, problem), in order.

        Raises RuntimeError if every answer failed or timed out.
        """
        if not self._threads[0].is_alive() and self._failure is None:
            raise RuntimeError("A Grader has no workers outside its context: use `with Grader(...) as grader:`.")
        with self._busy:
            results: _Results = {}
            count = 0
            try:
                for text, problem in pairs:
                    response = text if isinstance(text, Response) else Response(text)
                    packed = PackedResponse(str(text), array("i", response.tokens), response.finish_reason)
                    with self._changed:
                        self._raise_failure()
                        self._queue.append((results, count, (packed, problem)))
                        self._changed.notify()
                    count += 1
                with self._changed:
                    while len(results) < count:
                        self._raise_failure()
                        self._changed.wait(timeout=1.0)
            finally:
                with self._changed:
                    self._queue.clear()
            return self._scores([results[i] for i in range(count)])

    def _scores(self, results: list[GradingResult]) -> list[tuple[Score, float]]:
        """Set `metrics` and log errors. Raises RuntimeError if every answer failed or timed out."""
        errors = [result.error for result in results if result.error is not None]
        scores = [r.score or Score(self.failure_reward, False, r.status, None, {}) for r in results]
        count = len(results)
        statuses = [score.status for score in scores]
        self.metrics = {
            "reward/timeout_fraction": statuses.count(TIMEOUT) / max(count, 1),
            "reward/failed_fraction": statuses.count(FAILED) / max(count, 1),
        }
        if statuses.count(TIMEOUT) == count >= MIN_ALL_FAILED:
            raise RuntimeError(
                f"The reward {self.name} timed out on all {count} answers: make it faster or raise "
                "grading.seconds_per_answer."
            )
        if len(errors) == count >= MIN_ALL_FAILED:
            raise RuntimeError(f"The reward {self.name} failed on all {count} answers; the first error: {errors[0]}")
        if errors:
            message = "The reward %s failed on %d of %d answers; the first error: %s"
            log.warning(message, self.name, len(errors), count, errors[0])
        return [(score, result.seconds) for score, result in zip(scores, results, strict=True)]

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
                graded = worker.grade([item for _, _, item in chunk])
                for (results, index, _), result in zip(chunk, graded, strict=True):
                    with self._changed:
                        results[index] = result
                        if not self._queue:
                            self._changed.notify_all()
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


def _function(reward: Reward) -> Callable[..., Any]:
    return reward.func if isinstance(reward, partial) else reward


def source_digest(reward: Reward) -> str:
    """Return a digest of the source of a reward: of its file, or of all of `simplerl.rewards` if it is built in."""
    file = Path(inspect.getfile(_function(reward)))
    files = [*sorted(file.parent.glob("*.py")), WORD_LIST] if file.parent == Path(__file__).parent else [file]
    return hashlib.sha256(b"".join(one.read_bytes() for one in files)).hexdigest()[:16]
