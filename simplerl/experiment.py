"""One run from composed configuration to finished folder; what train.py calls."""

from __future__ import annotations

import logging
import sys
import traceback
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hydra.core.hydra_config import HydraConfig
from hydra.errors import CompactHydraException
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf

from simplerl.cluster import allocation, failover
from simplerl.config import Config
from simplerl.config.load import load
from simplerl.errors import ConfigError

if TYPE_CHECKING:
    from simplerl.data.task import Task
    from simplerl.engine.backends import Backend
    from simplerl.runs.folder import Run

logger = logging.getLogger(__name__)


def main(raw: DictConfig) -> Path:
    """Runs, resumes or skips what `raw` describes. A fault ends the process with one sentence (exit status 2 for a
    bad configuration, 1 for a failed run, 75 after saving on a stop signal), or, within a sweep, only its own job."""
    if allocation.rank() > 0:
        sys.exit(allocation.join_ray_cluster())
    hydra = HydraConfig.get()
    if hydra.mode is RunMode.RUN and hydra.runtime.choices["sweep"] is not None:
        sys.exit(f"Configuration: sweep={hydra.runtime.choices['sweep']} is several runs: python train.py -m ...")
    OmegaConf.set_readonly(raw, False)
    raw.choices = {group: str(choice) for group, choice in hydra.runtime.choices.items() if "hydra/" not in group}
    if hydra.mode is RunMode.MULTIRUN:
        logger.info("\nrun %s of the sweep: %s", hydra.job.num, ", ".join(hydra.overrides.task))
    failover.command_is_restartable = True
    try:
        with allocation.driver_role():
            return run_experiment(raw, label=hydra.job.override_dirname)
    except KeyboardInterrupt:
        print("Stopped by the keyboard: the same command goes on from the last checkpoint.", file=sys.stderr)
        status = 130
    except Exception as error:
        status = report(error)
    if hydra.mode is RunMode.MULTIRUN and status in (1, 2):
        # Hydra's own launcher then goes on with the other runs, and ends with this sentence and status 1.
        raise CompactHydraException("A run of the sweep failed (its reason stands above); the others went on.")
    sys.exit(status)


def report(error: Exception) -> int:
    """Says why a run ended; its exit status."""
    if isinstance(error, ConfigError):
        print(f"Configuration: {error}", file=sys.stderr)
        return 2
    from simplerl.runs.folder import INTERRUPTED, Interrupted

    if isinstance(error, Interrupted):
        print(f"Stopped by {error} after saving: the same command goes on from there.", file=sys.stderr)
        return INTERRUPTED
    traceback.print_exception(error)
    return 1


def run_experiment(raw: DictConfig, label: str) -> Path:
    """The run's folder, complete. Raises ConfigError before anything is loaded or written."""
    config = load(raw)
    # Only now, so that a configuration that `load` refuses is refused before torch and transformers are imported.
    import torch

    from simplerl.data.task import prepare
    from simplerl.engine.worker import NonFinite
    from simplerl.runs.folder import Interrupted, Run

    resolved: dict[str, Any] = OmegaConf.to_container(raw, resolve=True, enum_to_str=True)  # type: ignore[assignment]
    if config.run.threads is not None:
        torch.set_num_threads(config.run.threads)
    task = prepare(config)
    backend = config.backend(config, task)
    run = Run(config, resolved, label)
    if run.finished:
        logger.info("%s is finished already: nothing to do.", run.dir)
        if run.changed:
            logger.warning("It was run with other code, packages or reward function: remove it to run it again.")
        run.release()
        return run.dir
    logger.info("run folder: %s", run.dir)
    try:
        with run.catching_signals():
            run.start()
            run.set_status("running", steps=total_steps(config, task))
            stages(config, task, run, backend)
    except Interrupted as signal:
        run.close("interrupted", reason=str(signal))
        raise
    except KeyboardInterrupt:
        run.close("interrupted", reason="Ctrl-C, twice")
        raise
    except BaseException as error:
        if isinstance(error, NonFinite):
            path = run.save_nonfinite(str(error), vars(error.batch))
            logger.error("%s: the batch is in %s", error, path)
        run.close("failed", reason=f"{type(error).__name__}: {error}")
        raise
    run.close("finished")
    return run.dir


def total_steps(config: Config, task: Task) -> dict[str, int]:
    """Steps of each phase, for whoever watches."""
    from simplerl.sft import optimizer_steps

    warm_up = {"warmup": optimizer_steps(config, task)} if task.documents else {}
    return warm_up | ({"rl": task.arithmetic.steps} if task.arithmetic else {})


def stages(config: Config, task: Task, run: Run, backend: Backend) -> None:
    """Warm-up, then reinforcement learning; either may be left out. Where the backend loses a role, it goes on from the
    last checkpoint, at most `max_restarts` times."""
    from simplerl.engine.backends import Lost

    restarts = 0
    with closing(backend):
        while True:
            try:
                model = _model_of(config, task, run, backend)
                break
            except Lost as lost:
                if restarts == backend.max_restarts:
                    raise
                restarts += 1
                logger.exception("%s; restart %d of %d, from the last checkpoint", lost, restarts, backend.max_restarts)
                backend.close()
                run.set_status("running", restarts=restarts)
    run.write_summary(model)


def _model_of(config: Config, task: Task, run: Run, backend: Backend) -> str:
    """Trains it, or goes on training it."""
    from simplerl import rl, sft

    model = sft.warm_up(config, task, backend, run)
    if config.algorithm.advantage is not None:
        return str(rl.train(config, task, backend, run, model) / "policy")
    rl.evaluate_alone(config, task, backend, run, model)
    return model
