"""Who draws which response."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any

import ray

from simplerl.cluster.engine_actor import Request


@dataclass
class Seat:
    """An engine's place in the pool; the engine itself may be replaced."""

    name: str
    strategy: Any
    actor: Any = None  # None while no engine is there
    held: dict[str, Request] = field(default_factory=dict)  # dealt and not finished
    fresh: list[Request] = field(default_factory=list)  # dealt and not sent
    calls: deque[ray.ObjectRef] = field(default_factory=deque)
    heard: float = 0.0  # when it last answered or was given its first work
    remaining: int = 0  # tokens that `held` may still grow
    coming: Future[Any] | None = None  # its next engine, when that is ready
    next: Any = None  # the same, as soon as it has a process


def deal(queue: deque[Request], seats: Sequence[Seat], room: int) -> None:
    """Requests from the head of the queue to whoever has least left to do, while one holds fewer than `room`. Those of
    one prompt stay together as far as they fit, for the prefix cache."""
    while queue:
        free = [seat for seat in seats if len(seat.held) < room]
        if not free:
            return
        seat = min(free, key=lambda seat: seat.remaining)
        prompt = queue[0].token_ids
        while queue and queue[0].token_ids is prompt and len(seat.held) < room:
            request = queue.popleft()
            seat.held[request.name] = request
            seat.fresh.append(request)
            seat.remaining += request.sampling.max_new_tokens
