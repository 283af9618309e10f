"""Runs a reward function in a separate process: `python -m simplerl.rewards.process FD`.

FD is a socket on which the supervisor (`simplerl.rewards.worker`) sends responses. The reward runs in the main thread,
the only one in which the timers of math-verify and of `simplerl.rewards.symbolic` work. The process ends when the
supervisor's thread ends, and without waiting for threads that the reward has left behind.
"""

from __future__ import annotations

import ctypes
import os
import pickle
import resource
import signal
import socket
import sys
import time
import traceback
from array import array
from functools import partial
from typing import Any

from simplerl.rewards.channel import BEGIN, LOADED, READY, UNUSABLE, VERDICT, Channel, Message, PackedResponse
from simplerl.rewards.returned import UnusableScore, encodable, reward_name, score_fields
from simplerl.types import Problem, Response

MAX_ANSWERS = 20_000  # a process is replaced after this many answers,
MAX_GROWTH = 400 * 2**20  # or if its memory exceeds the size after its first chunk by these bytes
MAX_ERROR = 4000  # characters of an error that are sent back
# Signals that a terminal or SLURM sends to all processes of a run; ignored, because the run ends its grading processes.
FOREIGN_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2, signal.SIGHUP)
WARM_UP = (PackedResponse("The answer is \\boxed{2}.", array("i", [1, 2, 3]), "stop"), Problem("0", "1 + 1?", "2"))


class _ReceivedResponse(Response):
    """Builds the tuple `tokens` only when a reward reads it, because most rewards do not."""

    packed_tokens: array[int]

    def __new__(cls, packed: PackedResponse) -> _ReceivedResponse:
        response = str.__new__(cls, packed.text)
        response.packed_tokens, response.finish_reason, response.key = packed.tokens, packed.finish_reason, packed.key
        return response

    @property
    def tokens(self) -> tuple[int, ...]:  # type: ignore[override]
        return tuple(self.packed_tokens)


def resident_bytes() -> int:
    """Return the resident memory of this process (Linux)."""
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * resource.getpagesize()


def _isolate(channel: Channel) -> None:
    """Make this process die with its parent, ignore signals that are meant for the run, and not pass the connection to
    its child processes."""
    pr_set_pdeathsig = 1
    ctypes.CDLL(None).prctl(pr_set_pdeathsig, signal.SIGKILL)
    for number in FOREIGN_SIGNALS:
        # Programs that a reward starts get the default action instead of this handler; they would inherit SIG_IGN.
        signal.signal(number, lambda *_: None)
        signal.siginterrupt(number, False)
    os.set_inheritable(channel.socket.fileno(), False)
    os.register_at_fork(after_in_child=partial(_after_fork, channel))


def _after_fork(channel: Channel) -> None:
    """Close the connection in a forked child and restore the default actions of FOREIGN_SIGNALS."""
    channel.close()
    for number in FOREIGN_SIGNALS:
        signal.signal(number, signal.SIG_DFL)


def _limit_memory(gib: float) -> None:
    """Limit the address space of this process and disable core dumps."""
    size = int(gib * 2**30)
    _, hard = resource.getrlimit(resource.RLIMIT_AS)
    if hard != resource.RLIM_INFINITY:
        size = min(size, hard)
    resource.setrlimit(resource.RLIMIT_AS, (size, hard))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def _score(reward: Any, packed: PackedResponse, problem: Problem) -> tuple[Any, float, str | None]:
    """Call the reward. Returns (fields of the score, seconds, None), or (None, seconds, error) if it raised anything,
    even SystemExit, or returned no usable score."""
    pid, response, error = os.getpid(), _ReceivedResponse(packed), None
    start = time.perf_counter()
    try:
        value = reward(response, problem)
    except BaseException:
        value, error = None, traceback.format_exc(limit=-4)
    seconds = time.perf_counter() - start
    if os.getpid() != pid:  # the reward has forked, and this is its child
        os._exit(0)
    signal.setitimer(signal.ITIMER_REAL, 0)  # a timer that was left running would interrupt the next answer
    if error is None:
        try:
            return score_fields(value, len(response)), seconds, None
        except UnusableScore as reason:
            error = str(reason)
        except Exception:  # raised by an object of the user's
            error = traceback.format_exc(limit=-4)
    return None, seconds, encodable(error[-MAX_ERROR:])


def serve(channel: Channel) -> None:
    """Load the reward in the first message, then grade lists of (response, problem).

    Loading is answered by LOADED and READY, or by UNUSABLE with the traceback, after which the function returns. The
    start of each list is confirmed by BEGIN. Each answer is followed by VERDICT with (fields of the score, seconds,
    error, whether the function returns now because memory ran out, the process grew too large or MAX_ANSWERS are
    graded). Raises EOFError when the supervisor closes the channel.
    """

    def send(kind: str, number: int = 0, body: Any = None) -> None:
        channel.send(Message(os.getpid(), number, time.process_time(), kind, body))

    payload, memory_gib, uses_math_grader, warm_up = _receive(channel)
    try:
        reward = pickle.loads(payload)
        if uses_math_grader:
            from simplerl.rewards import equality

            equality.warm_up()
        _limit_memory(memory_gib)
        send(LOADED, body=reward_name(reward))
        if warm_up and not uses_math_grader:
            _score(reward, *WARM_UP)  # so that the time of no answer includes imports at the first call
    except BaseException:  # reported to the parent, which raises it
        send(UNUSABLE, body=traceback.format_exc(limit=-2))
        return
    send(READY)
    size_at_start, out_of_memory, retires = None, False, False
    while not retires:
        first, items = _receive(channel)
        send(BEGIN, first)
        for number, (packed, problem) in enumerate(items, first):
            score, seconds, error = _score(reward, packed, problem)
            out_of_memory |= error is not None and "MemoryError" in error
            if number == first + len(items) - 1:
                size = resident_bytes()
                size_at_start = size if size_at_start is None else size_at_start
                retires = out_of_memory or number >= MAX_ANSWERS or size > size_at_start + MAX_GROWTH
            send(VERDICT, number, (score, seconds, error, retires))


def _receive(channel: Channel) -> Any:
    while (message := channel.next_message()) is None:
        channel.read()
    return message


def main(descriptor: int) -> None:
    channel = Channel(socket.socket(fileno=descriptor))
    _isolate(channel)
    status = 1
    try:
        serve(channel)
        status = 0
    except EOFError:  # the supervisor has closed the channel
        status = 0
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(status)


if __name__ == "__main__":
    main(int(sys.argv[1]))
