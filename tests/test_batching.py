"""Collation, micro-batches and minibatches."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

import numpy as np
import pytest
import torch

from simplerl.data.task import TrainingSchedule
from simplerl.engine.batching import (
    MICRO_BATCH_OVERHEAD,
    collate,
    collate_rollouts,
    micro_batches,
    minibatches,
    permutation,
)
from simplerl.types import Problem, Prompt, Rollout, Score


def rollout(problem: str, sample: int, response: Sequence[int], reward: float = 0.0) -> Rollout:
    prompt = Prompt(Problem(problem, "?", "1"), "?", (7, 8))
    logprobs = tuple(-float(token) for token in response)
    return Rollout(prompt, sample, "", tuple(response), logprobs, "stop", Score(reward, reward > 0, "equal"))


def test_collate_by_hand() -> None:
    batch = collate([([1, 2], [3, 4, 5]), ([6], [7]), ([8, 9, 10], [11])], [0, 0, 1])
    assert batch.tokens.tolist() == [[1, 2, 3, 4, 5], [6, 7, 0, 0, 0], [8, 9, 10, 11, 0]]
    assert batch.attention.int().tolist() == [[1, 1, 1, 1, 1], [1, 1, 0, 0, 0], [1, 1, 1, 1, 0]]
    assert batch.mask.int().tolist() == [[0, 0, 1, 1, 1], [0, 1, 0, 0, 0], [0, 0, 0, 1, 0]]
    assert batch.group.tolist() == [0, 0, 1]


@pytest.mark.parametrize("row", [([], [1]), ([1], [])])
def test_collate_refuses_rows_without_prompt_or_response(row: tuple[list[int], list[int]]) -> None:
    with pytest.raises(ValueError, match="row 1 has"):
        collate([([1], [2]), row], [0, 0])


def test_collate_rollouts_puts_logprobs_on_their_tokens() -> None:
    rollouts = [rollout("b", 0, [3, 4], 1.0), rollout("b", 1, [5], -0.5), rollout("a", 0, [9, 1, 2], -1.0)]
    batch = collate_rollouts(rollouts)
    assert batch.group.tolist() == [0, 0, 1]
    assert batch.reward is not None and batch.reward.tolist() == [1.0, -0.5, -1.0]
    assert batch.sampler_logprobs is not None
    assert batch.sampler_logprobs.tolist() == [[0, 0, -3, -4, 0], [0, 0, -5, 0, 0], [0, 0, -9, -1, -2]]
    assert torch.equal(-batch.sampler_logprobs[batch.mask].long(), batch.tokens[batch.mask])


def test_rows_are_cut_to_their_longest() -> None:
    batch = collate([([1], [2, 3, 4, 5]), ([6], [7]), ([8], [9, 10])], [0, 1, 2]).with_(reward=torch.arange(3.0))
    part = batch.rows(torch.tensor([2, 1]))
    assert part.tokens.tolist() == [[8, 9, 10], [6, 7, 0]]
    assert part.reward is not None and part.reward.tolist() == [2.0, 1.0] and part.group.tolist() == [2, 1]


MIXES = {
    "narrow": lambda rng, n: rng.integers(60, 100, n),
    "wide": lambda rng, n: rng.integers(20, 257, n),
    "skewed": lambda rng, n: np.minimum(257, 20 + rng.exponential(50, n).astype(int)),
    "two humps": lambda rng, n: np.where(rng.random(n) < 0.7, rng.integers(40, 70, n), rng.integers(180, 257, n)),
    "long": lambda rng, n: np.minimum(4096, 100 + rng.lognormal(6.5, 0.8, n).astype(int)),
}


@pytest.mark.parametrize("mix", MIXES)
@pytest.mark.parametrize(("rows", "budget"), [(64, 8192), (128, 16384), (64, 1000), (1, 8192)])
def test_micro_batches_cover_every_row_once_within_the_budget(mix: str, rows: int, budget: int) -> None:
    lengths = torch.from_numpy(MIXES[mix](np.random.default_rng(0), rows))
    pieces = micro_batches(lengths, budget)
    assert sorted(torch.cat(pieces).tolist()) == list(range(rows))
    for piece in pieces:
        assert len(piece) * int(lengths[piece].max()) <= budget or len(piece) == 1


@pytest.mark.parametrize("mix", MIXES)
@pytest.mark.parametrize("rows", [64, 128])
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_padding_is_at_most_a_tenth(mix: str, rows: int, seed: int) -> None:
    lengths = torch.from_numpy(MIXES[mix](np.random.default_rng(seed), rows))
    pieces = micro_batches(lengths, 8192)
    computed = sum(len(piece) * int(lengths[piece].max()) for piece in pieces)
    assert 1 - int(lengths.sum()) / computed <= 0.10


def partitions(rows: list[int]) -> Iterator[list[list[int]]]:
    """Every way to cut rows into unordered groups."""
    if not rows:
        yield []
        return
    first, rest = rows[0], rows[1:]
    for smaller in partitions(rest):
        yield [[first], *smaller]
        for i, group in enumerate(smaller):
            yield [*smaller[:i], [first, *group], *smaller[i + 1 :]]


@pytest.mark.parametrize("seed", range(12))
def test_micro_batches_are_optimal(seed: int) -> None:
    rng = np.random.default_rng(seed)
    lengths = rng.integers(1, 400, rng.integers(1, 8))
    budget, overhead = int(rng.integers(300, 1500)), int(rng.integers(0, 300))

    def cost(groups: Sequence[Sequence[int]]) -> float:
        sizes = [len(group) * max(lengths[i] for i in group) for group in groups]
        if any(size > budget and len(group) > 1 for size, group in zip(sizes, groups, strict=True)):
            return float("inf")
        return sum(sizes) + overhead * len(groups)

    best = min(cost(groups) for groups in partitions(list(range(len(lengths)))))
    assert cost([piece.tolist() for piece in micro_batches(torch.from_numpy(lengths), budget, overhead, 1)]) == best


def test_more_overhead_makes_fewer_micro_batches() -> None:
    lengths = torch.from_numpy(MIXES["wide"](np.random.default_rng(0), 64))
    counts = [
        len(micro_batches(lengths, 8192, overhead, max_padding=1)) for overhead in (0, MICRO_BATCH_OVERHEAD, 10**9)
    ]
    assert counts[0] > counts[1] > counts[2]
    assert counts[2] == 2


def test_minibatches_shuffle_by_seed_alone() -> None:
    batch = collate([([1], [row]) for row in range(1, 13)], list(range(12)))

    def order(seed: Sequence[int]) -> list[int]:
        parts = list(minibatches(batch, 4, seed))
        assert [len(part) for part in parts] == [4, 4, 4]
        return [int(row) for part in parts for row in part.group]

    assert sorted(order([0, 1])) == list(range(12))
    assert order([0, 1]) == order([0, 1])
    assert len({tuple(order(seed)) for seed in ([0, 1], [1, 0], [0, 1, 1], [0, 2])}) == 4


def test_streams_never_share_a_permutation() -> None:
    """NumPy pads its seeds with zeros: [seed, epoch] of the problems and [seed, step, 0] of the minibatches would give
    the same one, and so would the documents of SFT."""
    numbers = [[seed, epoch] for seed in range(4) for epoch in range(4)]
    made = [tuple(permutation(stream, own, 50)) for stream in ("problems", "documents") for own in numbers]
    made += [tuple(permutation("minibatches", [*own, epoch], 50)) for own in numbers for epoch in range(2)]
    assert len(set(made)) == len(made) == 64
    assert permutation("problems", [1, 2], 50) == permutation("problems", [1, 2], 50)

    batch = collate([([1], [row]) for row in range(1, 17)], list(range(16)))
    arithmetic = TrainingSchedule(16, 16, 1, 16, 1, 4)
    for epoch in range(4):
        (whole,) = minibatches(batch, 16, [0, epoch, 0])
        assert whole.group.tolist() != arithmetic.problems_at(epoch, 0)


def test_what_is_not_trained_stays_in_the_batch() -> None:
    """Its reward counts in the group; `token_weights` leaves its tokens out of the loss."""
    rollouts = [rollout("a", 0, [3], 1.0), replace(rollout("a", 1, [4, 5]), trained=False)]
    batch = collate_rollouts(rollouts)
    assert batch.trained is not None and batch.trained.tolist() == [True, False]
    assert batch.mask.sum() == 3 and batch.correct is not None and batch.correct.tolist() == [True, False]


def test_columns_of_other_roles_go_with_their_rows() -> None:
    batch = collate([([1], [2, 3, 4]), ([5], [6])], [0, 1]).with_column("teacher", torch.arange(8.0).view(2, 4))
    batch = batch.with_column("values", torch.ones(2, 4)).with_column("weight", torch.tensor([1.0, 2.0]))
    assert batch.values is not None and set(batch.extra) == {"teacher", "weight"}
    part = batch.rows(torch.tensor([1]))
    assert part.extra["teacher"].tolist() == [[4.0, 5.0]] and part.extra["weight"].tolist() == [2.0]
    assert batch.to("cpu").extra["teacher"].shape == (2, 4)
