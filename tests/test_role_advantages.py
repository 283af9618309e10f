"""Advantages that read what a role of their own says, against few-line readings of the papers."""

from __future__ import annotations

import numpy as np
import torch

from simplerl.algorithms.advantages import teacher_advantage
from simplerl.engine.batching import collate
from simplerl.types import Batch


def ragged(seed: int, rows: int = 8, groups: int = 2) -> tuple[Batch, np.random.Generator]:
    """Responses of 1 to 6 tokens with rewards and log-probs; the correct ones are every third."""
    rng = np.random.default_rng(seed)
    lengths = [1, *rng.integers(1, 7, rows - 1)]
    batch = collate([((1, 2), tuple(rng.integers(0, 9, n))) for n in lengths], [row % groups for row in range(rows)])
    correct = torch.arange(rows) % 3 == 0
    batch = batch.with_(reward=correct.float(), correct=correct, token_rewards=torch.zeros(batch.tokens.shape))
    return batch.with_(logprobs=noise(batch, rng), ref_logprobs=noise(batch, rng)), rng


def noise(batch: Batch, rng: np.random.Generator) -> torch.Tensor:
    return -torch.from_numpy(rng.random(tuple(batch.tokens.shape))).float() * batch.mask


def test_teacher_advantage() -> None:
    """The advantage is positive where the teacher finds the token likelier, and zero outside the response."""
    batch, rng = ragged(0)
    teacher = noise(batch, rng)
    found = teacher_advantage(batch.with_column("teacher_logprobs", teacher)).advantages
    assert found is not None and batch.logprobs is not None
    torch.testing.assert_close(found, teacher - batch.logprobs)
    assert (found[~batch.mask] == 0).all()
