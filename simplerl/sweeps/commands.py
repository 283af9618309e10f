"""What sweep.py does."""

from __future__ import annotations

import json
import os
import shlex
import signal
import socket
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path

from rich.console import Console

from simplerl.io.files import read_json
from simplerl.sweeps import manifest
from simplerl.sweeps import slurm_queue as queue
from simplerl.sweeps.manifest import Sweep, SweepRun
from simplerl.sweeps.slurm_queue import QueuedJob, SlurmError
from simplerl.sweeps.states import RunState, state_of
from simplerl.sweeps.table import sweep_table, sweeps_table


def states_of(sweep: Sweep, jobs: Mapping[str, QueuedJob] | None) -> list[tuple[SweepRun, RunState]]:
    known = manifest.jobs_of(sweep.folder.parent.parent)
    return [(run, state_of(run, jobs, known.get(run.folder, ()))) for run in sweep.runs]


def jobs_for(sweeps: Sequence[Sweep]) -> dict[str, QueuedJob] | None:
    """SLURM's queue if any of the runs was given to it; None, with a warning, where it does not answer."""
    submitted = [run for sweep in sweeps for run in sweep.runs if run.job]
    if all(state_of(run, None).state == "finished" for run in submitted):
        return None
    try:
        return queue.queued()
    except SlurmError as error:
        print(f"{error} Runs that wait or run there look interrupted here.", file=sys.stderr)
        return None


def show(sweep: Sweep, as_json: bool = False) -> int:
    rows = states_of(sweep, jobs_for([sweep]))
    if as_json:
        print(json.dumps([{**asdict(run), **asdict(state)} for run, state in rows], indent=1))
        return 0
    console = Console()
    # In a file or pipe nothing is cut to the width of a terminal.
    (console if console.is_terminal else Console(width=200)).print(sweep_table(sweep, rows))
    return 0


def show_all(root: Path) -> int:
    sweeps = manifest.all_sweeps(root)
    if not sweeps:
        print(f"No sweep under {root / manifest.FOLDER} yet: python train.py -m starts one.")
        return 0
    jobs = jobs_for(sweeps)
    Console().print(sweeps_table([(sweep, [state for _, state in states_of(sweep, jobs)]) for sweep in sweeps]))
    return 0


def cancel(sweep: Sweep) -> int:
    """Its jobs by scancel; a run on this machine by SIGTERM. Both save before they leave."""
    rows = states_of(sweep, jobs_for([sweep]))
    jobs = [state.job for _, state in rows if state.job is not None]
    if jobs:
        queue.cancel(jobs)
    print(f"SLURM jobs cancelled: {' '.join(jobs) or 'none'}")
    for run, state in rows:
        if state.state == "running" and state.job is None:
            _stop_here(run)
    return 0


def _stop_here(run: SweepRun) -> None:
    status = read_json(Path(run.folder) / "status.json")
    if status["host"] != socket.gethostname():
        print(f"{run.folder} runs on {status['host']}: cancel it there.")
        return
    os.kill(status["pid"], signal.SIGTERM)
    print(f"Process {status['pid']} saves and leaves: {run.folder}")


def resume(sweep: Sweep) -> int:
    """The commands that made the unfinished runs, again: they skip what is finished, queued or running."""
    rows = states_of(sweep, jobs_for([sweep]))
    going = any(state.state == "running" and state.job is None for _, state in rows)  # a process here does the rest
    unfinished = [run for run, state in rows if state.needs_start and not (going and state.state == "pending")]
    commands = {tuple(run.command): None for run in unfinished}  # each once, in order
    if not commands:
        print("Nothing to resume: every run is finished, queued or running.")
    status = 0
    for command in commands:
        again = list(command)
        if not any(argument.startswith("hydra.sweep.dir=") for argument in again):
            again.append(f"hydra.sweep.dir='{sweep.folder}'")
        print(f"$ {shlex.join(['python', *again])}", flush=True)
        status = max(status, subprocess.run([sys.executable, *again], cwd=sweep.cwd, check=False).returncode)
    return status
