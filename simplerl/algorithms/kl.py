"""Estimators of the KL divergence of the policy from the reference, and its use in the reward or in the loss."""

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

    k3 grows exponentially, so its log-ratio is clamped to [-20, 20] and its value to at most 10, as in verl."""
    log_ratio = logprobs - ref_logprobs
    if estimator is KLEstimator.k1:
        return log_ratio
    if estimator is KLEstimator.k2:
        return log_ratio.square() / 2
    clamped = log_ratio.clamp(-LOG_RATIO_LIMIT, LOG_RATIO_LIMIT)
    return (torch.expm1(-clamped) + clamped).clamp(max=K3_LIMIT)


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


def kl_loss(output: TokenOutput, batch: Batch, *, coef: float, estimator: KLEstimator) -> LossOutput:
    """Compute the KL term of the policy loss: coef * KL(policy || reference) per token."""
    assert batch.ref_logprobs is not None
    kl = kl_estimate(output.logprobs, batch.ref_logprobs, estimator)
    far = (output.logprobs - batch.ref_logprobs).abs() > LOG_RATIO_LIMIT
    return coef * kl, {"kl_loss": kl.detach(), "kl_clamped": far.float()}
