"""Supervises a process that runs a reward function (`simplerl.rewards.process`), whatever that function does.

`simplerl.rewards.pool` and the Ray graders are built on `LocalGradingWorker`. Every send and every wait has a limit, a
verdict is accepted only with the id of the process and the number of the answer, and a process that breaks this
protocol is killed, with all processes that it has started, without waiting for it to end by itself.
"""

from __future__ import annotations

import logging
import math
import os
import socket
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import cache, partial
from multiprocessing.connection import wait
from typing import Any, NamedTuple, Protocol

from simplerl.errors import ConfigError
from simplerl.rewards.channel import BEGIN, LOADED, READY, UNUSABLE, VERDICT, Channel, Message, PackedResponse
from simplerl.rewards.process_tree import END_SECONDS, cpu_seconds, kill_with_descendants, queue_seconds
from simplerl.rewards.rules import FAILED, TIMEOUT
from simplerl.types import Problem, Score

log = logging.getLogger(__name__)

START_SECONDS = 120.0  # time for a process's imports, on a busy machine
MIN_FIRST_CALL_SECONDS = 10.0  # time for the first call of the reward, which may import and load things
NOTICE_SECONDS = 5.0  # after which a line says that the first call is waited for
START_ATTEMPTS = 3
WALL_FACTOR = 4.0  # limit of an answer's wall time, in units of its limit of CPU time
MIN_HAND_OVER_SECONDS = 5.0  # time to confirm the start of a chunk, even if answers have less
MARK = "SIMPLERL_GRADING"  # environment variable that a grading process and all that it starts have in common


class GradingResult(NamedTuple):
    """Holds the score of one answer or, if `score` is None, the reason in `error` or `status`."""

    score: Score | None
    seconds: float  # time in the reward function
    error: str | None = None
    status: str = FAILED


class GradingWorker(Protocol):
    """Defines a worker on any machine, which is used by one thread and restarts a process that dies or hangs."""

    def start(self) -> None: ...
    def grade(self, items: list[tuple[PackedResponse, Problem]]) -> Iterator[GradingResult]: ...
    def kill(self) -> None: ...
    def stop(self) -> None:
        """Make `grade` and `start` end soon; called by another thread, which then needs no more results."""


class Stopped(Exception):
    """Raised in the thread that uses a worker after another thread has called its `stop`."""


