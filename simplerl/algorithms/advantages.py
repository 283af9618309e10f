"""Advantage estimators: pure functions Batch -> Batch. The published names are in conf/algorithm/.

An estimator reads `token_rewards` [B, T]: the reward of a rollout on its last token, minus the KL
penalty on every token where the configuration puts it there (`token_rewards` below).
`needs_critic` and `needs_group` are read by `simplerl.config.checks`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import torch
from torch import Tensor

from simplerl.config import KLEstimator
from simplerl.types import Batch

F = TypeVar("F", bound=Callable[..., Any])


def requires(*, critic: bool = False, group: bool = False) -> Callable[[F], F]:
    def mark(function: F) -> F:
        function.needs_critic, function.needs_group = critic, group  # type: ignore[attr-defined]
        return function

    return mark


def kl_estimate(logprobs: Tensor, ref_logprobs: Tensor, estimator: KLEstimator) -> Tensor:
    """Per-token estimate of KL(policy || reference) from samples of the policy
    (k1, k2, k3 of http://joschu.net/blog/kl-approx.html)."""
    log_ratio = logprobs - ref_logprobs
    if estimator is KLEstimator.k1:
        return log_ratio
    if estimator is KLEstimator.k2:
        return log_ratio.square() / 2
    return torch.expm1(-log_ratio) + log_ratio


def token_rewards(batch: Batch, kl_coef: float, estimator: KLEstimator) -> Batch:
    """The rollout's reward on its last token, minus kl_coef * KL on every response token."""
    assert batch.reward is not None
    positions = torch.arange(batch.mask.shape[1], device=batch.mask.device)
    last = (batch.mask * positions).argmax(-1)
    rewards = torch.zeros(batch.mask.shape, device=batch.mask.device)
    rewards[torch.arange(len(batch), device=rewards.device), last] = batch.reward.float()
    if kl_coef:
        assert batch.logprobs is not None and batch.ref_logprobs is not None
        rewards = rewards - kl_coef * kl_estimate(batch.logprobs, batch.ref_logprobs, estimator)
    return batch.with_(token_rewards=rewards * batch.mask)


def whitened(x: Tensor, mask: Tensor) -> Tensor:
    """Zero mean and unit variance over the tokens under the mask (each token counts the same)."""
    count = mask.sum()
    mean = (x * mask).sum() / count
    variance = ((x - mean).square() * mask).sum() / count
    return (x - mean) * torch.rsqrt(variance + 1e-8) * mask


@requires(critic=True)
def gae(batch: Batch, *, gamma: float = 1.0, lam: float = 0.95, whiten: bool = True) -> Batch:
    """Generalised advantage estimation over tokens (arXiv:1506.02438, eq. 16), the episode ending with
    the last token. returns = advantages + values, before whitening."""
    assert batch.values is not None and batch.token_rewards is not None
    values, rewards, mask = batch.values, batch.token_rewards, batch.mask
    advantages = torch.zeros_like(values)
    following_advantage = torch.zeros(len(batch), device=values.device)
    following_value = torch.zeros(len(batch), device=values.device)
    for t in range(values.shape[1] - 1, -1, -1):
        delta = rewards[:, t] + gamma * following_value - values[:, t]
        advantage = (delta + gamma * lam * following_advantage) * mask[:, t]
        following_advantage, following_value = advantage, values[:, t] * mask[:, t]
        advantages[:, t] = advantage
    returns = (advantages + values) * mask
    return batch.with_(advantages=whitened(advantages, mask) if whiten else advantages, returns=returns)


@requires(group=True)
def group_relative(batch: Batch, *, divide_by_std: bool = True) -> Batch:
    """GRPO (arXiv:2402.03300, section 4.1.2): the return of a rollout against the mean of its group, over
    the group's standard deviation (with n - 1); without the division, Dr. GRPO (arXiv:2503.20783).
    A group without spread gets zero."""
    assert batch.token_rewards is not None
    total = batch.token_rewards.double().sum(-1)  # [B]; in float32, equal rewards such as 0.1 would seem to differ
    groups = int(batch.group.max()) + 1
    zeros = torch.zeros(groups, dtype=total.dtype, device=total.device)
    count = zeros.index_add(0, batch.group, torch.ones_like(total))
    mean = zeros.index_add(0, batch.group, total) / count
    centred = total - mean[batch.group]
    if divide_by_std:
        variance = zeros.index_add(0, batch.group, centred.square()) / (count - 1).clamp(min=1)
        centred = centred / (variance.sqrt() + 1e-6)[batch.group]
    return batch.with_(advantages=centred[:, None].float() * batch.mask)
