"""Defines the launchers hydra/launcher=local and hydra/launcher=slurm, which call `simplerl.sweeps.launch`.

Hydra accepts launchers from the package hydra_plugins only. It imports this file at every start, so heavy imports are
inside the methods."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from hydra._internal.core_plugins.basic_launcher import BasicLauncher
from hydra.core.utils import JobReturn, setup_globals
from hydra.errors import CompactHydraException
from hydra.plugins.launcher import Launcher
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig, OmegaConf


class LocalLauncher(BasicLauncher):
    """Checks and records the runs of a sweep, then starts them one after the other with Hydra's own launcher."""

    def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> Sequence[JobReturn]:
        from simplerl.sweeps.launch import launch_local, plan_runs, print_summary

        assert self.hydra_context is not None and self.config is not None
        if self.config.hydra.job.name == "evaluate":  # sweeps of evaluations are not recorded
            Path(self.config.hydra.sweep.dir, "multirun.yaml").unlink(missing_ok=True)  # shows passwords
            return super().launch(job_overrides, initial_job_idx)
        setup_globals()
        runs = plan_runs(self.hydra_context.config_loader, self.config, job_overrides)
        folder = Path(self.config.hydra.sweep.dir)
        launch_local(folder, runs)
        returned = super().launch(job_overrides, initial_job_idx)
        print_summary(folder)
        show_results(folder)
        return returned


class SlurmLauncher(Launcher):
    """Submits all runs that are neither finished, queued nor running as one SLURM array."""

    def __init__(self, wait: bool, poll_s: float, **resources: Any) -> None:
        self.wait, self.poll_s, self.resources = wait, poll_s, resources

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        self.hydra_context, self.config = hydra_context, config

    def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> Sequence[JobReturn]:
        from simplerl.sweeps.launch import launch_slurm, plan_runs
        from simplerl.sweeps.slurm import Resources

        if self.config.hydra.job.name == "evaluate":
            from simplerl.io.places import spelled

            raise CompactHydraException(
                f"hydra/launcher=slurm submits training runs only: for evaluations, call `{spelled('evaluate')} ...` "
                "in your own batch script."
            )
        setup_globals()
        runs = plan_runs(self.hydra_context.config_loader, self.config, job_overrides)
        plain: dict[str, Any] = {
            k: OmegaConf.to_container(v) if OmegaConf.is_config(v) else v for k, v in self.resources.items()
        }
        folder, root = Path(self.config.hydra.sweep.dir), Path(self.config.run.root)
        launch_slurm(folder, root, runs, Resources(**plain), self.wait, self.poll_s)
        if self.wait:
            show_results(folder)
        return []


def show_results(folder: Path) -> None:
    """Print the results of a sweep that has ended, and write its report."""
    from analysis.report import show_sweep

    show_sweep(folder)
