"""Show the progress of a run: a live progress bar on a terminal, otherwise one line per step."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

# Measures the stages of a step, in seconds; benchmarks on a busy machine set `time.process_time`.
clock: Callable[[], float] = time.perf_counter

# The metrics shown for a step, and their formats.
SHOWN_METRICS = (
    ("reward/mean", "reward {:+.2f}"),
    ("reward/correct", "correct {:.0%}"),
    ("rollout/response_length", "length {:.1f}"),
    ("rollout/box_share", "boxed {:.0%}"),
    ("warmup/loss", "loss {:.4f}"),
    ("distill/correct", "correct {:.0%}"),
    ("distill/accepted", "accepted {:.0%}"),
    ("distill/responses_per_second", "{:.1f} responses/s"),
    ("eval/mean/accuracy", "eval {:.1%}"),
    ("time/sample_tokens_per_second", "{:,.0f} tok/s"),
    ("time/step", "{:.1f} s"),
)


def format_metrics(metrics: Mapping[str, float]) -> str:
    """Return the main metrics of a step as one line of text."""
    return "  ".join(form.format(metrics[name]) for name, form in SHOWN_METRICS if name in metrics)


class StepProgress:
    """Shows the progress of one phase of a run and measures the time of each stage of a step. Use as a context manager.

    phase: name shown, such as "rl". first: number of steps completed by earlier attempts. total: number of all steps.
    """

    def __init__(self, phase: str, first: int, total: int) -> None:
        self.phase, self.total = phase, total
        self.done = first
        self._started, self._first = time.perf_counter(), first
        self._times: dict[str, float] = {}
        self._begun = clock()
        console = Console()
        columns = (
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[numbers]}"),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
        )
        self._bar = Progress(*columns, console=console, disable=not console.is_terminal)
        self._row = self._bar.add_task(phase, total=total, completed=first, numbers="")

    def __enter__(self) -> StepProgress:
        self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.stop()

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
        beside = sum(self._times.get(name, 0.0) for name in ("evaluate", "save"))
        return {**stages, "time/step": clock() - self._begun - beside}

    def end(self, metrics: dict[str, float]) -> None:
        """Count the step as completed and show its metrics."""
        self.done += 1
        numbers = format_metrics(metrics)
        self._bar.update(self._row, completed=self.done, numbers=numbers)
        if not self._bar.disable:
            return
        pace = (time.perf_counter() - self._started) / (self.done - self._first)
        left = pace * (self.total - self.done)
        print(f"{self.phase} {self.done}/{self.total}  {numbers}  {left / 60:.1f} min left", flush=True)
