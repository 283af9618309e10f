"""Runs supervised fine-tuning (SFT) before RL, with the same worker and optimizer step but the loss -log p."""

from __future__ import annotations

from simplerl.algorithms.losses import negative_log_likelihood
from simplerl.backends import Backend
from simplerl.config import Aggregation, Config
from simplerl.data.task import Task
from simplerl.engine.batching import collate, permutation, token_weights
from simplerl.evals.metrics import prefixed
from simplerl.runs.checkpoints import last_checkpoint, verify_checkpoint, write_checkpoint
from simplerl.runs.folder import Interrupted, Run
from simplerl.runs.progress import StepProgress
from simplerl.types import Batch


def warm_up(config: Config, task: Task, backend: Backend, run: Run) -> str:
    """Fine-tune the base model on the task's documents, resuming from the last checkpoint. Returns the folder of the
    resulting model, which a resumed run reuses, or `model.path` if there are no documents. On a stop signal, saves a
    checkpoint and raises `Interrupted`."""
    if not task.documents:
        return config.model.path
    result = run.dir / "warmup" / "model"
    if result.exists():
        verify_checkpoint(result)
        return str(result / "policy")
    folder = run.dir / "warmup" / "checkpoints"
    steps = optimizer_steps(config, task)
    checkpoint, step = last_checkpoint(folder, steps)
    model = backend.sft_model(config.model.path, config.warmup.optimizer, steps, checkpoint)
    run.begin("warmup", step)
    with StepProgress("warmup", step, steps) as progress:
        try:
            while step < steps:
                run.check_stop()
                progress.begin()
                with progress.stage("update"):
                    metrics = model.optimizer_step(documents_at(step, config, task), [negative_log_likelihood])
                del metrics["real"], metrics["computed"]
                metrics = prefixed("warmup", metrics) | progress.times()
                run.log("warmup", step, metrics)
                progress.end(metrics)
                step += 1
                if step % config.warmup.save_every == 0 and step < steps:
                    run.save(folder, step, lambda place: model.save(place / "policy"))
        except Interrupted:
            run.save(folder, step, lambda place: model.save(place / "policy"))
            raise
    return str(write_checkpoint(result, step, lambda place: model.save(place / "policy")) / "policy")


def optimizer_steps(config: Config, task: Task) -> int:
    """Return the number of optimizer steps of the warm-up."""
    return len(task.documents) // config.warmup.minibatch_size * config.warmup.epochs


def documents_at(step: int, config: Config, task: Task) -> Batch:
    """Return the minibatch of an optimizer step. Each epoch has its own permutation; its last partial minibatch is
    dropped."""
    size = config.warmup.minibatch_size
    epoch, position = divmod(step, len(task.documents) // size)
    order = permutation("documents", [config.seed, epoch], len(task.documents))
    chosen = order[position * size : (position + 1) * size]
    batch = collate([task.documents[i] for i in chosen], list(range(size)))
    return batch.with_(weights=token_weights(batch, Aggregation.token_mean))
