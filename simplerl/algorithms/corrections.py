"""Off-policy corrections for rollouts that were not sampled from exactly the policy before the update.

A correction is a function Batch -> (Batch, metrics) that rescales advantages. Policy losses are proportional to
advantages, so this reweights the policy loss and leaves KL and entropy terms unchanged.
"""

from __future__ import annotations

from simplerl.algorithms.losses import LOG_RATIO_LIMIT
from simplerl.types import Batch, Positive


def truncated_importance(batch: Batch, *, cap: Positive = 2.0) -> tuple[Batch, dict[str, float]]:
    """Multiply each token's advantage by min(pi_old / pi_sampler, cap) (truncated importance sampling, Ionides 2008,
    doi:10.1198/106186008X320456). pi_old is the policy before this step's updates; pi_sampler differs from it by
    numerics or older weights."""
    assert batch.logprobs is not None and batch.sampler_logprobs is not None and batch.advantages is not None
    log_weight = batch.logprobs - batch.sampler_logprobs
    weight = log_weight.clamp(-LOG_RATIO_LIMIT, LOG_RATIO_LIMIT).exp()
    capped = weight.clamp(max=cap)
    metrics = {
        "correction/weight": float(capped[batch.mask].mean()),
        "correction/capped_fraction": float((weight > cap)[batch.mask].float().mean()),
    }
    return batch.with_(advantages=batch.advantages * capped), metrics
