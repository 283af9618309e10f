"""A pool of vLLM engines as one `Sampler`: requests go to whoever has least left to do, responses come as they finish.

An engine holds at most `max_rows` responses and a small reserve; the rest waits in one queue, so that no engine stands
still while another has a queue of its own. An engine that dies or falls silent is started again with the current
weights, and its unfinished responses are drawn again from the same seeds, by whichever engine has room.
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

from simplerl.backends import Lost
from simplerl.cluster.dispatch import Seat, deal
from simplerl.cluster.engine_actor import EngineActor, Report, Request, Response
from simplerl.cluster.stacks import DEATHS, stacks_of
from simplerl.cluster.weights import Source, answers_of, failed, from_process, from_ranks, how_it_died, keeping, send
from simplerl.config import ModelConfig
from simplerl.samplers.vllm import EngineSettings, prepare_import, request_seed
from simplerl.types import Prompt, Rollout, Sampling, Stop

logger = logging.getLogger(__name__)

_SLICE = 0.25  # seconds of work per call
_CALLS = 2  # under way per engine: the next is there when one ends
_LOOK = 1.0  # seconds between two looks at silent engines
CLOSE_SECONDS = 30.0  # that a thread which draws gets to notice the end


class EnginePool:
    """See `simplerl.samplers.Sampler`. Ray must have been initialised.

    model: its path is a folder or hub id with config and tokenizer, on every node.
    precision ... sleeps: see `simplerl.samplers.vllm.EngineSettings`.
    strategies: a Ray scheduling strategy for each engine; cpus and gpus: what each takes of it; env: its environment.
    bucket_mib: size of the parts in which weights travel.
    keep_weights: the last synced weights stay in the object store, for engines that are restarted while the ranks that
    gave them already train on; otherwise these ranks are asked again.
    nccl: syncs go by NCCL broadcast between GPUs instead of the object store (not run here).
    reserve: responses that an engine holds beyond its max_rows, so that a free row never waits.
    start_seconds, silence_seconds: without an answer; then the engine is killed and replaced.
    max_restarts: of all engines together, before a batch of responses is finished; then
      `simplerl.backends.Lost` is raised.
    """

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerBase,
        model: ModelConfig,
        *,
        engines: int = 1,
        tensor_parallel: int = 1,
        precision: str = "bfloat16",
        cache_gib: float | None = 2.0,
        max_rows: int = 256,
        eager: bool | None = None,
        engine: dict[str, Any] | None = None,
        sleeps: bool = False,
        from_path: bool = False,
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
    ) -> None:
        prepare_import()
        self.tokenizer, self.model, self.env = tokenizer, model, env or {}
        self.settings = EngineSettings(
            precision=precision,
            cache_gib=cache_gib,
            max_rows=max_rows,
            eager=eager,
            engine=engine or {},
            tensor_parallel=tensor_parallel,
            sleeps=sleeps,
            from_path=from_path,
        )
        self.cpus, self.gpus = cpus, gpus
        self.bucket_bytes, self.keep_weights, self.nccl = bucket_mib * 2**20, keep_weights, nccl
        self.room = max_rows + reserve
        self.start_seconds, self.silence_seconds, self.max_restarts = start_seconds, silence_seconds, max_restarts
        self.restarts = self._in_a_row = 0
        self.metrics: dict[str, float] = {}
        self._source: Source | None = None
        self._generating = self._closed = False
        self._working = threading.Lock()  # held by a thread that talks to engines in order to draw
        self._calls = 0
        places = strategies if strategies is not None else ["DEFAULT"] * engines
        self._seats = [Seat(f"vLLM engine {i}", place) for i, place in zip(range(engines), places, strict=True)]
        for seat in self._seats:
            self._send_for(seat)
        self._welcome(wait=True)

    # Engines come and go

    def _send_for(self, seat: Seat) -> None:
        """A new engine, without weights, on its way in a thread of its own."""
        coming = Future[Any]()

        def start() -> None:
            try:
                coming.set_result(self._started(seat))
            except BaseException as error:  # raised where the result is asked for
                coming.set_exception(error)

        seat.coming = coming
        threading.Thread(target=start, name=f"start of {seat.name}", daemon=True).start()

    def _started(self, seat: Seat) -> Any:
        remote: Any = ray.remote
        kind = remote(concurrency_groups={"control": 1})(EngineActor)
        options = {"num_cpus": self.cpus, "num_gpus": self.gpus, "scheduling_strategy": seat.strategy}
        actor = kind.options(**options).remote(self.model, self.tokenizer, self.settings, self.env)
        seat.next = actor
        lost: dict[str, str] = {}
        answers = answers_of({seat.name: (actor, actor.ready.remote())}, self.start_seconds, lost)
        if lost:
            raise Lost(seat.name, f"it did not start: {lost[seat.name]}")
        logger.info("%s: process %s", seat.name, answers[seat.name])
        return actor

    def _replace(self, seat: Seat, reason: str) -> list[Request]:
        """Another engine in place of one that is gone. Returns what that one has left undone."""
        undone = list(seat.held.values())
        self._clear(seat)
        seat.actor = None
        self.restarts += 1
        self._in_a_row += 1
        if self._in_a_row > self.max_restarts:
            raise Lost(seat.name, f"{reason}; all max_restarts={self.max_restarts} restarts of engines are used up")
        logger.warning("%s is started again (%s); responses to be drawn again: %d", seat.name, reason, len(undone))
        self._send_for(seat)
        return undone

    def _clear(self, seat: Seat) -> None:
        seat.held, seat.fresh, seat.remaining = {}, [], 0
        seat.calls.clear()

    def _welcome(self, wait: bool = False) -> None:
        """Seats engines that have started, with the current weights; one that failed on its way is replaced.

        Weights are fetched here and not in the starting thread: ranks that work together must be asked for everything
        in one order, by one thread."""
        for seat in self._seats:
            while seat.coming is not None and (wait or seat.coming.done()):
                coming, seat.coming = seat.coming, None
                try:
                    actor = coming.result()
                except Lost as error:
                    self._replace(seat, str(error))
                    continue
                lost = send(self._source, {seat.name: actor}, self.silence_seconds).lost if self._source else {}
                if lost:
                    self._replace(seat, lost[seat.name])
                else:
                    seat.actor = actor

    # Weights

    def load_weights(self, weights: Iterable[tuple[str, Tensor]]) -> None:
        """Weights of this process, under Hugging Face names. A copy stays in Ray's object store."""
        self._source = None
        self._sync(from_process(weights, self.bucket_bytes, getattr(torch, self.settings.precision)))

    def sync(self, ranks: Sequence[Any]) -> None:
        """The weights of the policy's ranks (all of them; see `simplerl.cluster.weights.from_ranks`)."""
        self._source = None
        source = from_ranks(ranks, self.bucket_bytes, self.settings.precision, self.silence_seconds)
        source = keeping(source) if self.keep_weights else source
        if not self.nccl:
            self._sync(source)
            return
        self._broadcast(ranks)
        if self.keep_weights:
            deque(source(), maxlen=0)
        self._source = source

    def _broadcast(self, ranks: Sequence[Any]) -> None:
        """GPUs only and not run here; see `simplerl.cluster.nccl`."""
        from simplerl.cluster.nccl import send_by_nccl

        begin = time.monotonic()
        self._welcome(wait=True)
        engines = {seat.name: seat.actor for seat in self._seats}
        send_by_nccl(ranks, engines, self.settings.tensor_parallel, self.settings.precision, self.silence_seconds)
        self.metrics |= {"time/engine_sync": time.monotonic() - begin}

    def _sync(self, source: Source) -> None:
        if self._generating:
            raise RuntimeError("weights came while responses are drawn with the old ones")
        begin, moved, pending = time.monotonic(), 0, list(self._seats)
        while pending:
            self._welcome(wait=True)
            sent = send(source, {seat.name: seat.actor for seat in pending}, self.silence_seconds)
            moved += sent.bytes
            pending = [seat for seat in pending if seat.name in sent.lost]
            for seat in pending:
                self._replace(seat, sent.lost[seat.name])
        self._source = source
        self.metrics |= {"time/engine_sync": time.monotonic() - begin, "rollout/sync_mib": moved / 2**20}

    def sleep(self) -> None:
        """Gives the engines' GPU memory back until `wake`; a CPU engine releases nothing."""
        self._call(self._seats, "sleep")

    def wake(self, tags: list[str] | None = None) -> None:
        """tags: "weights" (then sync), "kv_cache"; None for both."""
        self._call(self._seats, "wake", tags)

    def checksums(self) -> list[dict[str, int]]:
        """Of the weights in each engine; see `simplerl.samplers.vllm_engine.VllmEngine.checksums`."""
        self._welcome(wait=True)
        answers = self._call(self._seats, "checksums")
        return [answers[seat.name] for seat in self._seats if seat.name in answers]

    def _call(self, seats: Sequence[Seat], method: str, *arguments: Any) -> dict[str, Any]:
        lost: dict[str, str] = {}
        present = {seat.name: seat for seat in seats if seat.actor is not None}
        calls = {name: (seat.actor, getattr(seat.actor, method).remote(*arguments)) for name, seat in present.items()}
        answers = answers_of(calls, self.silence_seconds, lost)
        for name, reason in lost.items():
            self._replace(present[name], reason)
        return answers

    # Responses

    def generate(
        self, prompts: Sequence[Prompt], sampling: Sampling, stop: Stop, samples: int, seed: int, step: int
    ) -> Iterator[Rollout]:
        if self._generating:
            raise RuntimeError("this pool is already drawing responses: finish or close that stream first")
        if self._source is None and not self.settings.from_path:
            raise RuntimeError("the engines hold no weights yet: sync them first")
        self._generating = True
        self._calls += 1
        waiting: dict[str, tuple[Prompt, int]] = {}
        queue: deque[Request] = deque()
        for number, prompt in enumerate(prompts):
            for sample in range(samples):
                name, key = f"{self._calls}-{number}-{sample}", request_seed(seed, step, prompt, sample)
                waiting[name] = (prompt, sample)
                queue.append(Request(name, prompt.token_ids, key, sampling, stop))
        begin, busy = time.monotonic(), 0.0
        try:
            while waiting:
                with self._working:
                    if self._closed:
                        raise RuntimeError("the engines were closed while responses were drawn")
                    self._feed(queue)
                    reports = list(self._reports(queue))
                for report in reports:
                    busy += report.busy
                    for response in report.finished:
                        yield _rollout(*waiting.pop(response.name), response)
            self._in_a_row = 0
            seconds = time.monotonic() - begin
            self.metrics |= {
                "time/engine_utilisation": busy / (len(self._seats) * seconds),
                "time/engine_restarts": float(self.restarts),
            }
        finally:
            self._generating = False
            self._abort()

    def _feed(self, queue: deque[Request]) -> None:
        present = [seat for seat in self._seats if seat.actor is not None]
        deal(queue, present, self.room)
        for seat in present:
            while seat.held and len(seat.calls) < _CALLS:
                if not seat.calls:
                    seat.heard = time.monotonic()
                seat.calls.append(seat.actor.advance.remote(seat.fresh, _SLICE))
                seat.fresh = []

    def _reports(self, queue: deque[Request]) -> Iterator[Report]:
        """Waits for news, for at most a moment. What a lost engine left undone goes back to the head of the queue."""
        self._welcome()
        first = {seat.calls[0]: seat for seat in self._seats if seat.calls}
        coming = any(seat.coming is not None for seat in self._seats)
        if not first:
            time.sleep(_SLICE if coming else 0.0)
            return
        ready, _ = ray.wait(list(first), num_returns=1, timeout=_LOOK)
        ready = ray.wait(list(first), num_returns=len(first), timeout=0)[0] if ready else []
        for reference in ready:
            seat = first[reference]
            try:
                report: Report = ray.get(reference)
            except DEATHS as error:
                queue.extendleft(reversed(self._replace(seat, how_it_died(error))))
                continue
            except ray.exceptions.RayTaskError as error:  # a worker of it has died, say, or its GPU failed
                queue.extendleft(reversed(self._replace(seat, failed(seat.name, seat.actor, error))))
                continue
            seat.calls.popleft()
            seat.heard = time.monotonic()
            for response in report.finished:
                del seat.held[response.name]
            unseen = [request.sampling.max_new_tokens for request in list(seat.held.values())[report.rows :]]
            seat.remaining = report.remaining_tokens + sum(unseen)
            yield report
        for seat in first.values():
            if seat.calls and time.monotonic() - seat.heard > self.silence_seconds:
                logger.error("%s is silent; its threads:\n%s", seat.name, stacks_of(seat.actor))
                ray.kill(seat.actor)
                queue.extendleft(reversed(self._replace(seat, f"it was silent for {self.silence_seconds:g} s")))

    def _abort(self) -> None:
        """Nothing stays in any engine, also where the consumer left early."""
        if self._closed:
            return
        busy = [seat for seat in self._seats if seat.calls]
        for seat in self._seats:
            self._clear(seat)
        self._call(busy, "abort")

    # The end

    def pids(self) -> list[int]:
        """Process ids of the engines, each on its node."""
        self._welcome(wait=True)
        return [ray.get(seat.actor.ready.remote(), timeout=self.silence_seconds).pid for seat in self._seats]

    def close(self) -> None:
        """Also while another thread draws: it is left to end, for a call after Ray's end would start Ray again."""
        held = self._working.acquire(timeout=CLOSE_SECONDS)
        self._closed = True
        if held:
            self._working.release()
        for seat in self._seats:
            for actor in {seat.actor, seat.next} - {None}:
                ray.kill(actor)


def _rollout(prompt: Prompt, sample: int, response: Response) -> Rollout:
    return Rollout(prompt, sample, response.text, response.token_ids, response.logprobs, response.finish_reason)
