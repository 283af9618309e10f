"""From rollouts to tensors, and from a batch to micro-batches. Pure functions."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import torch
from torch import Tensor

from simplerl.config import Aggregation
from simplerl.types import Batch, Rollout, score_of

# What starting one more micro-batch costs, in computed tokens: launch overheads that padding must outweigh.
MICRO_BATCH_OVERHEAD = 256
MAX_PADDING = 0.1  # of the computed tokens


def collate(rows: Sequence[tuple[Sequence[int], Sequence[int]]], groups: Sequence[int]) -> Batch:
    """Pairs of (prompt tokens, response tokens) as one batch, padded on the right with token 0."""
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
    """Scored rollouts as one batch; rows keep their order, a group is a problem of the step."""
    numbers: dict[str, int] = {}
    groups = [numbers.setdefault(r.prompt.problem.id, len(numbers)) for r in rollouts]
    batch = collate([(r.prompt.token_ids, r.token_ids) for r in rollouts], groups)
    sampler_logprobs = torch.zeros(batch.tokens.shape)
    sampler_logprobs[batch.mask] = torch.tensor([p for r in rollouts for p in r.logprobs])
    rewards = torch.tensor([score_of(r).reward for r in rollouts])
    return batch.with_(reward=rewards, sampler_logprobs=sampler_logprobs)


def token_weights(mask: Tensor, aggregation: Aggregation, constant_length: int) -> Tensor:
    """[B, T] weights that turn per-token losses into one number by a plain sum, fixed over the whole
    minibatch so that neither micro-batches nor ranks change the result.

    sequence_mean: mean over a response's tokens, then over responses (PPO as published, GRPO).
    token_mean: mean over all tokens of the minibatch (DAPO, arXiv:2503.14476, eq. 8).
    constant_length: sum over tokens / (B * constant_length) (Dr. GRPO, arXiv:2503.20783).
    """
    weights = mask.float()
    if aggregation is Aggregation.sequence_mean:
        return weights / weights.sum(-1, keepdim=True).clamp(min=1) / len(mask)
    if aggregation is Aggregation.token_mean:
        return weights / weights.sum().clamp(min=1)
    return weights / (len(mask) * constant_length)


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
    """The rows in a shuffled order that depends on `seed` alone, `size` at a time."""
    order = torch.from_numpy(np.random.default_rng(list(seed)).permutation(len(batch)))
    for start in range(0, len(batch), size):
        yield batch.rows(order[start : start + size])
