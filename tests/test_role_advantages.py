"""Advantages that read what a role of their own says, against few-line readings of the papers."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from simplerl.algorithms.advantages import prime, teacher_advantage
from simplerl.algorithms.losses import TokenOutput, implicit_prm
from simplerl.config import Aggregation
from simplerl.engine.batching import collate, token_weights
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


def test_prime_is_equation_5_of_the_paper() -> None:
    """A_t = sum_{s>=t} (r_s - mean over the others of their mean r) + R - mean over the others of R, in float64."""
    batch, rng = ragged(1)
    batch = batch.with_(token_rewards=torch.zeros(batch.tokens.shape)).with_column("prm_logprobs", noise(batch, rng))
    last = batch.mask.float().cumsum(-1).argmax(-1)
    assert batch.reward is not None and batch.token_rewards is not None and batch.ref_logprobs is not None
    batch.token_rewards[torch.arange(len(batch)), last] = batch.reward
    found = prime(batch, beta=0.3, process=2.0, outcome=0.5, whiten=False).advantages
    rewards = 0.3 * (batch.extra["prm_logprobs"] - batch.ref_logprobs).double().numpy()
    mask, outcome, group = batch.mask.numpy(), batch.reward.double().numpy(), batch.group.numpy()
    for row in range(len(batch)):
        others = [other for other in range(len(batch)) if group[other] == group[row] and other != row]
        process = rewards[row][mask[row]] - np.mean([rewards[other][mask[other]].mean() for other in others])
        expected = [
            2.0 * process[t:].sum() + 0.5 * (outcome[row] - outcome[others].mean()) for t in range(len(process))
        ]
        assert found is not None
        np.testing.assert_allclose(found[row][batch.mask[row]].numpy(), expected, atol=1e-6)


def test_implicit_prm_is_the_cross_entropy_of_correctness() -> None:
    batch, rng = ragged(2)
    logprobs = noise(batch, rng).requires_grad_()
    per_token, metrics = implicit_prm(TokenOutput(logprobs, torch.zeros_like(logprobs)), batch, beta=0.5)
    loss = (per_token * token_weights(batch, Aggregation.sequence_mean, 0)).sum()
    assert batch.ref_logprobs is not None and batch.correct is not None
    q = (0.5 * (logprobs - batch.ref_logprobs).double().detach().numpy() * batch.mask.numpy()).sum(-1)
    correct = batch.correct.numpy()
    p = 1 / (1 + np.exp(-q))
    assert float(loss.detach()) == pytest.approx(-np.where(correct, np.log(p), np.log(1 - p)).mean(), abs=1e-6)
    loss.backward()
    assert logprobs.grad is not None
    signs = torch.sign(logprobs.grad.sum(-1))
    assert (signs == torch.where(batch.correct, -1.0, 1.0)).all(), "correct responses rise, the others fall"
    assert 0 <= float(metrics["accuracy"].max()) <= 1
