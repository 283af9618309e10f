"""Checks one device for `simplerl.bench.gpu`: numerics, attention kernels, speed, sampler against trainer.

Each check is a function Inputs -> rows. The device is a parameter, so that the checks themselves are tested on a CPU.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from importlib.util import find_spec
from typing import Any

import torch
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from simplerl.algorithms.losses import ppo_clip
from simplerl.bench.shapes import best_seconds, matmul_peak, sync
from simplerl.bench.shared_prompts import random_groups
from simplerl.config import Aggregation, ModelConfig, OptimizerConfig, Precision
from simplerl.engine.batching import collate_rollouts
from simplerl.engine.models import load_policy, load_tokenizer, output_weight
from simplerl.engine.worker import UpdatePlan, Worker
from simplerl.samplers.local import local_sampler
from simplerl.types import Batch, Problem, Prompt, Sampling, Score, Stop

PASSED, FAILED, SKIPPED, MEASURED = "passed", "FAILED", "skipped", ""
KERNELS = (SDPBackend.FLASH_ATTENTION, SDPBackend.EFFICIENT_ATTENTION, SDPBackend.CUDNN_ATTENTION, SDPBackend.MATH)
FLOAT32_LIMIT = 1e-3  # of log-probs: another order of sums
BFLOAT16_LIMIT = 0.05  # of the mean absolute difference of log-probs: 8 significant bits
GRADIENT_LIMIT = 1e-3  # relative, of the gradient's norm


@dataclass(frozen=True)
class Row:
    """Holds one line of the report."""

    check: str
    model: str
    value: str
    expected: str = ""
    verdict: str = MEASURED


@dataclass(frozen=True)
class Inputs:
    """Holds what a check runs on. sizes: prompts, samples, tokens of a prompt and of a response."""

    name: str  # of the model
    folder: str
    device: str
    sizes: tuple[int, int, int, int]
    repeats: int

    def model(self, precision: Precision, device: str | None = None) -> Any:
        return load_policy(ModelConfig(self.folder), precision, device or self.device)

    def worker(
        self, precision: Precision, device: str | None = None, compiled: bool = False, lr: float = 1e-9
    ) -> Worker:
        return Worker(
            self.model(precision, device),
            precision=precision,
            tokens_per_micro_batch=16384,
            compiled=compiled,
            shared_prompts=False,
            optimizer=OptimizerConfig(lr=lr),
        )

    def batch(self, worker: Worker) -> Batch:
        """Return random groups with advantages and the worker's log-probs."""
        batch = random_groups(*self.sizes, worker.model.config.vocab_size)
        noise = torch.randn(batch.mask.shape, generator=torch.Generator().manual_seed(0)) * batch.mask
        return batch.with_(logprobs=worker.infer(batch, entropy=False)[0], advantages=noise)


Check = Callable[[Inputs], Iterator[Row]]


def limited(check: str, model: str, value: float, limit: float) -> Row:
    return Row(check, model, f"{value:.2g}", f"at most {limit:g}", PASSED if value <= limit else FAILED)


def _gradient_norm(worker: Worker, batch: Batch) -> float:
    plan = UpdatePlan(len(batch), 1, Aggregation.token_mean)
    return worker.update(batch, [ppo_clip], plan, [0])["grad_norm"]


def numerics(inputs: Inputs) -> Iterator[Row]:
    """Compare log-probs and the gradient of one update on the device with those of the CPU in float32."""
    reference = inputs.worker(Precision.float32, "cpu")
    batch = inputs.batch(reference)
    assert batch.logprobs is not None
    norm = _gradient_norm(reference, batch)
    for precision, limit in ((Precision.float32, FLOAT32_LIMIT), (Precision.bfloat16, BFLOAT16_LIMIT)):
        worker = inputs.worker(precision)
        difference = (worker.infer(batch, entropy=False)[0] - batch.logprobs)[batch.mask].abs()
        exact = precision is Precision.float32
        value, what = (difference.max(), "maximum") if exact else (difference.mean(), "mean")
        yield limited(f"log-probs, {precision.name} against CPU float32 ({what})", inputs.name, float(value), limit)
        change = abs(_gradient_norm(worker, batch) / norm - 1)
        bound = GRADIENT_LIMIT if exact else 0.1
        yield limited(f"gradient norm, {precision.name} against CPU float32 (relative)", inputs.name, change, bound)


def attention(inputs: Inputs) -> Iterator[Row]:
    """Run each attention kernel of PyTorch, causal and in bfloat16, and compare its output with float32 on the CPU."""
    config = inputs.model(Precision.float32, "cpu").config
    heads, size = config.num_attention_heads, config.hidden_size // config.num_attention_heads
    generator = torch.Generator().manual_seed(0)
    q, k, v = (torch.randn(2, heads, 256, size, generator=generator) for _ in range(3))
    attend = nn.functional.scaled_dot_product_attention
    expected = attend(q, k, v, is_causal=True)
    qd, kd, vd = (x.to(inputs.device, torch.bfloat16) for x in (q, k, v))
    for kernel in KERNELS:
        label = f"attention kernel {kernel.name.lower()}, bfloat16"
        try:
            with sdpa_kernel(kernel):
                output = attend(qd, kd, vd, is_causal=True)
                sync(inputs.device)
        except RuntimeError:
            yield Row(label, inputs.name, "not available for this shape", "", SKIPPED)
            continue
        yield limited(label, inputs.name, float((output.float().cpu() - expected).abs().max()), BFLOAT16_LIMIT)


