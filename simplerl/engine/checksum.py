"""A 64-bit checksum of a tensor that any device computes alike, to prove that two copies of a weight are equal.

Each element's bits, as an integer, are multiplied by an odd number of its place and summed modulo 2^64. One changed
element always changes the sum; several changed ones cancel with a probability of about 2^-64.
"""

from __future__ import annotations

from functools import lru_cache

import torch
from torch import Tensor

_CHUNK = 1 << 20
_STRIDE = 0x9E3779B97F4A7C15
_INTEGERS = {1: torch.int8, 2: torch.int16, 4: torch.int32, 8: torch.int64}


@lru_cache(maxsize=2)
def _factors(device: torch.device) -> Tensor:
    """[_CHUNK] odd int64."""
    drawn = torch.randint(-(2**63), 2**63 - 1, (_CHUNK,), generator=torch.Generator().manual_seed(1))
    return (drawn | 1).to(device)


@torch.no_grad()
def fingerprint(tensor: Tensor) -> int:
    """0 .. 2^64-1. Zeros of both signs and numbers below the smallest normal one count as the same: a matrix
    product, through which packed weights are read back, does not keep them apart."""
    flat = tensor.detach().reshape(-1)
    factors = _factors(flat.device)
    total = flat.numel()
    for place in range(0, flat.numel(), _CHUNK):
        part = flat[place : place + _CHUNK]
        part = part.masked_fill(part.abs() < torch.finfo(part.dtype).tiny, 0.0)
        bits = part.view(_INTEGERS[part.element_size()]).to(torch.int64)
        total += int((bits * factors[: len(bits)]).sum()) * pow(_STRIDE, place // _CHUNK + 1, 1 << 64)
    return total % (1 << 64)
