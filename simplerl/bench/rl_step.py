"""One whole RL step, ours against TRL's GRPOTrainer, on the same checkpoint, prompts and token counts.

    python -m simplerl.bench.rl_step MODEL --responses 256 --tokens 64 --precision float32

GRPO without a reference: sample, reward, advantages, one optimizer step on all responses, new weights in the
sampler. Every response has exactly `--tokens` tokens (no end token in either). Ours also computes the
log-probs of the old policy, which TRL skips when it takes one optimizer step per batch. TRL is an optional extra:
pip install 'simplerl[bench]'.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from dataclasses import replace
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

SAMPLES = 8  # of each prompt


def questions(count: int) -> list[str]:
    from simplerl.micro.world import problems

    return [problem.question + "\n" for problem in problems("rl", count)]


def reward(text: str) -> float:
    """Cheap, and different within a group."""
    return float(len(text) % 7)


def time_ours(
    path: str, responses: int, tokens: int, precision: Precision, steps: int, compiled: bool = False
) -> list[float]:
    """Seconds of each step."""
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
    sampler = local_sampler(model, tokenizer, ModelConfig(path), precision=precision.value)
    texts = questions(responses // SAMPLES)
    prompts = [Prompt(Problem(str(i), t, ""), t, tuple(tokenizer(t)["input_ids"])) for i, t in enumerate(texts)]
    plan = UpdatePlan(responses, 1, Aggregation.sequence_mean, tokens)
    sampling, never = Sampling(max_new_tokens=tokens), Stop(ids=())

    def scored(rollout: Rollout) -> Rollout:
        return replace(rollout, score=Score(reward(rollout.text), False, "different"))

    seconds = []
    for step in range(steps):
        start = time.perf_counter()
        rollouts = [scored(r) for r in sampler.generate(prompts, sampling, never, SAMPLES, 0, step)]
        assert all(len(r.token_ids) == tokens for r in rollouts)
        batch = collate_rollouts(rollouts)
        batch = batch.with_(logprobs=worker.infer(batch)[0])
        batch = group_relative(token_rewards(batch, KLConfig()))
        worker.update(batch, [ppo_clip], plan, [0, step])
        sampler.load_weights(worker.named_weights())
        seconds.append(time.perf_counter() - start)
    return seconds


def time_trl(path: str, responses: int, tokens: int, precision: Precision, steps: int) -> list[float]:
    """Seconds of each step of TRL's trainer."""
    from datasets import Dataset
    from transformers import TrainerCallback
    from trl.trainer.grpo_config import GRPOConfig
    from trl.trainer.grpo_trainer import GRPOTrainer

    ends: list[float] = []

    def rewards(completions: list[Any], **_: Any) -> list[float | None]:
        return [reward(text) for text in completions]

    class Clock(TrainerCallback):  # type: ignore[misc]
        def on_step_begin(self, *_: Any, **__: Any) -> None:
            ends.append(time.perf_counter())

        def on_step_end(self, *_: Any, **__: Any) -> None:
            ends.append(time.perf_counter())

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
    # The generation happens inside the step, after on_step_begin.
    return [end - begin for begin, end in zip(ends[::2], ends[1::2], strict=True)]


def main() -> None:
    parser = argparse.ArgumentParser(description="One RL step against TRL's GRPOTrainer.")
    parser.add_argument("model", help="a Hugging Face folder")
    parser.add_argument("--responses", type=int, default=256)
    parser.add_argument("--tokens", type=int, default=64)
    parser.add_argument("--precision", choices=[p.name for p in Precision], default="float32")
    parser.add_argument("--compile", action="store_true", help="ours, as train.compile=true")
    parser.add_argument("--steps", type=int, default=6, help="the first is a warm-up and not counted")
    options = parser.parse_args()
    arguments = (options.model, options.responses, options.tokens, Precision[options.precision], options.steps)
    ours = statistics.median(time_ours(*arguments, compiled=options.compile)[1:])
    theirs = statistics.median(time_trl(*arguments)[1:])
    print(f"{options.model}, {options.responses} responses x {options.tokens} tokens, {options.precision}")
    print(f"  SimpleRL {ours:8.3f} s a step\n  TRL      {theirs:8.3f} s a step\n  ratio    {theirs / ours:8.2f}x")


if __name__ == "__main__":
    main()
