"""Advantage estimators against few-line readings of the papers, in float64 and one row at a time."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from simplerl.algorithms.advantages import gae, group_relative, whitened
from simplerl.algorithms.kl import K3_LIMIT, kl_estimate, token_rewards
from simplerl.config import KLConfig, KLEstimator, KLPlace
from simplerl.engine.batching import collate
from simplerl.evals.metrics import batch_metrics
from simplerl.types import Batch

Array = np.ndarray
NO_KL = KLConfig()


def penalty(coef: float, estimator: KLEstimator = KLEstimator.k1) -> KLConfig:
    return KLConfig(KLPlace.reward, estimator, coef)


def ragged(seed: int, rows: int = 12, groups: int = 3, rewards: Array | None = None) -> Batch:
    """Responses of 1 to 9 tokens after prompts of 1 to 5; everything that is outside the mask is noise."""
    rng = np.random.default_rng(seed)
    lengths = [1, *rng.integers(1, 10, rows - 1)]
    pairs = [(rng.integers(0, 50, rng.integers(1, 6)), rng.integers(0, 50, n)) for n in lengths]
    batch = collate(pairs, [row % groups for row in range(rows)])

    def noise() -> torch.Tensor:
        return torch.from_numpy(rng.normal(size=tuple(batch.tokens.shape))).float()

    chosen = rng.choice([-1.0, -0.5, 1.0], rows) if rewards is None else rewards
    return batch.with_(
        reward=torch.tensor(np.asarray(chosen), dtype=torch.float32),
        logprobs=-noise().abs() * batch.mask,
        ref_logprobs=-noise().abs() * batch.mask,
        values=noise() * batch.mask,
    )


def rows_of(batch: Batch, name: str) -> list[Array]:
    """The response tokens of each row, in float64."""
    column, mask = getattr(batch, name).double().numpy(), batch.mask.numpy()
    return [row[keep] for row, keep in zip(column, mask, strict=True)]


def paper_gae(rewards: Array, values: Array, gamma: float, lam: float) -> Array:
    """arXiv:1506.02438: A_t = sum_l (gamma lam)^l delta_{t+l}, delta_t = r_t + gamma V_{t+1} - V_t; V ends with 0."""
    following = np.append(values[1:], 0.0)
    delta = rewards + gamma * following - values
    return np.array([sum((gamma * lam) ** k * d for k, d in enumerate(delta[t:])) for t in range(len(delta))])


@pytest.mark.parametrize("estimator", [KLEstimator.k1, KLEstimator.k2, KLEstimator.k3])
def test_token_rewards(estimator: KLEstimator) -> None:
    batch = ragged(0)
    found = rows_of(token_rewards(batch, penalty(0.3, estimator)), "token_rewards")
    for row, (p, q) in enumerate(zip(rows_of(batch, "logprobs"), rows_of(batch, "ref_logprobs"), strict=True)):
        ratio = np.exp(q - p)  # reference / policy, of tokens that the policy drew
        kl = {"k1": -np.log(ratio), "k2": np.log(ratio) ** 2 / 2, "k3": ratio - 1 - np.log(ratio)}[estimator.name]
        expected = -0.3 * kl
        expected[-1] += float(batch.reward[row])  # type: ignore[index]
        np.testing.assert_allclose(found[row], expected, atol=1e-6)


def test_token_rewards_without_kl_need_no_reference() -> None:
    batch = ragged(1).with_(logprobs=None, ref_logprobs=None)
    rewards = token_rewards(batch, NO_KL).token_rewards
    assert rewards is not None and batch.reward is not None
    assert torch.equal(rewards.sum(-1), batch.reward)
    assert (rewards != 0).sum() == len(batch)
    last = batch.attention.sum(-1) - 1
    assert torch.equal(rewards[torch.arange(len(batch)), last], batch.reward)


def test_k3_is_never_negative_and_all_vanish_where_the_policies_agree() -> None:
    p = -torch.rand(1000) * 5
    assert (kl_estimate(p, -torch.rand(1000) * 5, KLEstimator.k3) >= 0).all()
    for estimator in KLEstimator:
        assert (kl_estimate(p, p.clone(), estimator) == 0).all()


def test_kl_estimators_average_to_the_divergence() -> None:
    generator = torch.Generator().manual_seed(0)
    p = torch.tensor([0.5, 0.3, 0.2])
    q = torch.tensor([0.4, 0.4, 0.2])
    exact = float((p * (p / q).log()).sum())
    drawn = torch.multinomial(p, 200_000, replacement=True, generator=generator)
    for estimator, tolerance in ((KLEstimator.k1, 2e-3), (KLEstimator.k3, 1e-3)):
        assert float(kl_estimate(p.log()[drawn], q.log()[drawn], estimator).mean()) == pytest.approx(
            exact, abs=tolerance
        )


@pytest.mark.parametrize("gamma", [1.0, 0.99, 0.5])
@pytest.mark.parametrize("lam", [1.0, 0.95, 0.0])
@pytest.mark.parametrize("seed", [0, 1])
def test_gae(gamma: float, lam: float, seed: int) -> None:
    batch = token_rewards(ragged(seed), penalty(0.1))
    found = gae(batch, gamma=gamma, lam=lam, whiten=False)
    advantages, returns = rows_of(found, "advantages"), rows_of(found, "returns")
    for row, (rewards, values) in enumerate(
        zip(rows_of(batch, "token_rewards"), rows_of(batch, "values"), strict=True)
    ):
        expected = paper_gae(rewards, values, gamma, lam)
        np.testing.assert_allclose(advantages[row], expected, atol=2e-6)
        np.testing.assert_allclose(returns[row], expected + values, atol=2e-6)
    for name in ("advantages", "returns"):
        assert (getattr(found, name)[~batch.mask] == 0).all()


def test_gae_of_one_token_is_reward_minus_value() -> None:
    batch = token_rewards(ragged(2), NO_KL)
    assert int(batch.mask[0].sum()) == 1
    found = gae(batch, gamma=0.9, lam=0.8, whiten=False).advantages
    assert float(found[0][batch.mask[0]]) == pytest.approx(float(batch.reward[0] - batch.values[0].sum()), abs=1e-6)  # type: ignore[index]


def test_whitening_counts_each_response_token_once() -> None:
    batch = token_rewards(ragged(3), penalty(0.1))
    plain = np.concatenate(rows_of(gae(batch, whiten=False), "advantages"))
    white = np.concatenate(rows_of(gae(batch, whiten=True), "advantages"))
    np.testing.assert_allclose(white, (plain - plain.mean()) / np.sqrt(plain.var() + 1e-8), atol=1e-6)
    returns = rows_of(gae(batch, whiten=False), "returns")
    for row, expected in zip(rows_of(gae(batch, whiten=True), "returns"), returns, strict=True):
        np.testing.assert_array_equal(row, expected)


def test_whitening_of_equal_values_is_zero() -> None:
    mask = torch.tensor([[True, True, False], [True, False, False]])
    assert torch.equal(whitened(torch.full((2, 3), 0.7), mask), torch.zeros(2, 3))


@pytest.mark.parametrize("std", ["group", "batch", "none"])
@pytest.mark.parametrize("groups", [1, 3, 4])
def test_group_relative(std: Any, groups: int) -> None:
    batch = token_rewards(ragged(4, groups=groups), penalty(0.05, KLEstimator.k3))
    found = rows_of(group_relative(batch, std=std), "advantages")
    totals = np.array([row.sum() for row in rows_of(batch, "token_rewards")])
    for row in range(len(batch)):
        own = totals[batch.group.numpy() == int(batch.group[row])]
        expected = totals[row] - own.mean()
        if std != "none":
            expected /= (own if std == "group" else totals).std(ddof=1) + 1e-6
        np.testing.assert_allclose(found[row], expected, atol=2e-6)


@pytest.mark.parametrize("reward", [1.0, -0.5, 0.1, 1 / 3])
@pytest.mark.parametrize("size", [2, 5, 6, 7, 8])
def test_a_group_without_spread_teaches_nothing(reward: float, size: int) -> None:
    batch = token_rewards(ragged(5, rows=size * 2, groups=2, rewards=np.full(size * 2, reward)), NO_KL)
    advantages = group_relative(batch).advantages
    assert advantages is not None and float(advantages.abs().max()) < 1e-6


def test_a_group_of_one_gets_zero() -> None:
    batch = token_rewards(ragged(6, rows=3, groups=3), NO_KL)
    advantages = group_relative(batch).advantages
    assert advantages is not None and (advantages == 0).all()


def test_a_group_counts_the_reward_of_a_response_without_unmasked_tokens() -> None:
    """A rollout whose tokens are all masked teaches nothing, but its reward is part of the group's mean and spread."""
    batch = ragged(7, rows=4, groups=1, rewards=np.array([1.0, 0.0, 0.0, -3.0]))
    mask = batch.mask.clone()
    mask[3] = False
    advantages = group_relative(token_rewards(batch.with_(mask=mask), NO_KL)).advantages
    assert advantages is not None and (advantages[3] == 0).all()
    rewards = np.array([1.0, 0.0, 0.0, -3.0])
    expected = (rewards - rewards.mean()) / (rewards.std(ddof=1) + 1e-6)
    for row in range(3):
        np.testing.assert_allclose(advantages[row][mask[row]].numpy(), expected[row], atol=1e-6)


