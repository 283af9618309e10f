"""Where the time of a step went."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from simplerl.runs import progress
from simplerl.runs.progress import StepProgress


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def sleep(self, seconds: float) -> None:
        self.now += seconds


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    made = Clock()
    monkeypatch.setattr(progress, "time", SimpleNamespace(perf_counter=lambda: made.now))
    monkeypatch.setattr(progress, "clock", lambda: made.now)
    return made


STAGES = {"save": 7.0, "evaluate": 5.0, "sample": 11.0, "score": 2.0, "update": 3.0, "sync": 0.5, "write": 0.25}


def test_the_times_of_a_step_add_up_to_its_wall_time(clock: Clock) -> None:
    """time/step is training alone, so that time/step + time/evaluate + time/save is what the run took."""
    wall, added = clock.now, 0.0
    with StepProgress("rl", 0, 3) as steps:
        for step in range(3):
            steps.begin()
            stages = STAGES if step else {name: STAGES[name] for name in STAGES if name != "save"}
            for name, seconds in stages.items():
                with steps.stage(name):
                    clock.sleep(seconds)
            clock.sleep(0.125)  # between the stages
            times = steps.times()
            assert times == {
                **{f"time/{name}": seconds for name, seconds in stages.items()},
                "time/step": sum(STAGES.values()) - STAGES["save"] - STAGES["evaluate"] + 0.125,
            }
            added += times["time/step"] + times["time/evaluate"] + times.get("time/save", 0.0)
            steps.end(times)
    assert added == clock.now - wall


def test_a_stage_that_comes_twice_in_a_step_is_added_and_forgotten_with_it(clock: Clock) -> None:
    steps = StepProgress("rl", 0, 1)
    steps.begin()
    for seconds in (1.0, 2.0):
        with steps.stage("save"):
            clock.sleep(seconds)
    assert steps.times() == {"time/save": 3.0, "time/step": 0.0}
    steps.begin()
    clock.sleep(4.0)
    assert steps.times() == {"time/step": 4.0}


def test_a_line_says_how_much_is_left(clock: Clock, capsys: pytest.CaptureFixture[str]) -> None:
    """By the pace of this attempt: a resumed run counts only its own steps."""
    steps = StepProgress("rl", 4, 10)
    steps.begin()
    clock.sleep(60.0)
    steps.end({"reward/mean": 0.5})
    line = capsys.readouterr().out
    assert line.startswith("rl 5/10  reward +0.50") and line.rstrip().endswith("5.0 min left")
