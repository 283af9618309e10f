"""Losses: pure functions (output, Batch) -> (per-token loss [b, T], {metric: [b, T]}).

The loss of an optimizer step is the sum of per-token losses times the weights of
`simplerl.engine.batching.token_weights`. Metrics are averaged over response tokens. The losses of a role are added.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Any

import torch
from torch import Tensor

from simplerl.types import Batch, Bounds, Positive

LossOutput = tuple[Tensor, dict[str, Tensor]]
Loss = Callable[[Any, Batch], LossOutput]
ClipLow = Annotated[float, Bounds(0.001, 1.0)]

LOG_RATIO_LIMIT = 20.0  # log-ratios are clamped to [-20, 20] before exp, as in verl: exp(89) overflows float32


@dataclass(frozen=True)
class TokenOutput:
    """Log-probs and entropies of a causal language model for the tokens of a batch, zero outside the mask."""

    logprobs: Tensor  # [b, T]
    entropy: Tensor  # [b, T], of the full next-token distribution


def ppo_clip(output: TokenOutput, batch: Batch, *, clip_low: ClipLow = 0.2, clip_high: Positive = 0.2) -> LossOutput:
    """Compute PPO's clipped surrogate loss (arXiv:1707.06347, eq. 7); clip_high > clip_low is DAPO's clip-higher."""
    assert batch.logprobs is not None and batch.advantages is not None
    log_ratio = output.logprobs - batch.logprobs
    clamped = log_ratio.clamp(-LOG_RATIO_LIMIT, LOG_RATIO_LIMIT)
    ratio = clamped.exp()
    clipped_ratio = ratio.clamp(1 - clip_low, 1 + clip_high)
    unclipped, clipped = -batch.advantages * ratio, -batch.advantages * clipped_ratio
    metrics = {
        "clip_fraction": (clipped > unclipped).float(),
        "ratio": ratio.detach(),
        "approx_kl": (torch.expm1(clamped) - clamped).detach(),  # k3 of old || new
        "ratio_clamped": (log_ratio.abs() > LOG_RATIO_LIMIT).float(),
    }
    return torch.maximum(unclipped, clipped), metrics


def clipped_value(values: Tensor, batch: Batch, *, clip: Positive = 0.2) -> LossOutput:
    """Compute PPO's clipped value loss (arXiv:2006.05990, section 3.5): half the larger squared error of the value and
    of the value clipped to within `clip` of the old value. values: [b, T]."""
    assert batch.values is not None and batch.returns is not None
    change = values - batch.values
    clipped_values = batch.values + change.clamp(-clip, clip)
    unclipped, clipped = (values - batch.returns).square(), (clipped_values - batch.returns).square()
    active = (change.abs() > clip) & (clipped > unclipped)  # the second condition alone would count rounding errors
    return 0.5 * torch.maximum(unclipped, clipped), {"clip_fraction": active.float()}


def negative_log_likelihood(output: TokenOutput, batch: Batch) -> LossOutput:
    """Compute the loss of supervised fine-tuning: -log p of each response token."""
    return -output.logprobs, {}


def entropy_bonus(output: TokenOutput, batch: Batch, *, coef: float) -> LossOutput:
    """Compute the entropy term of the policy loss: -coef * entropy per token."""
    return -coef * output.entropy, {}


def implicit_prm(output: TokenOutput, batch: Batch, *, beta: Positive = 0.05) -> LossOutput:
    """Compute the cross-entropy loss of an implicit process reward model (PRIME, arXiv:2502.01456, eq. 4), whose
    probability that a response is correct is sigmoid(beta * sum of log pi_prm - log pi_ref). Every token of a response
    carries the response's loss, so aggregation must be sequence_mean."""
    assert batch.ref_logprobs is not None and batch.correct is not None
    total = beta * ((output.logprobs - batch.ref_logprobs) * batch.mask).sum(-1)
    target = batch.correct.float()
    loss = torch.nn.functional.binary_cross_entropy_with_logits(total, target, reduction="none")
    accuracy = ((total > 0) == batch.correct).float()
    return loss[:, None] * batch.mask, {"accuracy": accuracy[:, None] * batch.mask}
