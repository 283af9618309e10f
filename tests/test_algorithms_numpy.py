"""Advantages, policy losses and corrections against few-line NumPy readings of their papers, in float64, on ragged
batches with a group of one, equal rewards, one-token responses and log-ratios far beyond every clip."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch

from simplerl.algorithms import advantages, corrections, losses
from simplerl.algorithms.kl import adapted_coef, kl_loss
from simplerl.config import KLConfig, KLEstimator, KLPlace
from simplerl.engine.batching import collate
from simplerl.types import Batch

Array = np.ndarray
GROUPS = [0, 0, 0, 0, 1, 1, 1, 2, 3, 3, 3, 3, 4, 4]


def ragged(seed: int, wild: float = 0.5) -> Batch:
    """Return a batch in float64 with all columns; responses have 1 to 30 tokens, and everything outside is zero."""
    rng = np.random.default_rng(seed)
    lengths = [1, 30, *rng.integers(1, 30, len(GROUPS) - 2)]
    batch = collate([(rng.integers(0, 50, rng.integers(1, 6)), rng.integers(0, 50, n)) for n in lengths], GROUPS)

    def noise(scale: float = 1.0) -> torch.Tensor:
        return torch.from_numpy(rng.normal(size=tuple(batch.tokens.shape))) * batch.mask * scale

    correct = rng.random(len(GROUPS)) < 0.5
    correct[:2], correct[8:12] = [True, False], True  # a mixed group, and one with equal rewards
    old = -noise().abs()
    rewards = torch.zeros(batch.mask.shape, dtype=torch.float64)
    last = batch.attention.sum(-1) - 1
    rewards[torch.arange(len(batch)), last] = torch.from_numpy(np.where(correct, 1.0, -0.5))
    rewards = rewards + noise(0.01) * (batch.group != 3)[:, None]  # KL penalties
    return batch.with_(
        reward=torch.from_numpy(np.where(correct, 1.0, -0.5)),
        correct=torch.from_numpy(correct),
        token_rewards=rewards,
        logprobs=old,
        sampler_logprobs=(old + noise(0.5)) * batch.mask,
        ref_logprobs=(old + noise(0.3)) * batch.mask,
        values=noise(0.7),
        advantages=noise(),
        extra={"greedy_reward": torch.from_numpy(rng.normal(size=len(GROUPS)))},
    )


def rows_of(batch: Batch, column: Any) -> list[Array]:
    """Return the response tokens of each row."""
    return [row[keep].detach().numpy() for row, keep in zip(column, batch.mask, strict=True)]


def totals(batch: Batch) -> Array:
    return np.array([row.sum() for row in rows_of(batch, batch.token_rewards)])


def others(x: Array, row: int) -> Array:
    """Return the values of the other rows of a row's group."""
    return np.array([x[i] for i in range(len(x)) if GROUPS[i] == GROUPS[row] and i != row])


def own(x: Array, row: int) -> Array:
    return np.array([x[i] for i in range(len(x)) if GROUPS[i] == GROUPS[row]])


def std(x: Array) -> float:
    return float(x.std(ddof=1)) if len(x) > 1 else 0.0


def whiten(rows: list[Array]) -> list[Array]:
    tokens = np.concatenate(rows)
    return [(row - tokens.mean()) / np.sqrt(tokens.var() + 1e-8) for row in rows]


def spread(batch: Batch, values: Any) -> list[Array]:
    """Give every token of a response the response's value."""
    return [np.full(int(n), v) for n, v in zip(batch.mask.sum(-1), values, strict=True)]


def lead(x: Array, row: int) -> float:
    """The lead of the best response of a group over the second, 0 for all others."""
    rest = others(x, row)
    return max(0.0, x[row] - rest.max()) / (std(own(x, row)) + 1e-6) if len(rest) else 0.0


def opo_baseline(batch: Batch, row: int) -> float:
    n, x = batch.mask.sum(-1).numpy().astype(float), totals(batch)
    return float((own(n, row) * own(x, row)).sum() / own(n, row).sum())


