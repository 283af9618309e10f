"""Advantage estimators: pure functions Batch -> Batch, one YAML each in conf/algorithm/advantage/.

An estimator reads `token_rewards` [B, T], the reward of a rollout on its last token minus the KL penalty on every token
where kl.place is reward, and sets `advantages` [B, T]. One that remembers something between steps is
(Batch, State) -> (Batch, State); its YAML gives the first `state`.
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
    """Set `token_rewards` and `advantages` of a scored batch, corrected for the difference between sampler and trainer
    where the algorithm says so. Returns the batch, the algorithm's state after it, and metrics."""
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
    """Scale to zero mean and unit variance over the tokens under the mask; each token counts the same."""
    count = mask.sum()
    mean = (x * mask).sum() / count
    variance = ((x - mean).square() * mask).sum() / count
    return (x - mean) * torch.rsqrt(variance + 1e-8) * mask


def gae(batch: Batch, *, gamma: Fraction = 1.0, lam: Fraction = 0.95, whiten: bool = True) -> Batch:
    """Estimate advantages by GAE over tokens (arXiv:1506.02438, eq. 16); the episode ends with the last token.

    Sets `advantages`, whitened over the batch if asked for, and `returns` = advantages before whitening + values."""
    assert batch.values is not None and batch.token_rewards is not None
    values, rewards, mask = batch.values, batch.token_rewards, batch.mask
    advantages = torch.zeros_like(values)
    following_advantage = torch.zeros(len(batch), device=values.device)
    following_value = torch.zeros(len(batch), device=values.device)
    for t in range(values.shape[1] - 1, -1, -1):
        delta = rewards[:, t] + gamma * following_value - values[:, t]
        advantage = delta + gamma * lam * following_advantage
        advantages[:, t] = advantage * mask[:, t]
        # A masked column, also one between two response tokens, passes on what follows it.
        following_advantage = torch.where(mask[:, t], advantage, following_advantage)
        following_value = torch.where(mask[:, t], values[:, t], following_value)
    returns = (advantages + values) * mask
    return batch.with_(advantages=whitened(advantages, mask) if whiten else advantages, returns=returns)


def rollout_returns(batch: Batch) -> Tensor:
    """Return [B], float64: the reward of each rollout minus the KL penalties of its tokens. A row whose tokens are all
    masked keeps its reward. In float32, equal rewards such as 0.1 could seem to differ."""
    assert batch.reward is not None and batch.token_rewards is not None
    graded = batch.reward.double()
    return torch.where(batch.mask.any(-1), batch.token_rewards.double().sum(-1), graded)


def group_sum(x: Tensor, group: Tensor) -> Tensor:
    """Return [B]: the sum of `x` [B] over the rows of the same group, for every row."""
    return torch.zeros(int(group.max()) + 1, dtype=x.dtype, device=x.device).index_add(0, group, x)[group]


def group_size(group: Tensor) -> Tensor:
    """Return [B], float64: how many rows have the same group."""
    return group_sum(torch.ones(len(group), dtype=torch.float64, device=group.device), group)


def group_relative(batch: Batch, *, divide_by_std: bool = True) -> Batch:
    """Estimate advantages by the return of a rollout against the mean of its group, over the group's standard deviation
    (with n - 1) (GRPO, arXiv:2402.03300, section 4.1.2); without the division Dr. GRPO (arXiv:2503.20783).
    A group whose returns are all equal gets zero."""
    total, size = rollout_returns(batch), group_size(batch.group)
    centred = total - group_sum(total, batch.group) / size
    if divide_by_std:
        variance = group_sum(centred.square(), batch.group) / (size - 1).clamp(min=1)
        centred = centred / (variance.sqrt() + 1e-6)
    return batch.with_(advantages=centred[:, None].float() * batch.mask)


def moving_baseline(batch: Batch, state: State, *, decay: Fraction = 0.9) -> tuple[Batch, State]:
    """Estimate advantages by the return of a rollout against a moving average of the returns of earlier steps
    (REINFORCE, Williams 1992, doi:10.1007/BF00992696, with reinforcement comparison).

    The average is exponential with `decay` a step and free of its start's bias; the first step uses its own mean.
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
    (on-policy distillation, arXiv:2306.13649). Rewards are not used. Reads `teacher_logprobs` [B, T]."""
    assert batch.logprobs is not None
    return batch.with_(advantages=(batch.extra["teacher_logprobs"] - batch.logprobs) * batch.mask)


def prime(
    batch: Batch, *, beta: Positive = 0.05, process: float = 1.0, outcome: float = 1.0, whiten: bool = True
) -> Batch:
    """Estimate advantages from outcome and implicit process rewards (PRIME, arXiv:2502.01456, eq. 5).

    The process reward of a token is beta * (log pi_prm - log pi_ref). Each of both is compared with the mean over the
    other samples of the prompt (leave-one-out); of the process rewards that is the mean over the tokens of each. The
    advantage of a token is process * the sum of what follows it, itself included, + outcome * the outcome's part.
    Reads `prm_logprobs` [B, T], as the updated process reward model gives them."""
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
    """Return [B]: the mean of `x` [B] over the other rows of the same group; 0 where there is none."""
    return (group_sum(x, group) - x) / (group_size(group) - 1).clamp(min=1)
