"""What one SLURM job does: one run, by its frozen configuration, without Hydra.

Signals, and who acts on them:
- SIGUSR2 (time limit or preemption, `--signal` of the job): submitit installs a handler that saves nothing of ours and
  exits from whatever line is running. While a run is on, `Run.catching_signals` only takes note; the run ends its
  stage, saves and raises `Interrupted`; then submitit's handler is called here, at a safe place, and requeues the job.
- SIGTERM (scancel; scontrol requeue; preemption on sites that send nothing else): the run saves likewise and the
  process leaves. SLURM starts a requeued job again by itself, and a cancelled one stays cancelled; but a preempted job
  that leaves within its grace time has failed in SLURM's eyes, so that one is requeued here.
- SIGKILL, a lost node: nothing to do then. The next start goes on from the last periodic checkpoint
  (`run.save_every`), as it does for a plain requeue, which starts from the pickle of the submission.

Any start may be one too many: SLURM requeues a job that it preempts even if it finishes in its grace time. A finished
run returns at once.
"""

from __future__ import annotations

import logging
import os
import signal
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from omegaconf import DictConfig

from simplerl.cluster import allocation, failover
from simplerl.sweeps.slurm_queue import being_preempted

if TYPE_CHECKING:
    import submitit

LOCK_PATIENCE = 120.0  # seconds that a killed predecessor on another node may hold the folder's lock


@dataclass(frozen=True)
class RunJob:
    """Called by submitit in every task of the job; pickled at submission."""

    raw: DictConfig  # the composed configuration without Hydra's own part
    label: str
    folder: Path

    def __call__(self) -> str:
        """The run's folder, complete. Whatever goes wrong ends the process with an exit status other than 0."""
        if allocation.rank() > 0:
            status = allocation.join_ray_cluster()
            if status:
                sys.exit(status)
            return ""
        # Before torch: it would take every core of the node.
        os.environ.setdefault("OMP_NUM_THREADS", os.environ.get("SLURM_CPUS_PER_TASK", "1"))
        logging.basicConfig(format="%(message)s", level=logging.INFO, stream=sys.stdout)
        logging.getLogger("submitit").propagate = False  # it has a handler of its own
        with allocation.driver_role():
            return self._run()

    def _run(self) -> str:
        from simplerl.experiment import run_experiment
        from simplerl.runs.folder import Interrupted, is_held

        failover.command_is_restartable = True
        deadline = time.monotonic() + LOCK_PATIENCE
        while is_held(self.folder) and time.monotonic() < deadline:
            time.sleep(1)
        try:
            return str(run_experiment(self.raw, self.label))
        except Interrupted as stop:
            print(f"Saved after {stop}.", flush=True)
            if str(stop) == signal.SIGUSR2.name or being_preempted(os.environ["SLURM_JOB_ID"]):
                signal.raise_signal(signal.SIGUSR2)  # submitit's handler: counts, requeues, exits
            sys.exit(75)  # EX_TEMPFAIL

    def checkpoint(self) -> submitit.helpers.DelayedSubmission:
        """The same again: the run's folder knows where to go on."""
        import submitit

        return submitit.helpers.DelayedSubmission(self)
