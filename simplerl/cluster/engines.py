"""Provides a pool of vLLM engines as one `Sampler`, which yields responses as they finish.

Each request goes to the engine with the least work left. An engine holds at most `max_rows` responses plus a small
reserve; all other requests wait in one shared queue, so that no engine idles while another still has a backlog. An
engine that dies or stops responding is replaced by a new one with the current weights, and its unfinished responses are
sampled again from the same seeds by whichever engine has capacity.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future
from typing import Any

import ray
import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from simplerl.cluster.engine_actor import EngineActor, EngineReport, EngineRequest, EngineSlot, assign_requests
from simplerl.cluster.health import DEATHS, stacks_of
from simplerl.cluster.weights import (
    Source,
    cached,
    call_results,
    death_reason,
    from_process,
    from_ranks,
    kill_failed,
    send_weights,
)
from simplerl.config import ModelConfig
from simplerl.errors import Lost
from simplerl.samplers.vllm import EngineSettings, prepare_import, request_seed
from simplerl.types import Prompt, Rollout, Sampling, Stop

logger = logging.getLogger(__name__)

SLICE_SECONDS = 0.25  # duration of one call of `EngineActor.advance`
CALLS_PER_ENGINE = 2  # pending calls per engine, so that it never waits for the next one
POLL_SECONDS = 1.0  # between two checks for engines that do not respond
CLOSE_SECONDS = 30.0  # how long `close` waits for a thread that is sampling


class EnginePool:
    """Samples with a pool of vLLM engines in Ray actors; see `simplerl.samplers.Sampler`. Ray must be initialised.

    model: its path is a folder or Hub id with config and tokenizer that every node can read.
    settings: keywords of `simplerl.samplers.vllm.EngineSettings`.
    cpus, gpus, strategies, env: resources of one engine, the Ray scheduling strategy of each, their environment.
    bucket_mib: size of the buckets in which weights are sent.
    keep_weights: keep the last synced weights in Ray's object store for restarted engines, because the policy is
      updated while engines sample; otherwise the policy's ranks send their weights again.
    nccl: sync by NCCL broadcast between GPUs instead of the object store (not tested: it needs GPUs).
    reserve: requests that an engine holds beyond max_rows, so that it starts one as soon as a row is free.
    start_seconds, silence_seconds: an engine that takes longer to start, or to answer, is killed and replaced.
    max_restarts: number of restarts, all engines together, since the last completed `generate`; after it the next
      failure raises `simplerl.errors.Lost`.
    """

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerBase,
        model: ModelConfig,
        *,
        engines: int = 1,
        cpus: float = 1.0,
        gpus: float = 0.0,
        strategies: Sequence[Any] | None = None,
        env: dict[str, str] | None = None,
        bucket_mib: int = 512,
        keep_weights: bool = False,
        nccl: bool = False,
        reserve: int = 8,
        start_seconds: float = 600.0,
        silence_seconds: float = 600.0,
        max_restarts: int = 3,
        **settings: Any,
    ) -> None:
        prepare_import()
        self.tokenizer, self.model, self.environment = tokenizer, model, env or {}
        self.settings = EngineSettings(**settings)
        self.resources, self.start_seconds = {"num_cpus": cpus, "num_gpus": gpus}, start_seconds
        self.bucket_bytes, self.keep_weights, self.nccl = bucket_mib * 2**20, keep_weights, nccl
        self.capacity = self.settings.max_rows + reserve
        self.silence_seconds, self.max_restarts = silence_seconds, max_restarts
        self.restarts = self._consecutive_restarts = 0
        self.metrics: dict[str, float] = {}
        self._source: Source | None = None
        self._generating = self._closed = False
        self._engine_calls = threading.Lock()  # held while `generate` calls engines
        self._generate_calls = 0
        self._queue: deque[EngineRequest] = deque()  # requests that are not assigned to an engine
        strategies = strategies if strategies is not None else ["DEFAULT"] * engines
        names = [f"vLLM engine {number}" for number in range(engines)]
        self._slots = [EngineSlot(name, strategy) for name, strategy in zip(names, strategies, strict=True)]
        for slot in self._slots:
            self._start_in_thread(slot)
        self._install_started(wait=True)

    # Starting and replacing engines

    def _start_in_thread(self, slot: EngineSlot) -> None:
        """Start an engine without weights in a thread; `slot.starting` is the future of the engine, or of the exception
        raised."""
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
        options = {**self.resources, "scheduling_strategy": slot.scheduling_strategy}
        actor = actor_class.options(**options).remote(self.model, self.tokenizer, self.settings, self.environment)
        slot.starting_actor = actor
        lost: dict[str, str] = {}
        answers = call_results({slot.name: (actor, actor.ready.remote())}, self.start_seconds, lost)
        if lost:
            raise Lost(slot.name, f"it did not start: {lost[slot.name]}")
        logger.info("%s: process %s", slot.name, answers[slot.name])
        return actor

    def _replace(self, slot: EngineSlot, reason: str) -> None:
        """Start a new engine in place of a lost one, whose unfinished requests return to the head of the queue. Raises
        `Lost` after more than `max_restarts` restarts since the last completed `generate`."""
        unfinished = len(slot.assigned)
        self._queue.extendleft(reversed(slot.assigned.values()))
        slot.clear()
        slot.actor = None
        self.restarts += 1
        self._consecutive_restarts += 1
        if self._consecutive_restarts > self.max_restarts:
            raise Lost(slot.name, f"{reason}; all max_restarts={self.max_restarts} restarts of engines are used up")
        logger.warning("restarting %s (%s); responses to sample again: %d", slot.name, reason, unfinished)
        self._start_in_thread(slot)

    def _install_started(self, wait: bool = False) -> None:
        """Send the current weights to engines that have started and make them available for requests; replace those
        that failed to start. `wait`: wait for the engines that are still starting.

        Weights are sent here and not in the starting thread: ranks that gather weights together must receive all calls
        in one order, hence from one thread."""
        for slot in self._slots:
            while slot.starting is not None and (wait or slot.starting.done()):
                starting, slot.starting = slot.starting, None
                try:
                    actor = starting.result()
                except Lost as error:
                    self._replace(slot, str(error))
                    continue
                lost: dict[str, str] = {}
                if self._source is not None:
                    _, lost = send_weights(self._source, {slot.name: actor}, self.silence_seconds)
                if lost:
                    self._replace(slot, lost[slot.name])
                else:
                    slot.actor = actor

    # Weights

    def load_weights(self, weights: Iterable[tuple[str, Tensor]]) -> None:
        """Send this process's weights, under Hugging Face names, to all engines. A copy stays in Ray's object store."""
        self._source = None
        self._sync(from_process(weights, self.bucket_bytes, getattr(torch, self.settings.precision)))

    def sync(self, ranks: Sequence[Any]) -> None:
        """Send the policy's weights from its ranks to all engines (see `simplerl.cluster.weights.from_ranks`)."""
        self._source = None
        source = from_ranks(ranks, self.bucket_bytes, self.settings.precision, self.silence_seconds)
        source = cached(source) if self.keep_weights else source
        if not self.nccl:
            self._sync(source)
            return
        from simplerl.cluster.nccl import send_by_nccl

        begin = time.monotonic()
        self._install_started(wait=True)
        engines = {slot.name: slot.actor for slot in self._slots}
        send_by_nccl(ranks, engines, self.settings.tensor_parallel, self.settings.precision, self.silence_seconds)
        self.metrics |= {"time/engine_sync": time.monotonic() - begin}
        if self.keep_weights:
            deque(source(), maxlen=0)
        self._source = source

    def _sync(self, source: Source) -> None:
        if self._generating:
            raise RuntimeError("weight sync while responses are being sampled: finish or close that stream first")
        begin, sent_bytes, pending = time.monotonic(), 0, list(self._slots)
        while pending:
            self._install_started(wait=True)
            size, lost = send_weights(source, {slot.name: slot.actor for slot in pending}, self.silence_seconds)
            sent_bytes += size
            pending = [slot for slot in pending if slot.name in lost]
            for slot in pending:
                self._replace(slot, lost[slot.name])
        self._source = source
        self.metrics |= {"time/engine_sync": time.monotonic() - begin, "rollout/sync_mib": sent_bytes / 2**20}

    def sleep(self) -> None:
        """Release the engines' GPU memory until `wake`; a CPU engine releases nothing."""
        self._call(self._slots, "sleep")

    def wake(self) -> None:
        """Allocate the GPU memory that `sleep` released, and move the weights back."""
        self._call(self._slots, "wake")

    def checksums(self) -> list[dict[str, int]]:
        """Return the checksums of each engine's weights; see `simplerl.samplers.vllm_engine.VllmEngine.checksums`."""
        self._install_started(wait=True)
        answers = self._call(self._slots, "checksums")
        return [answers[slot.name] for slot in self._slots if slot.name in answers]

    def _call(self, slots: Sequence[EngineSlot], method: str) -> dict[str, Any]:
        """Call a method of these slots' engines. Returns the results by name; engines that fail are replaced."""
        lost: dict[str, str] = {}
        present = {slot.name: slot for slot in slots if slot.actor is not None}
        calls = {name: (slot.actor, getattr(slot.actor, method).remote()) for name, slot in present.items()}
        answers = call_results(calls, self.silence_seconds, lost)
        for name, reason in lost.items():
            self._replace(present[name], reason)
        return answers

    # Responses

    def generate(
        self, prompts: Sequence[Prompt], sampling: Sampling, stop: Stop, samples: int, seed: int, step: int
    ) -> Iterator[Rollout]:
        if self._generating:
            raise RuntimeError("this pool is already sampling responses: finish or close that stream first")
        if self._source is None and not self.settings.from_path:
            raise RuntimeError("the engines have no weights yet: call sync or load_weights first")
        self._generating = True
        self._generate_calls += 1
        waiting: dict[str, tuple[Prompt, int]] = {}
        self._queue.clear()
        for number, prompt in enumerate(prompts):
            for sample in range(samples):
                name, key = f"{self._generate_calls}-{number}-{sample}", request_seed(seed, step, prompt, sample)
                waiting[name] = (prompt, sample)
                self._queue.append(EngineRequest(name, prompt.token_ids, key, sampling, stop))
        begin, busy = time.monotonic(), 0.0
        try:
            while waiting:
                with self._engine_calls:
                    if self._closed:
                        raise RuntimeError("the engines were closed while responses were being sampled")
                    self._submit()
                    reports = list(self._poll())
                for report in reports:
                    busy += report.busy
                    for response in report.finished:
                        prompt, sample = waiting.pop(response.name)
                        tokens, logprobs = response.token_ids, response.logprobs
                        yield Rollout(prompt, sample, response.text, tokens, logprobs, response.finish_reason)
            self._consecutive_restarts = 0
            seconds = time.monotonic() - begin
            self.metrics |= {
                "time/engine_utilisation": busy / (len(self._slots) * seconds),
                "time/engine_restarts": float(self.restarts),
            }
        finally:
            self._generating = False
            self._abort()

    def _submit(self) -> None:
        """Assign requests from the queue to engines, and keep `CALLS_PER_ENGINE` calls pending in each busy one."""
        present = [slot for slot in self._slots if slot.actor is not None]
        assign_requests(self._queue, present, self.capacity)
        for slot in present:
            while slot.assigned and len(slot.calls) < CALLS_PER_ENGINE:
                if not slot.calls:
                    slot.last_reply = time.monotonic()
                slot.calls.append(slot.actor.advance.remote(slot.unsent, SLICE_SECONDS))
                slot.unsent = []

    def _poll(self) -> Iterator[EngineReport]:
        """Wait up to `POLL_SECONDS` for reports, and replace lost engines."""
        self._install_started()
        slots = {slot.calls[0]: slot for slot in self._slots if slot.calls}
        if not slots:
            time.sleep(SLICE_SECONDS if any(slot.starting is not None for slot in self._slots) else 0.0)
            return
        ready, _ = ray.wait(list(slots), num_returns=1, timeout=POLL_SECONDS)
        ready = ray.wait(list(slots), num_returns=len(slots), timeout=0)[0] if ready else []
        for reference in ready:
            slot = slots[reference]
            try:
                report: EngineReport = ray.get(reference)
            except DEATHS as error:
                self._replace(slot, death_reason(error))
                continue
            except ray.exceptions.RayTaskError as error:  # for example, one of its workers died or its GPU failed
                self._replace(slot, kill_failed(slot.name, slot.actor, error))
                continue
            _record(slot, report)
            yield report
        for slot in slots.values():
            if slot.calls and time.monotonic() - slot.last_reply > self.silence_seconds:
                logger.error("%s does not respond; its threads:\n%s", slot.name, stacks_of(slot.actor))
                ray.kill(slot.actor)
                self._replace(slot, f"it did not respond for {self.silence_seconds:g} s")

    def _abort(self) -> None:
        """Drop all unfinished requests; there are some if the consumer of `generate` has stopped early."""
        if self._closed:
            return
        busy = [slot for slot in self._slots if slot.calls]
        for slot in self._slots:
            slot.clear()
        self._call(busy, "abort")

    def pids(self) -> list[int]:
        """Return the engines' process ids, each of which is valid on the node where that engine runs."""
        self._install_started(wait=True)
        return [ray.get(slot.actor.ready.remote(), timeout=self.silence_seconds).pid for slot in self._slots]

    def close(self) -> None:
        """Kill the engines. A thread that is sampling gets `CLOSE_SECONDS` to stop: if it called an engine after Ray's
        shutdown, Ray would start again."""
        held = self._engine_calls.acquire(timeout=CLOSE_SECONDS)
        self._closed = True
        if held:
            self._engine_calls.release()
        for slot in self._slots:
            for actor in {slot.actor, slot.starting_actor} - {None}:
                ray.kill(actor)


def _record(slot: EngineSlot, report: EngineReport) -> None:
    """Update the slot from its engine's report."""
    slot.calls.popleft()
    slot.last_reply = time.monotonic()
    for response in report.finished:
        del slot.assigned[response.name]
    not_received = [request.sampling.max_new_tokens for request in list(slot.assigned.values())[report.rows :]]
    slot.remaining_tokens = report.remaining_tokens + sum(not_received)
