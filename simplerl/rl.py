"""Runs the RL loop: evaluate, sample, grade, compute log-probs and values, estimate advantages, update, sync weights.

Metrics at step s describe the policy after s updates: its evaluation, the responses it samples, and the update to the
policy of step s + 1. Models are loaded by `simplerl.backends`, prompts by `simplerl.data.task`; `simplerl.rollouts`
chooses a step's rollouts, and `simplerl.runs` writes the run folder. Run it with `python train.py`.
"""

from __future__ import annotations

import logging
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from pathlib import Path

from simplerl.algorithms.advantages import estimate_advantages
from simplerl.backends import Backend
from simplerl.backends.roles import role_updates
from simplerl.config import Config
from simplerl.data.task import Task
from simplerl.engine.batching import collate_rollouts
from simplerl.engine.worker import UpdatePlan
from simplerl.evals.evaluate import evaluate, evaluation_reward
from simplerl.evals.metrics import batch_metrics, rollout_metrics
from simplerl.rewards.pool import Grader
from simplerl.rollouts import Prefetcher, RolloutSource
from simplerl.runs.checkpoints import last_checkpoint, saved_state
from simplerl.runs.folder import Interrupted, Run
from simplerl.runs.progress import StepProgress
from simplerl.samplers import Sampler
from simplerl.types import Prompt, Rollout

logger = logging.getLogger(__name__)


def train(config: Config, task: Task, backend: Backend, run: Run, start: str) -> Path:
    """Train by RL from the model at `start` (a folder or Hub id), or resume from the run's last checkpoint. Returns
    the final checkpoint. On a stop signal, saves a checkpoint and raises `Interrupted`."""
    assert task.schedule is not None
    algorithm, steps, folder = config.algorithm, task.schedule.steps, run.dir / "checkpoints"
    plan = update_plan(config, task)
    checkpoint, step = last_checkpoint(folder, steps)
    state = saved_state(checkpoint) or {"rollouts": {}, "algorithm": algorithm.state}
    roles = backend.roles(start, checkpoint)
    run.begin("rl", step)
    with (
        backend.grader(config.reward) as grader,
        evaluation_grader(config, backend, grader) as judge,
        StepProgress("rl", step, steps, config.evals.every) as progress,
    ):
        grader.check_stop = judge.check_stop = run.check_stop
        source = rollout_source(config, task, roles.sampler, grader, run)
        prefetcher = Prefetcher(algorithm.rollouts, source, algorithm.shape, steps, config.rollout.ahead)
        try:
            while step < steps:
                run.check_stop()
                progress.begin()
                if run.checkpoint_is_due(step):
                    with progress.stage("save"):
                        checkpoint = run.save(folder, step, roles.save, state)
                metrics = evaluate_at(step, config, task, roles.sampler, judge, run, progress)
                seed, updates = [config.seed, step], role_updates(algorithm, plan, step)
                with progress.stage("sample"):
                    taken = prefetcher.take(step, state["rollouts"])
                with progress.stage("score"):
                    batch, trained = roles.score(collate_rollouts(taken.rollouts), updates, seed)
                    batch, remembered, corrected = estimate_advantages(batch, algorithm, state["algorithm"])
                    metrics |= rollout_metrics(taken.rollouts) | batch_metrics(batch) | taken.metrics
                with progress.stage("update"):
                    metrics |= trained | corrected | roles.update(batch, updates, seed)
                with progress.stage("sync"):
                    prefetcher.wait_until_idle()
                    roles.sync()
                with progress.stage("write"):
                    run.write_rollouts(step, taken.rollouts, batch)
                metrics |= roles.metrics() | progress.times()
                run.log("rl", step, metrics)
                progress.end(metrics)
                state = {"rollouts": taken.state, "algorithm": remembered}
                step += 1
        except Interrupted:
            run.save(folder, step, roles.save, state)
            raise
        checkpoint = run.save(folder, step, roles.save, state)
        progress.begin()
        metrics = evaluate_at(step, config, task, roles.sampler, judge, run, progress)
        run.log("rl", step, metrics | progress.times())
        progress.end(metrics)
    return checkpoint


def update_plan(config: Config, task: Task) -> UpdatePlan:
    """Return how each rollout batch is split into optimizer steps."""
    algorithm = config.algorithm
    return UpdatePlan(
        minibatch_size=config.train.minibatch_size,
        epochs=config.train.epochs,
        aggregation=algorithm.aggregation,
        constant_length=task.sampling.max_new_tokens,
        rows=algorithm.aggregation_rows,
    )


def rollout_source(config: Config, task: Task, sampler: Sampler, grader: Grader, run: Run) -> RolloutSource:
    """Return the source of prompts and graded samples for the rollouts function. A stop signal interrupts sampling."""

    def sample(prompts: list[Prompt], number: int, greedy: bool = False) -> list[Rollout]:
        samples = 1 if greedy else config.train.samples_per_prompt
        sampling = replace(task.sampling, temperature=0.0) if greedy else task.sampling
        stream = sampler.generate(prompts, sampling, task.format.stop, samples, config.seed, number)
        return grader.grade(run.interruptible(stream), prompts)

    return RolloutSource(task.prompts_at, sample, config.train.prompts_per_step)


def evaluation_grader(
    config: Config, backend: Backend, training_grader: Grader | None = None
) -> AbstractContextManager[Grader]:
    """Return a context manager of the grader for evaluations, which grades by `evaluation_reward` in separate worker
    processes. It is `training_grader`, already started, if that is given and `evals.reward` is null or the run has no
    evaluations."""
    if training_grader is not None and (config.evals.reward is None or not config.evals.every):
        return nullcontext(training_grader)
    return backend.grader(evaluation_reward(config))


def evaluate_at(
    step: int,
    config: Config,
    task: Task,
    sampler: Sampler,
    grader: Grader,
    run: Run,
    progress: StepProgress,
) -> dict[str, float]:
    """Evaluate the policy if due: every `evals.every` steps from step 0, and after the last step. Returns metrics; {}
    if no evaluation is due."""
    last = task.schedule.steps if task.schedule else 0
    if not config.evals.every or (step % config.evals.every and step != last):
        return {}
    with progress.stage("evaluate"):
        return evaluate(
            sampler,
            grader,
            task.evals,
            config.evals,
            config.seed,
            step,
            run.eval_folder(step),
            wrap_stream=run.interruptible,
        )


def evaluate_only(config: Config, task: Task, backend: Backend, run: Run, model: str) -> None:
    """Evaluate the model of a run with algorithm=none and log the metrics as step 0."""
    run.begin("rl", 0)
    sampler = backend.sampler(model)
    with evaluation_grader(config, backend) as grader, StepProgress("evaluation", 0, 0) as progress:
        metrics = evaluate_at(0, config, task, sampler, grader, run, progress)
        run.log("rl", 0, metrics)
        progress.end(metrics)
