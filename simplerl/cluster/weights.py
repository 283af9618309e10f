"""Sends the policy's weights from its training ranks to all vLLM engines, in buckets.

Rank 0 casts each weight to the engines' precision, computes its checksum and packs it into a bucket; the other ranks
take part in gathering it (ZeRO-3) and keep nothing. Buckets travel through Ray's object store, which is shared memory
within a node, and engines load them as they arrive. At most three buckets exist at a time, never a second copy of the
model. At the end the engines' checksums (`simplerl.engine.tensors`) must equal those of the weights that were sent.
`simplerl.cluster.nccl` is an alternative that sends weights between GPUs.
"""

from __future__ import annotations

import logging
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import ray
import torch
from torch import Tensor

from simplerl.cluster.health import DEATHS, last_line, stacks_of
from simplerl.engine.tensors import tensor_checksum
from simplerl.errors import Lost

logger = logging.getLogger(__name__)

PACKED_AHEAD = 2  # number of objects (bytes or header) that a rank packs in advance


class WeightMismatch(RuntimeError):
    """Raised if an engine's weights differ from those that were sent to it."""


@dataclass(frozen=True)
class Header:
    """Describes the bytes of one bucket: name, shape and checksum (`tensor_checksum`) of each of its weights, in the
    order of their bytes, and their common dtype."""

    names: tuple[str, ...]
    shapes: tuple[tuple[int, ...], ...]
    dtype: str
    checksums: tuple[int, ...]


Bucket = np.ndarray | Header  # bytes (uint8), then their header, whose arrival shows that the bytes are complete


def buckets(named: Iterable[tuple[str, Tensor]], size: int, dtype: torch.dtype, keep: bool = True) -> Iterator[Bucket]:
    """Yield the bytes and the header of each bucket in turn. Buckets have at most `size` bytes; a larger weight gets a
    separate bucket.

    Each tensor of `named` is copied before the next one is requested. With `keep=False` nothing is yielded, but the
    tensors are iterated over, because gathering them is collective.
    """
    parts: list[tuple[str, tuple[int, ...], int]] = []
    space, filled = np.empty(0, np.uint8), 0

    def pack() -> Iterator[Bucket]:
        names, shapes, checksums = zip(*parts, strict=True)
        yield space[:filled]
        yield Header(names, shapes, str(dtype).removeprefix("torch."), checksums)

    for name, tensor in named:
        if not keep:
            continue
        weight = tensor.detach().to(dtype)
        count = weight.numel() * weight.element_size()
        if parts and filled + count > size:
            yield from pack()
            parts, filled = [], 0
        if not parts:
            space = np.empty(max(size, count), np.uint8)
        parts.append((name, tuple(weight.shape), tensor_checksum(weight)))
        torch.from_numpy(space[filled : filled + count]).copy_(weight.contiguous().view(-1).view(torch.uint8))
        filled += count
    if parts:
        yield from pack()


