"""The policy's weights, from the ranks that train it into every engine, in buckets.

Rank 0 casts each weight to the engines' precision, checksums it and packs it into a bucket; all other ranks take
part in gathering it (ZeRO-3) and keep nothing. A bucket goes through Ray's object store, which is shared memory on
one node; engines load it at once. At most three buckets exist at a time, never a second copy of the model. At the
end the engines say what they hold (`simplerl.engine.tensors`), and it must be what was sent.
`simplerl.cluster.nccl` is the other way, between GPUs.
"""

from __future__ import annotations

import logging
import time
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import ray
import torch
from torch import Tensor

from simplerl.backends import Lost
from simplerl.cluster.stacks import DEATHS, stacks_of
from simplerl.engine.tensors import tensor_checksum

logger = logging.getLogger(__name__)

_AHEAD = 2  # objects (bytes and their header) that a rank packs before somebody takes them


class SyncFailed(RuntimeError):
    """An engine holds other weights than were sent to it."""


@dataclass(frozen=True)
class Header:
    """What the bytes of one bucket are."""

    names: tuple[str, ...]
    shapes: tuple[tuple[int, ...], ...]
    dtype: str
    checksums: tuple[int, ...]


Bucket = np.ndarray | Header  # the bytes (uint8), then what they are: a header that came says that the bytes are whole


def buckets(named: Iterable[tuple[str, Tensor]], size: int, dtype: torch.dtype, keep: bool = True) -> Iterator[Bucket]:
    """Bytes and headers, in turns, of at most `size` bytes each (a larger weight has one for itself).

    A tensor of `named` is read before the next one is asked for. `keep=False` only walks through them.
    """
    parts: list[tuple[str, tuple[int, ...], int]] = []
    space, filled = np.empty(0, np.uint8), 0

    def packed() -> Iterator[Bucket]:
        names, shapes, checksums = zip(*parts, strict=True)
        yield space[:filled]
        yield Header(names, shapes, str(dtype).removeprefix("torch."), checksums)

    for name, tensor in named:
        if not keep:
            continue
        weight = tensor.detach().to(dtype)
        count = weight.numel() * weight.element_size()
        if parts and filled + count > size:
            yield from packed()
            parts, filled = [], 0
        if not parts:
            space = np.empty(max(size, count), np.uint8)
        parts.append((name, tuple(weight.shape), tensor_checksum(weight)))
        torch.from_numpy(space[filled : filled + count]).copy_(weight.contiguous().view(-1).view(torch.uint8))
        filled += count
    if parts:
        yield from packed()


