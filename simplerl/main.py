"""One run from composed configuration to finished folder; what train.py calls."""

from __future__ import annotations

import logging
import os
import sys
import traceback
from pathlib import Path
from typing import Any

import torch
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf

from simplerl import rl, sft
from simplerl.config import Config, ConfigError, load
from simplerl.run import Interrupted, Run
from simplerl.task import Task, prepare
from simplerl.worker import NonFinite

logger = logging.getLogger(__name__)


def main(raw: DictConfig) -> Path | None:
    """Runs, resumes or skips what `raw` describes. A fault ends the process with one sentence (exit status 2 for a
    bad configuration, 1 for a failed run), or, within a sweep, only its own job."""
    hydra = HydraConfig.get()
    OmegaConf.set_readonly(raw, False)
    raw.choices = {group: str(choice) for group, choice in hydra.runtime.choices.items() if "hydra/" not in group}
    try:
        return run_experiment(raw, label=hydra.job.override_dirname)
    except ConfigError as error:
        print(f"Configuration: {error}", file=sys.stderr)
        status = 2
    except Interrupted as signal:
        print(f"Stopped by {signal} after saving: the same command goes on from there.", file=sys.stderr)
        status = 75  # EX_TEMPFAIL: try again
    except Exception:
        traceback.print_exc()
        status = 1
    if hydra.mode is RunMode.MULTIRUN and "SLURM_JOB_ID" not in os.environ and status != 75:
        raise RuntimeError("this run failed; its reason stands above and in its folder's status.json")
    sys.exit(status)


def run_experiment(raw: DictConfig, label: str) -> Path:
    """The run's folder, complete. Raises ConfigError before anything is loaded or written."""
    config = load(raw)
    resolved: dict[str, Any] = OmegaConf.to_container(raw, resolve=True, enum_to_str=True)  # type: ignore[assignment]
    if config.run.threads is not None:
        torch.set_num_threads(config.run.threads)
    task = prepare(config)
    run = Run(config, resolved, label)
    if run.finished:
        logger.info("%s is finished already: nothing to do.", run.dir)
        run.release()
        return run.dir
    logger.info("run folder: %s", run.dir)
    try:
        run.start()
        with run.catching_signals():
            stages(config, task, run)
    except Interrupted as signal:
        run.close("interrupted", reason=str(signal))
        raise
    except BaseException as error:
        if isinstance(error, NonFinite):
            path = run.save_nonfinite(str(error), vars(error.batch))
            logger.error("%s: the batch is in %s", error, path)
        run.close("failed", reason=f"{type(error).__name__}: {error}")
        raise
    run.close("finished")
    return run.dir


def stages(config: Config, task: Task, run: Run) -> None:
    """Warm-up, then reinforcement learning; either may be left out."""
    backend = config.backend(config, task)
    model = sft.warm_up(config, task, backend, run)
    if config.algorithm.advantage is not None:
        model = str(rl.train(config, task, backend, run, model) / "policy")
    else:
        rl.evaluate_alone(config, task, backend, run, model)
    run.write_summary(model)
