"""Slots for vLLM engines: assigns requests to engines and starts engines in the background.

A slot outlives its engine: when an engine dies, another one is started in the same slot.
"""

from __future__ import annotations

import logging
import threading
from collections import deque
from collections.abc import Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any

import ray
from transformers import PreTrainedTokenizerBase

from simplerl.backends import Lost
from simplerl.cluster.engine_actor import EngineActor, EngineRequest
from simplerl.cluster.weights import call_results
from simplerl.config import ModelConfig
from simplerl.samplers.vllm import EngineSettings

logger = logging.getLogger(__name__)


@dataclass
class EngineSlot:
    """One engine's place in the pool, with the requests that it has been given."""

    name: str
    scheduling_strategy: Any  # of Ray: where the engine runs
    actor: Any = None  # None while no engine is ready
    assigned: dict[str, EngineRequest] = field(default_factory=dict)  # unfinished requests by name
    unsent: list[EngineRequest] = field(default_factory=list)  # those of `assigned` that the engine has not got yet
    calls: deque[ray.ObjectRef] = field(default_factory=deque)  # pending calls of `EngineActor.advance`
    last_reply: float = 0.0  # time of the last answer, or of the first call after idling
    remaining_tokens: int = 0  # upper bound on the tokens that `assigned` can still generate
    starting: Future[Any] | None = None  # result: the next engine once it is ready
    starting_actor: Any = None  # the same engine, as soon as it has a process

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


@dataclass(frozen=True)
class EngineStarter:
    """Starts engines without weights; the fields are those of `EnginePool`."""

    tokenizer: PreTrainedTokenizerBase
    model: ModelConfig
    settings: EngineSettings
    environment: Mapping[str, str]
    cpus: float
    gpus: float
    seconds: float  # until an engine must be ready

    def start_in_thread(self, slot: EngineSlot) -> None:
        """Start an engine for the slot in a thread; its result, or a `Lost`, appears in `slot.starting`."""
        starting = slot.starting = Future[Any]()

        def start() -> None:
            try:
                starting.set_result(self._start(slot))
            except BaseException as error:  # raised where the result is read
                starting.set_exception(error)

        threading.Thread(target=start, name=f"start of {slot.name}", daemon=True).start()

    def _start(self, slot: EngineSlot) -> Any:
        remote: Any = ray.remote
        actor_class = remote(concurrency_groups={"control": 1})(EngineActor)
        options = {"num_cpus": self.cpus, "num_gpus": self.gpus, "scheduling_strategy": slot.scheduling_strategy}
        actor = actor_class.options(**options).remote(self.model, self.tokenizer, self.settings, self.environment)
        slot.starting_actor = actor
        lost: dict[str, str] = {}
        answers = call_results({slot.name: (actor, actor.ready.remote())}, self.seconds, lost)
        if lost:
            raise Lost(slot.name, f"it did not start: {lost[slot.name]}")
        logger.info("%s: process %s", slot.name, answers[slot.name])
        return actor
