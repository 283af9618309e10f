"""Defines the advantage estimators: pure functions Batch -> Batch, configured in conf/algorithm/advantage/.

An estimator reads `token_rewards` [B, T] (the rollout's reward on its last token, minus a KL penalty on every token
with kl.place=reward) and sets `advantages` [B, T]. A stateful estimator has the signature
(Batch, State) -> (Batch, State), and its YAML sets the initial `state`.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Literal

import torch
from torch import Tensor

from simplerl.algorithms.kl import adapted_coef, token_rewards
from simplerl.config import AlgorithmConfig, OldLogprobs
from simplerl.types import Batch, Fraction, Positive, State


def estimate_advantages(
    batch: Batch, algorithm: AlgorithmConfig, state: State | None
) -> tuple[Batch, State | None, dict[str, float]]:
    """Set `token_rewards` and `advantages` of a batch with log-probs, and apply the algorithm's correction, if any.

    state: the state of the advantage estimator and, under "kl_coef", the adaptive KL coefficient. Returns the batch,
    the new state, and metrics."""
    state, metrics = dict(state or {}), {}
    if algorithm.old_logprobs is OldLogprobs.sampler:
        batch = batch.with_(logprobs=batch.sampler_logprobs)
    kl = algorithm.kl
    if kl.target is not None:
        coef = float(state.get("kl_coef", kl.coef))
        kl, metrics["train/kl_coef"] = replace(kl, coef=coef), coef
        state["kl_coef"] = adapted_coef(coef, batch, kl)
    dtype = getattr(torch, algorithm.advantage_precision.name)
    batch = _rounded(token_rewards(batch, kl), dtype)
    if algorithm.state is None:
        batch = algorithm.advantage(batch)
    else:
        batch, own = algorithm.advantage(batch, {name: state[name] for name in algorithm.state})
        state |= own
    batch = _rounded(batch, dtype)
    if algorithm.correction is not None:
        batch, corrected = algorithm.correction(batch)
        metrics |= corrected
    return batch, state or None, metrics


def _rounded(batch: Batch, dtype: torch.dtype) -> Batch:
    """Round token rewards, advantages and returns to the precision of `dtype`."""
    columns = {name: getattr(batch, name) for name in ("token_rewards", "advantages", "returns")}
    return batch.with_(**{name: x.to(dtype).to(x.dtype) for name, x in columns.items() if x is not None})


def whitened(x: Tensor, mask: Tensor) -> Tensor:
    """Return `x` normalized to zero mean and unit variance over all tokens under the mask, and zero at all others."""
    count = mask.sum()
    mean = (x * mask).sum() / count
    variance = ((x - mean).square() * mask).sum() / count
    return (x - mean) * torch.rsqrt(variance + 1e-8) * mask


def gae(
    batch: Batch,
    *,
    gamma: Fraction = 1.0,
    lam: Fraction = 0.95,
    value_lam: Fraction | None = None,
    length_alpha: Positive | None = None,
    whiten: bool = True,
) -> Batch:
    """Estimate advantages by generalized advantage estimation over tokens (GAE, arXiv:1506.02438, eq. 16). The episode
    ends with the last token.

    value_lam: lambda of the critic's targets; None: `lam` (decoupled GAE, VAPO, arXiv:2504.05118).
    length_alpha: replaces `lam` by 1 - 1 / (length_alpha * tokens of the response), at least 0 (length-adaptive GAE,
    VAPO).

    Sets `advantages`, normalized over the response tokens of the batch if `whiten`, and `returns` = values + advantages
    before whitening, by `value_lam` if given."""
    lams = torch.full((len(batch),), lam, device=batch.mask.device)
    if length_alpha is not None:
        lams = (1 - 1 / (length_alpha * batch.mask.sum(-1)).clamp(min=1)).clamp(0, 1)
    advantages = _discounted_deltas(batch, gamma, lams)
    assert batch.values is not None
    targets = advantages if value_lam is None else _discounted_deltas(batch, gamma, torch.full_like(lams, value_lam))
    returns = (targets + batch.values) * batch.mask
    return batch.with_(advantages=whitened(advantages, batch.mask) if whiten else advantages, returns=returns)


def _discounted_deltas(batch: Batch, gamma: float, lam: Tensor) -> Tensor:
    """Return the sums of temporal-difference errors discounted by gamma * `lam` [B], as [B, T]. Masked columns, even
    between two response tokens, are skipped."""
    assert batch.values is not None and batch.token_rewards is not None
    values, rewards, mask = batch.values, batch.token_rewards, batch.mask
    advantages = torch.zeros_like(values)
    following_advantage = torch.zeros(len(batch), device=values.device)
    following_value = torch.zeros(len(batch), device=values.device)
    for t in range(values.shape[1] - 1, -1, -1):
        delta = rewards[:, t] + gamma * following_value - values[:, t]
        advantage = delta + gamma * lam * following_advantage
        advantages[:, t] = advantage * mask[:, t]
        following_advantage = torch.where(mask[:, t], advantage, following_advantage)
        following_value = torch.where(mask[:, t], values[:, t], following_value)
    return advantages


def reinforce_plus_plus(batch: Batch, *, gamma: Fraction = 1.0) -> Batch:
    """Estimate advantages as the discounted return from each token on, KL penalties included, normalized over all
    tokens of the batch (REINFORCE++, arXiv:2501.03262). Needs neither a critic nor groups."""
    zeros = torch.zeros(batch.mask.shape, device=batch.mask.device)
    ones = torch.ones(len(batch), device=batch.mask.device)
    returns = _discounted_deltas(batch.with_(values=zeros), gamma, ones)  # without a critic, deltas are rewards
    return batch.with_(advantages=whitened(returns, batch.mask))


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


def _normalized_in_group(x: Tensor, group: Tensor) -> Tensor:
    """Return (x - group mean) / (sample standard deviation of the group + 1e-6), for `x` [B]."""
    centred, size = x - group_sum(x, group) / group_size(group), group_size(group)
    variance = group_sum(centred.square(), group) / (size - 1).clamp(min=1)
    return centred / (variance.sqrt() + 1e-6)


def _std(x: Tensor) -> Tensor:
    """Return the sample standard deviation, 0 for a single value."""
    return (x - x.mean()).square().sum().div(max(len(x) - 1, 1)).sqrt()


def _per_token(batch: Batch, advantages: Tensor) -> Batch:
    """Set the advantage of every response token to the advantage of its response, [B] -> [B, T] float32."""
    return batch.with_(advantages=advantages[:, None].float() * batch.mask)


def centred_returns(batch: Batch) -> Tensor:
    """Return each rollout's return minus the mean of its group, [B] float64."""
    total = rollout_returns(batch)
    return total - group_sum(total, batch.group) / group_size(batch.group)


