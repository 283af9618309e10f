"""The loop: sample, grade, score, estimate advantages, update, sync.

Step s speaks of the weights after s updates: their evaluation, the responses drawn with them, and the update
that makes the weights of step s + 1. Not here: loading models (`simplerl.engine.backends`), what is trained on
(`simplerl.data.task`), the run's folder (`simplerl.runs.folder`). To run it: `python train.py`.
"""

from __future__ import annotations

import logging
from contextlib import nullcontext
from pathlib import Path

from simplerl.algorithms.advantages import token_rewards
from simplerl.algorithms.losses import policy_objective
from simplerl.config import Config, KLPlace
from simplerl.data.task import Task
from simplerl.engine.backends import Backend
from simplerl.engine.batching import collate_rollouts
from simplerl.engine.worker import UpdatePlan
from simplerl.evals.evaluate import evaluate
from simplerl.rewards.pool import Grader
from simplerl.rollouts import RolloutSource
from simplerl.runs.checkpoints import last_checkpoint
from simplerl.runs.folder import Interrupted, Run
from simplerl.runs.metrics import batch_metrics, rollout_metrics
from simplerl.runs.progress import StepProgress
from simplerl.samplers import Sampler
from simplerl.types import Rollout

logger = logging.getLogger(__name__)


def train(config: Config, task: Task, backend: Backend, run: Run, start: str) -> Path:
    """Reinforcement learning from the model at `start` (a folder or hub id), or from the run's last checkpoint,
    to the end. Returns the last checkpoint. Raises `Interrupted`, after saving, on a stop signal."""
    assert task.arithmetic is not None
    algorithm, steps, samples = config.algorithm, task.arithmetic.steps, task.arithmetic.samples_per_prompt
    reward_kl = algorithm.kl_coef if algorithm.kl is KLPlace.reward else 0.0
    loss_kl = algorithm.kl_coef if algorithm.kl is KLPlace.loss else 0.0
    objective = policy_objective(
        algorithm.policy_loss, loss_kl, algorithm.kl_estimator, algorithm.entropy_coef, algorithm.importance_cap
    )
    plan = update_plan(config, task)

    folder = run.dir / "checkpoints"
    checkpoint, step = last_checkpoint(folder)
    models = backend.models(start, checkpoint)
    if step:
        logger.info("goes on from step %d", step)
    run.begin("rl", step)
    with backend.grader(config.reward) as grader, StepProgress("rl", step, steps) as progress:

        def draw(at: int) -> list[Rollout]:
            prompts = task.prompts_at(at)
            stream = models.sampler.generate(prompts, task.sampling, task.format.stop, samples, config.seed, at)
            return grader.grade(run.interruptible(stream), prompts)

        source = RolloutSource(draw, config.rollout.ahead, steps)
        try:
            while step < steps:
                run.check_stop()
                progress.begin()
                metrics = evaluate_at(step, config, task, backend, models.sampler, grader, run, progress)

                with progress.stage("sample"):
                    rollouts, lag = source.take(step)
                with progress.stage("score"):
                    batch = models.score(collate_rollouts(rollouts))
                    batch = algorithm.advantage(token_rewards(batch, reward_kl, algorithm.kl_estimator))
                    metrics |= rollout_metrics(rollouts) | batch_metrics(batch) | {"rollout/lag": float(lag)}
                with progress.stage("update"):
                    metrics |= models.update(batch, objective, algorithm.value_loss, plan, [config.seed, step])
                with progress.stage("sync"):
                    source.settle()
                    models.sync()

                metrics |= models.metrics() | progress.times()
                metrics["time/draw"] = source.seconds  # with rollout.ahead beside the update before
                metrics["time/sample_tokens_per_second"] = metrics["rollout/tokens"] / source.seconds
                run.write_rollouts(step, rollouts)
                run.log("rl", step, metrics)
                progress.end(metrics)
                step += 1
                if step % config.run.save_every == 0 and step < steps:
                    checkpoint = run.save(folder, step, models.save)
        except Interrupted:
            run.save(folder, step, models.save)
            raise
        checkpoint = run.save(folder, step, models.save)
        run.log("rl", step, evaluate_at(step, config, task, backend, models.sampler, grader, run, progress))
    return checkpoint


def update_plan(config: Config, task: Task) -> UpdatePlan:
    return UpdatePlan(
        minibatch_size=config.train.minibatch_size,
        epochs=config.train.epochs,
        aggregation=config.algorithm.aggregation,
        constant_length=task.sampling.max_new_tokens,
        entropy=config.algorithm.entropy_coef != 0,
    )


def evaluate_at(
    step: int,
    config: Config,
    task: Task,
    backend: Backend,
    sampler: Sampler,
    grader: Grader,
    run: Run,
    progress: StepProgress,
) -> dict[str, float]:
    """The benchmarks, if they are due at this step: every `evals.every` steps, at the first and at the last."""
    last = task.arithmetic.steps if task.arithmetic else 0
    if not config.evals.every or (step % config.evals.every and step != last):
        return {}
    own = config.evals.reward and backend.grader(config.evals.reward)
    with progress.stage("evaluate"), own or nullcontext(grader) as judge:
        return evaluate(
            sampler,
            judge,
            task.evals,
            config.evals,
            config.seed,
            step,
            run.eval_folder(step),
            wrap_stream=run.interruptible,
        )


def evaluate_alone(config: Config, task: Task, backend: Backend, run: Run, model: str) -> None:
    """The benchmarks of a run without reinforcement learning."""
    run.begin("rl", 0)
    sampler = backend.sampler(model)
    with backend.grader(config.reward) as grader, StepProgress("evaluation", 0, 1) as progress:
        metrics = evaluate_at(0, config, task, backend, sampler, grader, run, progress)
        run.log("rl", 0, metrics)
        progress.end(metrics)
