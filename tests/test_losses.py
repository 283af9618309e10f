"""Losses against few-line readings of the papers: values, clip edges, signs of gradients, aggregation."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import numpy as np
import pytest
import torch

from simplerl.algorithms.corrections import truncated_importance
from simplerl.algorithms.kl import K3_LIMIT
from simplerl.algorithms.losses import (
    Loss,
    LossOutput,
    TokenOutput,
    clipped_value,
    negative_log_likelihood,
    ppo_clip,
)
from simplerl.backends.roles import role_updates
from simplerl.config import Aggregation, AlgorithmConfig, KLConfig, KLEstimator, KLPlace
from simplerl.engine.batching import collate, token_weights
from simplerl.engine.worker import UpdatePlan
from simplerl.types import Batch

PLAN = UpdatePlan(minibatch_size=4, epochs=1, aggregation=Aggregation.sequence_mean, constant_length=32)


def ragged(seed: int = 0, rows: int = 10) -> tuple[Batch, torch.Tensor]:
    """A batch with old log-probs and advantages, and new log-probs whose ratios go well beyond the clip range."""
    rng = np.random.default_rng(seed)
    lengths = [1, *rng.integers(1, 9, rows - 1)]
    batch = collate([(rng.integers(0, 9, 3), rng.integers(0, 9, n)) for n in lengths], list(range(rows)))

    def noise() -> torch.Tensor:
        return torch.from_numpy(rng.normal(size=tuple(batch.tokens.shape))).float() * batch.mask

    old = -noise().abs()
    batch = batch.with_(logprobs=old, ref_logprobs=-noise().abs(), advantages=noise(), values=noise(), returns=noise())
    return batch, old + 0.4 * noise()


def output(logprobs: torch.Tensor, entropy: torch.Tensor | None = None) -> TokenOutput:
    return TokenOutput(logprobs, torch.zeros_like(logprobs) if entropy is None else entropy)


def policy_losses(kl: KLConfig | None = None, entropy_coef: float = 0.0, loss: Loss = ppo_clip) -> Sequence[Loss]:
    """The terms of the policy's loss as the configuration composes them."""
    algorithm = AlgorithmConfig(loss=loss, kl=kl or KLConfig(), entropy_coef=entropy_coef)
    return role_updates(algorithm, PLAN, 0)["policy"].losses


def added(losses: Sequence[Loss], output: TokenOutput, batch: Batch) -> LossOutput:
    terms = [loss(output, batch) for loss in losses]
    metrics = {name: values for _, own in terms for name, values in own.items()}
    return torch.stack([term for term, _ in terms]).sum(0), metrics


def numbers(*tensors: torch.Tensor | None) -> list[np.ndarray]:
    return [t.double().numpy() for t in tensors if t is not None]


@pytest.mark.parametrize(("low", "high"), [(0.2, 0.2), (0.2, 0.28), (0.1, 0.4)])
def test_ppo_clip(low: float, high: float) -> None:
    batch, new = ragged()
    found, metrics = ppo_clip(output(new), batch, clip_low=low, clip_high=high)
    logp, old, adv = numbers(new, batch.logprobs, batch.advantages)
    ratio = np.exp(logp - old)
    # arXiv:1707.06347, eq. 7: the objective is min(r A, clip(r) A); the loss is its negative.
    objective = np.minimum(ratio * adv, np.clip(ratio, 1 - low, 1 + high) * adv)
    mask = batch.mask.numpy()
    np.testing.assert_allclose(found.numpy()[mask], -objective[mask], atol=1e-6)
    clipped = ((ratio > 1 + high) & (adv > 0)) | ((ratio < 1 - low) & (adv < 0))
    np.testing.assert_array_equal(metrics["clip_fraction"].numpy()[mask], clipped[mask])
    assert 0.05 < clipped[mask].mean() < 0.6
    np.testing.assert_allclose(metrics["ratio"].numpy()[mask], ratio[mask], rtol=1e-6)
    np.testing.assert_allclose(metrics["approx_kl"].numpy()[mask], (ratio - 1 - np.log(ratio))[mask], atol=1e-6)


