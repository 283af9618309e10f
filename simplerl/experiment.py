"""One run, from a composed configuration to a finished folder."""

from __future__ import annotations

import itertools
import logging
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Any

from omegaconf import DictConfig, OmegaConf

from simplerl.config import Config
from simplerl.config.load import load

if TYPE_CHECKING:
    from simplerl.backends import Backend
    from simplerl.data.task import Task
    from simplerl.runs.folder import Run

logger = logging.getLogger(__name__)


def run_experiment(raw: DictConfig, label: str) -> Path:
    """Run, resume or skip the experiment that `raw` describes. Returns its complete folder.

    Raises ConfigError before anything is loaded or written, and `Interrupted` after saving on a stop signal."""
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
    """Return the number of steps of each phase, for whoever watches the run."""
    from simplerl.sft import optimizer_steps

    warm_up = {"warmup": optimizer_steps(config, task)} if task.documents else {}
    return warm_up | ({"rl": task.arithmetic.steps} if task.arithmetic else {})


def stages(config: Config, task: Task, run: Run, backend: Backend) -> None:
    """Run the warm-up, then reinforcement learning; either may be left out. When the backend loses a worker process,
    the run resumes from its last checkpoint, at most `max_restarts` times."""
    from simplerl import rl, sft
    from simplerl.backends import Lost

    with closing(backend):
        for restarts in itertools.count(1):
            try:
                model = sft.warm_up(config, task, backend, run)
                if config.algorithm.advantage is None:
                    rl.evaluate_alone(config, task, backend, run, model)
                else:
                    model = str(rl.train(config, task, backend, run, model) / "policy")
                break
            except Lost as lost:
                if restarts > backend.max_restarts:
                    raise
                logger.exception("%s; restart %d of %d, from the last checkpoint", lost, restarts, backend.max_restarts)
                backend.close()
                run.set_status("running", restarts=restarts)
    run.write_summary(model)
