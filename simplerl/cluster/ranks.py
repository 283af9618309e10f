"""A model on several ranks, used like a `Worker`: rows are dealt out to Ray actors that hold one each.

Every row is on one rank. Its weights in the loss were fixed before, so which rank that is changes nothing; dealing
by length makes all ranks compute about as many tokens, and `simplerl.engine.worker` gives them equally many
micro-steps.
"""

from __future__ import annotations

import logging
import os
import socket
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Any

import ray
import torch
from torch import Tensor

from simplerl.algorithms.losses import Loss
from simplerl.cluster.health import Limits, Process, this_process, thread_stacks, wait_for_results
from simplerl.cluster.layout import Sharding
from simplerl.cluster.weights import Bucket, buckets
from simplerl.engine.worker import NonFinite, Updates, Worker
from simplerl.types import Batch

logger = logging.getLogger(__name__)

Build = Callable[..., Worker]  # with keywords `ranks` and `device`


def deal(lengths: Tensor, ranks: int) -> list[Tensor]:
    """Row indices of each rank, rising, so that the sums of their `lengths` [B] are about equal: the longest row
    that is left goes to the rank that has least. With fewer rows than ranks some get nothing."""
    tokens, rows = [0] * ranks, [[] for _ in range(ranks)]  # type: tuple[list[int], list[list[int]]]
    for row in torch.argsort(lengths, descending=True, stable=True).tolist():
        rank = min(range(ranks), key=lambda rank: (tokens[rank], len(rows[rank])))
        tokens[rank] += int(lengths[row])
        rows[rank].append(row)
    return [torch.tensor(sorted(own), dtype=torch.int64) for own in rows]


def shard(batch: Batch, rows: Tensor) -> Batch:
    """Those rows, or one that counts nothing where there are none."""
    if len(rows):
        return batch.rows(rows)
    one = batch.rows(torch.tensor([0]))
    zeros = {"mask": torch.zeros_like(one.mask), "attention": torch.zeros_like(one.attention)}
    zeros["attention"][:, :2] = True
    if one.weights is not None:
        zeros["weights"] = torch.zeros_like(one.weights)
    return one.with_(**zeros).rows(torch.tensor([0]))


class Rank:
    """One process of a group. All methods but those of the group "control" are called on every rank at once."""

    def __init__(self, role: str, number: int) -> None:
        self.role, self.number = role, number
        self.steps = 0
        self.worker: Worker | None = None
        leave_with_parent()

    def address(self) -> tuple[str, int]:
        """Where the ranks meet: this host and a port that is free now."""
        host = ray.util.get_node_ip_address()
        with socket.socket() as one:
            one.bind(("", 0))
            return host, one.getsockname()[1]

    def join(self, size: int, address: tuple[str, int], seconds: float, threads: int | None) -> None:
        """Waits for the others for at most `seconds`."""
        import deepspeed

        os.environ |= {"RANK": str(self.number), "WORLD_SIZE": str(size), "LOCAL_RANK": "0"}
        os.environ |= {"MASTER_ADDR": address[0], "MASTER_PORT": str(address[1])}
        if threads is not None:
            torch.set_num_threads(threads)
        # A shared-memory all-reduce for inference on CPUs that this code never calls, built by a compiler at start.
        deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
        backend = "nccl" if torch.cuda.is_available() else "gloo"
        deepspeed.init_distributed(dist_backend=backend, timeout=timedelta(seconds=seconds), verbose=False)

    def build(self, build: Build, sharding: Sharding, optimizer: Path | None) -> None:
        """The worker that `build` makes, going on with the optimizer of the checkpoint's folder `optimizer`."""
        from simplerl.cluster.zero import DistributedRanks

        device = "cuda" if torch.cuda.is_available() else "cpu"
        self.worker = build(ranks=DistributedRanks(sharding), device=device)
        run = self.worker.run

        def counted(*arguments: Any) -> tuple[Tensor, ...]:
            self.steps += 1
            return run(*arguments)

        self.worker.run = counted
        if optimizer is not None:
            self.worker.load_optimizer(optimizer)

    @property
    def _worker(self) -> Worker:
        assert self.worker is not None, f"{self.role} rank {self.number} holds no model yet"
        return self.worker

    def infer(self, batch: Batch, entropy: bool) -> tuple[Tensor, ...]:
        return self._worker.infer(batch, entropy)

    def optimizer_step(self, minibatch: Batch, losses: Sequence[Loss], entropy: bool) -> dict[str, float] | str:
        """Return the metrics, or what is not finite: the caller has the whole minibatch to show."""
        try:
            return self._worker.optimizer_step(minibatch, losses, entropy)
        except NonFinite as error:
            return error.what

    def save(self, folder: Path) -> None:
        self._worker.save(folder)

    def full_weights(self) -> Iterator[tuple[str, Tensor]]:
        """Each whole for a moment: copy it before taking the next."""
        for name, tensor in self._worker.named_weights():
            self.steps += 1
            yield name, tensor

    def weight_shapes(self) -> list[tuple[str, tuple[int, ...]]]:
        """Of the whole tensors, without gathering any."""
        named = self._worker.model.named_parameters()
        return [(name, tuple(p.ds_shape if hasattr(p, "ds_id") else p.shape)) for name, p in named]

    def weight(self, name: str) -> Tensor | None:
        """One whole tensor, from rank 0."""
        worker = self._worker
        with worker.ranks.gathered(worker.model.get_parameter(name)):
            whole = worker.model.get_parameter(name).detach()
            return whole.to("cpu", copy=True) if self.number == 0 else None

    def weight_buckets(self, size: int, dtype: str) -> Iterator[Bucket]:
        """See `simplerl.cluster.weights`; rank 0 alone yields."""
        yield from buckets(self.full_weights(), size, getattr(torch, dtype), keep=self.number == 0)

    def broadcast_weights(self, clients: Any, address: tuple[str, int], dtype: str) -> dict[str, int]:
        """See `simplerl.cluster.nccl`; rank 0 sends."""
        from simplerl.cluster.nccl import RankWeights, broadcast

        weights = RankWeights(self.full_weights, self.weight_shapes(), getattr(torch, dtype))
        return broadcast(self.number, weights, clients, address)

    @ray.method(concurrency_group="control")
    def progress(self) -> int:
        """Grows as long as this rank does something."""
        return self.steps

    @ray.method(concurrency_group="control")
    def process(self) -> Process:
        return this_process()

    @ray.method(concurrency_group="control")
    def stacks(self) -> str:
        return thread_stacks()


