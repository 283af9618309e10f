"""Which token a row draws: a pure function of its logits and of (seed, step, problem id, sample, position).

Each row has a 64-bit key; its uniform number at a position is the SplitMix64 output (Steele, Lea and
Flood 2014) of that key's stream at that position. The token is found by inverting the cumulative
distribution. So a sample depends neither on the rows beside it nor on the order of work, up to the
rounding of logits: where batching changes their last bits, a draw within about 1e-7 of the edge
between two tokens may fall on the other side.
"""

from __future__ import annotations

from hashlib import blake2b

import torch
from torch import Tensor
from torch.nn import functional

from simplerl.types import Sampling

_GOLDEN = 0x9E3779B97F4A7C15
_MIX = (0xBF58476D1CE4E5B9, 0x94D049BB133111EB)
_FLAT = 2048  # vocabularies up to this size are summed in one piece
_BLOCK = 256


def _signed(value: int) -> int:
    value &= (1 << 64) - 1
    return value - (1 << 64) if value >> 63 else value


def row_key(seed: int, step: int, problem_id: str, sample: int) -> int:
    """A stable signed 64-bit key of one response."""
    name = f"{seed}\x1f{step}\x1f{sample}\x1f{problem_id}".encode()
    return _signed(int.from_bytes(blake2b(name, digest_size=8).digest(), "little"))


def _shift(x: Tensor, bits: int) -> Tensor:
    """Logical right shift of int64."""
    return (x >> bits) & ((1 << (64 - bits)) - 1)


def uniforms(keys: Tensor, positions: Tensor) -> Tensor:
    """float64 in [0, 1) with 53 random bits for each (key, position); both int64 of one shape."""
    x = keys + (positions + 1) * _signed(_GOLDEN)
    x = (x ^ _shift(x, 30)) * _signed(_MIX[0])
    x = (x ^ _shift(x, 27)) * _signed(_MIX[1])
    return _shift(x ^ _shift(x, 31), 11).double() * 2.0**-53


def _invert(weights: Tensor, uniform: Tensor) -> Tensor:
    """First index at which the running sum of weights [R, N] exceeds the share `uniform` [R] of it."""
    total = weights.double().cumsum(-1)
    target = uniform.clamp(max=1 - 2.0**-50) * total[:, -1]
    return torch.searchsorted(total, target[:, None], right=True)[:, 0]


def _draw(weights: Tensor, uniform: Tensor) -> tuple[Tensor, Tensor]:
    """Index drawn in proportion to weights [R, V], and the sum of the weights; large V in two levels."""
    vocabulary = weights.shape[-1]
    if vocabulary <= _FLAT:
        return _invert(weights, uniform), weights.sum(-1)
    padded = functional.pad(weights, (0, -vocabulary % _BLOCK)) if vocabulary % _BLOCK else weights
    blocks = padded.view(len(weights), -1, _BLOCK)
    sums = blocks.sum(-1)
    total = sums.double().cumsum(-1)
    block = _invert(sums, uniform)[:, None]
    inside = sums.double().gather(-1, block)
    left = uniform[:, None] * total[:, -1:] - (total.gather(-1, block) - inside)
    rows = torch.arange(len(weights), device=weights.device)
    index = _invert(blocks[rows, block[:, 0]], (left / inside)[:, 0].clamp(0, 1))
    return block[:, 0] * _BLOCK + index, total[:, -1].float()


def _nucleus(logits: Tensor, top_p: float, top_k: int) -> tuple[Tensor, Tensor]:
    """Logits in descending order with -inf outside top-k, then top-p, and their token ids, [R, C].

    top-p keeps the fewest likeliest tokens whose probabilities sum to at least top_p.
    """
    vocabulary = logits.shape[-1]
    width = min(top_k or vocabulary, vocabulary)
    norm = logits.logsumexp(-1, keepdim=True)
    if top_k and width < vocabulary:
        values, ids = logits.topk(width)
        norm = values.logsumexp(-1, keepdim=True)
    else:
        width = min(_BLOCK, vocabulary)  # a nucleus is mostly small: sort all only where it is not
        values, ids = logits.topk(width)
        while width < vocabulary and bool(((values - norm).exp().sum(-1) < top_p).any()):
            width = min(width * 8, vocabulary)
            values, ids = logits.topk(width)
    if top_p < 1:
        probability = (values - norm).exp()
        before = probability.cumsum(-1) - probability
        values = values.masked_fill(before >= top_p, -torch.inf)
    return values, ids


def choose(logits: Tensor, uniform: Tensor, sampling: Sampling) -> tuple[Tensor, Tensor]:
    """Tokens [R] drawn from float32 logits [R, V] by uniform [R], and their float32 log-probs.

    Log-probs are those of the distribution drawn from (temperature, then top-k, then top-p, then
    renormalised); greedy ones (temperature 0) those of the plain softmax.
    """
    if sampling.temperature == 0:
        tokens = logits.argmax(-1)
        return tokens, logits.gather(-1, tokens[:, None])[:, 0] - logits.logsumexp(-1)
    if sampling.temperature != 1:
        logits = logits / sampling.temperature
    ids = None
    if sampling.top_p < 1 or 0 < sampling.top_k < logits.shape[-1]:
        logits, ids = _nucleus(logits, sampling.top_p, sampling.top_k)
    peak = logits.amax(-1, keepdim=True)
    index, total = _draw((logits - peak).exp_(), uniform)
    index = index[:, None]
    logprobs = (logits.gather(-1, index) - peak)[:, 0] - total.log()
    return (index if ids is None else ids.gather(-1, index))[:, 0], logprobs