def gae_rows(batch: Batch, lam: Callable[[int], float]) -> list[Array]:
    """arXiv:1506.02438, eq. 16, with gamma 1."""
    found = []
    for rewards, values in zip(rows_of(batch, batch.token_rewards), rows_of(batch, batch.values), strict=True):
        delta = rewards + np.append(values[1:], 0.0) - values
        decay = lam(len(rewards))
        found.append(np.array([sum(decay**k * d for k, d in enumerate(delta[t:])) for t in range(len(delta))]))
    return found


def adaptive(length: int) -> float:
    return min(max(1 - 1 / max(0.1 * length, 1.0), 0.0), 1.0)


def gdpo_rows(batch: Batch) -> list[Array]:
    a, b = batch.extra["reward/accuracy"].numpy(), batch.extra["reward/format"].numpy()
    summed = [
        sum(w * (x[i] - own(x, i).mean()) / (std(own(x, i)) + 1e-6) for w, x in ((1.0, a), (0.5, b)))
        for i in range(len(a))
    ]
    return whiten(spread(batch, summed))


READINGS: dict[str, tuple[Any, Callable[[Batch], list[Array]]]] = {
    "batch_std": (
        partial(advantages.group_relative, std="batch"),
        lambda b: spread(
            b, [(x - own(totals(b), i).mean()) / (std(totals(b)) + 1e-6) for i, x in enumerate(totals(b))]
        ),
    ),
    "rloo": (
        advantages.rloo,
        lambda b: spread(
            b,
            [x - (others(totals(b), i).mean() if len(others(totals(b), i)) else 0.0) for i, x in enumerate(totals(b))],
        ),
    ),
    "reinforce_plus_plus": (
        advantages.reinforce_plus_plus,
        lambda b: whiten([row[::-1].cumsum()[::-1] for row in rows_of(b, b.token_rewards)]),
    ),
    "reinforce_plus_plus_baseline": (
        advantages.reinforce_plus_plus_baseline,
        lambda b: whiten(spread(b, [x - own(totals(b), i).mean() for i, x in enumerate(totals(b))])),
    ),
    "max_rl": (
        advantages.max_rl,
        lambda b: spread(
            b,
            [
                (c - own(b.correct.numpy(), i).mean()) / (own(b.correct.numpy(), i).mean() + 1e-6)
                if own(b.correct.numpy(), i).any()
                else 0.0
                for i, c in enumerate(b.correct.numpy().astype(float))  # type: ignore[union-attr]
            ],
        ),
    ),
    "opo": (advantages.opo, lambda b: spread(b, [x - opo_baseline(b, i) for i, x in enumerate(totals(b))])),
    "pass_at_k": (advantages.pass_at_k, lambda b: spread(b, [lead(totals(b), i) for i in range(len(b))])),
    "remax": (advantages.remax, lambda b: spread(b, totals(b) - b.extra["greedy_reward"].numpy())),
    "gdpo": (partial(advantages.gdpo, weights={"accuracy": 1.0, "format": 0.5}), gdpo_rows),
    "gae_decoupled": (
        partial(advantages.gae, lam=0.9, value_lam=1.0, whiten=False),
        lambda b: gae_rows(b, lambda _: 0.9),
    ),
    "gae_length_adaptive": (
        partial(advantages.gae, length_alpha=0.1, whiten=False),
        lambda b: gae_rows(b, adaptive),
    ),
}


@pytest.mark.parametrize("seed", [0, 1, 2])
@pytest.mark.parametrize("name", READINGS)
def test_advantages(name: str, seed: int) -> None:
    batch = ragged(seed)
    rng = np.random.default_rng(seed)
    parts = {f"reward/{k}": torch.from_numpy(rng.integers(0, 2, len(batch)) * 1.0) for k in ("accuracy", "format")}
    batch = batch.with_(extra={**batch.extra, **parts})
    estimator, reading = READINGS[name]
    found = estimator(batch).advantages
    for ours, paper in zip(rows_of(batch, found), reading(batch), strict=True):
        np.testing.assert_allclose(ours, paper, atol=1e-6)
    assert (found[~batch.mask] == 0).all()


