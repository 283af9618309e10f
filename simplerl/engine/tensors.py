"""Read and write named tensors in safetensors files, sharded or not, and compute checksums of tensors.

    model.safetensors                       optimizer.safetensors
    model-00001-of-00002.safetensors        optimizer-00001-of-00002.safetensors
    model.safetensors.index.json            optimizer.safetensors.index.json

File names and index follow Hugging Face, so `from_pretrained` reads both forms.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from functools import lru_cache
from pathlib import Path

import torch
from safetensors import safe_open
from torch import Tensor

from simplerl.io.files import read_json

_CHUNK = 1 << 20  # elements per chunk of a checksum
_CHUNK_FACTOR = 0x9E3779B97F4A7C15
_INTEGERS = {1: torch.int8, 2: torch.int16, 4: torch.int32, 8: torch.int64}


def shard_name(stem: str, number: int, of: int) -> str:
    """Return the file name of shard `number` (from 1) of `of`."""
    return f"{stem}.safetensors" if of == 1 else f"{stem}-{number:05d}-of-{of:05d}.safetensors"


def write_index(folder: Path, stem: str, files: Mapping[str, str], size: int) -> None:
    """Write the index of sharded tensors: `files` maps tensor names to file names, `size` is the total in bytes."""
    index = {"metadata": {"total_size": size}, "weight_map": dict(files)}
    (folder / f"{stem}.safetensors.index.json").write_text(json.dumps(index, indent=1))


class TensorFiles:
    """Reads tensors one at a time, by name, from one safetensors file or from shards with an index."""

    def __init__(self, folder: Path, stem: str) -> None:
        index = folder / f"{stem}.safetensors.index.json"
        if index.exists():
            files = read_json(index, kinds={"weight_map": dict})["weight_map"]
            self._files = {name: folder / file for name, file in files.items()}
        else:
            path = folder / f"{stem}.safetensors"
            with safe_open(path, "pt") as file:
                self._files = dict.fromkeys(file.keys(), path)

    @property
    def names(self) -> list[str]:
        return list(self._files)

    def shape(self, name: str) -> tuple[int, ...]:
        """Return the shape of a tensor without reading it."""
        with safe_open(self._files[name], "pt") as file:
            return tuple(file.get_slice(name).get_shape())

    def __getitem__(self, name: str) -> Tensor:
        with safe_open(self._files[name], "pt") as file:
            tensor: Tensor = file.get_tensor(name)
            return tensor


@torch.no_grad()
def nonfinite_tensor(named: Iterable[tuple[str, Tensor]]) -> str:
    """Return the name of the first tensor with an infinite or NaN element, or with elements so large that their squares
    overflow, as after an update with an absurd learning rate; "" if there is none.

    All tensors are visited, because reading a sharded weight is collective over its ranks."""
    broken = [name for name, tensor in named if not bool(torch.isfinite(tensor.float().norm()))]
    return broken[0] if broken else ""


@lru_cache(maxsize=2)
def _element_factors(device: torch.device) -> Tensor:
    """Return fixed pseudo-random odd int64 numbers, [_CHUNK]."""
    random = torch.randint(-(2**63), 2**63 - 1, (_CHUNK,), generator=torch.Generator().manual_seed(1))
    return (random | 1).to(device)


@torch.no_grad()
def tensor_checksum(tensor: Tensor) -> int:
    """Return a 64-bit checksum (0 to 2^64 - 1) that is the same on every device, to verify copies of a weight.

    The bits of each element, as an integer, are multiplied by an odd number that depends on its position, and summed
    modulo 2^64. A single changed element always changes the sum; several cancel with a probability of about 2^-64.

    Zeros of either sign and subnormal numbers count as the same, because the matrix product through which packed
    weights are read back does not distinguish them.
    """
    flat = tensor.detach().reshape(-1)
    factors = _element_factors(flat.device)
    total = flat.numel()
    for start in range(0, flat.numel(), _CHUNK):
        chunk = flat[start : start + _CHUNK]
        chunk = chunk.masked_fill(chunk.abs() < torch.finfo(chunk.dtype).tiny, 0.0)
        bits = chunk.view(_INTEGERS[chunk.element_size()]).to(torch.int64)
        total += int((bits * factors[: len(bits)]).sum()) * pow(_CHUNK_FACTOR, start // _CHUNK + 1, 1 << 64)
    return total % (1 << 64)