@pytest.mark.parametrize("lam", [1.0, 0.95])
def test_gae_carries_credit_across_a_gap_in_the_mask(lam: float) -> None:
    """Response tokens 0110011 with a reward at the end: as if the four unmasked tokens followed each other."""
    rng = np.random.default_rng(0)
    mask = torch.tensor([[0, 1, 1, 0, 0, 1, 1], [0, 1, 1, 1, 1, 0, 0]], dtype=torch.bool)
    values = torch.from_numpy(rng.normal(size=(2, 7))).float()  # not zero in the gap: it must not be read
    batch = ragged(8, rows=2).with_(
        tokens=torch.ones(2, 7, dtype=torch.int64),
        attention=torch.ones(2, 7, dtype=torch.bool),
        mask=mask,
        values=values,
        reward=torch.tensor([1.0, 1.0]),
    )
    found = gae(token_rewards(batch, NO_KL), gamma=0.99, lam=lam, whiten=False)
    for row in range(2):
        own = values[row][mask[row]].double().numpy()
        expected = paper_gae(np.array([0.0, 0.0, 0.0, 1.0]), own, 0.99, lam)
        assert found.advantages is not None and found.returns is not None
        np.testing.assert_allclose(found.advantages[row][mask[row]].numpy(), expected, atol=2e-6)
        np.testing.assert_allclose(found.returns[row][mask[row]].numpy(), expected + own, atol=2e-6)
        assert (found.advantages[row][~mask[row]] == 0).all()


