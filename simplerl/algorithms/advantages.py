"""Advantage estimators: pure functions Batch -> Batch, configured in conf/algorithm/advantage/.

An estimator reads `token_rewards` [B, T] (the rollout's reward on its last token, minus a KL penalty on every token
with kl.place=reward) and sets `advantages` [B, T]. A stateful estimator has the signature
(Batch, State) -> (Batch, State), and its YAML sets the initial `state`.
"""

from __future__ import annotations

import torch
from torch import Tensor

from simplerl.algorithms.kl import token_rewards
from simplerl.config import AlgorithmConfig
from simplerl.types import Batch, Fraction, Positive, State


def estimate_advantages(
    batch: Batch, algorithm: AlgorithmConfig, state: State | None
) -> tuple[Batch, State | None, dict[str, float]]:
    """Set `token_rewards` and `advantages` of a batch with log-probs, and apply the algorithm's correction, if any.
    Returns the batch, the new state of the algorithm, and metrics."""
    batch = token_rewards(batch, algorithm.kl)
    if state is None:
        batch = algorithm.advantage(batch)
    else:
        batch, state = algorithm.advantage(batch, state)
    if algorithm.correction is None:
        return batch, state, {}
    batch, metrics = algorithm.correction(batch)
    return batch, state, metrics


def whitened(x: Tensor, mask: Tensor) -> Tensor:
    """Normalize to zero mean and unit variance over all tokens under the mask."""
    count = mask.sum()
    mean = (x * mask).sum() / count
    variance = ((x - mean).square() * mask).sum() / count
    return (x - mean) * torch.rsqrt(variance + 1e-8) * mask


def gae(batch: Batch, *, gamma: Fraction = 1.0, lam: Fraction = 0.95, whiten: bool = True) -> Batch:
    """Estimate advantages by generalized advantage estimation over tokens (GAE, arXiv:1506.02438, eq. 16). The episode
    ends with the last token.

    Sets `advantages`, normalized over the batch if `whiten`, and `returns` = advantages before whitening + values."""
    assert batch.values is not None and batch.token_rewards is not None
    values, rewards, mask = batch.values, batch.token_rewards, batch.mask
    advantages = torch.zeros_like(values)
    following_advantage = torch.zeros(len(batch), device=values.device)
    following_value = torch.zeros(len(batch), device=values.device)
    for t in range(values.shape[1] - 1, -1, -1):
        delta = rewards[:, t] + gamma * following_value - values[:, t]
        advantage = delta + gamma * lam * following_advantage
        advantages[:, t] = advantage * mask[:, t]
        # Masked columns, even between two response tokens, are skipped.
        following_advantage = torch.where(mask[:, t], advantage, following_advantage)
        following_value = torch.where(mask[:, t], values[:, t], following_value)
    returns = (advantages + values) * mask
    return batch.with_(advantages=whitened(advantages, mask) if whiten else advantages, returns=returns)


def rollout_returns(batch: Batch) -> Tensor:
    """Return each rollout's reward minus the KL penalties of its tokens, [B] float64. Rows without response tokens keep
    their reward. Float32 sums could make equal rewards such as 0.1 differ."""
    assert batch.reward is not None and batch.token_rewards is not None
    graded = batch.reward.double()
    return torch.where(batch.mask.any(-1), batch.token_rewards.double().sum(-1), graded)


def group_sum(x: Tensor, group: Tensor) -> Tensor:
    """Return, for every row, the sum of `x` [B] over the rows of its group, [B]."""
    return torch.zeros(int(group.max()) + 1, dtype=x.dtype, device=x.device).index_add(0, group, x)[group]


def group_size(group: Tensor) -> Tensor:
    """Return, for every row, the number of rows in its group, [B] float64."""
    return group_sum(torch.ones(len(group), dtype=torch.float64, device=group.device), group)


def group_relative(batch: Batch, *, divide_by_std: bool = True) -> Batch:
    """Estimate advantages as return minus group mean, divided by the group's sample standard deviation (GRPO,
    arXiv:2402.03300, section 4.1.2); without the division this is Dr. GRPO (arXiv:2503.20783). Groups with equal
    returns get advantage 0."""
    total, size = rollout_returns(batch), group_size(batch.group)
    centred = total - group_sum(total, batch.group) / size
    if divide_by_std:
        variance = group_sum(centred.square(), batch.group) / (size - 1).clamp(min=1)
        centred = centred / (variance.sqrt() + 1e-6)
    return batch.with_(advantages=centred[:, None].float() * batch.mask)


def moving_baseline(batch: Batch, state: State, *, decay: Fraction = 0.9) -> tuple[Batch, State]:
    """Estimate advantages as return minus a moving average of the returns of earlier steps (REINFORCE with a baseline,
    Williams 1992, doi:10.1007/BF00992696).

    The baseline is a bias-corrected exponential moving average with `decay` per step; the first step uses its own mean.
    State: mean and weight of the average."""
    total = rollout_returns(batch)
    step_mean, weight = float(total.mean()), float(state["weight"])
    baseline = state["mean"] if weight else step_mean
    kept = decay * weight
    mean = (kept * state["mean"] + (1 - decay) * step_mean) / (kept + 1 - decay)
    advantages = (total - baseline)[:, None].float() * batch.mask
    return batch.with_(advantages=advantages), {"mean": mean, "weight": kept + 1 - decay}


def teacher_advantage(batch: Batch) -> Batch:
    """Set each token's advantage to log pi_teacher - log pi, the gradient signal of the reverse KL to a teacher
    (on-policy distillation, arXiv:2306.13649). Reads `teacher_logprobs` [B, T]; ignores rewards."""
    assert batch.logprobs is not None
    return batch.with_(advantages=(batch.extra["teacher_logprobs"] - batch.logprobs) * batch.mask)


def prime(
    batch: Batch, *, beta: Positive = 0.05, process: float = 1.0, outcome: float = 1.0, whiten: bool = True
) -> Batch:
    """Estimate advantages from outcome and implicit process rewards (PRIME, arXiv:2502.01456, eq. 5).

    The process reward of a token is beta * (log pi_prm - log pi_ref). Both rewards use a leave-one-out baseline: the
    mean return, or the mean of the responses' mean process rewards, over the other samples of the prompt. The advantage
    of a token is process * (sum of centred process rewards from this token on) + outcome * (centred return).
    Reads `prm_logprobs` [B, T] of the updated process reward model."""
    assert batch.ref_logprobs is not None
    mask = batch.mask
    tokens = beta * (batch.extra["prm_logprobs"] - batch.ref_logprobs).double() * mask
    means = tokens.sum(-1) / mask.sum(-1).clamp(min=1)
    centred = (tokens - _others_mean(means, batch.group)[:, None]) * mask
    to_go = centred.flip(-1).cumsum(-1).flip(-1)
    total = rollout_returns(batch)
    graded = total - _others_mean(total, batch.group)
    advantages = ((process * to_go + outcome * graded[:, None]) * mask).float()
    return batch.with_(advantages=whitened(advantages, mask) if whiten else advantages)


def _others_mean(x: Tensor, group: Tensor) -> Tensor:
    """Return, for every row, the mean of `x` [B] over the other rows of its group, [B]; 0 if there are none."""
    return (group_sum(x, group) - x) / (group_size(group) - 1).clamp(min=1)
