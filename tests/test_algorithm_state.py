"""Algorithms that remember something between steps."""

from __future__ import annotations

import numpy as np
import torch

from simplerl.algorithms.advantages import moving_baseline
from simplerl.algorithms.kl import token_rewards
from simplerl.config import KLConfig
from simplerl.engine.batching import collate
from simplerl.types import Batch


def batch_of(rewards: list[float]) -> Batch:
    batch = collate([((1,), (2, 3))] * len(rewards), list(range(len(rewards))))
    return token_rewards(batch.with_(reward=torch.tensor(rewards)), KLConfig())


def test_moving_baseline() -> None:
    """The baseline is the exponentially weighted mean of the means of earlier steps."""
    state, means, rng = {"mean": 0.0, "weight": 0.0}, [], np.random.default_rng(0)
    for _ in range(5):
        rewards = rng.normal(size=4).astype(np.float32)
        batch, state = moving_baseline(batch_of(rewards.tolist()), state, decay=0.8)
        weights = 0.8 ** np.arange(len(means))[::-1]
        baseline = np.average(means, weights=weights) if means else rewards.mean()
        assert batch.advantages is not None
        np.testing.assert_allclose(batch.advantages[:, 1].numpy(), rewards - baseline, atol=1e-6)
        means.append(rewards.mean())
