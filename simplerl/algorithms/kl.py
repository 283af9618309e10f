"""The KL divergence of the policy from its reference: estimators, and the two places where it may be used."""

from __future__ import annotations

import torch
from torch import Tensor

from simplerl.algorithms.losses import LOG_RATIO_LIMIT, LossOutput, TokenOutput
from simplerl.config import KLConfig, KLEstimator, KLPlace
from simplerl.types import Batch

K3_LIMIT = 10.0


def kl_estimate(logprobs: Tensor, ref_logprobs: Tensor, estimator: KLEstimator) -> Tensor:
    """Estimate KL(policy || reference) per token, from tokens that the policy sampled
    (k1, k2, k3 of http://joschu.net/blog/kl-approx.html).

    k3 grows exponentially: its log-ratio is clamped to +-20 and its value to at most 10, as verl does."""
    log_ratio = logprobs - ref_logprobs
    if estimator is KLEstimator.k1:
        return log_ratio
    if estimator is KLEstimator.k2:
        return log_ratio.square() / 2
    clamped = log_ratio.clamp(-LOG_RATIO_LIMIT, LOG_RATIO_LIMIT)
    return (torch.expm1(-clamped) + clamped).clamp(max=K3_LIMIT)


def token_rewards(batch: Batch, kl: KLConfig) -> Batch:
    """Set `token_rewards` [B, T]: the rollout's reward on its last token, minus kl.coef * KL on every response token
    where kl.place is reward. A row without response tokens has none."""
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
    """Return coef * KL(policy || reference) per token, a term of the policy's loss."""
    assert batch.ref_logprobs is not None
    kl = kl_estimate(output.logprobs, batch.ref_logprobs, estimator)
    far = (output.logprobs - batch.ref_logprobs).abs() > LOG_RATIO_LIMIT
    return coef * kl, {"kl_loss": kl.detach(), "kl_clamped": far.float()}