def test_the_critic_has_a_lambda_of_its_own() -> None:
    batch = ragged(3)
    found = advantages.gae(batch, lam=0.5, value_lam=1.0)
    expected = [a + v for a, v in zip(gae_rows(batch, lambda _: 1.0), rows_of(batch, batch.values), strict=True)]
    for ours, paper in zip(rows_of(batch, found.returns), expected, strict=True):
        np.testing.assert_allclose(ours, paper, atol=1e-6)


# Losses: value of the loss of each token, and its gradient with respect to that token's log-prob.


def gspo_reading(new: Array, old: Array, a: Array) -> tuple[Array, Array]:
    s = np.exp((new - old).mean())
    clipped = np.clip(s, 1 - 3e-4, 1 + 4e-4)
    kept = s * a <= clipped * a
    return -np.minimum(s * a, clipped * a), np.where(kept, -s * a, 0.0)


def dual_reading(new: Array, old: Array, a: Array) -> tuple[Array, Array]:
    r = np.exp(new - old)
    plain = np.minimum(r * a, np.clip(r, 0.8, 1.2) * a)
    objective = np.where(a < 0, np.maximum(plain, 3 * a), plain)
    moves = (r * a <= np.clip(r, 0.8, 1.2) * a) & ~((a < 0) & (plain < 3 * a))
    return -objective, np.where(moves, -r * a, 0.0)


def cispo_reading(new: Array, old: Array, a: Array) -> tuple[Array, Array]:
    weight = np.clip(np.exp(new - old), 0.0, 1.2)
    return -weight * a * new, -weight * a


def gmpo_reading(new: Array, old: Array, a: Array) -> tuple[Array, Array]:
    """The advantage is that of the response, so every token has the same."""
    move, sign = new - old, np.sign(a)
    clipped = sign * np.minimum(sign * move, sign * np.clip(move, -0.4, 0.4))
    ratio = np.exp(clipped.mean())
    kept = sign * move <= sign * np.clip(move, -0.4, 0.4)
    return np.full_like(new, -a[0] * ratio), np.where(kept, -a[0] * ratio, 0.0)


def sapo_reading(new: Array, old: Array, a: Array) -> tuple[Array, Array]:
    r, tau = np.exp(new - old), np.where(a > 0, 1.0, 1.05)
    gate = 1 / (1 + np.exp(-tau * (r - 1)))
    return -a * gate * 4 / tau, -a * 4 * gate * (1 - gate) * r


def dppo_tv_reading(new: Array, old: Array, a: Array) -> tuple[Array, Array]:
    p, mu = np.exp(new), np.exp(old)
    dropped = ((a > 0) & (p - mu > 0.2)) | ((a <= 0) & (mu - p > 0.2))
    weight = np.where(dropped, 0.0, np.minimum(p / mu, 20.0))
    return -weight * a * new, -weight * a


def dppo_kl_reading(new: Array, old: Array, a: Array) -> tuple[Array, Array]:
    p, mu = np.exp(new), np.exp(old)
    divergence = mu * np.log(mu / p) + (1 - mu) * np.log((1 - mu + 1e-8) / (1 - p + 1e-8))
    dropped = (divergence > 0.05) & np.where(a > 0, p > mu, p < mu)
    weight = np.where(dropped, 0.0, np.minimum(p / mu, 20.0))
    return -weight * a * new, -weight * a


def opmd_reading(new: Array, old: Array, a: Array) -> tuple[Array, Array]:
    """arXiv:2501.12599, eq. 3: grad = -A grad log pi(y) + tau/2 grad (log pi(y)/pi_old(y))^2, here with tau 0.3."""
    gradient = -a + 0.3 * (new - old).sum()
    return gradient * new, gradient


LOSSES: dict[str, tuple[Any, Callable[[Array, Array, Array], tuple[Array, Array]]]] = {
    "gspo": (losses.gspo, gspo_reading),
    "dual_clip": (losses.dual_clip, dual_reading),
    "cispo": (losses.cispo, cispo_reading),
    "gmpo": (losses.gmpo, gmpo_reading),
    "sapo": (losses.sapo, sapo_reading),
    "dppo_tv": (losses.dppo_tv, dppo_tv_reading),
    "dppo_kl": (partial(losses.dppo_kl, low=0.05, high=0.05), dppo_kl_reading),
    "mirror_descent": (partial(losses.mirror_descent, tau=0.3), opmd_reading),
}


