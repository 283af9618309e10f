"""One vLLM engine as a Ray actor: takes requests, steps for a slice of time, gives what is finished."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import ray
from transformers import PreTrainedTokenizerBase

from simplerl.cluster import stacks
from simplerl.cluster.weights import Header, unpacked
from simplerl.config import ModelConfig
from simplerl.samplers.stopping import StopRule
from simplerl.samplers.vllm import EngineSettings, prepare_import
from simplerl.types import Sampling, Stop


@dataclass(frozen=True)
class Request:
    """One response to draw."""

    name: str
    token_ids: tuple[int, ...]  # of the prompt
    key: int  # 63 bits, seeds the draws
    sampling: Sampling
    stop: Stop


@dataclass(frozen=True)
class Response:
    name: str
    text: str
    token_ids: tuple[int, ...]  # [L]
    logprobs: tuple[float, ...]  # [L]
    finish_reason: str


@dataclass(frozen=True)
class Report:
    """What one slice of time brought."""

    finished: list[Response]
    rows: int  # responses still here
    remaining_tokens: int  # the most they may still grow
    busy: float  # seconds of the slice with something to do
    tokens: int  # of the finished responses


class EngineActor:
    """Methods run one after the other; `stacks` answers beside them."""

    def __init__(
        self,
        model: ModelConfig,
        tokenizer: PreTrainedTokenizerBase,
        settings: EngineSettings,
        environment: Mapping[str, str],
    ) -> None:
        os.environ.update(environment)
        os.environ.setdefault("VLLM_CPU_OMP_THREADS_BIND", "nobind")  # else engines of one node bind to the same cores
        prepare_import()
        from simplerl.samplers.vllm_engine import VllmEngine

        self._rule = lru_cache(maxsize=8)(lambda stop: StopRule(tokenizer, stop))
        self.engine = VllmEngine(model, settings)
        self._stops: dict[str, Stop] = {}
        self._loading = False

    def ready(self) -> stacks.Process:
        """Once the engine has started."""
        return stacks.this_process()

    def advance(self, requests: Sequence[Request], seconds: float) -> Report:
        """Takes the requests, and works for about `seconds`, or until nothing is left."""
        for request in requests:
            self.engine.add(request.name, request.token_ids, request.key, request.sampling, request.stop)
            self._stops[request.name] = request.stop
        begin, finished = time.monotonic(), []
        while self.engine.running and time.monotonic() - begin < seconds:
            for done in self.engine.step():
                text = self._rule(self._stops.pop(done.name)).text(done.token_ids)
                finished.append(Response(done.name, text, done.token_ids, done.logprobs, done.finish_reason))
        return Report(
            finished,
            rows=len(self.engine.running),
            remaining_tokens=self.engine.remaining_tokens(),
            busy=time.monotonic() - begin,
            tokens=sum(len(response.token_ids) for response in finished),
        )

    def abort(self) -> None:
        self.engine.abort()
        self._stops.clear()

    def start_weights(self) -> None:
        if self._loading:  # the last sync broke off: its half-loaded weights are overwritten by this one
            self.engine.finish_weights()
        self.engine.start_weights()
        self._loading = True

    def load_weights(self, header: Header, data: np.ndarray) -> None:
        self.engine.load_weights(unpacked(header, data))

    def finish_weights(self) -> None:
        self.engine.finish_weights()
        self._loading = False

    def checksums(self) -> dict[str, int]:
        return self.engine.checksums()

    def transfer(self, method: str, *arguments: Any) -> None:
        """A method of vLLM's weight-transfer interface, in all of this engine's workers (`simplerl.cluster.nccl`)."""
        self.engine.llm.collective_rpc(method, args=arguments)

    def sleep(self) -> bool:
        """Gives the GPU's memory back, weights and cache; they must be synced after `wake`. Whether it did: a CPU
        engine releases nothing."""
        return self.engine.sleep()

    def wake(self, tags: list[str] | None) -> None:
        """tags: "weights", "kv_cache"; None for both."""
        self.engine.wake(tags)

    @ray.method(concurrency_group="control")
    def stacks(self) -> str:
        return stacks.stacks()
