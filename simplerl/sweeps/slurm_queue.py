"""What SLURM says of our jobs, by squeue alone: every site has it, whereas sacct needs a database that many lack.
A job that squeue no longer lists has ended; how it ended stands in the run's own folder."""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Iterable
from dataclasses import dataclass

FIELDS = ("JobArrayID", "State", "Reason", "RestartCnt")


class SlurmError(RuntimeError):
    """SLURM is not here or does not answer."""


@dataclass(frozen=True)
class QueuedJob:
    id: str  # 12, or 12_3 for a task of an array
    state: str  # PENDING, RUNNING, COMPLETING ...
    reason: str  # why it waits
    restarts: int

    @property
    def waits(self) -> bool:
        return self.state in ("PENDING", "REQUEUED", "REQUEUE_HOLD", "REQUEUE_FED", "SPECIAL_EXIT")


def queued() -> dict[str, QueuedJob]:
    """Every job of this user that waits or runs, by id. Raises SlurmError."""
    form = ",".join(f"{name}:64" for name in FIELDS)
    lines = _answer("squeue", "--noheader", "--array", "--me", f"--Format={form}").splitlines()
    rows = [[line[64 * i : 64 * (i + 1)].strip() for i in range(len(FIELDS))] for line in lines if line.strip()]
    return {id: QueuedJob(id, state, reason, int(restarts or 0)) for id, state, reason, restarts in rows}


def being_preempted(job: str) -> bool:
    """A job in its grace time: still running, but SLURM has decided to take its place. Raises SlurmError."""
    shown = _answer("scontrol", "--oneliner", "show", "job", job)
    return "JobState=RUNNING" in shown and re.search(r"PreemptTime=\d", shown) is not None


def cancel(jobs: Iterable[str]) -> None:
    """SIGTERM first, on which a run saves, and SIGKILL after the site's KillWait. Raises SlurmError."""
    _answer("scancel", *jobs)


def _answer(*command: str) -> str:
    if shutil.which(command[0]) is None:
        raise SlurmError(f"{command[0]} is not installed here: use this on a machine that submits to SLURM.")
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        reason = (done.stderr.strip().splitlines() or [f"exit status {done.returncode}"])[-1]
        raise SlurmError(f"{command[0]} failed: {reason}.")
    return done.stdout
