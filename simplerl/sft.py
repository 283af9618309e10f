"""Supervised fine-tuning before RL: the same worker and the same update, with another loss."""

from __future__ import annotations

from simplerl.algorithms.losses import negative_log_likelihood
from simplerl.backends import Backend
from simplerl.config import Aggregation, Config
from simplerl.data.task import Task
from simplerl.engine.batching import collate, permutation, token_weights
from simplerl.evals.metrics import prefixed
from simplerl.runs.checkpoints import last_checkpoint, write_checkpoint
from simplerl.runs.folder import Interrupted, Run
from simplerl.runs.progress import StepProgress
from simplerl.types import Batch


def warm_up(config: Config, task: Task, backend: Backend, run: Run) -> str:
    """Fine-tunes the base on the task's documents and returns the folder of the result, which is made once:
    a resumed run finds it. Without documents it returns the base itself."""
    if not task.documents:
        return config.model.path
    result = run.dir / "warmup" / "model"
    if result.exists():
        return str(result / "policy")
    folder = run.dir / "warmup" / "checkpoints"
    steps = optimizer_steps(config, task)
    checkpoint, step = last_checkpoint(folder)
    student = backend.student(config.model.path, config.warmup.optimizer, steps, checkpoint)
    run.begin("warmup", step)
    with StepProgress("warmup", step, steps) as progress:
        try:
            while step < steps:
                run.check_stop()
                progress.begin()
                with progress.stage("update"):
                    metrics = student.optimizer_step(documents_at(step, config, task), [negative_log_likelihood])
                del metrics["real"], metrics["computed"]
                metrics = prefixed("warmup", metrics) | progress.times()
                run.log("warmup", step, metrics)
                progress.end(metrics)
                step += 1
                if step % config.warmup.save_every == 0 and step < steps:
                    run.save(folder, step, lambda place: student.save(place / "policy"))
        except Interrupted:
            run.save(folder, step, lambda place: student.save(place / "policy"))
            raise
    return str(write_checkpoint(result, step, lambda place: student.save(place / "policy")) / "policy")


def optimizer_steps(config: Config, task: Task) -> int:
    return len(task.documents) // config.warmup.minibatch_size * config.warmup.epochs


def documents_at(step: int, config: Config, task: Task) -> Batch:
    """The documents of an optimizer step; each epoch is a permutation of its own, its last partial batch dropped."""
    size = config.warmup.minibatch_size
    epoch, position = divmod(step, len(task.documents) // size)
    order = permutation("documents", [config.seed, epoch], len(task.documents))
    chosen = order[position * size : (position + 1) * size]
    batch = collate([task.documents[i] for i in chosen], list(range(size)))
    return batch.with_(weights=token_weights(batch.mask, Aggregation.token_mean, 0))
