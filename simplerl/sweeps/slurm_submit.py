"""A sweep's runs as one SLURM job array, through submitit.

Our own launcher rather than hydra-submitit-launcher: that one pickles Hydra's task and composes again in the job, hides
a failed run from SLURM (its jobs exit with 0), asks only sacct whether jobs live, waits whatever happens, and has no
room for a checkpoint of the user's. Here a job is a run's frozen configuration (`simplerl.sweeps.slurm_job`), and
the launcher needs nothing but sbatch, squeue and the runs' folders.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from simplerl.errors import ConfigError
from simplerl.sweeps.slurm_job import RunJob
from simplerl.sweeps.slurm_queue import SlurmError


@dataclass
class Resources:
    """Of one run; conf/hydra/launcher/slurm.yaml says what each means."""

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


# Left by the job that submits: they would reach sbatch and srun of the new one. SLURM_CONF says where the cluster is.
INHERITED = ("SLURM_", "SLURMD_", "SRUN_", "SUBMITIT_")
INHERITED_NAMES = ("MASTER_ADDR", "MASTER_PORT", "RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "RAY_ADDRESS")


@contextmanager
def outside_any_job() -> Iterator[None]:
    removed = {
        name: os.environ.pop(name)
        for name in list(os.environ)
        if (name.startswith(INHERITED) and name != "SLURM_CONF") or name in INHERITED_NAMES
    }
    try:
        yield
    finally:
        os.environ.update(removed)


def submit(jobs: Sequence[RunJob], resources: Resources, name: str, folder: Path) -> list[tuple[str, str]]:
    """(job id, log file) of each, in the order given. `folder` must be visible to every node.
    Raises SlurmError where sbatch refuses."""
    if shutil.which("sbatch") is None:
        raise SlurmError("sbatch is not installed here: submit from a login node, or leave hydra/launcher=slurm out.")
    import submitit

    executor = submitit.SlurmExecutor(folder.absolute() / "%j", max_num_timeout=resources.max_num_timeout)
    try:
        executor.update_parameters(job_name=name, **_parameters(resources))
        with outside_any_job():
            submitted = executor.submit_array(jobs)
    except (submitit.core.utils.FailedJobError, submitit.core.utils.FailedSubmissionError) as error:
        raise SlurmError(f"sbatch refused: {error}") from error
    return [(job.job_id, str(job.paths.stdout)) for job in submitted]


def _parameters(resources: Resources) -> dict[str, Any]:
    """Under submitit's names."""
    settings = {key: value for key, value in vars(resources).items() if value is not None}
    del settings["max_num_timeout"]
    if resources.mem_gb is not None:
        settings["mem"] = f"{int(settings.pop('mem_gb') * 1024)}M"
    settings["time"] = settings.pop("timeout_min")
    # Without --requeue a site's JobRequeue=0 would make every requeue fail.
    settings["additional_parameters"] = {"requeue": True, **resources.additional_parameters}
    return {"ntasks_per_node": 1, "stderr_to_stdout": True, **settings}


def check_backend(job: RunJob, resources: Resources) -> None:
    """Raises ConfigError where several nodes were asked for and one process would use them."""
    if resources.nodes > 1 and not job.raw.backend._target_.startswith("simplerl.cluster."):
        raise ConfigError(
            f"hydra.launcher.nodes={resources.nodes} with a backend of one process: choose a ray backend or nodes=1."
        )