def group_relative(batch: Batch, *, std: Literal["group", "batch", "none"] = "group") -> Batch:
    """Estimate advantages as return minus group mean, divided by a sample standard deviation of returns.

    std: divide by the standard deviation, plus 1e-6, of the "group" (GRPO, arXiv:2402.03300, section 4.1.2) or of the
    "batch" of all rollouts of the step (Lite PPO, arXiv:2508.08221), or do not divide: "none" (Dr. GRPO,
    arXiv:2503.20783). Groups with equal returns get advantage 0."""
    total = rollout_returns(batch)
    if std == "group":
        return _per_token(batch, _normalized_in_group(total, batch.group))
    centred = centred_returns(batch)
    return _per_token(batch, centred / (_std(total) + 1e-6) if std == "batch" else centred)


def rloo(batch: Batch) -> Batch:
    """Estimate advantages as return minus the mean return of the other samples of the prompt (RLOO,
    arXiv:2402.14740). The baseline of a group of one is 0."""
    total = rollout_returns(batch)
    return _per_token(batch, total - _others_mean(total, batch.group))


def reinforce_plus_plus_baseline(batch: Batch) -> Batch:
    """Estimate advantages as return minus group mean, normalized over all tokens of the batch (REINFORCE++ with
    baseline, arXiv:2501.03262). The paper combines it with k2 in the loss."""
    centred = _per_token(batch, centred_returns(batch)).advantages
    assert centred is not None
    return batch.with_(advantages=whitened(centred, batch.mask))