@pytest.mark.parametrize("log_ratio", [80.0, -80.0, 200.0, -200.0])
def test_k3_of_far_apart_policies_is_capped(log_ratio: float) -> None:
    """exp(200) is infinite in float32: one such token would make every number of the step infinite."""
    zeros = torch.zeros(3)
    k3 = kl_estimate(zeros, zeros - log_ratio, KLEstimator.k3)
    assert (k3 >= 0).all() and (k3 <= K3_LIMIT).all()
    batch = ragged(9)
    far = batch.with_(ref_logprobs=batch.logprobs - log_ratio * batch.mask)  # type: ignore[operator]
    rewards = token_rewards(far, penalty(0.5, KLEstimator.k3)).token_rewards
    assert rewards is not None and batch.reward is not None
    assert torch.isfinite(rewards).all()
    assert float(rewards.min()) >= float(batch.reward.min()) - 0.5 * K3_LIMIT
    half = torch.arange(len(batch)) % 2 == 0
    mixed = far.with_(
        ref_logprobs=torch.where(half[:, None], far.ref_logprobs, batch.logprobs),  # type: ignore[arg-type]
        sampler_logprobs=batch.logprobs,
        advantages=torch.zeros(batch.tokens.shape),
    )
    share = float((batch.mask & half[:, None]).sum() / batch.mask.sum())
    assert batch_metrics(mixed)["rollout/kl_clamped"] == pytest.approx(share)


def test_the_penalty_is_subtracted_only_where_the_configuration_places_it() -> None:
    """A coefficient of 0 and a term of the loss leave the rewards as graded."""
    batch = ragged(10)
    plain = token_rewards(batch, NO_KL).token_rewards
    assert plain is not None
    for kl in (penalty(0.0), KLConfig(KLPlace.loss, KLEstimator.k3, 0.5)):
        found = token_rewards(batch, kl).token_rewards
        assert found is not None and torch.equal(found, plain)