@pytest.mark.parametrize("scale", [1e-4, 0.4, 2.0])
@pytest.mark.parametrize("name", LOSSES)
def test_losses(name: str, scale: float) -> None:
    batch = ragged(4)
    rng = np.random.default_rng(5)
    moved = batch.logprobs + scale * torch.from_numpy(rng.normal(size=tuple(batch.tokens.shape)))  # type: ignore[operator]
    new = (moved.clamp(max=-1e-3) * batch.mask).requires_grad_()
    per_response = torch.from_numpy(rng.normal(size=len(batch)))[:, None] * batch.mask
    batch = batch.with_(advantages=per_response)
    loss, reading = LOSSES[name]
    found, metrics = loss(losses.TokenOutput(new, torch.zeros_like(new)), batch)
    means = batch.mask / batch.mask.sum(-1, keepdim=True)  # the weights of sequence_mean
    (found * means).sum().backward()
    rows = [rows_of(batch, x) for x in (new, batch.logprobs, batch.advantages, found, new.grad)]
    for p, old, a, ours, gradient in zip(*rows, strict=True):
        value, slope = reading(p, old, a)
        np.testing.assert_allclose(ours, np.broadcast_to(value, p.shape), atol=1e-6, rtol=1e-6)
        np.testing.assert_allclose(gradient * len(p), slope, atol=1e-6, rtol=1e-6)
    assert {"ratio", "approx_kl", "ratio_clamped"} <= metrics.keys()


@pytest.mark.parametrize("name", LOSSES)
@pytest.mark.parametrize("log_ratio", [-50.0, 50.0])
def test_losses_are_finite_at_extreme_ratios(name: str, log_ratio: float) -> None:
    batch = ragged(6)
    new = ((batch.logprobs + log_ratio) * batch.mask).requires_grad_()  # type: ignore[operator]
    found, metrics = LOSSES[name][0](losses.TokenOutput(new, torch.zeros_like(new)), batch)
    found.sum().backward()
    assert new.grad is not None
    for tensor in (found, new.grad, *metrics.values()):
        assert torch.isfinite(tensor).all()


def test_positive_examples_are_those_that_are_correct() -> None:
    batch = ragged(7)
    assert batch.logprobs is not None and batch.correct is not None
    found, _ = losses.correct_nll(losses.TokenOutput(batch.logprobs, batch.logprobs), batch, coef=0.1)
    assert torch.equal(found, torch.where(batch.correct[:, None], -0.1 * batch.logprobs, 0.0))


def test_an_unclipped_value_loss_is_the_squared_error() -> None:
    batch = ragged(8).with_(returns=torch.ones(len(GROUPS), ragged(8).mask.shape[1]))
    assert batch.values is not None
    found, _ = losses.squared_value(batch.values, batch)
    np.testing.assert_allclose(found.numpy(), (batch.values.numpy() - 1) ** 2 / 2)
    assert torch.equal(losses.clipped_value(batch.values, batch, clip=None)[0], found)


# KL


def kl_gradient(estimator: KLEstimator) -> tuple[Array, Array, Batch, Array]:
    batch = ragged(9)
    new = (batch.logprobs + 0.2).requires_grad_()  # type: ignore[operator]
    found, _ = kl_loss(losses.TokenOutput(new, new), batch, coef=1.0, estimator=estimator)
    found[batch.mask].sum().backward()
    assert new.grad is not None
    return found.detach().numpy(), new.grad.numpy(), batch, new.detach().numpy()


def test_k3_with_the_gradient_of_k2() -> None:
    value, gradient, batch, p = kl_gradient(KLEstimator.k3_k2_gradient)
    mask, q = batch.mask.numpy(), batch.ref_logprobs.numpy()  # type: ignore[union-attr]
    np.testing.assert_allclose(value[mask], (np.exp(q - p) - 1 - (q - p))[mask], atol=1e-9)
    np.testing.assert_allclose(gradient[mask], (p - q)[mask], atol=1e-9)