@pytest.mark.parametrize(
    ("ratio", "advantage", "slope"),
    [
        (1.0, 1.0, -1.0),  # raise what was good: d loss / d logp = -A r
        (1.0, -1.0, 1.0),  # lower what was bad
        (1.19, 2.0, -2.38),
        (1.21, 2.0, 0.0),  # good, and already risen beyond the edge
        (0.5, 2.0, -1.0),  # good, but fell: no clip
        (0.81, -1.0, 0.81),
        (0.79, -1.0, 0.0),  # bad, and already fallen beyond the edge
        (1.5, -1.0, 1.5),  # bad, but rose: no clip
    ],
)
def test_ppo_gradient(ratio: float, advantage: float, slope: float) -> None:
    batch, _ = ragged(rows=1)
    old = torch.where(batch.mask, -1.5, 0.0)
    batch = batch.with_(logprobs=old, advantages=torch.where(batch.mask, advantage, 0.0))
    new = (old + batch.mask * float(np.log(ratio))).requires_grad_()
    ppo_clip(output(new), batch)[0].sum().backward()
    assert new.grad is not None
    assert float(new.grad[batch.mask]) == pytest.approx(slope, abs=1e-5)


@pytest.mark.parametrize("clip", [0.2, 0.5])
def test_clipped_value(clip: float) -> None:
    batch, values = ragged(1)
    found, metrics = clipped_value(values, batch, clip=clip)
    new, old, target = numbers(values, batch.values, batch.returns)
    held = np.clip(new, old - clip, old + clip)
    expected = 0.5 * np.maximum((new - target) ** 2, (held - target) ** 2)
    mask = batch.mask.numpy()
    np.testing.assert_allclose(found.numpy()[mask], expected[mask], atol=1e-6)
    active = (np.abs(new - old) > clip) & ((held - target) ** 2 > (new - target) ** 2)
    np.testing.assert_array_equal(metrics["clip_fraction"].numpy()[mask], active[mask])
    assert 0 < active[mask].mean() < 1


def test_a_value_that_hardly_moved_is_not_clipped() -> None:
    batch, values = ragged(2)
    assert batch.values is not None
    _, metrics = clipped_value(batch.values + 0.01 * values, batch)
    assert (metrics["clip_fraction"] == 0).all()


@pytest.mark.parametrize(
    ("new", "old", "target", "slope"),
    [
        (0.1, 0.0, 1.0, -0.9),  # within the range: the squared error's own gradient
        (0.5, 0.0, 1.0, 0.0),  # beyond it towards the target: held
        (-0.5, 0.0, 1.0, -1.5),  # beyond it, away from the target: pulled back
    ],
)
def test_clipped_value_gradient(new: float, old: float, target: float, slope: float) -> None:
    batch, _ = ragged(rows=1)
    values = torch.where(batch.mask, new, 0.0).requires_grad_()
    batch = batch.with_(values=torch.where(batch.mask, old, 0.0), returns=torch.where(batch.mask, target, 0.0))
    clipped_value(values, batch)[0].sum().backward()
    assert values.grad is not None
    assert float(values.grad[batch.mask]) == pytest.approx(slope, abs=1e-6)


def test_negative_log_likelihood() -> None:
    batch, new = ragged(2)
    found, _ = negative_log_likelihood(output(new), batch)
    total = float((found * token_weights(batch, Aggregation.token_mean, 0)).sum())
    assert total == pytest.approx(-numbers(new)[0][batch.mask.numpy()].mean(), abs=1e-6)


@pytest.mark.parametrize("estimator", list(KLEstimator))
def test_the_terms_of_the_policy_loss_are_added(estimator: KLEstimator) -> None:
    batch, new = ragged(3)
    entropy = torch.rand(new.shape) * batch.mask
    losses = policy_losses(KLConfig(KLPlace.loss, estimator, 0.7), 0.3, partial(ppo_clip, clip_low=0.2))
    found, metrics = added(losses, output(new, entropy), batch)
    p, q, h = numbers(new, batch.ref_logprobs, entropy)
    k3 = np.exp(q - p) - 1 - (q - p)
    ratio = np.exp(p - numbers(batch.logprobs)[0])
    kl = {"k1": p - q, "k2": (p - q) ** 2 / 2, "k3": k3, "k3_k2_gradient": k3, "k3_ratio": ratio * k3}[estimator.name]
    plain = numbers(ppo_clip(output(new), batch)[0])[0]
    np.testing.assert_allclose(found.numpy(), plain + 0.7 * kl - 0.3 * h, atol=2e-6)
    np.testing.assert_allclose(metrics["kl_loss"].numpy(), kl, atol=2e-6)


