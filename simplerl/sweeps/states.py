"""Determines the state of a run from its folder, its lock and SLURM's queue."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from simplerl.errors import ConfigError
from simplerl.io.files import read_lines_backwards
from simplerl.runs.progress import format_metrics
from simplerl.runs.status import is_locked, read_status
from simplerl.sweeps.manifest import SweepRun
from simplerl.sweeps.slurm import QueuedJob

SUBMITIT = "submitit "  # prefix of submitit's own log lines


@dataclass(frozen=True)
class RunState:
    state: str  # pending | requeued | running | finished | failed | refused | interrupted | damaged
    phase: str = ""  # warmup | rl
    step: int = 0
    steps: int | None = None  # of this phase
    reward: float | None = None  # mean of the last step
    accuracy: float | None = None  # of the last evaluation
    gpu_hours: float = 0.0
    cpu_hours: float = 0.0
    attempts: int = 0  # starts of the run so far
    note: str = ""  # reason for waiting or failing, or the last line of the log
    job: str | None = None  # id of its job in the queue

    @property
    def needs_start(self) -> bool:
        """Return whether the run is unfinished and has neither a running process nor a queued job."""
        return self.state in ("failed", "refused", "interrupted") or (self.state == "pending" and self.job is None)


def state_of(run: SweepRun, jobs: Mapping[str, QueuedJob] | None, known_jobs: Sequence[str] = ()) -> RunState:
    """Return the state of a run.

    jobs: SLURM's queue, or None without SLURM. known_jobs: ids of jobs that other sweeps submitted for this run."""
    folder = Path(run.folder)
    try:
        status, locked = read_status(folder), is_locked(folder)
    except (ConfigError, OSError) as error:  # one damaged run must not hide the others
        return RunState("damaged", note=str(error))
    rows = folder / "metrics.jsonl"
    ids = [*([run.job] if run.job else []), *known_jobs]
    job = next((jobs[id] for id in ids if id in jobs), None) if jobs is not None else None
    state = _state(status, job, locked=locked, started=bool(status) or run.job is not None)
    phase = status.get("phase") or ""
    return RunState(
        state=state,
        phase=phase,
        step=status.get("step") or 0,
        steps=(status.get("steps") or {}).get(phase or "rl"),
        reward=last_row(rows, "reward/mean").get("reward/mean"),
        accuracy=last_row(rows, "eval/mean/accuracy").get("eval/mean/accuracy"),
        gpu_hours=status.get("gpu_hours", 0.0),
        cpu_hours=status.get("cpu_hours", 0.0),
        attempts=status.get("attempt", -1) + 1,
        note=_note(state, status, rows, job, Path(run.log) if run.log else None),
        job=job.id if job else None,
    )


def _state(status: dict[str, Any], job: QueuedJob | None, locked: bool, started: bool) -> str:
    if status.get("state") == "finished":
        return "finished"
    if job is not None and job.waits:
        return "requeued" if job.restarts else "pending"
    if job is not None or locked:
        return "running"
    if not started:
        return "pending"
    # A process that was killed, ran out of memory or lost its node has left "running" in status.json.
    return str(status["state"]) if status.get("state") in ("failed", "refused") else "interrupted"


def _note(state: str, status: dict[str, Any], rows: Path, job: QueuedJob | None, log: Path | None) -> str:
    if state in ("pending", "requeued"):
        return job.reason.replace("None", "") if job else "not started"
    if state in ("failed", "refused") and status.get("reason"):
        return str(status["reason"])
    line = last_line(log) if log is not None else ""
    if not line and (row := last_row(rows, "step")):
        line = f"{row.get('phase')} {row['step']}: {format_metrics(row)}"
    if state == "interrupted":
        why = status.get("reason") or "ended without a message (killed, out of memory, or its node was lost)"
        return f"{why}; {line}" if line else str(why)
    return line


def last_line(path: Path) -> str:
    """Return the last line of a log file, without reading all of it; empty if there is none."""
    lines = (line.decode(errors="replace") for line in read_lines_backwards(path))
    return next((line.strip() for line in lines if line.strip() and not line.startswith(SUBMITIT)), "")


def last_row(path: Path, name: str) -> dict[str, Any]:
    """Return the last row of metrics.jsonl that has the metric `name` as a number, or {}. The file is read from its
    end, because it may be large; damaged and incomplete lines are skipped."""
    key = json.dumps(name).encode()
    for line in read_lines_backwards(path):
        with suppress(ValueError, RecursionError):
            row = json.loads(line) if key in line else {}
            if isinstance(row, dict) and isinstance(row.get(name), int | float):
                return row
    return {}
