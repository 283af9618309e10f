"""Determines the state of a run from its folder, its lock and SLURM's queue."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from simplerl.io.files import read_json, read_jsonl
from simplerl.runs.folder import is_locked
from simplerl.runs.progress import format_metrics
from simplerl.sweeps.manifest import SweepRun
from simplerl.sweeps.slurm import QueuedJob

SUBMITIT = "submitit "  # prefix of submitit's own log lines


@dataclass(frozen=True)
class RunState:
    state: str  # pending | requeued | running | finished | failed | interrupted
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
        return self.state in ("failed", "interrupted") or (self.state == "pending" and self.job is None)


def state_of(run: SweepRun, jobs: Mapping[str, QueuedJob] | None, known_jobs: Sequence[str] = ()) -> RunState:
    """Return the state of a run.

    jobs: SLURM's queue, or None without SLURM. known_jobs: ids of jobs that other sweeps submitted for this run."""
    folder = Path(run.folder)
    path, rows = folder / "status.json", read_jsonl(folder / "metrics.jsonl")
    status = read_json(path) if path.exists() else {}
    ids = [*([run.job] if run.job else []), *known_jobs]
    job = next((jobs[id] for id in ids if id in jobs), None) if jobs is not None else None
    state = _state(status, job, locked=is_locked(folder), started=bool(status) or run.job is not None)
    phase = status.get("phase", "")
    return RunState(
        state=state,
        phase=phase,
        step=status.get("step", 0),
        steps=status.get("steps", {}).get(phase or "rl"),
        reward=_last(rows, "reward/mean"),
        accuracy=_last(rows, "eval/mean/accuracy"),
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
    return "failed" if status.get("state") == "failed" else "interrupted"


def _note(
    state: str, status: dict[str, Any], rows: list[dict[str, Any]], job: QueuedJob | None, log: Path | None
) -> str:
    if state in ("pending", "requeued"):
        return job.reason.replace("None", "") if job else "not started"
    if state == "failed" and status.get("reason"):
        return str(status["reason"])
    line = last_line(log) if log is not None else ""
    if not line and rows:
        line = f"{rows[-1]['phase']} {rows[-1]['step']}: {format_metrics(rows[-1])}"
    if state == "interrupted":
        why = status.get("reason") or "ended without a message (killed, out of memory, or its node was lost)"
        return f"{why}; {line}" if line else str(why)
    return line


def last_line(path: Path) -> str:
    """Return the last line of a log file, without reading all of it; empty if there is none."""
    if not path.exists():
        return ""
    with open(path, "rb") as file:
        file.seek(max(0, path.stat().st_size - 8192))
        lines = file.read().decode(errors="replace").splitlines()
    return next((line.strip() for line in reversed(lines) if line.strip() and not line.startswith(SUBMITIT)), "")


def _last(rows: list[dict[str, Any]], name: str) -> float | None:
    return next((row[name] for row in reversed(rows) if name in row), None)
