"""Grades responses in worker processes while others are still being sampled, with a hard time limit per answer.

Each worker is a long-lived subprocess, served by one daemon thread of the parent. It is not forked, because the parent
may have CUDA, Ray or gRPC threads. The whole reward function runs in the worker, whether built in or a user's own. A
worker whose answer exceeds the limit is killed by SIGKILL (nothing less stops a loop in C) and replaced; the answer
gets status "timeout", and the new worker grades the rest of the chunk. The limit is CPU time, so that a verdict does
not depend on what else the machine does. `simplerl.cluster.graders` runs the same workers on other nodes.
"""

from __future__ import annotations

import hashlib
import importlib.util
import inspect
import logging
import math
import pickle
import threading
import time
from array import array
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from simplerl.errors import ConfigError
from simplerl.rewards import FIXED_RULES, WithFixedRules, binary, lenient, strict
from simplerl.rewards.channel import PackedResponse
from simplerl.rewards.returned import encodable, function_of, is_encodable, reward_name
from simplerl.rewards.rules import FAILED, TIMEOUT, check_rule
from simplerl.rewards.symbolic import math_verify_alone
from simplerl.rewards.units import WORD_LIST
from simplerl.rewards.worker import GradingResult, GradingWorker, LocalGradingWorker
from simplerl.types import FINISH_STOP, Problem, Prompt, Response, Reward, Rollout, Score

log = logging.getLogger(__name__)

# Rewards of this package that compare mathematics: their `rule` is checked, and workers load math-verify at the start.
MATH_REWARDS = (strict, binary, lenient, math_verify_alone)
FASTER = "make it faster or raise grading.seconds_per_answer"
MIN_ALL_FAILED = 4  # if at least this many answers all fail, assume that the reward function is broken and stop
# Stop after this many time-outs in a row, if they are of several problems: one gold answer may hang a sound reward.
MAX_TIMEOUTS, MIN_PROBLEMS = 8, 3
REPORT_SECONDS = 30.0  # between two lines about the progress of grading
CLOSE_SECONDS = 30.0  # time for workers to end
POLL_SECONDS = 0.2  # between two checks for a stop signal
CHUNK = 16  # answers per message; a larger chunk saves nothing, a smaller one spreads work more evenly


_Results = dict[int, GradingResult]  # of one call of `grade`, by index
_Item = tuple[_Results, int, tuple[PackedResponse, Problem]]


