"""Samples tokens as a pure function of the logits and of (seed, step, problem id, sample index, position).

Each response has a 64-bit seed. Its uniform random number at a position is the SplitMix64 output (Steele, Lea and
Flood 2014) at that position of the stream with that seed, and the token is found by inverting the cumulative
distribution. A response therefore depends neither on the other rows of its batch nor on the order of work, up to
rounding of the logits: if batching changes their last bits, a uniform number within about 1e-7 of the boundary between
two tokens may select the other one.
"""

from __future__ import annotations

from hashlib import blake2b

import torch
from torch import Tensor
from torch.nn import functional

from simplerl.errors import NonFinite
from simplerl.types import Sampling

_GOLDEN = 0x9E3779B97F4A7C15  # SplitMix64's increment and multipliers
_MIX = (0xBF58476D1CE4E5B9, 0x94D049BB133111EB)
_ONE_LEVEL_VOCABULARY = 2048  # larger vocabularies are summed in blocks first
_BLOCK = 256


def _signed(value: int) -> int:
    value &= (1 << 64) - 1
    return value - (1 << 64) if value >> 63 else value


def response_seed(seed: int, step: int, problem_id: str, sample: int) -> int:
    """Return the signed 64-bit seed of one response, the same in every process and version."""
    name = f"{seed}\x1f{step}\x1f{sample}\x1f{problem_id}".encode()
    return _signed(int.from_bytes(blake2b(name, digest_size=8).digest(), "little"))


def _logical_right_shift(x: Tensor, bits: int) -> Tensor:
    return (x >> bits) & ((1 << (64 - bits)) - 1)


def uniforms(seeds: Tensor, positions: Tensor) -> Tensor:
    """Return a uniform float64 in [0, 1), with 53 random bits, for each (seed, position); both int64, same shape."""
    x = seeds + (positions + 1) * _signed(_GOLDEN)
    x = (x ^ _logical_right_shift(x, 30)) * _signed(_MIX[0])
    x = (x ^ _logical_right_shift(x, 27)) * _signed(_MIX[1])
    return _logical_right_shift(x ^ _logical_right_shift(x, 31), 11).double() * 2.0**-53


def _inverse_cdf(weights: Tensor, uniform: Tensor) -> Tensor:
    """Return the first index [R] at which the cumulative sum of weights [R, N] exceeds uniform [R] times their sum."""
    cumulative = weights.double().cumsum(-1)
    target = uniform.clamp(max=1 - 2.0**-50) * cumulative[:, -1]
    return torch.searchsorted(cumulative, target[:, None], right=True)[:, 0]


def _sample_index(weights: Tensor, uniform: Tensor) -> tuple[Tensor, Tensor]:
    """Return indices [R] sampled in proportion to weights [R, V], and the sums [R] of the weights.

    A large vocabulary is searched in two levels: the block of 256 tokens, then the token in the block.
    """
    vocabulary = weights.shape[-1]
    if vocabulary <= _ONE_LEVEL_VOCABULARY:
        return _inverse_cdf(weights, uniform), weights.sum(-1)
    padded = functional.pad(weights, (0, -vocabulary % _BLOCK)) if vocabulary % _BLOCK else weights
    blocks = padded.view(len(weights), -1, _BLOCK)
    sums = blocks.sum(-1)
    cumulative = sums.double().cumsum(-1)
    block = _inverse_cdf(sums, uniform)[:, None]
    block_sum = sums.double().gather(-1, block)
    remainder = uniform[:, None] * cumulative[:, -1:] - (cumulative.gather(-1, block) - block_sum)
    rows = torch.arange(len(weights), device=weights.device)
    index = _inverse_cdf(blocks[rows, block[:, 0]], (remainder / block_sum)[:, 0].clamp(0, 1))
    return block[:, 0] * _BLOCK + index, cumulative[:, -1].float()


def _top_k_top_p(logits: Tensor, top_p: float, top_k: int) -> tuple[Tensor, Tensor]:
    """Return logits in descending order, -inf outside top-k and then top-p, and their token ids, both [R, C].

    top-p keeps the smallest set of most likely tokens whose probabilities sum to at least top_p.
    """
    vocabulary = logits.shape[-1]
    width = min(top_k or vocabulary, vocabulary)
    if top_k and width < vocabulary:
        values, ids = logits.topk(width)
        norm = values.logsumexp(-1, keepdim=True)
    else:
        norm = logits.logsumexp(-1, keepdim=True)
        width = min(_BLOCK, vocabulary)  # the nucleus is usually small, so sort more only if needed
        values, ids = logits.topk(width)
        while width < vocabulary and bool(((values - norm).exp().sum(-1) < top_p).any()):
            width = min(width * 8, vocabulary)
            values, ids = logits.topk(width)
    if top_p < 1:
        probability = (values - norm).exp()
        before = probability.cumsum(-1) - probability
        values = values.masked_fill(before >= top_p, -torch.inf)
    return values, ids


def _check_finite(peak: Tensor) -> None:
    """Raise NonFinite unless the largest logit of every row is finite, which excludes NaN and +inf in all of them."""
    if not bool(torch.isfinite(peak).all()):
        raise NonFinite("a logit of the sampled model")


def sample_tokens(logits: Tensor, uniform: Tensor, sampling: Sampling) -> tuple[Tensor, Tensor]:
    """Return tokens [R] sampled from float32 logits [R, V] with uniform numbers [R], and their float32 log-probs.

    Log-probs are under the distribution that was sampled from (temperature, then top-k, then top-p, then
    renormalised). For greedy decoding (temperature 0) they are under the plain softmax. Raises NonFinite if a logit is
    NaN or +inf, or if all logits of a row are -inf.
    """
    if sampling.temperature == 0:
        _check_finite(logits.amax(-1))
        tokens = logits.argmax(-1)
        return tokens, logits.gather(-1, tokens[:, None])[:, 0] - logits.logsumexp(-1)
    if sampling.temperature != 1:
        logits = logits / sampling.temperature
    ids = None
    if sampling.top_p < 1 or 0 < sampling.top_k < logits.shape[-1]:
        logits, ids = _top_k_top_p(logits, sampling.top_p, sampling.top_k)
    peak = logits.amax(-1, keepdim=True)
    _check_finite(peak)
    index, total = _sample_index((logits - peak).exp_(), uniform)
    index = index[:, None]
    logprobs = (logits.gather(-1, index) - peak)[:, 0] - total.log()
    return (index if ids is None else ids.gather(-1, index))[:, 0], logprobs
