"""Rewards that misbehave: each function does to its worker process what the response says."""

from __future__ import annotations

import ctypes
import multiprocessing
import os
import pickle
import re
import signal
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np

from simplerl.types import Problem, Response, Score

DESCRIPTORS = 4096  # more than a process of these tests has open


def _spin() -> None:
    while True:
        pass


def _eat() -> None:
    hoard = []
    while True:
        hoard.append(bytearray(2**26))


def _raise() -> None:
    raise KeyError("no such thing")


def _fork_and_exit() -> None:
    """The child of the fork ends by SystemExit, as `multiprocessing` and many scripts do."""
    if os.fork() == 0:
        sys.exit(0)


def _fork_and_return() -> None:
    os.fork()


def _fork_without_python() -> None:
    """Fork as native code does, without the hooks of Python."""
    ctypes.PyDLL(None).fork()


def _close_files() -> None:
    os.closerange(0, DESCRIPTORS)
    time.sleep(60)


def _close_files_and_return() -> None:
    os.closerange(0, DESCRIPTORS)


def _end_with_a_thread() -> None:
    threading.Thread(target=time.sleep, args=(60,)).start()
    os.closerange(3, DESCRIPTORS)


def _hold_the_interpreter() -> None:
    """Leave a thread that holds the interpreter's lock for a minute, beginning after the verdict."""

    def hold() -> None:
        time.sleep(0.1)
        ctypes.PyDLL(None).sleep(60)

    threading.Thread(target=hold).start()


def _write_to_all_files() -> None:
    for descriptor in range(3, DESCRIPTORS):
        with suppress(OSError):
            os.write(descriptor, b"\0\0\0\0\0\0\0\5hello")


def _answer_in_a_child() -> None:
    """Let a child send a well-formed verdict for this answer, number 5."""
    if ctypes.PyDLL(None).fork() == 0:
        verdict = ((9.0, True, "equal", None, {}), 0.0, None, False)
        data = pickle.dumps((os.getpid(), 5, 0.0, "verdict", verdict))
        for descriptor in range(3, DESCRIPTORS):
            with suppress(OSError):
                os.write(descriptor, struct.pack("!Q", len(data)) + data)
        os._exit(0)
    os.wait()


def _leave_a_timer() -> None:
    signal.signal(signal.SIGALRM, lambda *_: _raise())
    signal.setitimer(signal.ITIMER_REAL, 0.1)


def _regex() -> None:
    re.match(r"(a+)+$", "a" * 40 + "b")


def _print() -> None:
    print("x" * 200_000)


def _use_more_processes() -> None:
    """What a sound reward may do as well."""
    with ProcessPoolExecutor(1, multiprocessing.get_context("fork")) as processes:
        assert processes.submit(len, "abc").result() == 3
    with multiprocessing.get_context("fork").Pool(1) as workers:  # ended by SIGTERM
        assert workers.apply(len, ("abc",)) == 3


DEEDS: dict[str, Callable[[], Any]] = {
    "spin": _spin,
    "regex": _regex,
    "sleep long": lambda: time.sleep(60),
    "stop": lambda: os.kill(os.getpid(), signal.SIGSTOP),
    "eat": _eat,
    "die": lambda: os.kill(os.getpid(), signal.SIGKILL),
    "quit": lambda: os._exit(0),
    "raise": _raise,
    "exit": lambda: sys.exit(3),
    "fork and exit": _fork_and_exit,
    "fork and return": _fork_and_return,
    "fork without python": _fork_without_python,
    "close files": _close_files,
    "close files and return": _close_files_and_return,
    "end with a thread": _end_with_a_thread,
    "hold the interpreter": _hold_the_interpreter,
    "write to all files": _write_to_all_files,
    "answer in a child": _answer_in_a_child,
    "leave a timer": _leave_a_timer,
    "print": _print,
    "use more processes": _use_more_processes,
    "sleep": lambda: time.sleep(0.3),
}


def acting(response: str, problem: Problem, *, wrong: float = -0.5) -> Score:
    """Do what the response says, then call it correct and return the response as the extracted answer."""
    if response == "pid":
        return Score(float(os.getpid()), True, "equal")
    if response in DEEDS:
        DEEDS[response]()
    return Score(1.0, True, "equal", response)