def test_k3_times_the_ratio() -> None:
    value, gradient, batch, p = kl_gradient(KLEstimator.k3_ratio)
    mask, q, old = (x.numpy() for x in (batch.mask, batch.ref_logprobs, batch.logprobs))  # type: ignore[union-attr]
    k3, ratio = np.exp(q - p) - 1 - (q - p), np.exp(p - old)
    np.testing.assert_allclose(value[mask], (ratio * k3)[mask], atol=1e-9)
    np.testing.assert_allclose(gradient[mask], (ratio * (k3 + 1 - np.exp(q - p)))[mask], atol=1e-9)


@pytest.mark.parametrize(("target", "factor"), [(1e9, -0.2), (1e-9, 0.2)])
def test_the_adaptive_coefficient_follows_its_target(target: float, factor: float) -> None:
    batch = ragged(10)
    batch = batch.with_(ref_logprobs=batch.logprobs - 0.1 * batch.mask)  # type: ignore[operator]
    kl = KLConfig(KLPlace.reward, KLEstimator.k1, 0.01, target, 100)
    assert adapted_coef(0.02, batch, kl) == pytest.approx(0.02 * (1 + factor * len(batch) / 100))
    near = KLConfig(KLPlace.reward, KLEstimator.k1, 0.01, 0.1 * float(batch.mask.sum()) / len(batch), 100)
    assert adapted_coef(0.02, batch, near) == pytest.approx(0.02)


# Corrections


def weights_of(correction: Any, batch: Batch) -> tuple[list[Array], dict[str, float]]:
    batch = batch.with_(advantages=batch.mask.double() * batch.advantages.sign()[:, -1:].add(0.5))  # type: ignore[union-attr]
    corrected, metrics = correction(batch)
    return rows_of(batch, torch.where(batch.mask, corrected.advantages / batch.advantages, 0.0)), metrics


def test_corrections() -> None:
    batch = ragged(11)
    gaps = [a - b for a, b in zip(*(rows_of(batch, x) for x in (batch.logprobs, batch.sampler_logprobs)), strict=True)]
    w = [np.exp(gap) for gap in gaps]
    means = [np.exp(gap.mean()) for gap in gaps]
    tokens = np.concatenate(w)
    readings = {
        "token": (corrections.truncated_importance, [np.minimum(x, 2.0) for x in w]),
        "sequence": (
            partial(corrections.truncated_importance, level="sequence"),
            [np.full_like(gap, min(np.exp(gap.sum()), 2.0)) for gap in gaps],
        ),
        "icepop": (
            partial(corrections.icepop, low=0.7, high=1.5),
            [np.where((x >= 0.7) & (x <= 1.5), x, 0) for x in w],
        ),
        "sequence_mask": (
            partial(corrections.sequence_mask, low=0.9, high=1.1),
            [np.full_like(gap, float(0.9 <= m <= 1.1)) for gap, m in zip(gaps, means, strict=True)],
        ),
    }
    for name, (correction, expected) in readings.items():
        found, metrics = weights_of(correction, batch)
        for ours, paper in zip(found, expected, strict=True):
            np.testing.assert_allclose(ours, paper, atol=1e-9, err_msg=name)
        flat = np.concatenate(expected)
        assert metrics["correction/kept_fraction"] == pytest.approx((flat > 0).mean())
        assert metrics["correction/effective_sample_size"] == pytest.approx(
            flat.sum() ** 2 / (flat**2).sum() / len(tokens)
        )


def test_off_policy_mask_drops_bad_responses_that_the_policy_has_left() -> None:
    batch = ragged(12)
    shift = torch.tensor([0.6, 0.6, 0.4, 0.4] + [0.0] * (len(GROUPS) - 4))[:, None]
    sign = torch.tensor([-1.0, 1.0, -1.0, 1.0] + [-1.0] * (len(GROUPS) - 4))[:, None]
    batch = batch.with_(sampler_logprobs=batch.logprobs + shift * batch.mask, advantages=sign * batch.mask)  # type: ignore[operator]
    found, metrics = corrections.off_policy_mask(batch)
    assert found.advantages is not None
    dropped = [i for i in range(len(batch)) if float(found.advantages[i].abs().sum()) == 0]
    assert dropped == [0] and metrics["correction/kept_fraction"] < 1
