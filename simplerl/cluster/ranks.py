"""Runs a model on several ranks, each a Ray actor, behind the interface of a `Worker`: rows are distributed over ranks.

The token weights of the loss are computed before rows are distributed, so the distribution does not change the loss.
Rows are balanced by length, so that all ranks compute about the same number of tokens; `simplerl.engine.worker` gives
all ranks the same number of micro-batches.
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
from simplerl.engine.lora import weights_of
from simplerl.engine.worker import UpdateMixin, Worker
from simplerl.errors import NonFinite
from simplerl.runs.provenance import MemoryMeter
from simplerl.types import Batch

logger = logging.getLogger(__name__)

BuildWorker = Callable[..., Worker]  # with keywords `ranks` and `device`


def balanced_partition(lengths: Tensor, ranks: int) -> list[Tensor]:
    """Distribute rows over ranks so that the sums of their `lengths` [B] are about equal: each row, longest first, goes
    to the rank with the fewest tokens. Returns ascending row indices per rank; some are empty if rows are too few."""
    tokens, rows = [0] * ranks, [[] for _ in range(ranks)]  # type: tuple[list[int], list[list[int]]]
    for row in torch.argsort(lengths, descending=True, stable=True).tolist():
        rank = min(range(ranks), key=lambda rank: (tokens[rank], len(rows[rank])))
        tokens[rank] += int(lengths[row])
        rows[rank].append(row)
    return [torch.tensor(sorted(own), dtype=torch.int64) for own in rows]


def rank_batch(batch: Batch, rows: Tensor) -> Batch:
    """Return the rows of one rank or, if it has none, a single row with weight zero."""
    if len(rows):
        return batch.rows(rows)
    one = batch.rows(torch.tensor([0]))
    zeros = {"mask": torch.zeros_like(one.mask), "attention": torch.zeros_like(one.attention)}
    zeros["attention"][:, :2] = True
    if one.weights is not None:
        zeros["weights"] = torch.zeros_like(one.weights)
    return one.with_(**zeros).rows(torch.tensor([0]))


class RankActor:
    """Runs one rank in a Ray actor. All methods except those in the concurrency group "control" are collective: they
    must be called on all ranks together."""

    def __init__(self, role: str, number: int) -> None:
        self.role, self.number = role, number
        self.steps = 0
        self.worker: Worker | None = None
        exit_with_parent()

    def address(self) -> tuple[str, int]:
        """Return this host's address and a free port, for the rendezvous of the ranks."""
        host = ray.util.get_node_ip_address()
        with socket.socket() as one:
            one.bind(("", 0))
            return host, one.getsockname()[1]

    def join(self, size: int, address: tuple[str, int], seconds: float, threads: int | None) -> None:
        """Join the process group of `size` ranks that meet at `address`. Raises an error if the others do not join
        within `seconds`, which also limits each later collective operation. threads: of PyTorch in this process; None:
        its default."""
        import deepspeed

        os.environ |= {"RANK": str(self.number), "WORLD_SIZE": str(size), "LOCAL_RANK": "0"}
        os.environ |= {"MASTER_ADDR": address[0], "MASTER_PORT": str(address[1])}
        if threads is not None:
            torch.set_num_threads(threads)
        # Do not compile DeepSpeed's shared-memory all-reduce for inference on CPUs, which is not used here.
        deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
        backend = "nccl" if torch.cuda.is_available() else "gloo"
        deepspeed.init_distributed(dist_backend=backend, timeout=timedelta(seconds=seconds), verbose=False)

    def build(self, build: BuildWorker, sharding: Sharding, optimizer: Path | None) -> None:
        """Build the worker by `build(ranks=..., device=...)`, and load the optimizer state from the checkpoint folder
        `optimizer`, if given."""
        from simplerl.cluster.zero import DistributedRanks

        self.meter = MemoryMeter.begin()
        device = "cuda" if torch.cuda.is_available() else "cpu"
        self.worker = build(ranks=DistributedRanks(sharding), device=device)
        run = self.worker.run_forward

        def counted(*arguments: Any) -> tuple[Tensor, ...]:
            self.steps += 1
            return run(*arguments)

        self.worker.run_forward = counted
        if optimizer is not None:
            self.worker.load_optimizer(optimizer)

    @property
    def _worker(self) -> Worker:
        assert self.worker is not None, f"{self.role} rank {self.number} holds no model yet"
        return self.worker

    def infer(self, batch: Batch, entropy: bool) -> tuple[Tensor, ...]:
        return self._worker.infer(batch, entropy)

    def optimizer_step(self, minibatch: Batch, losses: Sequence[Loss], entropy: bool) -> dict[str, float] | str:
        """Take an optimizer step. Returns the metrics, or the description of a NonFinite error, which the caller raises
        with the whole minibatch. entropy: whether the losses need the entropy."""
        try:
            return self._worker.optimizer_step(minibatch, losses, entropy)
        except NonFinite as error:
            return error.what

    def save(self, folder: Path) -> None:
        self._worker.save(folder)

    def full_weights(self) -> Iterator[tuple[str, Tensor]]:
        """Yield full, unsharded weights. A weight is valid only until the next one is requested."""
        for name, tensor in self._worker.named_weights():
            self.steps += 1
            yield name, tensor

    def weight_shapes(self) -> list[tuple[str, tuple[int, ...]]]:
        """Return name and full shape of each weight, without gathering any."""
        weights = [(one.name, one.base) for one in weights_of(self._worker.model)]
        return [(name, tuple(getattr(base, "ds_shape", base.shape))) for name, base in weights]

    def weight(self, name: str) -> Tensor | None:
        """Gather a weight and return it on rank 0, None elsewhere. Every rank must call it."""
        one = next(one for one in weights_of(self._worker.model) if one.name == name)
        with self._worker.ranks.gathered(one.parameters):
            return one.merged().to("cpu", copy=True) if self.number == 0 else None

    def weight_buckets(self, size: int, dtype: str) -> Iterator[Bucket]:
        """Yield the full weights in buckets on rank 0 (see `simplerl.cluster.weights`). The other ranks yield nothing,
        but must exhaust the iterator too, because gathering is collective."""
        yield from buckets(self.full_weights(), size, getattr(torch, dtype), keep=self.number == 0)

    def broadcast_weights(self, clients: Any, address: tuple[str, int], dtype: str) -> dict[str, int]:
        """Send the weights from rank 0 to the engines by NCCL, and return their checksums by name; see
        `simplerl.cluster.nccl`. Every rank must call it."""
        from simplerl.cluster.nccl import RankWeights, broadcast

        weights = RankWeights(self.full_weights, self.weight_shapes(), getattr(torch, dtype))
        return broadcast(self.number, weights, clients, address)

    @ray.method(concurrency_group="control")
    def progress(self) -> int:
        """Return a counter that increases while this rank makes progress."""
        return self.steps

    @ray.method(concurrency_group="control")
    def process(self) -> Process:
        return this_process()

    @ray.method(concurrency_group="control")
    def memory(self) -> dict[str, float]:
        """Return the peak memory since the model was loaded (see `MemoryMeter.peak`)."""
        return self.meter.peak()

    @ray.method(concurrency_group="control")
    def stacks(self) -> str:
        return thread_stacks()


