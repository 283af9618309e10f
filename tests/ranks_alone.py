"""A training rank for tests of what takes weights from ranks: a model and nothing else."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from typing import Any

import ray
import torch
from torch import Tensor
from transformers import AutoModelForCausalLM

from simplerl.cluster.health import thread_stacks
from simplerl.cluster.weights import Bucket, buckets
from simplerl.engine.tensors import tensor_checksum


class RankAlone:
    """Rank `number` of several that all hold the model at `path`, changed by `scale`."""

    def __init__(self, path: str, number: int = 0) -> None:
        self.model: Any = AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32)
        self.number = number
        self.asked = 0
        self.pause = 0.0
        self.fault: str | None = None

    def change(self, scale: float, pause: float = 0.0, fault: str | None = None) -> None:
        """Other weights; from now on rests `pause` seconds after each weight, and in its middle does `fault`."""
        with torch.no_grad():
            for parameter in self.model.parameters():
                parameter.mul_(scale)
        self.pause, self.fault = pause, fault

    def checksums(self) -> dict[str, int]:
        """What an engine must say: the tied head has an entry of its own."""
        sums = {name: tensor_checksum(weight) for name, weight in self.model.named_parameters()}
        return sums | {"lm_head.weight": sums["model.embed_tokens.weight"]}

    def full_weights(self) -> Iterator[tuple[str, Tensor]]:
        for count, (name, parameter) in enumerate(self.model.named_parameters()):
            yield name, parameter.detach()
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
