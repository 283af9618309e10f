"""Tables that `python sweep.py status` prints: the runs of one sweep, and all sweeps.

Kept apart, though short, because the commands start processes and jobs and this only formats what they found."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from simplerl.io.tables import Cell, Table, text_cells
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


def sweep_table(sweep: Sweep, runs: Sequence[tuple[SweepRun, RunState]]) -> Table:
    """Return one row per run: state and SLURM job, progress, last reward and accuracy, hours, last log line.

    Hours are GPU hours, or CPU hours if no run used a GPU."""
    uses_gpus = any(state.gpu_hours for _, state in runs)
    names = labels([run for run, _ in runs])
    rows = []
    for run, state in runs:
        job = f" {state.job}" if state.job else ""
        cells = text_cells(
            [
                f"{state.phase} {state.step}/{state.steps or '?'}" if state.phase else "",
                "" if state.reward is None else f"{state.reward:+.2f}",
                "" if state.accuracy is None else f"{state.accuracy:.1%}",
                f"{state.gpu_hours if uses_gpus else state.cpu_hours:.2f}",
                state.note,
            ]
        )
        rows.append([Cell(names[run.folder]), Cell(f"{state.state}{job}", style=COLOURS[state.state]), *cells])
    caption = f"{sweep.name}  ({count_states([state for _, state in runs])})"
    columns = ["run", "state", "step", "reward", "accuracy", "GPU-h" if uses_gpus else "CPU-h", "last line"]
    return Table("sweep", caption, columns, rows, align="llrrrrl", boxed=False, truncate_last=True)


def count_states(states: Sequence[RunState]) -> str:
    """Return the number of runs in each state, such as "3 finished, 1 failed"."""
    counts = Counter(state.state for state in states)
    return ", ".join(f"{counts[name]} {name}" for name in COLOURS if counts[name])


def sweeps_table(rows: Sequence[tuple[Sweep, Sequence[RunState]]]) -> Table:
    """Return one row per sweep: name, creation time, number of runs, and their states."""
    cells = [text_cells([sweep.name, sweep.created, len(states), count_states(states)]) for sweep, states in rows]
    return Table("sweeps", "", ["sweep", "created", "runs", "states"], cells, align="llrl", boxed=False)