def unpacked(header: Header, data: np.ndarray) -> list[tuple[str, Tensor]]:
    """The weights of one bucket, as views of its bytes."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="The given NumPy array is not writable")  # nobody writes
        whole = torch.from_numpy(data).view(getattr(torch, header.dtype))
    parts = whole.split([int(np.prod(shape)) for shape in header.shapes])
    return [(name, part.view(shape)) for name, part, shape in zip(header.names, parts, header.shapes, strict=True)]


Source = Callable[[], Iterator[tuple[Header, ray.ObjectRef]]]  # the weights, as often as they are asked for


def from_process(named: Iterable[tuple[str, Tensor]], size: int, dtype: torch.dtype) -> Source:
    """Weights of this process. They stay in the object store as long as the source is kept."""
    kept: list[tuple[Header, ray.ObjectRef]] = []
    parts = buckets(named, size, dtype)
    for data in parts:
        header = next(parts)
        assert isinstance(header, Header)
        kept.append((header, ray.put(data)))
    return lambda: iter(kept)


def from_ranks(ranks: Sequence[Any], size: int, dtype: str, seconds: float) -> Source:
    """Weights of training ranks, actors with a method `weight_buckets(size, dtype)` that yields `buckets`, in which
    all take part. Raises Lost where a rank dies, or none of them gives anything for `seconds`."""

    def stream() -> Iterator[tuple[Header, ray.ObjectRef]]:
        options = {"num_returns": "streaming", "_generator_backpressure_num_objects": _AHEAD}
        streams = [rank.weight_buckets.options(**options).remote(size, dtype) for rank in ranks]
        going: dict[Any, int] = {stream: number for number, stream in enumerate(streams)}
        while going:
            ready, _ = ray.wait(list(going), num_returns=1, timeout=seconds)
            if not ready:
                raise _silence(ranks, list(going.values()), seconds)
            stream: Any = ready[0]
            number = going[stream]
            data = next(stream, None)
            if data is None:
                del going[stream]
            elif number:
                _value(data, number)  # they give nothing but an error
            else:
                header = next(stream, data)  # an error stands where the bytes should be, and nothing after it
                yield _value(header, number), data

    return stream


def keeping(source: Source) -> Source:
    """The source, asked once: what it gave stays in the object store."""
    kept: list[tuple[Header, ray.ObjectRef]] = []

    def stream() -> Iterator[tuple[Header, ray.ObjectRef]]:
        if kept:
            yield from kept
            return
        coming = []
        for part in source():
            coming.append(part)
            yield part
        kept.extend(coming)

    return stream


def _value(reference: ray.ObjectRef, rank: int) -> Any:
    try:
        return ray.get(reference)
    except DEATHS as error:
        raise Lost(f"policy rank {rank}", f"it died during a weight sync ({how_it_died(error)})") from error


def _silence(ranks: Sequence[Any], numbers: Sequence[int], seconds: float) -> Lost:
    for number in numbers:
        logger.error("policy rank %d:\n%s", number, stacks_of(ranks[number]))
    who = f"policy rank {', '.join(map(str, numbers))}"
    return Lost(who, f"the weight sync hangs: no weights came for {seconds:g} s; the stacks are in the log")


@dataclass
class Sent:
    """One round of `send`."""

    bytes: int = 0
    seconds: float = 0.0
    lost: dict[str, str] = field(default_factory=dict)  # engines that died or hung, and how


def send(source: Source, engines: Mapping[str, Any], seconds: float) -> Sent:
    """The source's weights into engines (name -> `engine_actor.EngineActor`). One that dies or does not answer for
    `seconds` is left behind and named in `lost`; the others get everything. Raises SyncFailed where an engine holds
    other weights than were sent."""
    begin, sent, alive = time.monotonic(), Sent(), dict(engines)
    checksums: dict[str, int] = {}

    def each(method: str, *arguments: Any) -> dict[str, Any]:
        calls = {name: (actor, getattr(actor, method).remote(*arguments)) for name, actor in alive.items()}
        answers = answers_of(calls, seconds, sent.lost)
        for name in sent.lost.keys() & alive.keys():
            del alive[name]
        return answers

    each("start_weights")
    for header, data in source():
        checksums |= zip(header.names, header.checksums, strict=True)
        sent.bytes += header_bytes(header)
        each("load_weights", header, data)
    each("finish_weights")
    for name, held in each("checksums").items():
        compare(name, checksums, held)
    sent.seconds = time.monotonic() - begin
    return sent


def answers_of(calls: Mapping[str, tuple[Any, ray.ObjectRef]], seconds: float, lost: dict[str, str]) -> dict[str, Any]:
    """The results of one call to each actor (name -> actor, call). Actors that die, or are killed after `seconds`
    of silence, go into `lost`."""
    references = [reference for _, reference in calls.values()]
    late = set(ray.wait(references, num_returns=len(references), timeout=seconds)[1]) if references else set()
    answers = {}
    for name, (actor, reference) in calls.items():
        if reference in late:
            logger.error("%s does not answer:\n%s", name, stacks_of(actor))
            ray.kill(actor)
            lost[name] = f"it did not answer for {seconds:g} s and was killed"
            continue
        try:
            answers[name] = ray.get(reference)
        except DEATHS as error:
            lost[name] = how_it_died(error)
        except ray.exceptions.ObjectLostError as error:
            raise Lost("policy rank 0", "its node went away with a bucket of weights that it had packed") from error
        except ray.exceptions.RayTaskError as error:
            lost[name] = failed(name, actor, error)
    return answers


def failed(name: str, actor: Any, error: Exception) -> str:
    """For an engine that raised: the next one may do better. Logs why, kills it, and says it briefly."""
    logger.error("%s has failed:\n%s", name, error)
    ray.kill(actor)
    return f"it failed: {str(error).strip().splitlines()[-1].strip()}"


def how_it_died(error: Exception) -> str:
    """Ray's reason in one line."""
    return " ".join(str(error).split())[:300]


def header_bytes(header: Header) -> int:
    dtype: torch.dtype = getattr(torch, header.dtype)
    return sum(int(np.prod(shape)) for shape in header.shapes) * dtype.itemsize


def compare(engine: str, sent: Mapping[str, int], held: Mapping[str, int]) -> None:
    """Raises SyncFailed unless the engine holds every weight that was sent, and beside them only tied copies."""
    other = [name for name, checksum in sent.items() if held.get(name) != checksum]
    known = set(sent.values())
    other += [name for name, checksum in held.items() if name not in sent and checksum not in known]
    if other:
        more = f" and {len(other) - 1} more" if len(other) > 1 else ""
        raise SyncFailed(
            f"{engine} holds other weights than were sent to it: {other[0]}{more} differ(s) in the checksum. "
            "The engine computes with wrong weights; stop and report this."
        )