class Grader:
    """Scores responses in `workers` processes. Use it as a context manager, which starts and ends the processes.

    reward: called as reward(response, problem); `response` is a `simplerl.types.Response`.
    seconds_per_answer: a worker that takes more CPU time, or `worker.WALL_FACTOR` times as much wall time, is killed,
    and the answer gets status "timeout".
    memory_gib: address space of a worker; an answer that needs more gets status "failed".
    seconds_per_step: time that a call of `grade` may take after its last response has arrived; then it raises
    ConfigError.
    worker_type: creates a worker from (pickled reward, seconds_per_answer, memory_gib, uses_math_grader).

    An answer that times out or fails gets `failure_reward`: the value of the function's parameter `wrong`, or 0 if it
    has none. `metrics` holds reward/timeout_fraction and reward/failed_fraction of the last call. `check_stop` is
    called while answers are graded; what it raises ends the grading.
    """

    def __init__(
        self,
        reward: Reward,
        workers: int = 1,
        seconds_per_answer: float = 8.0,
        memory_gib: float = 2.0,
        seconds_per_step: float = math.inf,
        worker_type: Callable[[bytes, float, float, bool], GradingWorker] = LocalGradingWorker,
    ) -> None:
        if workers < 1:
            raise ConfigError(f"grading.workers is {workers}, but must be at least 1.")
        function = function_of(reward)
        self.name = reward_name(reward)
        self.keywords: dict[str, Any] = dict(reward.keywords) if isinstance(reward, partial) else {}
        self.fixed_rules = list(FIXED_RULES) if isinstance(reward, WithFixedRules) else []
        uses_math_grader = function in MATH_REWARDS or isinstance(reward, WithFixedRules)
        if function in MATH_REWARDS:
            check_rule(self.keywords.get("rule", "math_verify"), self.keywords.get("environment", "training"))
        payload = _pickled(reward)
        self.source = source_digest(reward)
        wrong = inspect.signature(reward).parameters.get("wrong")
        self.failure_reward = 0.0 if wrong is None or wrong.default is wrong.empty else float(wrong.default)
        self.workers = [worker_type(payload, seconds_per_answer, memory_gib, uses_math_grader) for _ in range(workers)]
        self.metrics: dict[str, float] = {}
        self.seconds_per_step = seconds_per_step
        self.check_stop: Callable[[], None] = lambda: None
        self._timed_out: list[str] = []  # problem ids of the last time-outs in a row
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
        for worker in self.workers:
            worker.stop()
        for thread in self._threads:
            thread.join(CLOSE_SECONDS)

    def grade(self, rollouts: Iterable[Rollout], prompts: Sequence[Prompt] | None = None) -> list[Rollout]:
        """Return the rollouts with their scores; grading starts with the first rollout of the stream.

        They are sorted by the order of `prompts`, or by problem id if that is None, and then by sample.
        """
        received: list[Rollout] = []

        def pairs() -> Iterator[tuple[Response, Problem]]:
            for rollout in rollouts:
                received.append(rollout)
                yield rollout.response, rollout.prompt.problem

        scores = self.grade_pairs(pairs())
        scored = [replace(r, score=score, text=encodable(r.text)) for score, r in zip(scores, received, strict=True)]
        if prompts is None:
            return sorted(scored, key=lambda r: (r.prompt.problem.id, r.sample))
        position = {prompt.problem.id: i for i, prompt in enumerate(prompts)}
        return sorted(scored, key=lambda r: (position[r.prompt.problem.id], r.sample))

    def grade_pairs(self, pairs: Iterable[tuple[str, Problem]]) -> list[Score]:
        """Return the score of each (response, problem), in order. A response that is a plain string has no tokens."""
        return [score for score, _ in self.grade_timed(pairs)]

    def grade_timed(self, pairs: Iterable[tuple[str, Problem]]) -> list[tuple[Score, float]]:
        """Return (score, seconds in the reward function) of each (response, problem), in order.

        Raises ConfigError if the reward cannot be used: it fails or times out on every answer, times out on many
        answers in a row, or takes too long in total. Raises RuntimeError if the Grader is not open.
        """
        if not self._threads[0].is_alive() and self._failure is None:
            raise RuntimeError("A Grader has no workers outside its context: use `with Grader(...) as grader:`.")
        with self._busy:
            results: _Results = {}
            problems: list[Problem] = []
            try:
                for text, problem in pairs:
                    self._enqueue(results, len(problems), text, problem)
                    problems.append(problem)
                self._wait(results, len(problems))
            finally:
                with self._changed:
                    self._queue.clear()
            return self._scores([results[i] for i in range(len(problems))], problems)

    def _enqueue(self, results: _Results, index: int, text: str, problem: Problem) -> None:
        response = text if isinstance(text, Response) else Response(text)
        packed = PackedResponse(str(text), array("i", response.tokens), response.finish_reason, response.key)
        with self._changed:
            self._raise_failure()
            if is_encodable(packed.text):
                self._queue.append((results, index, (packed, problem)))
            else:
                results[index] = GradingResult(
                    None, 0.0, "the response has a lone surrogate, which UTF-8 cannot represent"
                )
            self._changed.notify()

    def _wait(self, results: _Results, count: int) -> None:
        """Wait for `count` results. Raises ConfigError after `seconds_per_step`, and any failure of a worker."""
        begin = reported = time.monotonic()
        with self._changed:
            while len(results) < count:
                self._raise_failure()
                self.check_stop()
                self._changed.wait(timeout=POLL_SECONDS)
                now = time.monotonic()
                if now - reported > REPORT_SECONDS:
                    reported = now
                    timeouts = sum(result.score is None and result.status == TIMEOUT for result in results.values())
                    log.info("graded %d of %d answers, of which %d timed out", len(results), count, timeouts)
                if now - begin > self.seconds_per_step and len(results) < count:
                    raise ConfigError(
                        f"The reward {self.name} graded only {len(results)} of {count} answers within "
                        f"grading.seconds_per_step={self.seconds_per_step:g} after sampling: make it faster, or raise "
                        "grading.workers or grading.seconds_per_step."
                    )

    def _scores(self, results: list[GradingResult], problems: list[Problem]) -> list[tuple[Score, float]]:
        """Return the score and grading time of each answer, set `metrics` and log errors. Raises ConfigError if all of
        at least MIN_ALL_FAILED answers failed, or all timed out."""
        scores = [r.score or Score(self.failure_reward, False, r.status, None, {}) for r in results]
        count = len(results)
        statuses = [score.status for score in scores]
        self.errors = [result.error for result in results]  # why the reward gave no score, by answer
        self.metrics = {
            "reward/timeout_fraction": statuses.count(TIMEOUT) / max(count, 1),
            "reward/failed_fraction": statuses.count(FAILED) / max(count, 1),
        }
        if statuses.count(TIMEOUT) == count >= MIN_ALL_FAILED:
            raise ConfigError(f"The reward {self.name} timed out on all {count} answers: {FASTER}.")
        errors = [(r.error, problem) for r, problem in zip(results, problems, strict=True) if r.error is not None]
        if errors:
            reasons = Counter(error_summary(error) for error, _ in errors).most_common(3)
            summary = "; ".join(f"{reason} ({times} times)" for reason, times in reasons)
            message = "The reward %s failed on %d of %d answers: %s. The first, of problem %r:\n%s"
            log.warning(message, self.name, len(errors), count, summary, errors[0][1].id, errors[0][0].rstrip())
            if len(errors) == count >= MIN_ALL_FAILED:
                raise ConfigError(
                    f"The reward {self.name} failed on all {count} answers (most often: {reasons[0][0]}): correct the "
                    "function."
                )
        return [(score, result.seconds) for score, result in zip(scores, results, strict=True)]

    def _raise_failure(self) -> None:
        if self._failure is not None:
            raise self._failure
        if self._closing:  # set by another thread, so the rest of the queue will not be graded
            raise RuntimeError("The grader was closed while answers were still waiting to be graded.")

    def _run(self, worker: GradingWorker) -> None:
        """Feed one worker until the grader closes: the body of a daemon thread."""
        try:
            worker.start()
            while chunk := self._take():
                graded = worker.grade([item for _, _, item in chunk])
                for (results, index, (_, problem)), result in zip(chunk, graded, strict=True):
                    with self._changed:
                        results[index] = result
                        self._count_timeouts(result, problem)
                        if not self._queue:
                            self._changed.notify_all()
                    if self._closing:
                        return
        except BaseException as error:  # raised again by the caller's next wait
            with self._changed:
                if not self._closing:
                    self._failure = error
                self._changed.notify_all()
        finally:
            worker.kill()

    def _count_timeouts(self, result: GradingResult, problem: Problem) -> None:
        """End the grading with a ConfigError after at least MAX_TIMEOUTS time-outs in a row, on at least MIN_PROBLEMS
        problems."""
        if result.score is not None or result.status != TIMEOUT:
            self._timed_out.clear()
            return
        self._timed_out.append(problem.id)
        if len(self._timed_out) >= MAX_TIMEOUTS and len(set(self._timed_out)) >= MIN_PROBLEMS:
            count = len(self._timed_out)
            self._failure = ConfigError(f"The reward {self.name} timed out on {count} answers in a row: {FASTER}.")

    def _take(self) -> list[_Item]:
        """Wait for answers to grade and take a chunk of them from the queue; empty if the grader closes."""
        with self._changed:
            self._changed.wait_for(lambda: bool(self._queue) or self._closing)
            if self._closing:
                return []
            share = -(-len(self._queue) // len(self._threads))
            return [self._queue.popleft() for _ in range(min(CHUNK, share))]


def check_reward(
    reward: Reward, problem: Problem, tokens: Sequence[int], seconds_per_answer: float = 8.0, memory_gib: float = 2.0
) -> None:
    r"""Call a user's reward once, in a worker process, with the gold answer of `problem` in a \boxed{}.

    Raises ConfigError if it returns no usable score. Skips MATH_REWARDS. tokens: of `made_up_response(problem)`.
    """
    if function_of(reward) in MATH_REWARDS:
        return
    worker = LocalGradingWorker(_pickled(reward), seconds_per_answer, memory_gib, False)
    packed = PackedResponse(made_up_response(problem), array("i", tokens), FINISH_STOP)
    try:
        worker.start()
        result = next(worker.grade([(packed, problem)]))
    finally:
        worker.kill()
    if result.score is None:
        reason = "time-out" if result.error is None else error_summary(result.error)
        remedy = FASTER if result.error is None else "correct the function"
        raise ConfigError(
            f"The reward {reward_name(reward)} fails on a made-up response to the problem {problem.id!r}, "
            f'"{packed.text}": {reason}; {remedy}.'
        )


def made_up_response(problem: Problem) -> str:
    return f"The answer is \\boxed{{{problem.answer}}}."


def error_summary(error: str) -> str:
    """Return an error as one line: the last line of a traceback, with the place of its last frame."""
    lines = [line.strip() for line in error.splitlines() if line.strip()]
    places = [line for line in lines if line.startswith('File "')]
    last = lines[-1].rstrip(".") if lines else "no reason given"
    return f"{last} ({places[-1].removeprefix('File ')})" if places else last


def _pickled(reward: Reward) -> bytes:
    name = reward_name(reward)
    if function_of(reward).__module__ == "__main__":
        raise ConfigError(
            f"reward {name} is defined in the main script, which grading workers cannot import: move it to a module."
        )
    try:
        return pickle.dumps(reward)
    except (pickle.PicklingError, AttributeError, TypeError) as error:
        raise ConfigError(
            f"reward {name} cannot be sent to the grading workers ({error}): "
            "make it a function at the top level of a module, with plain values as keywords."
        ) from error


def source_digest(reward: Reward) -> str:
    """Return a digest of the source file of a reward, or of all of `simplerl.rewards` if it is built in. With an
    adapter, the file of the function that it calls is included."""
    file = Path(inspect.getfile(function_of(reward)))
    files = [*sorted(file.parent.glob("*.py")), WORD_LIST] if file.parent == Path(__file__).parent else [file]
    if isinstance(reward, partial) and "function" in reward.keywords:  # an adapter itself reports a missing module
        with suppress(ImportError, ValueError):
            module = importlib.util.find_spec(reward.keywords["function"].rpartition(".")[0])
            files += [Path(module.origin)] if module and module.origin else []
    return hashlib.sha256(b"".join(one.read_bytes() for one in files)).hexdigest()[:16]
