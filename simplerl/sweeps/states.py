"""How a run stands: from its folder, its lock and SLURM's queue."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from simplerl.io.files import read_json, read_jsonl
from simplerl.runs.folder import is_held
from simplerl.runs.progress import format_metrics
from simplerl.sweeps.manifest import SweepRun
from simplerl.sweeps.slurm_queue import QueuedJob

SUBMITIT = "submitit "  # begins the lines in which it speaks of itself


@dataclass(frozen=True)
class RunState:
    state: str  # pending | requeued | running | finished | failed | interrupted
    phase: str = ""  # warmup | rl
    step: int = 0
    steps: int | None = None  # of this phase
    reward: float | None = None  # of the last step
    accuracy: float | None = None  # of the last evaluation
    gpu_hours: float = 0.0
    cpu_hours: float = 0.0
    attempts: int = 0
    note: str = ""  # why it waits or failed, or the last line of its log
    job: str | None = None  # in the queue now

    @property
    def needs_start(self) -> bool:
        """Not finished, and neither a process nor a job is there for it."""
        return self.state in ("failed", "interrupted") or (self.state == "pending" and self.job is None)


def state_of(run: SweepRun, jobs: Mapping[str, QueuedJob] | None, known_jobs: Sequence[str] = ()) -> RunState:
    """`jobs`: SLURM's queue, or None where there is none; `known_jobs`: ids that this run had in other sweeps."""
    folder = Path(run.folder)
    status, rows = _json(folder / "status.json"), read_jsonl(folder / "metrics.jsonl")
    ids = [*([run.job] if run.job else []), *known_jobs]
    job = next((jobs[id] for id in ids if id in jobs), None) if jobs is not None else None
    state = _state(status, job, is_held(folder), begun=bool(status) or run.job is not None)
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


def _state(status: dict[str, Any], job: QueuedJob | None, held: bool, begun: bool) -> str:
    if status.get("state") == "finished":
        return "finished"
    if job is not None and job.waits:
        return "requeued" if job.restarts else "pending"
    if job is not None or held:
        return "running"
    if not begun:
        return "pending"
    # A killed process, an exhausted memory or a lost node leaves "running" behind.
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
        why = status.get("reason") or "ended without a word (killed, out of memory, or its node lost)"
        return f"{why}; {line}" if line else str(why)
    return line


def last_line(path: Path) -> str:
    """Of a log that may be long or absent."""
    if not path.exists():
        return ""
    with open(path, "rb") as file:
        file.seek(max(0, path.stat().st_size - 8192))
        lines = file.read().decode(errors="replace").splitlines()
    return next((line.strip() for line in reversed(lines) if line.strip() and not line.startswith(SUBMITIT)), "")


def _json(path: Path) -> dict[str, Any]:
    return read_json(path) if path.exists() else {}


def _last(rows: list[dict[str, Any]], name: str) -> float | None:
    return next((row[name] for row in reversed(rows) if name in row), None)