def unpack(header: Header, data: np.ndarray) -> list[tuple[str, Tensor]]:
    """Return the weights of one bucket as views of its bytes."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="The given NumPy array is not writable")  # never written to
        whole = torch.from_numpy(data).view(getattr(torch, header.dtype))
    parts = whole.split([int(np.prod(shape)) for shape in header.shapes])
    return [(name, part.view(shape)) for name, part, shape in zip(header.names, parts, header.shapes, strict=True)]


Source = Callable[[], Iterator[tuple[Header, ray.ObjectRef]]]  # yields all weights anew on each call


def from_process(named: Iterable[tuple[str, Tensor]], size: int, dtype: torch.dtype) -> Source:
    """Make a source of this process's weights, in buckets of at most `size` bytes; they stay in the object store as
    long as the source exists."""
    kept: list[tuple[Header, ray.ObjectRef]] = []
    parts = buckets(named, size, dtype)
    for data in parts:
        header = next(parts)
        assert isinstance(header, Header)
        kept.append((header, ray.put(data)))
    return lambda: iter(kept)


def from_ranks(ranks: Sequence[Any], size: int, dtype: str, seconds: float) -> Source:
    """Make a source of the weights of training ranks, in buckets of at most `size` bytes (a larger weight gets its
    own). The source calls `weight_buckets(size, dtype)` on all ranks, because gathering is collective; only rank 0
    yields `buckets`. Iterating raises `Lost` if a rank dies or no rank yields anything for `seconds`."""

    def stream() -> Iterator[tuple[Header, ray.ObjectRef]]:
        options = {"num_returns": "streaming", "_generator_backpressure_num_objects": PACKED_AHEAD}
        streams = [rank.weight_buckets.options(**options).remote(size, dtype) for rank in ranks]
        active: dict[Any, int] = {stream: number for number, stream in enumerate(streams)}
        while active:
            ready, _ = ray.wait(list(active), num_returns=1, timeout=seconds)
            if not ready:
                raise _hanging(ranks, list(active.values()), seconds)
            stream: Any = ready[0]
            number = active[stream]
            data = next(stream, None)
            if data is None:
                del active[stream]
            elif number:
                _value(data, number)  # ranks other than 0 yield nothing but an exception
            else:
                header = next(stream, data)  # an exception takes the place of the bytes and ends the stream
                yield _value(header, number), data

    return stream


def cached(source: Source) -> Source:
    """Make a source that reads `source` once and keeps its buckets in the object store."""
    kept: list[tuple[Header, ray.ObjectRef]] = []

    def stream() -> Iterator[tuple[Header, ray.ObjectRef]]:
        if kept:
            yield from kept
            return
        read = []
        for part in source():
            read.append(part)
            yield part
        kept.extend(read)

    return stream


def _value(reference: ray.ObjectRef, rank: int) -> Any:
    try:
        return ray.get(reference)
    except DEATHS as error:
        raise Lost(f"policy rank {rank}", f"it died during a weight sync ({death_reason(error)})") from error


def _hanging(ranks: Sequence[Any], numbers: Sequence[int], seconds: float) -> Lost:
    for number in numbers:
        logger.error("policy rank %d does not respond; its threads:\n%s", number, stacks_of(ranks[number]))
    who = f"policy rank {', '.join(map(str, numbers))}"
    return Lost(who, f"the weight sync hangs: no weights arrived for {seconds:g} s; the stacks are in the log")


def send_weights(source: Source, engines: Mapping[str, Any], seconds: float) -> tuple[int, dict[str, str]]:
    """Send the source's weights to engines (name -> `engine_actor.EngineActor`). Returns the number of bytes, and the
    reason for each lost engine by name: an engine that dies or does not answer for `seconds` is skipped, and the others
    get all weights. Raises WeightMismatch if an engine's checksums differ from those of the weights sent."""
    size, lost, alive = 0, dict[str, str](), dict(engines)
    checksums: dict[str, int] = {}

    def call_all(method: str, *arguments: Any) -> dict[str, Any]:
        calls = {name: (actor, getattr(actor, method).remote(*arguments)) for name, actor in alive.items()}
        answers = call_results(calls, seconds, lost)
        for name in lost.keys() & alive.keys():
            del alive[name]
        return answers

    call_all("start_weights")
    for header, data in source():
        checksums |= zip(header.names, header.checksums, strict=True)
        dtype: torch.dtype = getattr(torch, header.dtype)
        size += sum(int(np.prod(shape)) for shape in header.shapes) * dtype.itemsize
        call_all("load_weights", header, data)
    call_all("finish_weights")
    for name, held in call_all("checksums").items():
        check_checksums(name, checksums, held)
    return size, lost


def call_results(
    calls: Mapping[str, tuple[Any, ray.ObjectRef]], seconds: float, lost: dict[str, str]
) -> dict[str, Any]:
    """Wait for one pending call per actor (name -> actor, call) and return the results by name. An actor that dies,
    raises, or is killed because it did not answer within `seconds`, is added to `lost` with the reason. Raises `Lost`
    if a bucket of weights is lost together with the node of policy rank 0."""
    references = [reference for _, reference in calls.values()]
    late = set(ray.wait(references, num_returns=len(references), timeout=seconds)[1]) if references else set()
    answers = {}
    for name, (actor, reference) in calls.items():
        if reference in late:
            logger.error("%s does not respond; its threads:\n%s", name, stacks_of(actor))
            ray.kill(actor)
            lost[name] = f"it did not respond for {seconds:g} s and was killed"
            continue
        try:
            answers[name] = ray.get(reference)
        except DEATHS as error:
            lost[name] = death_reason(error)
        except ray.exceptions.ObjectLostError as error:
            reason = "its node was lost together with a bucket of weights that it had packed"
            raise Lost("policy rank 0", reason) from error
        except ray.exceptions.RayTaskError as error:
            lost[name] = kill_failed(name, actor, error)
    return answers


def kill_failed(name: str, actor: Any, error: Exception) -> str:
    """Log an engine's exception and kill the engine. Returns the last line of the exception as the reason."""
    logger.error("%s has failed:\n%s", name, error)
    ray.kill(actor)
    return f"it failed: {last_line(error)}"


def death_reason(error: Exception) -> str:
    """Return Ray's explanation of a death in one line."""
    return " ".join(str(error).split())[:300]


def check_checksums(engine: str, sent: Mapping[str, int], held: Mapping[str, int]) -> None:
    """Raise WeightMismatch unless the engine holds every weight that was sent, and nothing else but tied copies."""
    different = [name for name, checksum in sent.items() if held.get(name) != checksum]
    known = set(sent.values())
    different += [name for name, checksum in held.items() if name not in sent and checksum not in known]
    if different:
        more = f" and {len(different) - 1} more" if len(different) > 1 else ""
        raise WeightMismatch(
            f"{engine} does not hold the weights that were sent to it: the checksum of {different[0]}{more} differs. "
            "Its responses would come from wrong weights, so the run stops: please report this as a bug."
        )
