"""From rollouts to tensors, and from a batch to minibatches and micro-batches. Pure functions."""

from __future__ import annotations

import zlib
from collections.abc import Iterator, Sequence

import numpy as np
import torch
from torch import Tensor

from simplerl.config import Aggregation
from simplerl.types import Batch, Rollout, score_of

# What starting one more micro-batch costs, in computed tokens: launch overheads that padding must outweigh.
MICRO_BATCH_OVERHEAD = 256
MAX_PADDING = 0.1  # of the computed tokens


def permutation(stream: str, numbers: Sequence[int], size: int) -> list[int]:
    """Return a permutation of range(size) that depends only on the arguments. `stream` names what is shuffled: two
    streams never share a permutation (NumPy alone pads its seeds with zeros, so that [s, e] and [s, e, 0] are one)."""
    rng = np.random.default_rng([zlib.crc32(stream.encode()), *numbers])
    return [int(i) for i in rng.permutation(size)]


def collate(rows: Sequence[tuple[Sequence[int], Sequence[int]]], groups: Sequence[int]) -> Batch:
    """Make one batch of pairs of (prompt tokens, response tokens), padded on the right with token 0."""
    lengths = [len(prompt) + len(response) for prompt, response in rows]
    shape = (len(rows), max(lengths))
    tokens = np.zeros(shape, dtype=np.int64)
    attention = np.zeros(shape, dtype=bool)
    mask = np.zeros(shape, dtype=bool)
    for row, ((prompt, response), length) in enumerate(zip(rows, lengths, strict=True)):
        if not len(prompt) or not len(response):
            raise ValueError(f"row {row} has {len(prompt)} prompt and {len(response)} response tokens: both need one")
        tokens[row, : len(prompt)] = prompt
        tokens[row, len(prompt) : length] = response
        attention[row, :length] = True
        mask[row, len(prompt) : length] = True
    return Batch(
        tokens=torch.from_numpy(tokens),
        attention=torch.from_numpy(attention),
        mask=torch.from_numpy(mask),
        group=torch.as_tensor(groups, dtype=torch.int64),
    )


def collate_rollouts(rollouts: Sequence[Rollout]) -> Batch:
    """Make one batch of scored rollouts; rows keep their order, and a group is a problem of the step."""
    numbers: dict[str, int] = {}
    groups = [numbers.setdefault(r.prompt.problem.id, len(numbers)) for r in rollouts]
    batch = collate([(r.prompt.token_ids, r.token_ids) for r in rollouts], groups)
    sampler_logprobs = torch.zeros(batch.tokens.shape)
    sampler_logprobs[batch.mask] = torch.tensor([p for r in rollouts for p in r.logprobs])
    scores = [score_of(r) for r in rollouts]
    return batch.with_(
        reward=torch.tensor([score.reward for score in scores]),
        correct=torch.tensor([score.correct for score in scores]),
        trained=torch.tensor([r.trained for r in rollouts]),
        sampler_logprobs=sampler_logprobs,
    )


def token_weights(
    mask: Tensor, aggregation: Aggregation, constant_length: int, trained: Tensor | None = None
) -> Tensor:
    """Return [B, T] weights that turn per-token losses into one number by a plain sum, fixed over the whole
    minibatch so that neither micro-batches nor ranks change the result.

    sequence_mean: mean over a response's tokens, then over responses (PPO as published, GRPO).
    token_mean: mean over all tokens of the minibatch (DAPO, arXiv:2503.14476, eq. 8).
    constant_length: sum over tokens / (responses * constant_length) (Dr. GRPO, arXiv:2503.20783).

    Rows without response tokens, and rows that are not `trained` [B], have weight 0 and do not count as responses.
    """
    if trained is not None:
        mask = mask & trained[:, None]
    weights = mask.float()
    responses = mask.any(-1).sum().clamp(min=1)
    if aggregation is Aggregation.sequence_mean:
        return weights / weights.sum(-1, keepdim=True).clamp(min=1) / responses
    if aggregation is Aggregation.token_mean:
        return weights / weights.sum().clamp(min=1)
    return weights / (responses * constant_length)


def micro_batches(
    lengths: Tensor, tokens: int, overhead: int = MICRO_BATCH_OVERHEAD, max_padding: float = MAX_PADDING
) -> list[Tensor]:
    """Cuts rows of `lengths` [B] into micro-batches of at most `tokens` computed tokens each (rows x
    longest; a single longer row stands alone), as row indices.

    Rows are sorted by length, and the cuts minimise computed tokens + `overhead` per micro-batch; where
    more than `max_padding` of the computed tokens would be padding, a smaller overhead is assumed.
    """
    order = torch.argsort(lengths, descending=True, stable=True)
    sizes = lengths[order].tolist()
    ends = _cuts(sizes, tokens, overhead)
    while overhead and 1 - sum(sizes) / _computed(sizes, ends) > max_padding:
        overhead //= 2
        ends = _cuts(sizes, tokens, overhead)
    return [order[start:end] for start, end in zip([0, *ends], ends, strict=False)]


def _cuts(sizes: list[int], tokens: int, overhead: int) -> list[int]:
    """The cheapest ends of pieces of `sizes` (falling), by dynamic programming."""
    best: list[float] = [0.0] + [float("inf")] * len(sizes)  # best[i]: cost of the first i rows
    start_of = [0] * (len(sizes) + 1)
    for start in range(len(sizes)):
        for end in range(start + 1, len(sizes) + 1):
            computed = (end - start) * sizes[start]
            if computed > tokens and end > start + 1:
                break
            cost = best[start] + computed + overhead
            if cost < best[end]:
                best[end], start_of[end] = cost, start
    ends, end = [], len(sizes)
    while end > 0:
        ends.append(end)
        end = start_of[end]
    return ends[::-1]


def _computed(sizes: list[int], ends: list[int]) -> int:
    return sum((end - start) * sizes[start] for start, end in zip([0, *ends], ends, strict=False))


def minibatches(batch: Batch, size: int, seed: Sequence[int]) -> Iterator[Batch]:
    """Yield the rows `size` at a time, in a shuffled order that depends on `seed` alone."""
    order = torch.tensor(permutation("minibatches", seed, len(batch)))
    for start in range(0, len(batch), size):
        yield batch.rows(order[start : start + size])
