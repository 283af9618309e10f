"""Estimates the KL divergence of the policy from the reference, and applies it in the reward or in the loss."""

from __future__ import annotations

import torch
from torch import Tensor

from simplerl.algorithms.losses import LOG_RATIO_LIMIT, LossOutput, TokenOutput
from simplerl.config import KLConfig, KLEstimator, KLPlace
from simplerl.types import Batch

K3_LIMIT = 10.0


def kl_estimate(logprobs: Tensor, ref_logprobs: Tensor, estimator: KLEstimator) -> Tensor:
    """Estimate KL(policy || reference) for each token sampled from the policy, by k1, k2 or k3 of
    http://joschu.net/blog/kl-approx.html.

    k3 grows exponentially, so its log-ratio is clamped to [-20, 20] and its value to at most 10, as in verl.
    k3_k2_gradient has the value of k3 and the gradient of k2, which is an unbiased gradient of the KL divergence
    (arXiv:2510.01555). k3_ratio gives k3; `kl_loss` multiplies it by pi / pi_old."""
    log_ratio = logprobs - ref_logprobs
    if estimator is KLEstimator.k1:
        return log_ratio
    k2 = log_ratio.square() / 2
    if estimator is KLEstimator.k2:
        return k2
    clamped = log_ratio.clamp(-LOG_RATIO_LIMIT, LOG_RATIO_LIMIT)
    k3 = (torch.expm1(-clamped) + clamped).clamp(max=K3_LIMIT)
    return k3.detach() + k2 - k2.detach() if estimator is KLEstimator.k3_k2_gradient else k3


def token_rewards(batch: Batch, kl: KLConfig) -> Batch:
    """Set `token_rewards` [B, T]: the rollout's reward on its last token, minus kl.coef * KL on every response token
    with kl.place=reward. Rows without response tokens are zero."""
    assert batch.reward is not None
    positions = torch.arange(batch.mask.shape[1], device=batch.mask.device)
    last = (batch.mask * positions).argmax(-1)
    rewards = torch.zeros(batch.mask.shape, device=batch.mask.device)
    rewards[torch.arange(len(batch), device=rewards.device), last] = batch.reward.float()
    if kl.place is KLPlace.reward and kl.coef:
        assert batch.logprobs is not None and batch.ref_logprobs is not None
        rewards = rewards - kl.coef * kl_estimate(batch.logprobs, batch.ref_logprobs, kl.estimator)
    return batch.with_(token_rewards=rewards * batch.mask)


def adapted_coef(coef: float, batch: Batch, kl: KLConfig) -> float:
    """Return the KL coefficient of the next step, given that of this step, `coef`: it grows by at most 20 % per
    kl.horizon responses while the mean KL of a response exceeds kl.target, and shrinks likewise below it
    (arXiv:1909.08593, section 2.2)."""
    assert batch.logprobs is not None and batch.ref_logprobs is not None and kl.target is not None
    measured = float((batch.logprobs - batch.ref_logprobs).sum(-1).mean())
    error = min(max(measured / kl.target - 1, -0.2), 0.2)
    return coef * (1 + error * len(batch) / kl.horizon)


def kl_loss(output: TokenOutput, batch: Batch, *, coef: float, estimator: KLEstimator) -> LossOutput:
    """Compute the KL term of the policy loss: coef * KL(policy || reference) per token. k3_ratio corrects k3 for tokens
    sampled from an older policy by the ratio pi / pi_old, through which the gradient flows (DeepSeek-V3.2,
    arXiv:2512.02556)."""
    assert batch.ref_logprobs is not None
    kl = kl_estimate(output.logprobs, batch.ref_logprobs, estimator)
    if estimator is KLEstimator.k3_ratio:
        assert batch.logprobs is not None
        kl = kl * (output.logprobs - batch.logprobs).clamp(-LOG_RATIO_LIMIT, LOG_RATIO_LIMIT).exp()
    far = (output.logprobs - batch.ref_logprobs).abs() > LOG_RATIO_LIMIT
    return coef * kl, {"kl_loss": kl.detach(), "kl_clamped": far.float()}
