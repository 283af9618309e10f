"""A sweep as a table, and all sweeps as a list."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from rich.table import Table

from simplerl.sweeps.manifest import Sweep, SweepRun, labels
from simplerl.sweeps.states import RunState

COLOURS = {
    "finished": "green",
    "running": "cyan",
    "pending": "yellow",
    "requeued": "yellow",
    "interrupted": "magenta",
    "failed": "red",
}


def coloured(state: str) -> str:
    return f"[{COLOURS[state]}]{state}[/]"


def sweep_table(sweep: Sweep, runs: Sequence[tuple[SweepRun, RunState]]) -> Table:
    """A row for each run: state, step of steps, reward, accuracy, hours, last line."""
    gpus = any(state.gpu_hours for _, state in runs)
    names = labels([run for run, _ in runs])
    table = Table(title=f"{sweep.name}  ({summary([state for _, state in runs])})", title_justify="left", box=None)
    for name in ("run", "state", "step", "reward", "accuracy", "GPU-h" if gpus else "CPU-h"):
        table.add_column(name, justify="left" if name in ("run", "state") else "right", no_wrap=name != "run")
    table.add_column("last line", no_wrap=True, overflow="ellipsis")
    for run, state in runs:
        hours = state.gpu_hours if gpus else state.cpu_hours
        step = f"{state.phase} {state.step}/{state.steps or '?'}" if state.phase else ""
        table.add_row(
            names[run.folder],
            coloured(state.state) + (f" {state.job}" if state.job else ""),
            step,
            "" if state.reward is None else f"{state.reward:+.2f}",
            "" if state.accuracy is None else f"{state.accuracy:.1%}",
            f"{hours:.2f}",
            state.note.replace("[", "\\["),
        )
    return table


def summary(states: Sequence[RunState]) -> str:
    counts = Counter(state.state for state in states)
    return ", ".join(f"{counts[name]} {name}" for name in COLOURS if counts[name])


def sweeps_table(rows: Sequence[tuple[Sweep, Sequence[RunState]]]) -> Table:
    table = Table(box=None)
    for name in ("sweep", "created", "runs", "states"):
        table.add_column(name, justify="right" if name == "runs" else "left")
    for sweep, states in rows:
        table.add_row(sweep.name, sweep.created, str(len(states)), summary(states))
    return table
