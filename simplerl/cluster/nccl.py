"""Sends weights from rank 0 to all engines by NCCL broadcast, as an alternative to `simplerl.cluster.weights` on GPUs.

NOT TESTED: this project's tests have no GPUs. Only the transport differs from the tested path: the trainer side of
vLLM's "nccl" weight transfer packs and broadcasts, and `TensorWeightTransfer` in the engines inherits vLLM's
receiving side. Starting and finishing a sync and the checksums of both sides are shared with the tested path.
Engines that are restarted between two syncs get their weights through the object store.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import ray
import torch
from torch import Tensor
from vllm.distributed.weight_transfer.base import ParamMeta, WeightSource
from vllm.distributed.weight_transfer.factory import WeightTransferTrainerFactory
from vllm.distributed.weight_transfer.nccl_engine import NCCLTrainerInitInfo

from simplerl.cluster.health import DEATHS
from simplerl.cluster.weights import check_checksums, death_reason
from simplerl.engine.tensors import tensor_checksum
from simplerl.errors import Lost


class RankWeights(WeightSource):
    """Provides the weights of one rank as vLLM's `WeightSource`, in the engines' precision. Each iteration over them
    stores their checksums by name in `checksums`."""

    def __init__(
        self,
        full_weights: Callable[[], Iterable[tuple[str, Tensor]]],
        shapes: Sequence[tuple[str, tuple[int, ...]]],
        dtype: torch.dtype,
    ) -> None:
        self.full_weights, self.shapes, self.dtype = full_weights, shapes, dtype
        self.checksums: dict[str, int] = {}

    def metadata(self) -> list[ParamMeta]:
        return [ParamMeta(name, self.dtype, shape) for name, shape in self.shapes]

    def __iter__(self) -> Iterator[tuple[str, Tensor]]:
        self.checksums = {}
        for name, weight in self.full_weights():
            cast = weight.detach().to(self.dtype, copy=True)  # a weight gathered by ZeRO-3 is freed soon
            self.checksums[name] = tensor_checksum(cast)
            yield name, cast


class EngineClients:
    """Implements vLLM's `VLLMWeightSyncClient` for engine actors with `workers` GPUs each."""

    def __init__(self, engines: Sequence[Any], workers: int, seconds: float) -> None:
        self.engines, self.workers, self.seconds = engines, workers, seconds

    def call_all(self, method: str, *arguments: Any) -> None:
        ray.get([engine.transfer.remote(method, *arguments) for engine in self.engines], timeout=self.seconds)

    def init_weight_transfer_engine(self, init_info: dict[str, Any]) -> None:
        offsets = [{"rank_offset": 1 + number * self.workers} for number in range(len(self.engines))]
        method = "init_weight_transfer_engine"
        calls = zip(self.engines, offsets, strict=True)
        ray.get([engine.transfer.remote(method, init_info | own) for engine, own in calls], timeout=self.seconds)

    def start_weight_update(self) -> None:
        ray.get([engine.start_weights.remote() for engine in self.engines], timeout=self.seconds)

    def update_weights(self, update_info: Any) -> None:
        self.call_all("update_weights", update_info)

    def finish_weight_update(self, weight_version: str | None = None) -> None:
        ray.get([engine.finish_weights.remote() for engine in self.engines], timeout=self.seconds)


def send_by_nccl(ranks: Sequence[Any], engines: Mapping[str, Any], workers: int, dtype: str, seconds: float) -> None:
    """Send the policy's weights to all engines. Raises `Lost` if a rank or an engine dies or takes longer than
    `seconds`, and WeightMismatch if an engine's checksums differ from those of the weights sent."""
    clients = EngineClients(list(engines.values()), workers, seconds)
    try:
        address = ray.get(ranks[0].address.remote(), timeout=seconds)
        sent = ray.get([rank.broadcast_weights.remote(clients, address, dtype) for rank in ranks], timeout=seconds)[0]
        held = ray.get([engine.checksums.remote() for engine in engines.values()], timeout=seconds)
    except (*DEATHS, ray.exceptions.GetTimeoutError) as error:
        raise Lost("the weight sync", f"ranks and engines could not complete it ({death_reason(error)})") from error
    for name, checksums in zip(engines, held, strict=True):
        check_checksums(name, sent, checksums)


def broadcast(rank: int, weights: RankWeights, clients: EngineClients, address: tuple[str, int]) -> dict[str, int]:
    """Broadcast the weights from rank 0 to the engines. Every rank must call it at the same time. Returns the
    checksums, by name, of the weights that this rank iterated over.

    A new NCCL group is created each time, which costs about a second and leaves out engines that have died."""
    world = 1 + len(clients.engines) * clients.workers
    link = NCCLTrainerInitInfo(address[0], address[1], world, rank=rank)
    trainer = WeightTransferTrainerFactory.trainer_init(link, client=clients, source=weights)
    try:
        trainer.send_weights()
    finally:
        trainer.shutdown()
        if rank == 0:
            clients.call_all("shutdown_weight_transfer_engine")
    return weights.checksums