@dataclass(frozen=True)
class ActorOptions:
    """Holds the Ray options of one actor."""

    strategy: Any  # Ray's scheduling strategy: where the actor runs
    cpus: float = 1.0
    gpus: float = 0.0


@dataclass
class RankGroup(UpdateMixin):
    """Controls the ranks that jointly hold one model; implements `simplerl.backends.roles.Trainable`."""

    role: str
    options: Sequence[ActorOptions]  # one per rank
    limits: Limits
    environment: dict[str, str] = field(default_factory=dict)
    threads: int | None = None  # CPU threads of PyTorch per rank

    def __post_init__(self) -> None:
        remote: Any = ray.remote
        kind = remote(concurrency_groups={"control": 1})(RankActor)
        self.actors = [
            kind.options(
                num_cpus=options.cpus,
                num_gpus=options.gpus,
                scheduling_strategy=options.strategy,
                runtime_env={"env_vars": self.environment},
            ).remote(self.role, number)
            for number, options in enumerate(self.options)
        ]

    def start(self, build: BuildWorker, sharding: Sharding, optimizer: Path | None = None) -> RankGroup:
        """Connect the ranks and load the model on each. Raises `Lost` if a rank dies or exceeds limits.start_seconds.
        optimizer: checkpoint folder with the optimizer state to resume from."""
        seconds = self.limits.start_seconds
        (address,) = self._results([self.actors[0].address.remote()], seconds, "start")
        self._all("join", len(self.actors), address, seconds, self.threads, silence=seconds)
        logger.info("%s: process %s", self.role, ", ".join(map(str, self._all("process", silence=seconds))))
        self._all("build", build, sharding, optimizer, silence=seconds)
        return self

    def _results(self, references: list[Any], silence: float | None, doing: str) -> list[Any]:
        return wait_for_results(self.role, self.actors, references, silence or self.limits.silence_seconds, doing)

    def _all(self, method: str, *arguments: Any, silence: float | None = None) -> list[Any]:
        """Call a method on every rank and return the results by rank. Raises `Lost` if a rank dies, or if none makes
        progress for `silence` seconds (None: limits.silence_seconds)."""
        return self._results([getattr(actor, method).remote(*arguments) for actor in self.actors], silence, method)

    def infer(self, batch: Batch, entropy: bool = True) -> tuple[Tensor, ...]:
        parts = balanced_partition(batch.attention.sum(-1), len(self.actors))
        calls = [
            actor.infer.remote(rank_batch(batch, rows), entropy) for actor, rows in zip(self.actors, parts, strict=True)
        ]
        outputs = self._results(calls, None, "infer")
        whole = tuple(torch.zeros(batch.tokens.shape) for _ in outputs[0])
        for rows, columns in zip(parts, outputs, strict=True):
            for target, column in zip(whole, columns, strict=True):
                if len(rows):
                    target[rows, : column.shape[1]] = column
        return whole

    def optimizer_step(self, minibatch: Batch, losses: Sequence[Loss], entropy: bool = False) -> dict[str, float]:
        parts = balanced_partition(minibatch.attention.sum(-1), len(self.actors))
        calls = [
            actor.optimizer_step.remote(rank_batch(minibatch, rows), losses, entropy)
            for actor, rows in zip(self.actors, parts, strict=True)
        ]
        metrics: dict[str, float] | str = self._results(calls, None, "update")[0]
        if isinstance(metrics, str):
            raise NonFinite(metrics, minibatch)
        return metrics

    def named_weights(self) -> Iterator[tuple[str, Tensor]]:
        """Yield the weights in the driver process, for a sampler that runs in it. vLLM engines receive them through
        `simplerl.cluster.weights`."""
        names = [name for name, _ in self._results([self.actors[0].weight_shapes.remote()], None, "weights")[0]]
        for name in names:
            yield name, self._all("weight", name)[0]

    def memory(self) -> dict[str, float]:
        """Return the peak memory in GiB by place ("host", "gpu"), each of the rank that used most there."""
        ranks = self._all("memory")
        return {place: max(rank[place] for rank in ranks) for place in ranks[0]}

    def save(self, folder: Path) -> None:
        self._all("save", folder)

    def close(self) -> None:
        for actor in self.actors:
            ray.kill(actor)


def exit_with_parent() -> None:
    """Start a thread that ends this process when its parent, the raylet, is gone."""
    import threading
    import time

    parent = os.getppid()

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(1.0)
        os._exit(1)

    threading.Thread(target=watch, name="exit-with-parent", daemon=True).start()
