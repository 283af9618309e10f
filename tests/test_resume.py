"""A run that is stopped anywhere, by a signal or by `kill -9`, ends with the same bits as an unbroken one."""

from __future__ import annotations

import json
import os
import random
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import forked
import pytest
from micro_runs import SMALL, WARM_UP, differences, outcome, run

from simplerl import rl, sft
from simplerl.backends.roles import Roles
from simplerl.engine import optimizer
from simplerl.rewards.pool import Grader
from simplerl.runs.folder import Interrupted, Run
from simplerl.samplers.local import LocalSampler

pytestmark = pytest.mark.slow  # trains or starts processes


class Killed(BaseException):
    """Ends an attempt where nothing in the engine expects it, as a kill does."""


def _signal_while_sampling(number: signal.Signals, step: int, responses: int) -> Callable[[pytest.MonkeyPatch], None]:
    """The real signal, when `responses` of rollout step `step` have come."""

    def install(patch: pytest.MonkeyPatch) -> None:
        real = LocalSampler.generate

        def generate(self: LocalSampler, *arguments: Any) -> Iterator[Any]:
            for i, rollout in enumerate(real(self, *arguments)):
                if arguments[-1] == step and i == responses:
                    os.kill(os.getpid(), number)
                yield rollout

        patch.setattr(LocalSampler, "generate", generate)

    return install


def _signal_while_grading(number: signal.Signals, call: int) -> Callable[[pytest.MonkeyPatch], None]:
    """The real signal, while the grading waits for an answer that never comes."""

    def install(patch: pytest.MonkeyPatch) -> None:
        real, calls = Grader._wait, [0]

        def wait(self: Grader, results: Any, count: int) -> None:
            calls[0] += 1
            if calls[0] == call:
                os.kill(os.getpid(), number)
                count += 1
            real(self, results, count)

        patch.setattr(Grader, "_wait", wait)

    return install


def _at_call(target: Any, name: str, number: int, event: Callable[[], None]) -> Callable[[pytest.MonkeyPatch], None]:
    """`event` before the call number `number` of a function of the engine."""

    def install(patch: pytest.MonkeyPatch) -> None:
        real, calls = getattr(target, name), [0]

        def wrapped(*arguments: Any, **keywords: Any) -> Any:
            calls[0] += 1
            if calls[0] == number:
                event()
            return real(*arguments, **keywords)

        patch.setattr(target, name, wrapped)

    return install


def _kill() -> None:
    raise Killed


MOMENTS = {
    "signal in the warm-up": _at_call(sft, "documents_at", 2, lambda: os.kill(os.getpid(), signal.SIGTERM)),
    "kill in the warm-up, after its checkpoint": _at_call(sft, "documents_at", 4, _kill),
    "kill while the warm-up's result is written": _at_call(sft, "write_checkpoint", 1, _kill),
    "signal in the first evaluation": _signal_while_sampling(signal.SIGUSR2, 0, 1),
    "signal while sampling": _signal_while_sampling(signal.SIGTERM, 1, 7),
    "signal while grading": _signal_while_grading(signal.SIGTERM, 4),
    "kill between the two updates": _at_call(Roles, "score", 2, _kill),
    "kill between rollouts and metrics": _at_call(Run, "log", 4 + 2, _kill),
    "kill while a checkpoint is written": _at_call(optimizer, "save_file", 2 + 2, _kill),  # the critic's, of step 1
    "kill in the last evaluation": _at_call(rl, "evaluate_at", 4, _kill),
}


QUICK = (
    "signal in the warm-up",
    "signal while sampling",
    "kill while a checkpoint is written",
    "kill in the last evaluation",
)


@pytest.mark.parametrize("moment", [pytest.param(m, marks=[] if m in QUICK else pytest.mark.slow) for m in MOMENTS])
def test_a_broken_run_ends_as_an_unbroken_one(moment: str, small_run: Path, tmp_path: Path) -> None:
    with pytest.MonkeyPatch.context() as patch:
        MOMENTS[moment](patch)
        with pytest.raises((Killed, Interrupted)):
            run(tmp_path, *WARM_UP)
    folder = run(tmp_path, *WARM_UP)
    assert json.loads((folder / "status.json").read_text())["attempt"] == 1
    expected, found = outcome(small_run), outcome(folder)
    expected.pop("config.yaml"), found.pop("config.yaml")  # names the folder
    assert differences(found, expected) == []


