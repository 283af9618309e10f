"""Runs one vLLM engine in a Ray actor: it takes requests, works for a slice of time and returns finished responses.

`EngineSlot` is the pool's record of one engine."""

from __future__ import annotations

import os
import time
from collections import deque
from collections.abc import Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

import numpy as np
import ray
from transformers import PreTrainedTokenizerBase

from simplerl.cluster.health import Process, this_process, thread_stacks
from simplerl.cluster.weights import Header, unpack
from simplerl.config import ModelConfig
from simplerl.samplers.stopping import StopRule
from simplerl.samplers.vllm import EngineSettings, prepare_import
from simplerl.types import Sampling, Stop


@dataclass(frozen=True)
class EngineRequest:
    """Asks an engine for one response to a prompt. name: identifies the request in the engine's reports."""

    name: str
    token_ids: tuple[int, ...]  # tokens of the prompt
    key: int  # 63-bit seed of the sampling
    sampling: Sampling
    stop: Stop


@dataclass(frozen=True)
class EngineResponse:
    """Holds the finished response of L tokens to the request of the same name."""

    name: str
    text: str
    token_ids: tuple[int, ...]  # [L]
    logprobs: tuple[float, ...]  # [L]
    finish_reason: str  # FINISH_STOP | FINISH_LENGTH


@dataclass(frozen=True)
class EngineReport:
    """Reports the work of one call of `EngineActor.advance`."""

    finished: list[EngineResponse]
    rows: int  # unfinished responses in the engine
    remaining_tokens: int  # upper bound on the tokens that they can still generate
    busy: float  # seconds of the call during which the engine was generating


class EngineActor:
    """Runs a vLLM engine. Methods run one after the other, except `stacks`, which answers at any time.

    environment: variables that are set in this process before vLLM is imported.
    """

    def __init__(
        self,
        model: ModelConfig,
        tokenizer: PreTrainedTokenizerBase,
        settings: EngineSettings,
        environment: Mapping[str, str],
    ) -> None:
        os.environ.update(environment)
        # Otherwise all engines of a node would bind to the same cores.
        os.environ.setdefault("VLLM_CPU_OMP_THREADS_BIND", "nobind")
        prepare_import()
        from simplerl.samplers.vllm_engine import VllmEngine

        self._rule = lru_cache(maxsize=8)(lambda stop: StopRule(tokenizer, stop))
        self.engine = VllmEngine(model, settings)
        self._stops: dict[str, Stop] = {}
        self._loading = False

    def ready(self) -> Process:
        """Return the id and host of this process, once the engine has started."""
        return this_process()

    def advance(self, requests: Sequence[EngineRequest], seconds: float) -> EngineReport:
        """Add the requests, then generate for about `seconds` or until no request is left."""
        for request in requests:
            self.engine.add(request.name, request.token_ids, request.key, request.sampling, request.stop)
            self._stops[request.name] = request.stop
        begin, finished = time.monotonic(), []
        while self.engine.running and time.monotonic() - begin < seconds:
            for done in self.engine.step():
                text = self._rule(self._stops.pop(done.name)).text(done.token_ids)
                finished.append(EngineResponse(done.name, text, done.token_ids, done.logprobs, done.finish_reason))
        return EngineReport(
            finished,
            rows=len(self.engine.running),
            remaining_tokens=self.engine.remaining_tokens(),
            busy=time.monotonic() - begin,
        )

    def abort(self) -> None:
        """Drop all unfinished requests."""
        self.engine.abort()
        self._stops.clear()

    def start_weights(self) -> None:
        if self._loading:  # the previous sync was interrupted; this one overwrites its partially loaded weights
            self.engine.finish_weights()
        self.engine.start_weights()
        self._loading = True

    def load_weights(self, header: Header, data: np.ndarray) -> None:
        self.engine.load_weights(unpack(header, data))

    def finish_weights(self) -> None:
        self.engine.finish_weights()
        self._loading = False

    def checksums(self) -> dict[str, int]:
        return self.engine.checksums()

    def transfer(self, method: str, *arguments: Any) -> None:
        """Call a method of vLLM's weight-transfer interface in this engine's workers (see `simplerl.cluster.nccl`)."""
        self.engine.llm.collective_rpc(method, args=arguments)

    def sleep(self) -> bool:
        """Move the weights to host memory and release the KV cache until `wake`. Returns False for a CPU engine, which
        releases nothing."""
        return self.engine.sleep()

    def wake(self) -> None:
        """Allocate the GPU memory that `sleep` released, and move the weights back."""
        self.engine.wake(None)

    @ray.method(concurrency_group="control")
    def stacks(self) -> str:
        return thread_stacks()


@dataclass
class EngineSlot:
    """Records one engine and the requests assigned to it. The slot outlives the engine: if the engine dies, a new one
    is started in the same slot."""

    name: str
    scheduling_strategy: Any  # Ray's scheduling strategy: where the engine runs
    actor: Any = None  # None while no engine is ready
    assigned: dict[str, EngineRequest] = field(default_factory=dict)  # unfinished requests by name
    unsent: list[EngineRequest] = field(default_factory=list)  # those of `assigned` not yet sent to the engine
    calls: deque[ray.ObjectRef] = field(default_factory=deque)  # pending calls of `EngineActor.advance`
    last_reply: float = 0.0  # time of the last answer, or of the first call after idling
    remaining_tokens: int = 0  # upper bound on the tokens that `assigned` can still generate
    starting: Future[Any] | None = None  # its result is the next engine, once that is ready
    starting_actor: Any = None  # the engine that is starting, before it is ready

    def clear(self) -> None:
        self.assigned, self.unsent, self.remaining_tokens = {}, [], 0
        self.calls.clear()


def assign_requests(queue: deque[EngineRequest], slots: Sequence[EngineSlot], capacity: int) -> None:
    """Move requests from the head of the queue to the slots with the fewest remaining tokens, until every slot holds
    `capacity` requests. Requests of one prompt go to the same engine as far as they fit, for its prefix cache."""
    while queue:
        free = [slot for slot in slots if len(slot.assigned) < capacity]
        if not free:
            return
        slot = min(free, key=lambda slot: slot.remaining_tokens)
        prompt = queue[0].token_ids
        while queue and queue[0].token_ids is prompt and len(slot.assigned) < capacity:
            request = queue.popleft()
            slot.assigned[request.name] = request
            slot.unsent.append(request)
            slot.remaining_tokens += request.sampling.max_new_tokens
