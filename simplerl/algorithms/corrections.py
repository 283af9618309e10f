"""Defines off-policy corrections for rollouts that were not sampled from exactly the policy before the update.

A correction is a function Batch -> (Batch, metrics) that rescales advantages. Policy losses are proportional to
advantages, so this reweights the policy loss and leaves KL and entropy terms unchanged.
"""

from __future__ import annotations

from typing import Literal

from torch import Tensor

from simplerl.algorithms.losses import LOG_RATIO_LIMIT
from simplerl.types import Batch, Positive


def truncated_importance(
    batch: Batch, *, cap: Positive = 2.0, level: Literal["token", "sequence"] = "token"
) -> tuple[Batch, dict[str, float]]:
    """Multiply each token's advantage by min(w, cap) with w = pi_old / pi_sampler (truncated importance sampling,
    Ionides 2008, doi:10.1198/106186008X320456). pi_old is the policy before this step's updates; pi_sampler differs
    from it by numerics or older weights.

    level: w is the ratio of the "token" or of the whole "sequence", which is unbiased but has a higher variance."""
    log_weight = _log_weights(batch)
    weight = _exp(log_weight if level == "token" else log_weight.sum(-1, keepdim=True).expand_as(log_weight))
    capped = weight.clamp(max=cap)
    share = {"correction/capped_fraction": _mean((weight > cap).float(), batch)}
    return _reweighted(batch, capped, share)


def icepop(batch: Batch, *, low: Positive = 0.5, high: Positive = 5.0) -> tuple[Batch, dict[str, float]]:
    """Multiply each token's advantage by w = pi_old / pi_sampler if w is in [low, high], otherwise by 0 (IcePop,
    arXiv:2510.18855)."""
    weight = _exp(_log_weights(batch))
    return _reweighted(batch, weight * ((weight >= low) & (weight <= high)))


def sequence_mask(batch: Batch, *, low: Positive = 0.5, high: Positive = 2.0) -> tuple[Batch, dict[str, float]]:
    """Set the advantages to 0 in responses whose geometric mean of w = pi_old / pi_sampler is outside [low, high]. All
    rows still count in the aggregation of the loss."""
    log_weight = _log_weights(batch)
    mean = _exp(log_weight.sum(-1) / batch.mask.sum(-1).clamp(min=1))
    return _reweighted(batch, ((mean >= low) & (mean <= high)).float()[:, None] * batch.mask)


def off_policy_mask(batch: Batch, *, limit: Positive = 0.5) -> tuple[Batch, dict[str, float]]:
    """Set the advantages to 0 in responses with a negative advantage whose mean log(pi_sampler / pi_old) exceeds
    `limit`, in nats: the policy has already moved away from them (off-policy sequence masking, DeepSeek-V3.2,
    arXiv:2512.02556)."""
    assert batch.advantages is not None
    mean = -_log_weights(batch).sum(-1) / batch.mask.sum(-1).clamp(min=1)
    dropped = (batch.advantages.sum(-1) < 0) & (mean > limit)
    return _reweighted(batch, (~dropped).float()[:, None] * batch.mask)


def _log_weights(batch: Batch) -> Tensor:
    """Return log(pi_old / pi_sampler) of each token, [B, T], zero outside the mask."""
    assert batch.logprobs is not None and batch.sampler_logprobs is not None
    return (batch.logprobs - batch.sampler_logprobs) * batch.mask


def _exp(log_weight: Tensor) -> Tensor:
    return log_weight.clamp(-LOG_RATIO_LIMIT, LOG_RATIO_LIMIT).exp()


def _mean(x: Tensor, batch: Batch) -> float:
    return float(x[batch.mask].mean())


def _reweighted(
    batch: Batch, weight: Tensor, metrics: dict[str, float] | None = None
) -> tuple[Batch, dict[str, float]]:
    """Multiply the advantages by `weight` [B, T]. Metrics: the mean weight, the fraction of tokens whose weight is not
    0, and the effective sample size (sum w)^2 / sum w^2 as a fraction of the tokens."""
    assert batch.advantages is not None
    tokens = weight[batch.mask].double()
    effective = tokens.sum().square() / tokens.square().sum().clamp(min=1e-12) / len(tokens)
    own = {
        "correction/weight": float(tokens.mean()),
        "correction/kept_fraction": float((tokens > 0).double().mean()),
        "correction/effective_sample_size": float(effective),
    }
    return batch.with_(advantages=batch.advantages * weight), own | (metrics or {})
