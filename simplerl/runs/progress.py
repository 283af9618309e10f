"""Show the progress of a run: one line per step, and below these lines a live progress bar on a terminal.

A step has the number of its line in metrics.jsonl, which is the number of updates that the policy has had before it."""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from datetime import datetime, timedelta

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

# Measures the stages of a step, in seconds; benchmarks on a busy machine set `time.process_time`.
clock: Callable[[], float] = time.perf_counter

# The metrics shown for a step, and their formats.
SHOWN_METRICS = (
    ("reward/mean", "reward {:+.2f}"),
    ("reward/correct", "correct {:.0%}"),
    ("rollout/response_length", "length {:.1f}"),
    ("rollout/truncated_share", "truncated {:.0%}"),
    ("rollout/box_share", "boxed {:.0%}"),
    ("warmup/loss", "loss {:.4f}"),
    ("distill/correct", "correct {:.0%}"),
    ("distill/accepted", "accepted {:.0%}"),
    ("distill/responses_per_second", "{:.1f} responses/s"),
    ("eval/mean/accuracy", "eval {:.1%}"),
    ("time/sample_tokens_per_second", "{:,.0f} tok/s"),
    ("time/step", "{:.1f} s"),
)
BESIDE = ("evaluate", "save")  # stages that time/step leaves out


def format_metrics(metrics: Mapping[str, float]) -> str:
    """Return the main metrics of a step as one line of text."""
    return "  ".join(form.format(metrics[name]) for name, form in SHOWN_METRICS if name in metrics)


def format_end(seconds: float, now: datetime) -> str:
    """Return the time that is left and when it ends, such as "4.5 min left (22:31)"."""
    end = now + timedelta(seconds=seconds)
    when = f"{end:%H:%M}" if end.date() == now.date() else f"{end:%b %d %H:%M}"
    left = f"{seconds / 60:.1f} min" if seconds < 2 * 3600 else f"{seconds / 3600:.1f} h"
    return f"{left} left ({when})"


class StepProgress:
    """Shows the progress of one phase of a run and measures the time of each stage of a step. Use as a context manager.

    phase: name shown, such as "rl". first: number of steps completed by earlier attempts. total: number of all steps.
    every: steps between evaluations, for the estimate of the remaining time; 0 without evaluations.
    """

    def __init__(self, phase: str, first: int, total: int, every: int = 0) -> None:
        self.phase, self.total, self.every = phase, total, every
        self.done = self._first = first
        self._times: dict[str, float] = {}
        self._begun = clock()
        self._training, self._evaluating, self._evaluations = 0.0, 0.0, 0
        console = Console()
        columns = (
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TextColumn("{task.fields[left]}"),
        )
        self._bar = Progress(*columns, console=console, disable=not console.is_terminal)
        self._row = self._bar.add_task(phase, total=total, completed=first, left="")
        self._handlers: list[logging.StreamHandler] = []

    def __enter__(self) -> StepProgress:
        shown = [one for one in logging.getLogger().handlers if isinstance(one, logging.StreamHandler)]
        self._handlers = [] if self._bar.disable else [one for one in shown if one.stream is sys.stdout]
        self._bar.start()
        for handler in self._handlers:  # sys.stdout now writes above the bar
            handler.setStream(sys.stdout)
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.stop()
        for handler in self._handlers:
            handler.setStream(sys.stdout)

    def begin(self) -> None:
        """Start timing a new step."""
        self._begun, self._times = clock(), {}

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Measure the time of the block as the stage `name` of this step; blocks of the same name add up."""
        self._bar.update(self._row, description=f"{self.phase}: {name}")
        start = clock()
        yield
        self._times[name] = self._times.get(name, 0.0) + clock() - start

    def times(self) -> dict[str, float]:
        """Return time/<stage>, the seconds of each stage, and time/step: the seconds since `begin` without evaluating
        and saving, so that time/step + time/evaluate + time/save is the wall time."""
        stages = {f"time/{name}": seconds for name, seconds in self._times.items()}
        beside = sum(self._times.get(name, 0.0) for name in BESIDE)
        return {**stages, "time/step": clock() - self._begun - beside}

    def end(self, metrics: Mapping[str, float]) -> None:
        """Print the metrics of the step with its number and, if steps are left, the estimated end; count it as
        completed."""
        evaluating = self._times.get("evaluate", 0.0)
        self._training += clock() - self._begun - evaluating
        self._evaluating += evaluating
        self._evaluations += "evaluate" in self._times
        step, self.done = self.done, self.done + 1
        left = format_end(self.seconds_left(), datetime.now()) if self.done < self.total else ""
        self._bar.update(self._row, completed=min(self.done, self.total), left=left)
        number = f"{self.phase} {step}/{self.total}" if self.total else self.phase
        print("  ".join(part for part in (number, format_metrics(metrics), left) if part), flush=True)

    def seconds_left(self) -> float:
        """Estimate the seconds that the remaining steps and evaluations take, from the means of this attempt."""
        training = self._training / max(self.done - self._first, 1) * (self.total - self.done)
        due = sum(step % self.every == 0 for step in range(self.done, self.total)) + 1 if self.every else 0
        return training + due * self._evaluating / max(self._evaluations, 1)