class LocalGradingWorker:
    """Runs the reward in a subprocess.

    payload: the pickled reward function. seconds_per_answer: the process is killed if one answer takes more CPU time,
    or WALL_FACTOR times as much wall time, which matters for a reward that waits. memory_gib: limit of the process's
    address space. uses_math_grader: load math-verify before the first answer.
    """

    def __init__(self, payload: bytes, seconds_per_answer: float, memory_gib: float, uses_math_grader: bool) -> None:
        self.setup = (payload, memory_gib, uses_math_grader)
        self.cpu_limit, self.wall_limit = seconds_per_answer, WALL_FACTOR * seconds_per_answer
        self.process: subprocess.Popen[bytes] | None = None
        self._warm_up, self._stopping = True, False
        self._returned = False  # whether the first call of the reward has returned in an earlier process

    def start(self) -> None:
        """Start the process and wait until it has loaded the reward and called it once.

        Raises ConfigError if the reward cannot be loaded, if its first call takes longer than WALL_FACTOR times
        seconds_per_answer and MIN_FIRST_CALL_SECONDS, or if the process dies START_ATTEMPTS times.
        """
        reason = ""
        for _ in range(START_ATTEMPTS):
            self._spawn()
            try:
                self.channel.send((*self.setup, self._warm_up), START_SECONDS)
                kind, detail = self._receive(0, START_SECONDS, START_SECONDS, LOADED, UNUSABLE)
                if kind == LOADED:
                    self._wait_for_first_call(detail)
            except (OSError, EOFError) as error:
                reason = str(error) or f"no answer within {START_SECONDS:g} s"
                self._warm_up = False  # the process may have died of that call
                self.kill()
                continue
            if kind == UNUSABLE:
                raise ConfigError(f"A grading worker cannot load the reward; correct it or its imports: {detail}")
            self._next_number = 0
            return
        raise ConfigError(
            f"No grading process could be started in {START_ATTEMPTS} attempts ({reason}): see what it "
            "has printed above, and raise grading.memory_gib if the reward needs more memory."
        )

    def _wait_for_first_call(self, name: str) -> None:
        """Wait until the reward called `name` has returned once. Raises ConfigError if it does not, unless it has in
        an earlier process, so that only the machine is slow. Time in the queue for a processor does not count."""
        limit = max(self.wall_limit, MIN_FIRST_CALL_SECONDS)
        more = f"seconds_per_answer={2 * limit / WALL_FACTOR:g}"
        try:
            self._receive(0, math.inf, limit, READY, notice=partial(_tell_of_first_call, name, limit))
        except TimeoutError:
            if self._returned:
                raise
            self.kill()
            raise ConfigError(
                f"The first call of the reward {name}, on a made-up response, did not return within {limit:g} s: make "
                f"it faster or raise its limit, such as grading.{more} (of simplerl.grade: {more}), which doubles it."
            ) from None
        self._returned = True

    def _spawn(self) -> None:
        ours, theirs = socket.socketpair()
        self._mark = f"{MARK}={uuid.uuid4().hex}"
        name, _, value = self._mark.partition("=")
        environment = os.environ | {
            "PYTHONPATH": os.pathsep.join(p or os.getcwd() for p in sys.path),
            "PYTHONHASHSEED": "0",  # sympy's results depend on it, verdicts must not
            "PYTHONUNBUFFERED": "1",
            "OMP_NUM_THREADS": "1",
            name: value,
        }
        process = subprocess.Popen(
            [sys.executable, "-m", "simplerl.rewards.process", str(theirs.fileno())],
            pass_fds=[theirs.fileno()],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,  # not inherited: a program that the reward starts could keep it open
            stderr=subprocess.STDOUT,
            env=environment,
            process_group=0,
        )
        theirs.close()
        assert process.stdout is not None
        self.process, self.channel = process, Channel(ours)
        self._output: int | None = process.stdout.fileno()
        self._last_line, self._cpu_before = "", 0.0
        if self._stopping:
            raise Stopped

    def grade(self, items: list[tuple[PackedResponse, Problem]]) -> Iterator[GradingResult]:
        """Yield one result per item, in order. If an answer kills or hangs the process, only that answer fails."""
        while items:
            done, begin = 0, time.monotonic()
            try:
                self._hand_over(items)
                for number in range(self._next_number - len(items), self._next_number):
                    begin = time.monotonic()
                    _, verdict = self._receive(number, self.cpu_limit, self.wall_limit, VERDICT)
                    fields, seconds, error, retires = verdict
                    yield GradingResult(None if fields is None else Score(*fields), seconds, error)
                    done += 1
                if retires:
                    self._restart()
            except TimeoutError:
                yield GradingResult(None, time.monotonic() - begin, status=TIMEOUT)
                done += 1
                self._restart()
            except (OSError, EOFError) as error:
                yield GradingResult(None, time.monotonic() - begin, f"{error}")
                done += 1
                self._restart()
            items = items[done:]

    def _hand_over(self, items: list[tuple[PackedResponse, Problem]]) -> None:
        """Send the items, and wait until the process confirms that it begins with them.

        A process that does not confirm, because an earlier answer has broken it, is replaced, and no answer fails.
        Raises OSError or EOFError after START_ATTEMPTS attempts.
        """
        limit = max(self.wall_limit, MIN_HAND_OVER_SECONDS)
        for attempts_left in reversed(range(START_ATTEMPTS)):
            first = self._next_number
            try:
                self._check_silent()
                self.channel.send((first, items), limit)
                self._receive(first, limit, limit, BEGIN)
                self._next_number += len(items)
                return
            except (OSError, EOFError) as error:
                if not attempts_left:
                    raise
                log.warning("An earlier answer has broken a grading process (%s); it is replaced.", error)
                self._restart()

    def _check_silent(self) -> None:
        """Raise ConnectionError if the process has sent a message while it had no answer to grade."""
        if wait([self.channel.socket], 0):
            self.channel.read()
            raise ConnectionError("the grading process sent a message while it had no answer to grade")

    def _receive(
        self, number: int, cpu_limit: float, wall_limit: float, *kinds: str, notice: Callable[[], None] | None = None
    ) -> tuple[str, Any]:
        """Return (kind, body) of the next message. Raises TimeoutError at a limit, and ConnectionError if the process
        ends, closes the channel, or sends anything else.

        notice: called after NOTICE_SECONDS; with it, `wall_limit` is without the time that the process has waited for
        a processor.
        """
        assert self.process is not None
        begin = checked = time.monotonic()
        queued = queue_seconds(self.process.pid)
        first = notice is not None
        pause = min(0.25, cpu_limit / 4)
        while (message := self.channel.next_message()) is None:
            sources: list[Any] = [self.channel.socket] if self._output is None else [self.channel.socket, self._output]
            ready = wait(sources, pause)
            if self._output in ready:
                self._forward_output(self._output)
            if self.channel.socket in ready:
                try:
                    self.channel.read()
                except (EOFError, ConnectionError):
                    raise ConnectionError(self._how_it_ended()) from None
                continue
            now = time.monotonic()
            if notice is not None and now - begin > NOTICE_SECONDS:
                notice()
                notice = None
            if now - checked >= pause:
                checked = now
                used = cpu_seconds(self.process.pid) - self._cpu_before
                elapsed = now - begin - (min(queue_seconds(self.process.pid) - queued, START_SECONDS) if first else 0)
                if used > cpu_limit or elapsed > wall_limit:
                    raise TimeoutError
        try:
            pid, got, self._cpu_before, kind, body = Message(*message)
        except TypeError:
            pid, got, kind, body = 0, 0, "", None
        if pid != self.process.pid or got != number or kind not in kinds:
            raise ConnectionError(
                "the grading process sent an unexpected message: does the reward write to files that it has not opened?"
            )
        return kind, body

    def _forward_output(self, descriptor: int) -> None:
        """Forward the output of the process to stderr, and record its last line that is not blank."""
        data = os.read(descriptor, 2**16)
        if not data:
            self._output = None
        text = data.decode(errors="replace")
        self._last_line = next((line for line in reversed(text.splitlines()) if line.strip()), self._last_line)
        with suppress(OSError, ValueError):  # stderr may be closed
            sys.stderr.write(text)
            sys.stderr.flush()

    def _how_it_ended(self) -> str:
        """Return why the channel was closed, in words. The process stays a zombie, so that its group can be killed."""
        assert self.process is not None
        deadline = time.monotonic() + END_SECONDS
        ended = None
        while ended is None and time.monotonic() < deadline:
            if self._output is not None and wait([self._output], 0.01):
                self._forward_output(self._output)
            ended = os.waitid(os.P_PID, self.process.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT)
        if ended is None:
            return "the grading process closed its connection: does the reward close files that it has not opened?"
        status = ended.si_status if ended.si_code == os.CLD_EXITED else -ended.si_status
        printed = f"; its last line: {self._last_line.strip()[:300]}" if self._last_line else ""
        return f"the grading process died (exit status {status}){printed}"

    def _restart(self) -> None:
        self.kill()
        self.start()

    def kill(self) -> None:
        """Kill the process, if there is one, and all processes that it has started."""
        if self.process is None:
            return
        kill_with_descendants(self.process, self._mark)
        self.channel.close()
        assert self.process.stdout is not None
        self.process.stdout.close()
        self.process = self._output = None

    def stop(self) -> None:
        self._stopping = True
        process = self.process
        if process is not None:
            process.kill()


@cache  # one line, however many workers wait
def _tell_of_first_call(name: str, limit: float) -> None:
    log.warning("Waiting for the first call of the reward %s, on a made-up response, for at most %g s.", name, limit)
