"""Weights from rank 0 to all engines by NCCL broadcast, for GPUs: the other way than `simplerl.cluster.weights`.

NOT RUN in this project's tests, which have no GPUs. What differs from the tested way is only how the bytes travel:
vLLM's own trainer side of its "nccl" transfer packs and broadcasts, and `TensorWeightTransfer` in the
engines inherits vLLM's receiving side; start, finish and the checksums of both sides are the tested ones. Engines that
are restarted between two syncs get their weights through the object store.
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

from simplerl.backends import Lost
from simplerl.cluster.stacks import DEATHS
from simplerl.cluster.weights import compare, how_it_died
from simplerl.engine.tensors import tensor_checksum


class RankWeights(WeightSource):
    """The weights of one rank as vLLM wants them, in the engines' precision; remembers the checksums of a pass."""

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
            cast = weight.detach().to(self.dtype, copy=True)  # under ZeRO-3 the gathered one is freed soon
            self.checksums[name] = tensor_checksum(cast)
            yield name, cast


class EngineClients:
    """vLLM's `VLLMWeightSyncClient` over engine actors with `workers` GPUs each."""

    def __init__(self, engines: Sequence[Any], workers: int, seconds: float) -> None:
        self.engines, self.workers, self.seconds = engines, workers, seconds

    def _all(self, method: str, *arguments: Any) -> None:
        ray.get([engine.transfer.remote(method, *arguments) for engine in self.engines], timeout=self.seconds)

    def init_weight_transfer_engine(self, init_info: dict[str, Any]) -> None:
        calls = [
            engine.transfer.remote(
                "init_weight_transfer_engine", init_info | {"rank_offset": 1 + number * self.workers}
            )
            for number, engine in enumerate(self.engines)
        ]
        ray.get(calls, timeout=self.seconds)

    def start_weight_update(self) -> None:
        ray.get([engine.start_weights.remote() for engine in self.engines], timeout=self.seconds)

    def update_weights(self, update_info: Any) -> None:
        self._all("update_weights", update_info)

    def finish_weight_update(self, weight_version: str | None = None) -> None:
        ray.get([engine.finish_weights.remote() for engine in self.engines], timeout=self.seconds)


def send_by_nccl(ranks: Sequence[Any], engines: Mapping[str, Any], workers: int, dtype: str, seconds: float) -> None:
    """The policy's weights into all engines. Raises Lost where one side dies or takes longer than `seconds`, and
    SyncFailed where an engine holds other weights than were sent."""
    clients = EngineClients(list(engines.values()), workers, seconds)
    try:
        address = ray.get(ranks[0].address.remote(), timeout=seconds)
        sent = ray.get([rank.broadcast_weights.remote(clients, address, dtype) for rank in ranks], timeout=seconds)[0]
        held = ray.get([engine.checksums.remote() for engine in engines.values()], timeout=seconds)
    except (*DEATHS, ray.exceptions.GetTimeoutError) as error:
        raise Lost("the weight sync", f"ranks and engines do not come together ({how_it_died(error)})") from error
    for name, checksums in zip(engines, held, strict=True):
        compare(name, sent, checksums)


def broadcast(rank: int, weights: RankWeights, clients: EngineClients, address: tuple[str, int]) -> dict[str, int]:
    """Called on every rank at once; rank 0 sends. Returns the checksums of what was sent (rank 0) or walked through.

    The NCCL group is made anew each time, which costs about a second and forgets engines that have died."""
    world = 1 + len(clients.engines) * clients.workers
    link = NCCLTrainerInitInfo(address[0], address[1], world, rank=rank)
    trainer = WeightTransferTrainerFactory.trainer_init(link, client=clients, source=weights)
    try:
        trainer.send_weights()
    finally:
        trainer.shutdown()
        if rank == 0:
            clients._all("shutdown_weight_transfer_engine")
    return weights.checksums
