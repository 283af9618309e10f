"""Compares the time of a whole RL step with TRL's GRPOTrainer, on the same checkpoint, prompts and token counts:

    python -m simplerl.bench.rl_step assets/micro_base --responses 256

The step is GRPO without a reference model: sampling, reward, advantages, one optimizer step on all responses, and new
weights for the sampler. Every response has exactly `--tokens` tokens, because end tokens are disabled in both. Our step
also computes the log-probs of the old policy, which TRL skips when it takes one optimizer step per batch. TRL is an
optional dependency: pip install 'simplerl[bench]'.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Sequence
from dataclasses import replace
from importlib.util import find_spec
from typing import Any

from simplerl.algorithms.advantages import group_relative
from simplerl.algorithms.kl import token_rewards
from simplerl.algorithms.losses import ppo_clip
from simplerl.config import Aggregation, KLConfig, ModelConfig, OptimizerConfig, Precision
from simplerl.engine.batching import collate_rollouts
from simplerl.engine.models import load_policy, load_tokenizer
from simplerl.engine.worker import UpdatePlan, Worker
from simplerl.samplers.local import local_sampler
from simplerl.types import Problem, Prompt, Rollout, Sampling, Score, Stop

SAMPLES = 8  # per prompt


def questions(count: int) -> list[str]:
    """Return prompts of the micro world."""
    from simplerl.micro.world import problems

    return [problem.question + "\n" for problem in problems("rl", count)]


def reward(text: str) -> float:
    """Return a cheap reward that differs within a group."""
    return float(len(text) % 7)


def time_ours(
    path: str, responses: int, tokens: int, precision: Precision, steps: int, compiled: bool = False
) -> list[float]:
    """Return the seconds of each training step of this suite: sample, score, update and sync. compiled: with
    train.compile=true."""
    tokenizer = load_tokenizer(ModelConfig(path))
    model = load_policy(ModelConfig(path), precision, "cpu")
    optimizer = OptimizerConfig(lr=1e-6)
    worker = Worker(
        model,
        precision=precision,
        tokens_per_micro_batch=16384,
        compiled=compiled,
        optimizer=optimizer,
        total_steps=steps,
    )
    sampler = local_sampler(lambda: model, tokenizer, ModelConfig(path), precision=precision.value)
    texts = questions(responses // SAMPLES)
    prompts = [Prompt(Problem(str(i), t, ""), t, tuple(tokenizer(t)["input_ids"])) for i, t in enumerate(texts)]
    plan = UpdatePlan(responses, 1, Aggregation.sequence_mean, tokens)
    sampling, no_stop = Sampling(max_new_tokens=tokens), Stop(ids=())

    def scored(rollout: Rollout) -> Rollout:
        return replace(rollout, score=Score(reward(rollout.text), False, "different"))

    seconds = []
    for step in range(steps):
        start = time.perf_counter()
        rollouts = [scored(r) for r in sampler.generate(prompts, sampling, no_stop, SAMPLES, 0, step)]
        assert all(len(r.token_ids) == tokens for r in rollouts)
        batch = collate_rollouts(rollouts)
        batch = batch.with_(logprobs=worker.infer(batch)[0])
        batch = group_relative(token_rewards(batch, KLConfig()))
        worker.update(batch, [ppo_clip], plan, [0, step])
        sampler.load_weights(worker.named_weights())
        seconds.append(time.perf_counter() - start)
    return seconds


def time_trl(path: str, responses: int, tokens: int, precision: Precision, steps: int) -> list[float]:
    """Return the seconds of each step of TRL's trainer."""
    from datasets import Dataset
    from transformers import TrainerCallback
    from trl.trainer.grpo_config import GRPOConfig
    from trl.trainer.grpo_trainer import GRPOTrainer

    times: list[float] = []

    def rewards(completions: list[Any], **_: Any) -> list[float | None]:
        return [reward(text) for text in completions]

    class Clock(TrainerCallback):  # type: ignore[misc]
        def on_step_begin(self, *_: Any, **__: Any) -> None:
            times.append(time.perf_counter())

        def on_step_end(self, *_: Any, **__: Any) -> None:
            times.append(time.perf_counter())

    with tempfile.TemporaryDirectory() as folder:
        settings = GRPOConfig(
            output_dir=folder,
            use_cpu=True,
            bf16=precision is Precision.bfloat16,
            model_init_kwargs={"dtype": "float32"},
            per_device_train_batch_size=responses,
            num_generations=SAMPLES,
            max_completion_length=tokens,
            generation_kwargs={"min_new_tokens": tokens},
            temperature=1.0,
            learning_rate=1e-6,
            max_steps=steps,
            gradient_checkpointing=False,
            report_to=[],
            save_strategy="no",
            disable_tqdm=True,
            logging_steps=10**6,
        )
        trainer = GRPOTrainer(
            model=path,
            reward_funcs=rewards,
            args=settings,
            train_dataset=Dataset.from_dict({"prompt": questions(responses // SAMPLES)}),
            callbacks=[Clock()],
        )
        trainer.train()
    # TRL generates inside the step, after on_step_begin.
    return [end - begin for begin, end in zip(times[::2], times[1::2], strict=True)]


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description="Compare the time of an RL step with TRL's GRPOTrainer.")
    parser.add_argument("model", help="Hugging Face folder")
    parser.add_argument("--responses", type=int, default=256)
    parser.add_argument("--tokens", type=int, default=64, help="tokens of each response")
    parser.add_argument("--precision", choices=[p.name for p in Precision], default="float32")
    parser.add_argument("--compile", action="store_true", help="compile our update, as train.compile=true does")
    parser.add_argument("--steps", type=int, default=6, help="the first is a warm-up and is not counted")
    options = parser.parse_args(arguments)
    if find_spec("trl") is None:
        parser.error("TRL is not installed: run pip install 'simplerl[bench]'")
    settings = (options.model, options.responses, options.tokens, Precision[options.precision], options.steps)
    ours = statistics.median(time_ours(*settings, compiled=options.compile)[1:])
    theirs = statistics.median(time_trl(*settings)[1:])
    print(f"{options.model}, {options.responses} responses x {options.tokens} tokens, {options.precision}")
    print(f"  SimpleRL {ours:8.3f} s per step\n  TRL      {theirs:8.3f} s per step\n  speedup  {theirs / ours:8.2f}x")


if __name__ == "__main__":
    main()
