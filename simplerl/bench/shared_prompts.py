"""Compares training passes that compute each prompt once with passes that compute it for every sample:

    python -m simplerl.bench.shared_prompts assets/micro_base --prompt-tokens 120 --response-tokens 65

It times the log-probs of the old policy (forward) and one PPO policy step (forward and backward) in CPU seconds, which
other load on the machine changes less than time. Lengths vary evenly by a sixth for prompts and by a half for
responses.
"""

from __future__ import annotations

import argparse
import random
import statistics
import time
from collections.abc import Callable, Sequence

import torch

from simplerl.algorithms.losses import ppo_clip
from simplerl.config import Aggregation, ModelConfig, OptimizerConfig, Precision
from simplerl.engine.batching import collate
from simplerl.engine.models import load_policy
from simplerl.engine.worker import UpdatePlan, Worker
from simplerl.types import Batch


def random_groups(prompts: int, samples: int, prompt_tokens: int, response_tokens: int, vocabulary: int) -> Batch:
    """Return `prompts` groups of `samples` responses, of random tokens. prompt_tokens, response_tokens: mean lengths,
    from which prompts differ by up to a sixth and responses by up to a half."""
    rng = random.Random(0)

    def tokens(mean: int, spread: float) -> list[int]:
        length = rng.randint(max(1, round(mean * (1 - spread))), round(mean * (1 + spread)))
        return [rng.randrange(vocabulary) for _ in range(length)]

    rows, groups = [], []
    for group in range(prompts):
        prompt = tokens(prompt_tokens, 1 / 6)
        rows += [(prompt, tokens(response_tokens, 1 / 2)) for _ in range(samples)]
        groups += [group] * samples
    return collate(rows, groups)


def cpu_seconds(run: Callable[[], object]) -> float:
    start = time.process_time()
    run()
    return time.process_time() - start


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description="Compare training passes with and without shared prompts.")
    parser.add_argument("model", help="Hugging Face folder")
    parser.add_argument("--prompts", type=int, default=16)
    parser.add_argument("--samples", type=int, default=8, help="responses to each prompt")
    parser.add_argument("--prompt-tokens", type=int, default=120, help="mean length of a prompt")
    parser.add_argument("--response-tokens", type=int, default=65, help="mean length of a response")
    parser.add_argument("--micro-batch", type=int, default=16384, help="tokens per micro-batch")
    parser.add_argument("--precision", choices=[p.name for p in Precision], default="float32")
    parser.add_argument("--repeats", type=int, default=3)
    options = parser.parse_args(arguments)
    precision = Precision[options.precision]
    model = load_policy(ModelConfig(options.model), precision, "cpu")
    worker = Worker(
        model, precision=precision, tokens_per_micro_batch=options.micro_batch, optimizer=OptimizerConfig(lr=1e-9)
    )
    sizes = (options.prompts, options.samples, options.prompt_tokens, options.response_tokens)
    batch = random_groups(*sizes, model.config.vocab_size)
    advantages = torch.randn(batch.mask.shape, generator=torch.Generator().manual_seed(0)) * batch.mask
    trained = batch.with_(logprobs=worker.infer(batch)[0], advantages=advantages)
    plan = UpdatePlan(len(batch), 1, Aggregation.sequence_mean)
    passes: dict[str, Callable[[], object]] = {
        "log-probs": lambda: worker.infer(batch, entropy=False),
        "update": lambda: worker.update(trained, [ppo_clip], plan, [0]),
    }
    seconds: dict[tuple[str, bool], list[float]] = {}
    for _ in range(options.repeats + 1):  # alternating; the first is a warm-up
        for shared in (False, True):
            worker.shared_prompts = shared
            for name, run in passes.items():
                seconds.setdefault((name, shared), []).append(cpu_seconds(run))
    prompts, samples, prompt_tokens, response_tokens = sizes
    print(
        f"{options.model}, {prompts} prompts of {prompt_tokens} tokens, {samples} responses of {response_tokens} each"
    )
    for name in passes:
        plain, once = (statistics.median(seconds[name, which][1:]) for which in (False, True))
        print(f"  {name:10} {plain:7.2f} s, shared prompts {once:7.2f} s: {plain / once:.2f}x")


if __name__ == "__main__":
    main()