def max_rl(batch: Batch) -> Batch:
    """Estimate advantages as (c - p) / p, where c is 1 for a correct response and 0 otherwise, and p is the group's
    fraction of correct responses (MaxRL, arXiv:2602.02710). Groups without a correct response get 0. The
    estimator is defined for binary rewards, so it reads correctness and ignores rewards and KL penalties."""
    assert batch.correct is not None
    correct = batch.correct.double()
    mean = group_sum(correct, batch.group) / group_size(batch.group)
    return _per_token(batch, torch.where(mean > 0, (correct - mean) / (mean + 1e-6), 0.0))


def opo(batch: Batch) -> Batch:
    """Estimate advantages as return minus the group's mean return weighted by response length, which minimizes the
    variance of the gradient if its norm grows with length (OPO, arXiv:2505.23585)."""
    total, lengths = rollout_returns(batch), batch.mask.sum(-1).double()
    weight = group_sum(lengths, batch.group).clamp(min=1)
    return _per_token(batch, total - group_sum(lengths * total, batch.group) / weight)


def pass_at_k(batch: Batch, *, divide_by_std: bool = True) -> Batch:
    """Estimate advantages that maximize the best reward of a group: the best rollout gets its lead over the second
    best, divided by the group's standard deviation of returns plus 1e-6 if `divide_by_std`; all others get 0 (pass@k
    with k = the group's size, arXiv:2503.19595). Of several equal best rollouts all get 0."""
    total = rollout_returns(batch)
    lead = torch.zeros_like(total)
    for number in range(int(batch.group.max()) + 1):
        rows = (batch.group == number).nonzero().squeeze(-1)
        if len(rows) > 1:
            (best, second), order = total[rows].topk(2)
            lead[rows[order[0]]] = (best - second) / (_std(total[rows]) + 1e-6 if divide_by_std else 1.0)
    return _per_token(batch, lead)


def remax(batch: Batch) -> Batch:
    """Estimate advantages as return minus the reward of a greedy response to the same prompt (ReMax,
    arXiv:2310.10505). Reads `greedy_reward` [B] of `simplerl.rollouts.greedy_baseline`."""
    return _per_token(batch, rollout_returns(batch) - batch.extra["greedy_reward"].double())


def gdpo(batch: Batch, *, weights: dict[str, float]) -> Batch:
    """Estimate advantages as the weighted sum of reward parts that are each normalized within the group (minus the
    mean, divided by the standard deviation plus 1e-6); the sum is normalized over the batch's tokens (GDPO,
    arXiv:2601.05242). The KL penalty in the reward is not used.

    weights: weight of each part by name. Reads the columns `reward/<part>` [B], which a reward with parts provides."""
    total = torch.zeros(len(batch), dtype=torch.float64, device=batch.mask.device)
    for name, weight in weights.items():
        total = total + weight * _normalized_in_group(batch.extra[f"reward/{name}"].double(), batch.group)
    advantages = _per_token(batch, total).advantages
    assert advantages is not None
    return batch.with_(advantages=whitened(advantages, batch.mask))


def moving_baseline(batch: Batch, state: State, *, decay: Fraction = 0.9) -> tuple[Batch, State]:
    """Estimate advantages as a response's return (its reward minus its KL penalties) minus a moving average of the mean
    returns of earlier steps (REINFORCE with a baseline, Williams 1992, doi:10.1007/BF00992696).

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
    of a token is process * (sum of centred process rewards from this token on) + outcome * (centred return), normalized
    over all tokens of the batch if `whiten`. Reads `prm_logprobs` [B, T] of the updated process reward model.
    """
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
