"""Implements the commands of sweep.py: status, cancel and resume."""

from __future__ import annotations

import json
import os
import shlex
import signal
import socket
import subprocess
import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path

from simplerl.config.secrets import HIDDEN
from simplerl.errors import ConfigError
from simplerl.io.places import PROGRAM, spelled
from simplerl.io.tables import Cell, Table, text_cells
from simplerl.io.terminal import terminal
from simplerl.planning.sweep_plan import outcome_lines
from simplerl.runs.status import read_status
from simplerl.sweeps import manifest, slurm
from simplerl.sweeps.manifest import Sweep, SweepRun, labels
from simplerl.sweeps.slurm import QueuedJob, SlurmError
from simplerl.sweeps.states import RunState, state_of

LINE = 60  # characters of the last line in the table
COLOURS = {
    "finished": "green",
    "running": "cyan",
    "pending": "yellow",
    "requeued": "yellow",
    "interrupted": "magenta",
    "failed": "red",
    "refused": "red",
    "damaged": "red",
}


def states_of(sweep: Sweep, jobs: Mapping[str, QueuedJob] | None) -> list[tuple[SweepRun, RunState]]:
    """Return the runs of a sweep with their states. jobs: SLURM's queue, or None without SLURM."""
    known = manifest.jobs_of(sweep.folder.parent.parent) if jobs else {}
    return [(run, state_of(run, jobs, known.get(run.folder, ()))) for run in sweep.runs]


def jobs_for(sweeps: Sequence[Sweep]) -> dict[str, QueuedJob] | None:
    """Return SLURM's queue by job id, or None if no unfinished run was submitted to it. Also returns None, with a
    warning, if SLURM does not answer."""
    submitted = [run for sweep in sweeps for run in sweep.runs if run.job]
    if all(state_of(run, None).state == "finished" for run in submitted):
        return None
    try:
        return slurm.queued()
    except SlurmError as error:
        print(f"{error} Runs that are queued or running on SLURM are shown as interrupted.", file=sys.stderr)
        return None


def show(sweep: Sweep, as_json: bool = False) -> int:
    """Print the state of each run of the sweep, as JSON if `as_json`. Returns the exit status, which is always 0."""
    rows = states_of(sweep, jobs_for([sweep]))
    if as_json:
        print(json.dumps([{**asdict(run), **asdict(state)} for run, state in rows], indent=1))
        return 0
    console = terminal(200)
    console.print(sweep_table(sweep, rows))
    for line in outcome_lines([Path(run.folder) for run, state in rows if state.state == "finished"]):
        console.print(line)
    return 0


def show_all(root: Path) -> int:
    """Print one line per sweep. Returns the exit status."""
    sweeps = manifest.all_sweeps(root)
    if not sweeps:
        print(f"There is no sweep under {root / manifest.FOLDER} yet: {spelled('train')} -m ... starts one.")
        return 0
    jobs = jobs_for(sweeps)
    terminal().print(sweeps_table([(sweep, [state for _, state in states_of(sweep, jobs)]) for sweep in sweeps]))
    return 0


def cancel(sweep: Sweep) -> int:
    """Cancel the sweep's jobs with scancel, and stop a run on this machine with SIGTERM; both save before they exit."""
    rows = states_of(sweep, jobs_for([sweep]))
    jobs = [state.job for _, state in rows if state.job is not None]
    if jobs:
        slurm.cancel(jobs)
    print(f"SLURM jobs cancelled: {' '.join(jobs) or 'none'}")
    for run, state in rows:
        if state.state == "running" and state.job is None:
            _stop_local_process(run)
    return 0


def _stop_local_process(run: SweepRun) -> None:
    """Send SIGTERM to the process in status.json if it holds the lock of this run folder; otherwise print why not."""
    status = read_status(Path(run.folder))
    if status["host"] != socket.gethostname():
        print(f"{run.folder} runs on {status['host']}: cancel it there.")
    elif not runs_folder(status["pid"], Path(run.folder)):
        print(f"{run.folder}: process {status['pid']} is not the train.py that holds its .lock: not stopped.")
    else:
        os.kill(status["pid"], signal.SIGTERM)
        print(f"Process {status['pid']} will save and exit: {run.folder}")


def runs_folder(pid: int, folder: Path) -> bool:
    """Return whether a process of this machine runs this project's train.py and holds the lock of the run folder. A
    status.json copied from another machine may name any process."""
    process = Path("/proc") / str(pid)
    try:
        arguments = (process / "cmdline").read_bytes().decode(errors="replace").split("\0")[1:]
        cwd = (process / "cwd").readlink()
        is_script = any((cwd / argument).resolve() == manifest.TRAIN for argument in arguments if argument)
        is_program = "train" in arguments[1:3] and PROGRAM in (Path(word).name for word in arguments[:2])
        holds_lock = any(file.exists() and file.samefile(folder / ".lock") for file in (process / "fd").iterdir())
        return pid > 0 and (is_script or is_program) and holds_lock
    except OSError:  # no such process, or one of another user
        return False


