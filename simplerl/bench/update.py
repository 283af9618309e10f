"""Measures the update: its fraction of the machine's peak matrix-product rate, and its fraction of padding:

    python -m simplerl.bench.update assets/micro_base --precision float32

It times one PPO policy step on rows of different lengths (prompts and responses have between half and all of
`--tokens`). The operations counted are the matrix products with weights: 6 per parameter and token, the output layer
for response tokens only. Attention and recomputation in the backward pass are not counted. The peak rate is that of
2048 x 2048 matrix products in the same dtype.
"""

from __future__ import annotations

import argparse
import random
import time
from collections.abc import Callable, Sequence

import torch

from simplerl.algorithms.losses import ppo_clip
from simplerl.config import Aggregation, ModelConfig, OptimizerConfig, Precision
from simplerl.engine.batching import collate
from simplerl.engine.models import load_policy, output_weight
from simplerl.engine.worker import UpdatePlan, Worker


def best_seconds(run: Callable[[], object], repeats: int) -> float:
    """Return the shortest time of `repeats` runs after a warm-up run; other load on the machine can only add time."""
    run()
    seconds = []
    for _ in range(repeats):
        start = time.perf_counter()
        run()
        seconds.append(time.perf_counter() - start)
    return min(seconds)


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description="Measure the update's fraction of the peak matrix-product rate.")
    parser.add_argument("model", help="Hugging Face folder")
    parser.add_argument("--responses", type=int, default=64)
    parser.add_argument(
        "--tokens", type=int, default=64, help="tokens of the longest prompt and of the longest response"
    )
    parser.add_argument("--micro-batch", type=int, default=8192, help="tokens per micro-batch")
    parser.add_argument("--precision", choices=[p.name for p in Precision], default="bfloat16")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--compile", action="store_true", help="compile, as train.compile=true does")
    options = parser.parse_args(arguments)
    precision = Precision[options.precision]
    model = load_policy(ModelConfig(options.model), precision, "cpu")
    worker = Worker(
        model,
        precision=precision,
        tokens_per_micro_batch=options.micro_batch,
        shared_prompts=False,  # the rows are no groups
        compiled=options.compile,
        optimizer=OptimizerConfig(lr=1e-6),
    )
    rng, full = random.Random(0), options.tokens
    rows = [([5] * rng.randint(full // 2, full), [7] * rng.randint(full // 2, full)) for _ in range(options.responses)]
    batch = collate(rows, list(range(len(rows))))
    advantages = torch.randn(batch.mask.shape, generator=torch.Generator().manual_seed(0)) * batch.mask
    batch = batch.with_(logprobs=worker.infer(batch)[0], advantages=advantages)
    plan = UpdatePlan(len(rows), 1, Aggregation.sequence_mean, full)

    padding = worker.update(batch, [ppo_clip], plan, [0])["padding_share"]
    seconds = best_seconds(lambda: worker.update(batch, [ppo_clip], plan, [0]), options.repeats)
    square = torch.randn(2048, 2048).to(getattr(torch, options.precision))
    peak = 2 * 2048**3 / best_seconds(lambda: square @ square, 10)

    head = output_weight(model).numel()
    body = sum(p.numel() for p in model.parameters()) - head
    tokens, response_tokens = int(batch.attention.sum()), int(batch.mask.sum())
    rate = 6 * (body * tokens + head * response_tokens) / seconds
    print(f"{options.model}, {len(rows)} rows, {tokens} tokens, {options.precision}{', compiled' * options.compile}")
    print(f"  {seconds:.2f} s, {tokens / seconds:,.0f} tokens/s, padding {padding:.1%}")
    print(f"  {rate / 1e12:.3f} of {peak / 1e12:.3f} TFLOP/s: {rate / peak:.1%} of the peak")


if __name__ == "__main__":
    main()