def spawning(response: str, problem: Problem, *, folder: str) -> float:
    """Start a program that outlives its parent, write down its id, and hang if the response asks for it."""
    child = subprocess.Popen(["sleep", "120"], start_new_session="session" in response)
    Path(folder, str(child.pid)).touch()
    if "polite" in response:
        child.terminate()
        return float(child.wait(5) == -signal.SIGTERM)
    if "hang" in response:
        _spin()
    return 1.0


def sleeping(response: str, problem: Problem) -> float:
    time.sleep(60)
    return 1.0


def slow_if_asked(completions: list[str], id: list[str]) -> list[float]:
    """Wait, but not in the first call of a process, which is for a made-up problem."""
    time.sleep(60 if id == ["p"] else 0)
    return [1.0]


def lazy(response: Response, problem: Problem) -> float:
    """Take a second of CPU time for the first call, as a function that imports a large library does."""
    if not hasattr(lazy, "loaded"):
        end = time.process_time() + 1
        while time.process_time() < end:
            pass
        lazy.loaded = True  # type: ignore[attr-defined]
    return 1.0


def working(response: str, problem: Problem) -> float:
    """Use 0.4 s of CPU time."""
    end = time.process_time() + 0.4
    while time.process_time() < end:
        pass
    return 1.0


def raising(response: str, problem: Problem) -> None:
    _raise()


def returning_none(response: str, problem: Problem) -> None:
    return None


def _score(**fields: Any) -> Score:
    return Score(**{"reward": 1.0, "correct": True, "status": "equal"} | fields)


# What a reward returned, and the score that it stands for.
USABLE: dict[str, tuple[Any, Score]] = {
    "one as correct": (_score(correct=1), _score()),
    "numpy": (_score(reward=np.float32(0.5), correct=np.bool_(False)), _score(reward=0.5, correct=False)),
    "numpy parts": (_score(parts={"length": np.float32(2), "n": np.int64(3)}), _score(parts={"length": 2.0, "n": 3.0})),
    "array of one": (np.array(0.25), Score(0.25, True, "equal")),
    "response": (_score(extracted=Response("4", (1,))), _score(extracted="4")),
    "number as extracted": (_score(extracted=42), _score(extracted="42")),
    "float": (0.5, Score(0.5, True, "equal")),
    "zero": (0, Score(0.0, False, "different")),
    "bool": (True, Score(1.0, True, "equal")),
    "negative": (-1.0, Score(-1.0, False, "different")),
    "pair": ((-0.2, True), Score(-0.2, True, "equal")),
    "dict": ({"reward": 0.3, "correct": False, "extracted": "7"}, Score(0.3, False, "different", "7")),
}
# What a reward returned, and a part of the reason why it is refused.
UNUSABLE: dict[str, tuple[Any, str]] = {
    "nothing": (None, "the reward returned None"),
    "word": ("1", "the reward returned a value of type str, '1'"),
    "nan": (_score(reward=float("nan")), "reward is nan; it must be finite"),
    "beyond float32": (_score(reward=1e39), "reward is 1e+39"),
    "huge part": (_score(parts={"x": 1e300}), "x is 1e+300"),
    "word as part": (_score(parts={"length": "long"}), "length is a value of type str"),
    "undecided": (_score(correct=None), "correct is None; it must be True or False"),
    "half correct": (_score(correct=0.5), "correct is a value of type float, 0.5"),
    "complex": (1j, "the reward returned a value of type complex"),
    "complex reward": (_score(reward=np.complex64(1)), "reward is a value of type complex64"),
    "several": (np.ones(3), "reward is a value of type ndarray"),
    "surrogate": (_score(extracted="a\ud800"), "extracted has a lone surrogate"),
    "surrogate part": (_score(parts={"\ud800": 1.0}), "part name has a lone surrogate"),
    "long": (_score(extracted="x" * 20_000), "extracted has 20000 characters"),
    "long status": (_score(status="x" * 200), "status has 200 characters"),
    "no status": (_score(status=None), "status is None"),
    "mean": (_score(parts={"mean": 1.0}), "'mean', but reward/mean is a metric"),
    "correct": (_score(parts={"correct": 1.0}), "'correct', but reward/correct is a metric"),
    "many parts": (_score(parts={str(i): 1.0 for i in range(200)}), "parts are"),
    "list": ([1.0], "the reward returned a value of type list"),
    "triple": ((1.0, True, "equal"), "the reward returned a value of type tuple"),
    "other keys": ({"score": 1.0}, "a dict with the keys ['score']"),
}


def returning(response: str, problem: Problem) -> Any:
    return (USABLE.get(response) or UNUSABLE.get(response) or (1.0,))[0]