def test_kl_and_entropy_pull_the_right_way() -> None:
    batch, _ = ragged(4, rows=1)
    batch = batch.with_(
        logprobs=torch.where(batch.mask, -1.0, 0.0),
        ref_logprobs=torch.where(batch.mask, -2.0, 0.0),
        advantages=torch.zeros(batch.tokens.shape),
    )
    new = torch.where(batch.mask, -1.0, 0.0).requires_grad_()
    entropy = torch.ones(batch.tokens.shape).requires_grad_()
    losses = policy_losses(KLConfig(KLPlace.loss, KLEstimator.k3, 0.5), 0.1)
    added(losses, output(new, entropy), batch)[0].sum().backward()
    assert new.grad is not None and entropy.grad is not None
    # k3: d/dp (e^(q-p) - 1 - (q-p)) = 1 - e^(q-p); the token is likelier than under the reference: push it down.
    assert float(new.grad[batch.mask]) == pytest.approx(0.5 * (1 - np.exp(-1.0)), abs=1e-6)
    assert float(entropy.grad[batch.mask]) == pytest.approx(-0.1)


@pytest.mark.parametrize(
    "kl",
    [
        KLConfig(),
        KLConfig(KLPlace.loss, KLEstimator.k3, 0.0),  # measured, not used
        KLConfig(KLPlace.reward, KLEstimator.k1, 0.1),  # already in the advantages
    ],
    ids=["none", "coefficient 0", "in the reward"],
)
def test_terms_that_are_off_cost_nothing(kl: KLConfig) -> None:
    batch, new = ragged(5)
    losses = policy_losses(kl)
    found, metrics = added(losses, output(new), batch.with_(ref_logprobs=None))
    assert torch.equal(found, ppo_clip(output(new), batch)[0]) and "kl_loss" not in metrics
    updates = role_updates(AlgorithmConfig(loss=ppo_clip), PLAN, 0)
    assert not updates["policy"].plan.entropy, "no loss reads the entropy"
    assert role_updates(AlgorithmConfig(loss=ppo_clip, entropy_coef=0.1), PLAN, 0)["policy"].plan.entropy


@pytest.mark.parametrize("advantage", [0.0, 1.0, -1.0])
@pytest.mark.parametrize("log_ratio", [80.0, -80.0, 200.0, -200.0])
def test_log_ratios_that_overflow_are_clamped_and_counted(log_ratio: float, advantage: float) -> None:
    """exp(200) is infinite in float32, and 0 * infinity is no number; exp(80) is finite, but its square is not."""
    batch, _ = ragged(9)
    zeros = torch.zeros(batch.tokens.shape)
    far = torch.zeros_like(batch.mask)
    far[1::2] = batch.mask[1::2]  # every second response; the others did not move
    batch = batch.with_(logprobs=zeros, ref_logprobs=zeros, advantages=advantage * batch.mask)
    new = (log_ratio * far).requires_grad_()
    losses = policy_losses(KLConfig(KLPlace.loss, KLEstimator.k3, 0.1))
    found, metrics = added(losses, output(new), batch)
    found.sum().backward()
    assert new.grad is not None
    for tensor in (found, new.grad, *metrics.values()):
        assert torch.isfinite(tensor.float().square()).all()
    assert torch.equal(metrics["ratio_clamped"].bool(), far) and torch.equal(metrics["kl_clamped"].bool(), far)
    assert (metrics["kl_loss"] <= K3_LIMIT).all()