def checked_command(sweep: Sweep, command: Sequence[str]) -> list[str]:
    """Return the arguments for Python that repeat the command of a sweep. Raises ConfigError if they contain hidden
    secrets or do not run this project's train.py, because a sweep.json from another source may hold any command."""
    script, *arguments = command
    if (Path(sweep.cwd) / script).resolve() != manifest.TRAIN:
        raise ConfigError(
            f"{sweep.folder}/sweep.json: its program, {script}, is not {manifest.TRAIN}: run its command yourself."
        )
    if not Path(sweep.cwd).is_dir():
        raise ConfigError(
            f"{sweep.folder}/sweep.json: the working directory of the sweep, {sweep.cwd}, no longer exists: create it "
            f"(mkdir -p {sweep.cwd}) and resume the sweep again."
        )
    if hidden := [argument for argument in arguments if HIDDEN in argument]:
        key = hidden[0].partition("=")[0]
        raise ConfigError(
            f"{sweep.name}: the value of {key} was not stored, because it is a secret: start the same command again "
            "with it."
        )
    return [str(manifest.TRAIN), *arguments]


def resume(sweep: Sweep) -> int:
    """Repeat the commands that started the unfinished runs; runs that are finished, queued or running are skipped.
    Returns the highest exit status."""
    rows = states_of(sweep, jobs_for([sweep]))
    # A local process that runs a part of the sweep will also start its pending runs.
    running_here = any(state.state == "running" and state.job is None for _, state in rows)
    unfinished = [run for run, state in rows if state.needs_start and not (running_here and state.state == "pending")]
    commands = {tuple(run.command): None for run in unfinished}  # each command once, in order
    for _, state in rows:
        if state.state == "damaged":
            print(f"Left out: {state.note}")
    if not commands:
        print("Nothing to resume: every run is finished, queued, running or left out.")
    status = 0
    signal.signal(signal.SIGINT, lambda *_: None)  # on Ctrl-C the run saves and ends, which also ends this command
    for command in commands:
        again = checked_command(sweep, command)
        if not any(argument.startswith("hydra.sweep.dir=") for argument in again):
            again.append(f"hydra.sweep.dir='{sweep.folder}'")
        print(f"$ {shlex.join(['python', *again])}", flush=True)
        # Modules of the sweep's folder, such as rewards, are found as by the first start.
        paths = [os.environ["PYTHONPATH"]] if "PYTHONPATH" in os.environ else []
        environment = os.environ | {"PYTHONPATH": os.pathsep.join([*paths, sweep.cwd])}
        done = subprocess.run([sys.executable, *again], cwd=sweep.cwd, env=environment, check=False)
        status = max(status, done.returncode)
    return status


# Tables


def sweep_table(sweep: Sweep, runs: Sequence[tuple[SweepRun, RunState]]) -> Table:
    """Return one row per run: state and SLURM job, progress, last reward and accuracy, hours, last log line.

    Hours are GPU hours, or CPU hours if no run used a GPU. Long reasons are shown in full below the table."""
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
                state.note if len(state.note) <= LINE else f"{state.note[:LINE]}…",
            ]
        )
        rows.append([Cell(names[run.folder]), Cell(f"{state.state}{job}", style=COLOURS[state.state]), *cells])
    caption = f"{sweep.name}  ({count_states([state for _, state in runs])})"
    columns = ["run", "state", "step", "reward", "accuracy", "GPU-h" if uses_gpus else "CPU-h", "last line"]
    faulty = [(names[run.folder], state) for run, state in runs if state.state in ("failed", "refused", "damaged")]
    notes = [f"{name}: {state.note}" for name, state in faulty if len(state.note) > LINE]
    return Table("sweep", caption, columns, rows, notes=notes, align="llrrrrl", boxed=False, truncate_last=True)


def count_states(states: Sequence[RunState]) -> str:
    """Return the number of runs in each state, such as "3 finished, 1 failed"."""
    counts = Counter(state.state for state in states)
    return ", ".join(f"{counts[name]} {name}" for name in COLOURS if counts[name])


def sweeps_table(rows: Sequence[tuple[Sweep, Sequence[RunState]]]) -> Table:
    """Return one row per sweep: name, creation time, number of runs, and their states."""
    cells = [text_cells([sweep.name, sweep.created, len(states), count_states(states)]) for sweep, states in rows]
    return Table("sweeps", "", ["sweep", "created", "runs", "states"], cells, align="llrl", boxed=False)
