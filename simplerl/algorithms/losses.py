"""Losses: pure functions (output, Batch) -> (per-token loss [b, T], {metric: [b, T]}).

Per-token losses are summed under weights that `simplerl.engine.batching.token_weights` fixed; the metrics
are averaged over the response tokens of the step.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from simplerl.algorithms.advantages import kl_estimate
from simplerl.config import KLEstimator
from simplerl.types import Batch

LossOutput = tuple[Tensor, dict[str, Tensor]]


@dataclass(frozen=True)
class TokenOutput:
    """What a policy says of the tokens of a batch; zero outside the mask."""

    logprobs: Tensor  # [b, T]
    entropy: Tensor  # [b, T], of the whole next-token distribution


def ppo_clip(output: TokenOutput, batch: Batch, *, clip_low: float = 0.2, clip_high: float = 0.2) -> LossOutput:
    """The clipped surrogate (arXiv:1707.06347, eq. 7); clip_high > clip_low is DAPO's clip-higher."""
    assert batch.logprobs is not None and batch.advantages is not None
    log_ratio = output.logprobs - batch.logprobs
    ratio = log_ratio.exp()
    clipped_ratio = ratio.clamp(1 - clip_low, 1 + clip_high)
    unclipped, clipped = -batch.advantages * ratio, -batch.advantages * clipped_ratio
    metrics = {
        "clip_fraction": (clipped > unclipped).float(),
        "ratio": ratio.detach(),
        "approx_kl": (torch.expm1(log_ratio) - log_ratio).detach(),  # k3 of old || new
    }
    return torch.maximum(unclipped, clipped), metrics


def clipped_value(values: Tensor, batch: Batch, *, clip: float = 0.2) -> LossOutput:
    """0.5 * max of the squared errors of the value and of the value held within `clip` of the old one
    (arXiv:2006.05990, section 3.5). `values` [b, T]."""
    assert batch.values is not None and batch.returns is not None
    change = values - batch.values
    held = batch.values + change.clamp(-clip, clip)
    unclipped, clipped = (values - batch.returns).square(), (held - batch.returns).square()
    active = (change.abs() > clip) & (clipped > unclipped)  # the second alone would count rounding
    return 0.5 * torch.maximum(unclipped, clipped), {"clip_fraction": active.float()}


def negative_log_likelihood(output: TokenOutput, batch: Batch) -> LossOutput:
    """Supervised fine-tuning: -log p of each response token."""
    return -output.logprobs, {}


def policy_objective(
    loss: Callable[[TokenOutput, Batch], LossOutput],
    kl_coef: float = 0.0,
    kl_estimator: KLEstimator = KLEstimator.k3,
    entropy_coef: float = 0.0,
    importance_cap: float | None = None,
) -> Callable[[TokenOutput, Batch], LossOutput]:
    """A policy loss + kl_coef * KL(policy || reference) - entropy_coef * entropy, per token.

    importance_cap: weighs the policy loss by min(pi_old / pi_sampler, cap), where the sampler's own numerics or
    older weights gave a token another probability than the policy before this step's updates (truncated importance
    sampling, Ionides 2008, doi:10.1198/106186008X320456)."""

    def objective(output: TokenOutput, batch: Batch) -> LossOutput:
        per_token, metrics = loss(output, batch)
        if importance_cap is not None:
            assert batch.logprobs is not None and batch.sampler_logprobs is not None
            weight = (batch.logprobs - batch.sampler_logprobs).exp()
            capped = weight.clamp(max=importance_cap)
            metrics |= {"importance": capped, "importance_capped": (weight > importance_cap).float()}
            per_token = per_token * capped
        if kl_coef:
            assert batch.ref_logprobs is not None
            kl = kl_estimate(output.logprobs, batch.ref_logprobs, kl_estimator)
            per_token, metrics = per_token + kl_coef * kl, {**metrics, "kl_loss": kl.detach()}
        if entropy_coef:
            per_token = per_token - entropy_coef * output.entropy
        return per_token, metrics

    return objective
