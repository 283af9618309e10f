"""Collates rollouts into a batch and splits a batch into minibatches and micro-batches, with pure functions."""

from __future__ import annotations

import zlib
from collections.abc import Iterator, Sequence

import numpy as np
import torch
from torch import Tensor

from simplerl.config import Aggregation
from simplerl.types import Batch, Rollout, score_of

MICRO_BATCH_OVERHEAD = 256  # fixed cost of one more micro-batch, expressed in computed tokens
MAX_PADDING = 0.1  # fraction of the computed tokens


def permutation(stream: str, numbers: Sequence[int], size: int) -> list[int]:
    """Return a permutation of range(size), seeded by `stream` and `numbers`. `stream` is the name of the use and
    separates its seeds from those of other uses, because NumPy pads seeds with zeros: [s, e] equals [s, e, 0]."""
    rng = np.random.default_rng([zlib.crc32(stream.encode()), *numbers])
    return [int(i) for i in rng.permutation(size)]


def collate(rows: Sequence[tuple[Sequence[int], Sequence[int]]], groups: Sequence[int]) -> Batch:
    """Build a batch from (prompt tokens, response tokens) pairs, right-padded with token 0, and the group index of each
    row. Raises ValueError if a prompt or response is empty."""
    lengths = [len(prompt) + len(response) for prompt, response in rows]
    shape = (len(rows), max(lengths))
    tokens = np.zeros(shape, dtype=np.int64)
    attention = np.zeros(shape, dtype=bool)
    mask = np.zeros(shape, dtype=bool)
    for row, ((prompt, response), length) in enumerate(zip(rows, lengths, strict=True)):
        if not len(prompt) or not len(response):
            raise ValueError(
                f"row {row} has {len(prompt)} prompt and {len(response)} response tokens: neither may be 0"
            )
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
    """Build a batch from graded rollouts, in the same order. Rollouts of the same problem form a group. Their numbers
    in `Rollout.extra` and reward parts, as `reward/<part>`, become columns of `Batch.extra`."""
    numbers: dict[str, int] = {}
    groups = [numbers.setdefault(r.prompt.problem.id, len(numbers)) for r in rollouts]
    batch = collate([(r.prompt.token_ids, r.token_ids) for r in rollouts], groups)
    sampler_logprobs = torch.zeros(batch.tokens.shape)
    sampler_logprobs[batch.mask] = torch.tensor([p for r in rollouts for p in r.logprobs])
    scores = [score_of(r) for r in rollouts]
    parts = [{f"reward/{name}": value for name, value in score.parts.items()} for score in scores]
    return batch.with_(
        reward=torch.tensor([score.reward for score in scores]),
        correct=torch.tensor([score.correct for score in scores]),
        trained=torch.tensor([r.trained for r in rollouts]),
        sampler_logprobs=sampler_logprobs,
        extra=_shared_columns([{**r.extra, **own} for r, own in zip(rollouts, parts, strict=True)]),
    )


def _shared_columns(rows: Sequence[dict[str, float]]) -> dict[str, Tensor]:
    """Return the entries whose names occur in every row, as columns [B]."""
    shared = set(rows[0]).intersection(*rows[1:])
    return {name: torch.tensor([float(row[name]) for row in rows]) for name in rows[0] if name in shared}


def token_weights(
    batch: Batch, aggregation: Aggregation, constant_length: int = 1, rows: int = 2, step_tokens: float = 0.0
) -> Tensor:
    """Return the weights [B, T] with which per-token losses are summed to the loss of a minibatch. They are computed
    over the whole minibatch, so that the loss does not depend on micro-batches and ranks.

    sequence_mean: mean over the tokens of a response, then over responses (GRPO, and PPO as published).
    token_mean: mean over all tokens of the minibatch (DAPO, arXiv:2503.14476, eq. 8).
    step_token_mean: sum over the tokens of the minibatch / `step_tokens`, the mean number of trained tokens of the
        step's minibatches, so that all tokens of a step weigh the same.
    prompt_mean: mean over the tokens of a prompt's responses in the minibatch, then over prompts (ScaleRL,
        arXiv:2510.13786).
    constant_length: sum over tokens / (responses * constant_length) (Dr. GRPO, arXiv:2503.20783).
    micro_batch_token_mean: mean over the tokens of `rows` consecutive responses, then over these blocks, as trainers
        compute that average their micro-batches (SimpleRL-Zoo; "bnpo" in TRL).

    Rows without response tokens, and rows where `trained` [B] is False, have weight 0 and are not counted.
    """
    mask = batch.mask if batch.trained is None else batch.mask & batch.trained[:, None]
    weights = mask.float()
    lengths = weights.sum(-1, keepdim=True)
    responses = mask.any(-1).sum().clamp(min=1)
    if aggregation is Aggregation.sequence_mean:
        return weights / lengths.clamp(min=1) / responses
    if aggregation is Aggregation.token_mean:
        return weights / weights.sum().clamp(min=1)
    if aggregation is Aggregation.step_token_mean:
        return weights / max(step_tokens, 1.0)
    if aggregation is Aggregation.constant_length:
        return weights / (responses * constant_length)
    blocks = batch.group if aggregation is Aggregation.prompt_mean else torch.arange(len(batch)) // rows
    blocks = blocks.to(mask.device)
    totals = torch.zeros(int(blocks.max()) + 1, device=mask.device).index_add(0, blocks, lengths.squeeze(-1))
    return weights / totals[blocks, None].clamp(min=1) / (totals > 0).sum().clamp(min=1)


def micro_batches(
    lengths: Tensor, tokens: int, overhead: int = MICRO_BATCH_OVERHEAD, max_padding: float = MAX_PADDING
) -> list[Tensor]:
    """Split rows of the given `lengths` [B] into micro-batches of at most `tokens` computed tokens (rows x longest
    row); a single longer row gets its own micro-batch. Returns the row indices of each micro-batch.

    Rows are sorted by length and split so that computed tokens + `overhead` per micro-batch is minimal. If padding
    exceeds the fraction `max_padding` of the computed tokens, a smaller overhead is used.
    """
    order = torch.argsort(lengths, descending=True, stable=True)
    sizes = lengths[order].tolist()
    ends = _optimal_splits(sizes, tokens, overhead)
    while overhead and 1 - sum(sizes) / _computed_tokens(sizes, ends) > max_padding:
        overhead //= 2
        ends = _optimal_splits(sizes, tokens, overhead)
    return [order[start:end] for start, end in zip([0, *ends], ends, strict=False)]


def _optimal_splits(sizes: list[int], tokens: int, overhead: int) -> list[int]:
    """Split `sizes`, in descending order, at minimal cost by dynamic programming. Returns the end of each part."""
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


def _computed_tokens(sizes: list[int], ends: list[int]) -> int:
    return sum((end - start) * sizes[start] for start, end in zip([0, *ends], ends, strict=False))


def minibatches(batch: Batch, size: int, seed: Sequence[int]) -> Iterator[Batch]:
    """Yield minibatches of `size` rows in an order shuffled by `seed`."""
    order = torch.tensor(permutation("minibatches", seed, len(batch)))
    for start in range(0, len(batch), size):
        yield batch.rows(order[start : start + size])
