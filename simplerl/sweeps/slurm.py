"""Submits the runs of a sweep as one SLURM job array, through submitit, and queries and cancels jobs.

Only sbatch, squeue, scontrol and scancel are needed. sacct is not used, because it needs a database that many sites
lack: a job that squeue no longer lists has ended, and its outcome is read from the run folder.

We do not use hydra-submitit-launcher: it pickles Hydra's task function and composes the configuration again in the job,
hides failed runs from SLURM (its jobs exit with status 0), asks only sacct whether jobs are alive, always waits for the
jobs, and cannot run the code that saves a checkpoint before a job is requeued. Here a job is the frozen configuration
of a run (`simplerl.sweeps.slurm_job`).
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from simplerl.errors import ConfigError, import_optional

if TYPE_CHECKING:
    from simplerl.sweeps.slurm_job import RunJob

FIELDS = ("JobArrayID", "State", "Reason", "RestartCnt")  # queried from squeue
FIELD_WIDTH = 64
# Variables of a surrounding job that would otherwise change sbatch and srun of the submitted one. SLURM_CONF is kept,
# because it locates the cluster.
INHERITED_PREFIXES = ("SLURM_", "SLURMD_", "SRUN_", "SUBMITIT_")
INHERITED_NAMES = ("MASTER_ADDR", "MASTER_PORT", "RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "RAY_ADDRESS")


class SlurmError(RuntimeError):
    """A SLURM command is missing, failed or did not answer."""


@dataclass(frozen=True)
class QueuedJob:
    """Describes a job that squeue lists."""

    id: str  # 12, or 12_3 for a task of an array
    state: str  # PENDING, RUNNING, COMPLETING ...
    reason: str  # why it waits
    restarts: int

    @property
    def waits(self) -> bool:
        return self.state in ("PENDING", "REQUEUED", "REQUEUE_HOLD", "REQUEUE_FED", "SPECIAL_EXIT")


def queued() -> dict[str, QueuedJob]:
    """Return all waiting and running jobs of this user by id. Raises SlurmError if squeue fails."""
    columns = ",".join(f"{name}:{FIELD_WIDTH}" for name in FIELDS)
    lines = _run("squeue", "--noheader", "--array", "--me", f"--Format={columns}").splitlines()
    starts = [FIELD_WIDTH * number for number in range(len(FIELDS))]
    rows = [[line[start : start + FIELD_WIDTH].strip() for start in starts] for line in lines if line.strip()]
    return {id: QueuedJob(id, state, reason, int(restarts or 0)) for id, state, reason, restarts in rows}


def being_preempted(job: str) -> bool:
    """Return whether the job still runs, but SLURM has decided to preempt it (grace time). Raises SlurmError if
    scontrol fails."""
    shown = _run("scontrol", "--oneliner", "show", "job", job)
    return "JobState=RUNNING" in shown and re.search(r"PreemptTime=\d", shown) is not None


def cancel(jobs: Iterable[str]) -> None:
    """Cancel jobs: SLURM sends SIGTERM, on which a run saves, and SIGKILL after the site's KillWait. Raises SlurmError
    if scancel fails."""
    _run("scancel", *jobs)


def _run(*command: str) -> str:
    if shutil.which(command[0]) is None:
        raise SlurmError(f"{command[0]} is not installed here: run this on a machine that submits to SLURM.")
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        reason = (done.stderr.strip().splitlines() or [f"exit status {done.returncode}"])[-1]
        raise SlurmError(f"{command[0]} failed: {reason}.")
    return done.stdout


@dataclass
class Resources:
    """Holds the resources of one run; conf/hydra/launcher/slurm.yaml explains each."""

    nodes: int = 1
    gpus_per_node: int | None = None
    cpus_per_task: int = 1
    mem_gb: float | None = None
    timeout_min: int = 720
    signal_delay_s: int = 300
    max_num_timeout: int = 20
    array_parallelism: int = 64
    partition: str | None = None
    account: str | None = None
    qos: str | None = None
    constraint: str | None = None
    setup: list[str] = field(default_factory=list)
    srun_args: list[str] = field(default_factory=list)
    additional_parameters: dict[str, Any] = field(default_factory=dict)


def check_backend(job: RunJob, resources: Resources) -> None:
    """Raise ConfigError if several nodes are requested for a backend that uses a single process."""
    if resources.nodes > 1 and job.raw.backend._target_ == "simplerl.backends.local.local":
        raise ConfigError(
            f"hydra.launcher.nodes={resources.nodes} needs a backend that uses several nodes, but this run has the "
            "single-process backend: choose a Ray backend (backend=ray_*) or set hydra.launcher.nodes=1."
        )


def submit(jobs: Sequence[RunJob], resources: Resources, name: str, folder: Path) -> list[tuple[str, str]]:
    """Submit the jobs as one array and return (job id, log file) of each, in the given order.

    folder: for submitit's files; every node must be able to read it. Raises SlurmError if sbatch is missing or refuses
    the jobs."""
    if shutil.which("sbatch") is None:
        raise SlurmError("sbatch is not installed here: submit from a login node, or omit hydra/launcher=slurm.")
    submitit = import_optional("submitit", "hydra/launcher=slurm")
    executor = submitit.SlurmExecutor(folder.absolute() / "%j", max_num_timeout=resources.max_num_timeout)
    try:
        executor.update_parameters(job_name=name, **_submitit_parameters(resources))
        with _without_job_variables():
            submitted = executor.submit_array(jobs)
    except (submitit.core.utils.FailedJobError, submitit.core.utils.FailedSubmissionError) as error:
        raise SlurmError(f"sbatch refused: {error}") from error
    return [(job.job_id, str(job.paths.stdout)) for job in submitted]


def sbatch_script(resources: Resources, runs: int) -> str:
    """Return the script that `submit` passes to sbatch for an array of `runs` runs; FOLDER is the sweep's `jobs`
    folder. SLURM need not be installed."""
    from submitit.slurm.slurm import _make_sbatch_string

    command = f"{sys.executable} -u -m submitit.core._submit /FOLDER/%j"
    parameters = {"job_name": "SWEEP", **_submitit_parameters(resources)}
    return _make_sbatch_string(command, "/FOLDER/%j", map_count=runs, **parameters).replace("/FOLDER", "FOLDER")


@contextmanager
def _without_job_variables() -> Iterator[None]:
    """Remove the variables of a surrounding job from the environment inside the block."""
    removed = {
        name: os.environ.pop(name)
        for name in list(os.environ)
        if (name.startswith(INHERITED_PREFIXES) and name != "SLURM_CONF") or name in INHERITED_NAMES
    }
    try:
        yield
    finally:
        os.environ.update(removed)


def _submitit_parameters(resources: Resources) -> dict[str, Any]:
    settings = {key: value for key, value in vars(resources).items() if value is not None}
    del settings["max_num_timeout"]
    if resources.mem_gb is not None:
        settings["mem"] = f"{int(settings.pop('mem_gb') * 1024)}M"
    settings["time"] = settings.pop("timeout_min")
    # Without --requeue, a site's JobRequeue=0 would make every requeue fail.
    settings["additional_parameters"] = {"requeue": True, **resources.additional_parameters}
    return {"ntasks_per_node": 1, "stderr_to_stdout": True, **settings}