def speed(inputs: Inputs) -> Iterator[Row]:
    """Measure an update, eager and compiled, and sampling, in bfloat16."""
    device, eager = inputs.device, inputs.worker(Precision.bfloat16)
    batch = inputs.batch(eager)
    plan = UpdatePlan(len(batch), 1, Aggregation.token_mean)
    tokens, answered = int(batch.attention.sum()), int(batch.mask.sum())
    head = output_weight(eager.model).numel()
    body = sum(p.numel() for p in eager.model.parameters()) - head
    peak = matmul_peak(torch.bfloat16, device)
    yield Row("peak of matrix products, bfloat16", inputs.name, f"{peak / 1e12:.3g} TFLOP/s")
    seconds = best_seconds(lambda: eager.update(batch, [ppo_clip], plan, [0]), inputs.repeats, device)
    share = 6 * (body * tokens + head * answered) / seconds / peak
    yield Row("update", inputs.name, f"{tokens / seconds:,.0f} tokens/s, {share:.0%} of the peak")
    compiled = inputs.worker(Precision.bfloat16, compiled=True)
    start = time.perf_counter()
    try:
        compiled.update(batch, [ppo_clip], plan, [0])
    except RuntimeError as error:  # no C++ compiler or Triton
        yield Row("update, compiled", inputs.name, str(error).strip().splitlines()[0][:60], "", SKIPPED)
    else:
        sync(device)
        first = time.perf_counter() - start
        faster = best_seconds(lambda: compiled.update(batch, [ppo_clip], plan, [0]), inputs.repeats, device)
        gain = f"{seconds / faster:.2f}x as fast, {first - faster:.0f} s of compilation"
        yield Row("update, compiled", inputs.name, gain)


def sampling(inputs: Inputs) -> Iterator[Row]:
    """Sample, and compare the sampler's log-probs with the trainer's: of `local` in both precisions and, if installed,
    of vLLM."""
    for precision in Precision:
        yield from _sampled(inputs, "local", precision)
    if find_spec("vllm") is None:
        yield Row("sampling, vllm", inputs.name, "not installed: pip install 'simplerl[gpu]'", "", SKIPPED)
    elif inputs.device == "cpu":
        yield Row("sampling, vllm", inputs.name, "compared by simplerl.bench.sampling on CPUs", "", SKIPPED)
    else:
        yield from _sampled(inputs, "vllm", Precision.bfloat16)


def _sampled(inputs: Inputs, name: str, precision: Precision) -> Iterator[Row]:
    prompts, samples, length, tokens = inputs.sizes
    worker, model = inputs.worker(precision), ModelConfig(inputs.folder)
    tokenizer = load_tokenizer(model)
    sampler: Any
    if name == "local":
        sampler = local_sampler(lambda: worker.model, tokenizer, model, precision=precision.value)
    else:
        from simplerl.samplers.vllm import vllm_sampler

        sampler = vllm_sampler(lambda: worker.model, tokenizer, model, precision=precision.value, cache_gib=2.0)
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(5, min(len(tokenizer), worker.model.config.vocab_size), (prompts, length), generator=generator)
    asked = [Prompt(Problem(f"p{i}", "", ""), "", tuple(row)) for i, row in enumerate(ids.tolist())]
    settings = Sampling(temperature=1.0, max_new_tokens=tokens)
    sync(inputs.device)
    start = time.perf_counter()
    rollouts = list(sampler.generate(asked, settings, Stop(()), samples, 0, 0))
    seconds = time.perf_counter() - start
    rate = sum(len(one.token_ids) for one in rollouts) / seconds
    yield Row(f"sampling, {name}, {precision.name}", inputs.name, f"{rate:,.0f} tokens/s")
    batch = collate_rollouts([replace(one, score=Score(0.0, False, "different")) for one in rollouts])
    assert batch.sampler_logprobs is not None
    difference = (worker.infer(batch, entropy=False)[0] - batch.sampler_logprobs)[batch.mask].abs()
    exact = precision is Precision.float32
    limit = FLOAT32_LIMIT if exact else BFLOAT16_LIMIT
    value = float(difference.max() if exact else difference.mean())
    label = f"log-probs, sampler {name} against trainer, {precision.name} ({'maximum' if exact else 'mean'})"
    yield limited(label, inputs.name, value, limit)


CHECKS: dict[str, Check] = {"numerics": numerics, "attention": attention, "speed": speed, "sampling": sampling}
