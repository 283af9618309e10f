"""Defines a training rank for tests of what takes weights from ranks: weights and nothing else."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import ray
import torch
from safetensors.torch import load_file
from torch import Tensor

from simplerl.cluster.health import thread_stacks
from simplerl.cluster.weights import Bucket, buckets
from simplerl.engine.tensors import tensor_checksum


class RankAlone:
    """Holds the weights at `path`, as all ranks do, changed by `scale`. transformers, slow to import, is not needed."""

    def __init__(self, path: str, number: int = 0) -> None:
        self.weights = load_file(Path(path, "model.safetensors"))
        self.number = number
        self.asked = 0
        self.pause = 0.0
        self.fault: str | None = None

    def change(self, scale: float, pause: float = 0.0, fault: str | None = None) -> None:
        """Other weights; from now on rests `pause` seconds after each weight, and in its middle does `fault`."""
        for weight in self.weights.values():
            weight.mul_(scale)
        self.pause, self.fault = pause, fault

    def checksums(self) -> dict[str, int]:
        """What an engine must say: the tied head has an entry of its own."""
        sums = {name: tensor_checksum(weight) for name, weight in self.weights.items()}
        return sums | {"lm_head.weight": sums["model.embed_tokens.weight"]}

    def full_weights(self) -> Iterator[tuple[str, Tensor]]:
        for count, (name, weight) in enumerate(self.weights.items()):
            yield name, weight
            time.sleep(self.pause)
            if count == 20 and self.fault == "hang":
                time.sleep(3600)
            if count == 20 and self.fault == "die":
                os.kill(os.getpid(), 9)
            if count == 20 and self.fault == "raise":
                raise KeyError("no such weight")

    def weight_buckets(self, size: int, dtype: str) -> Iterator[Bucket]:
        self.asked += 1
        yield from buckets(self.full_weights(), size, getattr(torch, dtype), keep=self.number == 0)

    @ray.method(concurrency_group="control")
    def times_asked(self) -> int:
        return self.asked

    @ray.method(concurrency_group="control")
    def stacks(self) -> str:
        return thread_stacks()


def rank(path: str, number: int = 0) -> Any:
    remote: Any = ray.remote
    here = {"env_vars": {"PYTHONPATH": os.path.dirname(__file__)}}
    return remote(concurrency_groups={"control": 1}, runtime_env=here)(RankAlone).remote(path, number)
