"""What a person sees while a run goes on: a live bar on a terminal, one plain line a step elsewhere."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

# What a line shows: (metric, how it is written).
SHOWN = (
    ("reward/mean", "reward {:+.2f}"),
    ("reward/correct", "right {:.0%}"),
    ("rollout/response_length", "length {:.1f}"),
    ("rollout/box_share", "box {:.0%}"),
    ("warmup/loss", "loss {:.4f}"),
    ("eval/mean/accuracy", "eval {:.1%}"),
    ("time/sample_tokens_per_second", "{:,.0f} tok/s"),
    ("time/step", "{:.1f} s"),
)


def written(metrics: Mapping[str, float]) -> str:
    """The numbers of a step that fit into a line."""
    return "  ".join(form.format(metrics[name]) for name, form in SHOWN if name in metrics)


class StepProgress:
    """Times the stages of each step and shows where the run is."""

    def __init__(self, phase: str, first: int, total: int) -> None:
        self.phase, self.total = phase, total
        self.done = first
        self._started, self._first = time.perf_counter(), first
        self._times: dict[str, float] = {}
        self._begun = self._started
        self._bar: Progress | None = None
        console = Console()
        if console.is_terminal:
            columns = (
                TextColumn("{task.description}"),
                BarColumn(),
                MofNCompleteColumn(),
                TextColumn("{task.fields[numbers]}"),
                TimeElapsedColumn(),
                TimeRemainingColumn(),
            )
            self._bar = Progress(*columns, console=console)
            self._row = self._bar.add_task(phase, total=total, completed=first, numbers="")

    def __enter__(self) -> StepProgress:
        if self._bar is not None:
            self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._bar is not None:
            self._bar.stop()

    def begin(self) -> None:
        """A new step."""
        self._begun, self._times = time.perf_counter(), {}

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        if self._bar is not None:
            self._bar.update(self._row, description=f"{self.phase}: {name}")
        start = time.perf_counter()
        yield
        self._times[name] = self._times.get(name, 0.0) + time.perf_counter() - start

    def times(self) -> dict[str, float]:
        """Return the seconds of each stage, and time/step: all since `begin` but evaluating and saving, so that
        time/step + time/evaluate + time/save is the wall time."""
        stages = {f"time/{name}": seconds for name, seconds in self._times.items()}
        beside = sum(self._times.get(name, 0.0) for name in ("evaluate", "save"))
        return {**stages, "time/step": time.perf_counter() - self._begun - beside}

    def end(self, metrics: dict[str, float]) -> None:
        """The step is done: shows its numbers."""
        self.done += 1
        numbers = written(metrics)
        if self._bar is not None:
            self._bar.update(self._row, completed=self.done, numbers=numbers)
            return
        pace = (time.perf_counter() - self._started) / (self.done - self._first)
        left = pace * (self.total - self.done)
        print(f"{self.phase} {self.done}/{self.total}  {numbers}  {left / 60:.1f} min left", flush=True)
