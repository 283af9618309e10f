"""Losses: pure functions (output, Batch) -> (per-token loss [b, T], {metric: [b, T]}).

Per-token losses are summed under weights that `simplerl.engine.batching.token_weights` fixed; metrics are averaged
over the response tokens of the step. A role may have several losses, which are added.
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

LOG_RATIO_LIMIT = 20.0  # log-ratios are clamped to +- this before exp, as verl does: exp(89) is infinite in float32


@dataclass(frozen=True)
class TokenOutput:
    """Log-probs and entropies of a policy for the tokens of a batch, zero outside the mask."""

    logprobs: Tensor  # [b, T]
    entropy: Tensor  # [b, T], of the whole next-token distribution


def ppo_clip(output: TokenOutput, batch: Batch, *, clip_low: ClipLow = 0.2, clip_high: Positive = 0.2) -> LossOutput:
    """Return the clipped surrogate (arXiv:1707.06347, eq. 7); clip_high > clip_low is DAPO's clip-higher."""
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
    """Return half of the larger squared error: of the value, or of the value clipped to within `clip` of the old one
    (arXiv:2006.05990, section 3.5). values: [b, T]."""
    assert batch.values is not None and batch.returns is not None
    change = values - batch.values
    held = batch.values + change.clamp(-clip, clip)
    unclipped, clipped = (values - batch.returns).square(), (held - batch.returns).square()
    active = (change.abs() > clip) & (clipped > unclipped)  # the second alone would count rounding
    return 0.5 * torch.maximum(unclipped, clipped), {"clip_fraction": active.float()}


def negative_log_likelihood(output: TokenOutput, batch: Batch) -> LossOutput:
    """Return -log p of each response token: supervised fine-tuning."""
    return -output.logprobs, {}


def entropy_bonus(output: TokenOutput, batch: Batch, *, coef: float) -> LossOutput:
    """Return -coef * entropy per token, a term of the policy's loss."""
    return -coef * output.entropy, {}


def implicit_prm(output: TokenOutput, batch: Batch, *, beta: Positive = 0.05) -> LossOutput:
    """Return the cross-entropy of an implicit process reward model (PRIME, arXiv:2502.01456, eq. 4): its probability
    that a response is correct is sigmoid(beta * sum of log pi_prm - log pi_ref). The loss of a response stands on each
    of its tokens, so it needs aggregation=sequence_mean."""
    assert batch.ref_logprobs is not None and batch.correct is not None
    total = beta * ((output.logprobs - batch.ref_logprobs) * batch.mask).sum(-1)
    target = batch.correct.float()
    loss = torch.nn.functional.binary_cross_entropy_with_logits(total, target, reduction="none")
    accuracy = ((total > 0) == batch.correct).float()
    return loss[:, None] * batch.mask, {"accuracy": accuracy[:, None] * batch.mask}
