"""Waiting for actors without waiting for ever: a death names its role, and so does silence, with its stacks."""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import ray
from ray.exceptions import GetTimeoutError, RayError, RayTaskError

from simplerl.backends import Lost
from simplerl.cluster.stacks import DEATHS, stacks_of

logger = logging.getLogger(__name__)

LOOK_SECONDS = 5.0  # between two looks at how far the actors are
DEATH_SECONDS = 10.0  # in which the death that made another rank fail becomes known


@dataclass(frozen=True)
class Limits:
    """Seconds without any progress after which a role counts as lost."""

    start_seconds: float = 600.0  # while processes start, meet and load models
    silence_seconds: float = 600.0  # afterwards


def results(role: str, actors: Sequence[Any], references: Sequence[Any], silence: float, doing: str) -> list[Any]:
    """The values of `references`, which are calls of methods of `actors`.

    Actors have a method `progress`, which answers while another runs. Raises `Lost` when one of them has died, or when
    none of their counts has changed for `silence` seconds; an exception of theirs as it was raised there."""
    counts: list[int | None] = [None] * len(actors)
    changed = time.monotonic()
    waiting = list(references)
    while waiting:
        done, waiting = ray.wait(waiting, num_returns=len(waiting), timeout=min(LOOK_SECONDS, silence / 4))
        for reference in done:
            _check(role, actors, reference)
        if waiting:
            now = [_progress(actor, min(LOOK_SECONDS, silence / 4)) for actor in actors]
            if any(count is not None and count != before for count, before in zip(now, counts, strict=True)):
                changed, counts = time.monotonic(), now
            if time.monotonic() - changed > silence:
                raise _silent(role, actors, doing, silence)
    return list(ray.get(list(references)))


def _check(role: str, actors: Sequence[Any], reference: Any) -> None:
    try:
        ray.get(reference)
    except DEATHS as error:
        raise _dead(role, actors, error) from error
    except RayTaskError as error:
        _raise_death(role, actors, error)
        raise error.as_instanceof_cause() from None


def _progress(actor: Any, seconds: float) -> int | None:
    try:
        count: int = ray.get(actor.progress.remote(), timeout=seconds)
    except (GetTimeoutError, *DEATHS):  # a death shows in the call that is waited for
        return None
    return count


def _raise_death(role: str, actors: Sequence[Any], cause: RayTaskError) -> None:
    """When a rank dies the others fail in the middle of their collective: the death is the news."""
    deadline = time.monotonic() + (DEATH_SECONDS if _of_communication(cause) else 0.0)
    while True:
        for number, actor in enumerate(actors):
            try:
                ray.get(actor.progress.remote(), timeout=LOOK_SECONDS)
            except GetTimeoutError:
                continue
            except DEATHS as error:
                raise _dead(f"{role} rank {number}", actors, error) from error
        if time.monotonic() > deadline:
            break
        time.sleep(0.5)
    if _of_communication(cause):
        raise Lost(role, f"its ranks cannot reach each other: {_last_line(cause)}") from cause


def _of_communication(error: RayTaskError) -> bool:
    """gloo's and NCCL's errors are RuntimeErrors that say who speaks."""
    text = str(error).lower()
    return any(word in text for word in ("gloo", "nccl", "distbackenderror", "distnetworkerror", "connection closed"))


def _dead(who: str, actors: Sequence[Any], error: RayError) -> Lost:
    return Lost(who, f"its process has ended ({_last_line(error)})")


def _last_line(error: Exception) -> str:
    return str(error).strip().splitlines()[-1].strip()


def _silent(role: str, actors: Sequence[Any], doing: str, silence: float) -> Lost:
    for number, actor in enumerate(actors):
        logger.error("%s rank %d is silent; its threads:\n%s", role, number, stacks_of(actor))
    return Lost(role, f"no progress in `{doing}` for {silence:g} s; the stacks of its ranks are in the log")