# The real command under kill -9. Each attempt is a fork, so that the moments lie in the run and not in its imports.

LONGER = [*SMALL, *WARM_UP, "train.steps=20", "evals.every=6", "run.save_every=3"]


class Attempt:
    """`python train.py` with these arguments, until it ends or is killed."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.command = forked.Command("train.py", *LONGER, f"run.root={root}", merged=True)

    @property
    def folder(self) -> Path:
        return next((path for path in self.root.glob("*") if path.is_dir()), self.root / "none")

    def lines(self) -> int:
        path = self.folder / "metrics.jsonl"
        return path.read_bytes().count(b"\n") if path.exists() else 0

    def wait_for(self, condition: Callable[[], Any]) -> None:
        deadline = time.monotonic() + 120
        while not condition():
            assert self.command.poll() is None and time.monotonic() < deadline, self.command.stdout.read_text()
            time.sleep(0.001)

    def kill(self) -> None:
        assert self.command.poll() is None, "it ended before the kill"
        self.command.kill()
        assert self.command.poll() == -signal.SIGKILL

    def finish(self) -> Path:
        assert self.command.wait() == 0, self.command.stdout.read_text()
        return self.folder


class Broken:
    """Attempts at one run, each killed at a moment that it waits for."""

    def __init__(self, root: Path) -> None:
        self.root, self.rng = root, random.Random(0)
        self.attempts = 0
        self.hit = {"warm-up": 0, "checkpoint": 0, "evaluation": 0}  # kills that were seen to fall within these

    def status(self, attempt: Attempt) -> dict[str, Any]:
        path = attempt.folder / "status.json"
        status: dict[str, Any] = json.loads(path.read_text()) if path.exists() else {}
        return status

    def is_in(self, attempt: Attempt, phase: str) -> bool:
        status = self.status(attempt)
        return (status.get("attempt"), status.get("state"), status.get("phase")) == (self.attempts, "running", phase)

    def kill_in(self, moment: str) -> None:
        attempt = Attempt(self.root)
        if moment == "warm-up":
            attempt.wait_for(lambda: self.is_in(attempt, "warmup"))
            time.sleep(self.rng.uniform(0, 0.1))
        elif moment == "checkpoint":
            attempt.wait_for(lambda: self.half_written(attempt))
        else:
            attempt.wait_for(lambda: self.is_in(attempt, "rl"))
            if moment == "any":
                lines = attempt.lines()
                attempt.wait_for(lambda: attempt.lines() > lines)
            time.sleep(self.rng.uniform(0, 0.1))
        attempt.kill()
        self.hit["warm-up"] += self.status(attempt)["phase"] == "warmup"
        self.hit["checkpoint"] += self.half_written(attempt)
        self.hit["evaluation"] += moment == "evaluation" and not list(attempt.folder.glob("evals/*/results.json"))
        self.attempts = self.status(attempt)["attempt"] + 1

    def half_written(self, attempt: Attempt) -> bool:
        places = attempt.folder.glob("**/checkpoints/.step_*")
        return any((place / "policy").exists() and not (place / "state.json").exists() for place in places)


@pytest.mark.slow
def test_kill_nine_at_ten_moments(tmp_path: Path) -> None:
    expected = outcome(Attempt(tmp_path / "unbroken").finish())
    broken = Broken(tmp_path / "broken")
    for moment in [*["warm-up"] * 2, "evaluation", *["checkpoint"] * 2, *["any"] * 5]:
        broken.kill_in(moment)
    found = outcome(Attempt(broken.root).finish())
    assert all(broken.hit.values()), broken.hit
    expected.pop("config.yaml"), found.pop("config.yaml")
    assert differences(found, expected) == []
    assert len([m for m in found["metrics"] if "reward/mean" in m]) == 20