@pytest.mark.parametrize("aggregation", list(Aggregation))
def test_aggregation(aggregation: Aggregation) -> None:
    batch, new = ragged(6)
    batch = batch.with_(group=torch.arange(len(batch)) // 4)  # the last group is smaller
    losses = ppo_clip(output(new), batch)[0]
    found = float((losses * token_weights(batch, aggregation, 32, rows=3, step_tokens=77.0)).sum())
    rows = [row[keep] for row, keep in zip(numbers(losses)[0], batch.mask.numpy(), strict=True)]

    def block_mean(size: int) -> float:
        return float(np.mean([np.concatenate(rows[i : i + size]).mean() for i in range(0, len(rows), size)]))

    total = sum(row.sum() for row in rows)
    expected = {
        "sequence_mean": np.mean([row.mean() for row in rows]),
        "token_mean": np.concatenate(rows).mean(),
        "step_token_mean": total / 77,
        "prompt_mean": block_mean(4),
        "constant_length": total / (len(rows) * 32),
        "micro_batch_token_mean": block_mean(3),
    }
    assert found == pytest.approx(expected[aggregation.name], abs=1e-6)
    assert len({round(float(value), 5) for value in expected.values()}) == len(Aggregation)
    assert (token_weights(batch, aggregation, 32)[~batch.mask] == 0).all()


@pytest.mark.parametrize("aggregation", list(Aggregation))
def test_wholly_masked_rows_do_not_count_as_responses(aggregation: Aggregation) -> None:
    """Neither rows without response tokens nor rows that are not trained change the weights of the others."""
    batch, _ = ragged(7)
    rows = torch.arange(len(batch))

    def weights(batch: Batch) -> torch.Tensor:
        return token_weights(batch, aggregation, 32, rows=2, step_tokens=50.0)

    expected = weights(batch.with_(mask=batch.mask[2:], group=batch.group[2:], tokens=batch.tokens[2:]))
    masked = batch.with_(mask=batch.mask & (rows >= 2)[:, None])
    for found in (weights(masked), weights(batch.with_(trained=rows >= 2))):
        assert (found[:2] == 0).all()
        torch.testing.assert_close(found[2:], expected, atol=0, rtol=1e-6)
    nothing = weights(batch.with_(mask=torch.zeros_like(batch.mask)))
    assert (nothing == 0).all(), "a minibatch without any response token is no division by zero"


def test_truncated_importance_weights() -> None:
    """They scale the clipped surrogate alone: terms of KL and entropy stay as they are."""
    batch, new = ragged()
    sampler = batch.logprobs + 0.9 * torch.from_numpy(np.random.default_rng(1).normal(size=new.shape)) * batch.mask
    batch = batch.with_(sampler_logprobs=sampler.float())
    plain, _ = ppo_clip(output(new), batch)
    corrected, metrics = truncated_importance(batch, cap=1.5)
    found, _ = ppo_clip(output(new), corrected)
    ratio = np.exp(batch.logprobs.double().numpy() - sampler.numpy())
    mask = batch.mask.numpy()
    assert (ratio[mask] > 1.5).any() and (ratio[mask] < 1.5).any()
    np.testing.assert_allclose(found.numpy()[mask], (plain.numpy() * np.minimum(ratio, 1.5))[mask], rtol=1e-4)
    assert metrics["correction/capped_fraction"] == pytest.approx((ratio > 1.5)[mask].mean())
    assert metrics["correction/weight"] == pytest.approx(np.minimum(ratio, 1.5)[mask].mean(), rel=1e-5)
    terms = policy_losses(KLConfig(KLPlace.loss, KLEstimator.k3, 0.7), 0.3)[1:]
    entropy = torch.rand(new.shape) * batch.mask
    for term in terms:
        assert torch.equal(term(output(new, entropy), corrected)[0], term(output(new, entropy), batch)[0])


def test_importance_weights_of_far_apart_policies_are_finite() -> None:
    batch, _ = ragged(8)
    zeros = torch.zeros(batch.tokens.shape)
    for log_weight in (200.0, -200.0):
        far = batch.with_(logprobs=log_weight * batch.mask, sampler_logprobs=zeros, advantages=zeros)
        corrected, metrics = truncated_importance(far)
        assert corrected.advantages is not None and (corrected.advantages == 0).all()
        assert metrics["correction/capped_fraction"] == (log_weight > 0)