@dataclass(frozen=True)
class Place:
    """Of one rank: a Ray scheduling strategy and what the rank takes of it."""

    strategy: Any
    cpus: float = 1.0
    gpus: float = 0.0


@dataclass
class RankGroup(Updates):
    """Ranks that jointly hold one model; a `simplerl.backends.roles.Trainable`."""

    role: str
    places: Sequence[Place]
    limits: Limits
    environment: dict[str, str] = field(default_factory=dict)
    threads: int | None = None  # of torch, in each rank

    def __post_init__(self) -> None:
        remote: Any = ray.remote
        kind = remote(concurrency_groups={"control": 1})(Rank)
        self.actors = [
            kind.options(
                num_cpus=place.cpus,
                num_gpus=place.gpus,
                scheduling_strategy=place.strategy,
                runtime_env={"env_vars": self.environment},
            ).remote(self.role, number)
            for number, place in enumerate(self.places)
        ]

    def start(self, build: Build, sharding: Sharding, optimizer: Path | None = None) -> RankGroup:
        """Loads the model on all ranks. Raises `Lost` when a rank ends or takes longer than the limit."""
        seconds = self.limits.start_seconds
        (address,) = self._results([self.actors[0].address.remote()], seconds, "start")
        self._all("join", len(self.actors), address, seconds, self.threads, silence=seconds)
        logger.info("%s: process %s", self.role, ", ".join(map(str, self._all("process", silence=seconds))))
        self._all("build", build, sharding, optimizer, silence=seconds)
        return self

    def _results(self, references: list[Any], silence: float | None, doing: str) -> list[Any]:
        return wait_for_results(self.role, self.actors, references, silence or self.limits.silence_seconds, doing)

    def _all(self, method: str, *arguments: Any, silence: float | None = None) -> list[Any]:
        """The same call on every rank; large arguments are sent once for all."""
        return self._results([getattr(actor, method).remote(*arguments) for actor in self.actors], silence, method)

    def infer(self, batch: Batch, entropy: bool = True) -> tuple[Tensor, ...]:
        parts = deal(batch.attention.sum(-1), len(self.actors))
        calls = [
            actor.infer.remote(shard(batch, rows), entropy) for actor, rows in zip(self.actors, parts, strict=True)
        ]
        outputs = self._results(calls, None, "infer")
        whole = tuple(torch.zeros(batch.tokens.shape) for _ in outputs[0])
        for rows, columns in zip(parts, outputs, strict=True):
            for target, column in zip(whole, columns, strict=True):
                if len(rows):
                    target[rows, : column.shape[1]] = column
        return whole

    def optimizer_step(self, minibatch: Batch, losses: Sequence[Loss], entropy: bool = False) -> dict[str, float]:
        parts = deal(minibatch.attention.sum(-1), len(self.actors))
        calls = [
            actor.optimizer_step.remote(shard(minibatch, rows), losses, entropy)
            for actor, rows in zip(self.actors, parts, strict=True)
        ]
        metrics: dict[str, float] | str = self._results(calls, None, "update")[0]
        if isinstance(metrics, str):
            raise NonFinite(metrics, minibatch)
        return metrics

    def named_weights(self) -> Iterator[tuple[str, Tensor]]:
        """Into this process, for a sampler that lives here; engines are fed by `simplerl.cluster.weights`."""
        names = [name for name, _ in self._results([self.actors[0].weight_shapes.remote()], None, "weights")[0]]
        for name in names:
            yield name, self._all("weight", name)[0]

    def save(self, folder: Path) -> None:
        self._all("save", folder)

    def close(self) -> None:
        for actor in self.actors:
            ray.kill(actor)


def leave_with_parent() -> None:
    """Ends this process when its raylet is gone, whatever it is doing."""
    import threading
    import time

    parent = os.getppid()

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(1.0)
        os._exit(1)

    threading.Thread(target=watch, name="leave-with-parent", daemon=True).start()
