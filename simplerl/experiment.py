"""Run one experiment, from the composed configuration to the complete run folder."""

from __future__ import annotations

import logging
from contextlib import closing, suppress
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from omegaconf import DictConfig, OmegaConf

from simplerl.config import Config
from simplerl.config.load import load
from simplerl.errors import NonFinite

if TYPE_CHECKING:
    from simplerl.backends import Backend
    from simplerl.data.task import Task
    from simplerl.runs.folder import Run

logger = logging.getLogger(__name__)


def run_experiment(raw: DictConfig, label: str) -> Path:
    """Run or resume the experiment that `raw` describes, or do nothing if it is finished. Returns the run folder.

    Raises ConfigError for an invalid configuration, before any model is loaded, and `Interrupted` if a stop signal
    arrived and the run was saved."""
    config = load(raw)
    # Imported here so that `load` can refuse a configuration before torch and transformers are imported.
    import torch

    from simplerl.backends.rehearsal import rehearse
    from simplerl.data.inputs import input_digests
    from simplerl.data.task import prepare_task
    from simplerl.planning.compilation import chosen_compile
    from simplerl.planning.guard import check_memory
    from simplerl.runs.folder import Run

    resolved: dict[str, Any] = OmegaConf.to_container(raw, resolve=True, enum_to_str=True)  # type: ignore[assignment]
    if config.run.threads is not None:
        torch.set_num_threads(config.run.threads)
    rehearse(config)
    task = prepare_task(config)
    backend = config.backend(config, task)
    lengths = [len(prompt.token_ids) for prompt in task.prompts]
    check_memory(config, lengths)
    config.train.compile = chosen_compile(config, 0 if task.schedule is None else task.schedule.steps, lengths)
    run = Run(config, resolved, label, inputs=input_digests(config, resolved, task))
    if run.already_finished():
        return run.dir
    logger.info("run folder: %s", run.dir)
    announce_evaluation_rule(config)
    with run.recorded(partial(explain_failure, config=config, run=run)):
        run.set_status("running", steps=steps_by_phase(config, task))
        run_phases(config, task, run, backend)
    return run.dir


def explain_failure(error: BaseException, config: Config, run: Run) -> str:
    """Return the reason of an error and its remedy if training has diverged or files cannot be written, otherwise "".
    Saves the batch of a non-finite loss or gradient."""
    from simplerl.io.files import disk_full
    from simplerl.runs.checkpoints import checkpoints, save_nonfinite

    saved = checkpoints(run.dir / ("warmup/checkpoints" if run.phase == "warmup" else "checkpoints"))
    if isinstance(error, NonFinite):
        kept = ""
        if batch := getattr(error, "batch", None):
            with suppress(OSError, RuntimeError):  # a full disk must not hide this error
                kept = f" (its batch: {save_nonfinite(run.dir, str(error), vars(batch)).name})"
        key, optimizer = "train.policy.lr", config.train.policy
        if run.phase == "warmup":
            key, optimizer = "warmup.optimizer.lr", config.warmup.optimizer
        start = f" from the last good weights, model.path={saved[-1]}/policy" if saved else ""
        return (
            f"{error} at {run.phase} step {run.step}{kept}, and the same command would fail again: start another run"
            f"{start} with a lower {key} (now {optimizer.lr:g})."
        )
    if reason := disk_full(error):
        last = f"resumes from {saved[-1].name}" if saved else "starts again"
        return f"{reason}: free some space or set run.root to another disk, and the same command {last}."
    if isinstance(error, OSError) and str(error.filename or "").startswith(str(run.dir)):
        return f"{error.filename} cannot be written ({error.strerror}): move it away, and run the same command again."
    return ""


def announce_evaluation_rule(config: Config) -> None:
    """Log that evaluations are not graded by the training reward, if that is a user's own function and `evals.reward`
    is built in."""
    if config.evals.reward is None or not config.evals.sets:
        return
    trains, grades = config.reward.func, config.evals.reward.func
    if grades.__module__.startswith("simplerl.") and not trains.__module__.startswith("simplerl."):
        logger.info(
            "evaluations are graded by %s, not by the training reward: to use that, set reward@evals.reward=%s.",
            grades.__name__,
            config.choices.get("reward", "NAME"),
        )


def steps_by_phase(config: Config, task: Task) -> dict[str, int]:
    """Return phase ("warmup", "rl") -> number of its steps, as recorded in status.json; a phase that the run does not
    have is absent."""
    from simplerl.sft import optimizer_steps

    warm_up = {"warmup": optimizer_steps(config, task)} if task.documents else {}
    return warm_up | ({"rl": task.schedule.steps} if task.schedule else {})


def run_phases(config: Config, task: Task, run: Run, backend: Backend) -> None:
    """Run the configured phases: supervised warm-up, if any, then either reinforcement learning or one evaluation. If a
    worker process is lost, resume from the last checkpoint, at most `backend.max_restarts` times."""
    from simplerl import rl, sft
    from simplerl.backends import attempts

    with closing(backend):
        for attempt in attempts(backend, lambda restarts: run.set_status("running", restarts=restarts)):
            with attempt:
                model = sft.warm_up(config, task, backend, run)
                if config.algorithm.advantage is None:
                    rl.evaluate_only(config, task, backend, run, model)
                else:
                    model = str(rl.train(config, task, backend, run, model) / "policy")
    run.write_summary(model)
