"""Runs one training run inside a SLURM job, from its frozen configuration and without Hydra.

The signals of a job are handled as follows:
- SIGUSR2 (time limit or preemption; `--signal` of the job): submitit's own handler would exit at whatever line is
  executing, without saving. During a run `Run.catching_signals` therefore only records the signal; the run finishes its
  stage, saves and raises `Interrupted`; then submitit's handler is called here and requeues the job.
- SIGTERM (scancel, scontrol requeue, or preemption on sites that send nothing else): the run saves in the same way and
  the process exits. SLURM restarts a requeued job by itself, and a cancelled job stays cancelled. But SLURM counts a
  preempted job that exits within its grace time as failed, so such a job is requeued here.
- SIGKILL or a lost node: nothing can be saved. The next start resumes from the last periodic checkpoint
  (`run.save_every`), as after a plain requeue, which starts from the pickle made at submission.

A job may be started once too often: SLURM requeues a job that it preempts even if it finishes within its grace time.
The start of a finished run returns at once.
"""

from __future__ import annotations

import logging
import os
import signal
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from omegaconf import DictConfig, OmegaConf

from simplerl.cluster import allocation
from simplerl.errors import ConfigError
from simplerl.sweeps.slurm import being_preempted

if TYPE_CHECKING:
    import submitit

LOCK_PATIENCE = 120.0  # seconds to wait for the folder's lock, which a killed process on another node may still hold


@dataclass(frozen=True)
class RunJob:
    """Runs one training run as a job, which submitit pickles at submission and calls in every task."""

    raw: DictConfig  # the composed configuration without Hydra's own part
    label: str  # beginning of a new folder's name
    folder: Path

    def __call__(self) -> str:
        """Run the training run and return its folder. Tasks other than the first only add their node to its Ray cluster
        and return "". Every failure ends the process with a non-zero exit status."""
        if allocation.rank() > 0:
            status = allocation.join_ray_cluster()
            if status:
                sys.exit(status)
            return ""
        # Set before torch is imported, which would otherwise use every core of the node.
        os.environ.setdefault("OMP_NUM_THREADS", os.environ.get("SLURM_CPUS_PER_TASK", "1"))
        logging.basicConfig(format="%(message)s", level=logging.INFO, stream=sys.stdout)
        logging.getLogger("submitit").propagate = False  # because submitit installs its own handler
        with allocation.driver_role():
            return self._run()

    def _run(self) -> str:
        from simplerl.experiment import run_experiment
        from simplerl.runs.folder import Interrupted
        from simplerl.runs.status import is_locked, record_refusal

        allocation.command_is_restartable = True
        deadline = time.monotonic() + LOCK_PATIENCE
        while is_locked(self.folder) and time.monotonic() < deadline:
            time.sleep(1)
        try:
            return str(run_experiment(self.raw, self.label))
        except ConfigError as error:
            settings: Any = OmegaConf.to_container(self.raw, resolve=True)
            record_refusal(self.folder, settings, error)
            print(f"Configuration: {error}", flush=True)
            sys.exit(2)
        except Interrupted as stop:
            print(f"Saved after {stop}.", flush=True)
            if str(stop) == signal.SIGUSR2.name or being_preempted(os.environ["SLURM_JOB_ID"]):
                signal.raise_signal(signal.SIGUSR2)  # submitit's handler counts timeouts, requeues and exits
            sys.exit(75)  # EX_TEMPFAIL

    def checkpoint(self) -> submitit.helpers.DelayedSubmission:
        """Return the same job for requeueing: the run folder holds the checkpoint to resume from."""
        import submitit

        return submitit.helpers.DelayedSubmission(self)
