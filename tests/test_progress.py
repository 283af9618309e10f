"""Where the time of a step went."""

from __future__ import annotations

import io
import logging
import sys
from datetime import datetime
from types import SimpleNamespace

import pytest
from rich.console import Console

from simplerl.runs import progress
from simplerl.runs.progress import StepProgress, format_end


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


def line_of(steps: StepProgress, metrics: dict[str, float], capsys: pytest.CaptureFixture[str]) -> str:
    steps.end(metrics)
    return capsys.readouterr().out.rstrip()


def test_a_line_has_the_number_of_its_metrics_and_says_how_much_is_left(
    clock: Clock, capsys: pytest.CaptureFixture[str]
) -> None:
    """By the pace of this attempt: a resumed run counts only its own steps. The first step has an evaluation, and the
    estimate after it counts those that are still due: at 5, 10 and 12."""
    steps = StepProgress("rl", 4, 12, every=5)
    steps.begin()
    with steps.stage("evaluate"):
        clock.sleep(600.0)
    clock.sleep(60.0)
    line = line_of(steps, {"reward/mean": 0.5, "rollout/truncated_share": 0.125}, capsys)
    assert line.startswith("rl 4/12  reward +0.50  truncated 12%  ") and "37.0 min left (" in line
    steps.begin()
    clock.sleep(60.0)
    assert line_of(steps, {}, capsys).startswith("rl 5/12  26.0 min left")


def test_the_line_after_the_last_update_has_no_estimate(clock: Clock, capsys: pytest.CaptureFixture[str]) -> None:
    steps = StepProgress("rl", 0, 1)
    for _ in range(2):
        steps.begin()
        clock.sleep(1.0)
        line = line_of(steps, {"eval/mean/accuracy": 0.25}, capsys)
    assert line == "rl 1/1  eval 25.0%"
    assert line_of(StepProgress("evaluation", 0, 0), {"eval/mean/accuracy": 0.5}, capsys) == "evaluation  eval 50.0%"


@pytest.mark.parametrize(
    ("seconds", "expected"),
    [(90.0, "1.5 min left (10:01)"), (7200.0, "2.0 h left (12:00)"), (86400.0, "24.0 h left (Mar 06 10:00)")],
)
def test_the_end_is_a_time_and_on_another_day_a_date(seconds: float, expected: str) -> None:
    assert format_end(seconds, datetime(2026, 3, 5, 10)) == expected


def test_messages_are_written_above_the_bar(monkeypatch: pytest.MonkeyPatch) -> None:
    """Log handlers that hold the terminal write through the bar while it is shown, and to the terminal afterwards."""
    terminal = io.StringIO()
    handler = logging.StreamHandler(terminal)
    monkeypatch.setattr(sys, "stdout", terminal)
    monkeypatch.setattr(logging.getLogger(), "handlers", [handler])
    monkeypatch.setattr(progress, "Console", lambda: Console(force_terminal=True, file=terminal))
    with StepProgress("rl", 0, 3) as steps:
        assert handler.stream is sys.stdout is not terminal
        steps.begin()
        steps.end({"reward/mean": 0.5})
    assert handler.stream is sys.stdout is terminal and "rl 0/3  reward +0.50" in terminal.getvalue()
