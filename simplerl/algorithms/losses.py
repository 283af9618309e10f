"""Defines the losses: pure functions (output, Batch) -> (per-token loss [b, T], {metric: [b, T]}).

The loss of an optimizer step is the sum of per-token losses times the weights of
`simplerl.engine.batching.token_weights`. Metrics are averaged over response tokens. The losses of a role are added.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Any

import torch
from torch import Tensor

from simplerl.types import Batch, Bounds, Fraction, Positive

LossOutput = tuple[Tensor, dict[str, Tensor]]
Loss = Callable[[Any, Batch], LossOutput]
ClipLow = Annotated[float, Bounds(0.001, 1.0)]
SequenceClip = Annotated[float, Bounds(1e-6, 1.0)]
NonNegative = Annotated[float, Bounds(0.0)]

LOG_RATIO_LIMIT = 20.0  # log-ratios are clamped to [-20, 20] before exp, as in verl: exp(89) overflows float32
SEQUENCE_LOG_RATIO_LIMIT = 10.0  # upper clamp of the mean log-ratio of a response, as in verl


@dataclass(frozen=True)
class TokenOutput:
    """Holds the log-probs and entropies of a causal language model for the tokens of a batch, zero outside the mask."""

    logprobs: Tensor  # [b, T]
    entropy: Tensor  # [b, T], of the full next-token distribution


@dataclass(frozen=True)
class Ratio:
    """Holds importance ratios pi / pi_old of the tokens of a batch, and the metrics that all policy losses log."""

    log: Tensor  # [b, T], clamped to [-20, 20]
    value: Tensor  # [b, T], exp(log)
    metrics: dict[str, Tensor]

    @classmethod
    def of(cls, output: TokenOutput, batch: Batch) -> Ratio:
        assert batch.logprobs is not None and batch.advantages is not None
        log_ratio = output.logprobs - batch.logprobs
        clamped = log_ratio.clamp(-LOG_RATIO_LIMIT, LOG_RATIO_LIMIT)
        ratio = clamped.exp()
        metrics = {
            "ratio": ratio.detach(),
            "approx_kl": (torch.expm1(clamped) - clamped).detach(),  # k3 of old || new
            "ratio_clamped": (log_ratio.abs() > LOG_RATIO_LIMIT).float(),
        }
        return cls(clamped, ratio, metrics)


def ppo_clip(output: TokenOutput, batch: Batch, *, clip_low: ClipLow = 0.2, clip_high: Positive = 0.2) -> LossOutput:
    """Compute PPO's clipped surrogate loss (arXiv:1707.06347, eq. 7); clip_high > clip_low is DAPO's clip-higher."""
    assert batch.advantages is not None
    ratio = Ratio.of(output, batch)
    return _clipped(ratio.value, batch.advantages, clip_low, clip_high, ratio.metrics)


def _clipped(
    ratio: Tensor, advantages: Tensor, low: float, high: float, metrics: dict[str, Tensor]
) -> tuple[Tensor, dict[str, Tensor]]:
    """Return max(-ratio A, -clip(ratio, 1 - low, 1 + high) A), and the metrics with `clip_fraction`."""
    unclipped, clipped = -advantages * ratio, -advantages * ratio.clamp(1 - low, 1 + high)
    return torch.maximum(unclipped, clipped), {**metrics, "clip_fraction": (clipped > unclipped).float()}


def dual_clip(
    output: TokenOutput,
    batch: Batch,
    *,
    clip_low: ClipLow = 0.2,
    clip_high: Positive = 0.2,
    dual: Annotated[float, Bounds(1.001)] = 3.0,
) -> LossOutput:
    """Compute the clipped surrogate loss with a second bound for negative advantages: their loss is at most
    -`dual` * A, so that a large ratio cannot dominate (dual-clip PPO, arXiv:1912.09729; verl's default)."""
    assert batch.advantages is not None
    per_token, metrics = ppo_clip(output, batch, clip_low=clip_low, clip_high=clip_high)
    bound = -dual * batch.advantages
    beyond = (batch.advantages < 0) & (per_token > bound)
    return torch.where(beyond, bound, per_token), {**metrics, "dual_clip_fraction": beyond.float()}


def cispo(output: TokenOutput, batch: Batch, *, min_ratio: NonNegative = 0.0, max_ratio: Positive = 1.2) -> LossOutput:
    """Compute CISPO's loss -sg(clamp(ratio, min_ratio, max_ratio)) * A * log pi, which clips the weight and keeps the
    gradient of every token (MiniMax-M1, arXiv:2506.13585).

    The bounds apply to the ratio itself. In the paper and verl they are 1 - eps_low and 1 + eps_high, so eps_high is
    max_ratio - 1; TRL and ScaleRL (arXiv:2510.13786) set max_ratio directly, 5 by default."""
    assert batch.advantages is not None
    ratio = Ratio.of(output, batch)
    weight = ratio.value.detach().clamp(min_ratio, max_ratio)
    metrics = {**ratio.metrics, "clip_fraction": (weight != ratio.value.detach()).float()}
    return -weight * batch.advantages * output.logprobs, metrics


def gspo(
    output: TokenOutput, batch: Batch, *, clip_low: SequenceClip = 3e-4, clip_high: SequenceClip = 4e-4
) -> LossOutput:
    """Compute the clipped surrogate loss of the sequence ratio exp(mean_t log(pi / pi_old)) (GSPO,
    arXiv:2507.18071), in the token form sg(s) * pi / sg(pi), which has the gradient of the sequence form with
    aggregation=sequence_mean."""
    assert batch.advantages is not None and batch.logprobs is not None
    ratio = Ratio.of(output, batch)
    mean = _sequence_mean(output.logprobs - batch.logprobs, batch).detach()
    log_ratio = mean[:, None] + output.logprobs - output.logprobs.detach()
    sequence_ratio = log_ratio.clamp(max=SEQUENCE_LOG_RATIO_LIMIT).exp()
    metrics = {**ratio.metrics, "sequence_ratio": sequence_ratio.detach()}
    return _clipped(sequence_ratio, batch.advantages, clip_low, clip_high, metrics)


def _sequence_mean(x: Tensor, batch: Batch) -> Tensor:
    """Return the mean of `x` [b, T] over the tokens of each response, [b]."""
    return (x * batch.mask).sum(-1) / batch.mask.sum(-1).clamp(min=1)


def gmpo(output: TokenOutput, batch: Batch, *, clip_low: Positive = 0.4, clip_high: Positive = 0.4) -> LossOutput:
    """Compute the loss of the geometric mean of clipped token ratios (GMPO, arXiv:2507.20673): log-ratios are clipped
    to at most clip_high for a positive advantage and to at least -clip_low for a negative one, then averaged over the
    response. Every token carries the response's loss, so aggregation must be sequence_mean."""
    assert batch.advantages is not None and batch.logprobs is not None
    ratio = Ratio.of(output, batch)
    log_ratio, sign = output.logprobs - batch.logprobs, batch.advantages.sign()
    clipped = torch.minimum(sign * log_ratio, sign * log_ratio.clamp(-clip_low, clip_high))
    mean = _sequence_mean(sign * clipped, batch).clamp(max=SEQUENCE_LOG_RATIO_LIMIT)
    advantage = _sequence_mean(batch.advantages, batch)
    metrics = {**ratio.metrics, "clip_fraction": (clipped < sign * log_ratio).float()}
    return (-advantage * mean.exp())[:, None] * batch.mask, metrics


def sapo(
    output: TokenOutput, batch: Batch, *, temperature_positive: Positive = 1.0, temperature_negative: Positive = 1.05
) -> LossOutput:
    """Compute SAPO's loss -A * sigmoid(tau * (ratio - 1)) * 4 / tau (arXiv:2511.20347), where tau is
    `temperature_positive` for positive advantages and `temperature_negative` otherwise."""
    assert batch.advantages is not None
    ratio = Ratio.of(output, batch)
    positive = torch.full_like(ratio.value, temperature_positive)
    tau = torch.where(batch.advantages > 0, positive, torch.full_like(positive, temperature_negative))
    gate = torch.sigmoid(tau * (ratio.value - 1)) * 4 / tau
    return -batch.advantages * gate, ratio.metrics


def dppo_tv(
    output: TokenOutput,
    batch: Batch,
    *,
    low: Fraction = 0.2,
    high: Fraction = 0.2,
    max_ratio: Positive = 20.0,
) -> LossOutput:
    """Compute DPPO's masked policy gradient with the binary total variation as trust region (arXiv:2602.04879). A token
    gets no gradient if its probability has already risen by more than `high` and its advantage is positive, or fallen
    by more than `low` otherwise. All other tokens get the loss -A * sg(min(ratio, max_ratio)) * log pi."""
    assert batch.logprobs is not None and batch.advantages is not None
    moved = output.logprobs.detach().exp() - batch.logprobs.exp()
    kept = torch.where(batch.advantages > 0, moved <= high, moved >= -low)
    return _masked_gradient(output, batch, kept, max_ratio)


def dppo_kl(
    output: TokenOutput,
    batch: Batch,
    *,
    low: Positive = 0.2,
    high: Positive = 0.2,
    max_ratio: Positive = 20.0,
) -> LossOutput:
    """Compute DPPO's masked policy gradient with the binary KL divergence as trust region (arXiv:2602.04879): like
    `dppo_tv`, but with KL(old || new) of the event "this token" instead of the difference in probability."""
    assert batch.logprobs is not None and batch.advantages is not None
    new, old = output.logprobs.detach().exp(), batch.logprobs.exp()
    others = (1 - old) * torch.log((1 - old + 1e-8) / (1 - new + 1e-8))
    divergence = old * (batch.logprobs - output.logprobs.detach()) + others
    rising = (divergence <= high) | (new <= old)
    falling = (divergence <= low) | (new >= old)
    return _masked_gradient(output, batch, torch.where(batch.advantages > 0, rising, falling), max_ratio)


def _masked_gradient(output: TokenOutput, batch: Batch, kept: Tensor, max_ratio: float) -> LossOutput:
    """Return the loss -A * sg(min(ratio, max_ratio)) * log pi, 0 where not `kept` [b, T], and the metrics."""
    assert batch.advantages is not None
    ratio = Ratio.of(output, batch)
    weight = ratio.value.detach().clamp(max=max_ratio) * kept
    return -weight * batch.advantages * output.logprobs, {**ratio.metrics, "clip_fraction": 1 - kept.float()}


def mirror_descent(output: TokenOutput, batch: Batch, *, tau: NonNegative = 1.0) -> LossOutput:
    """Compute the loss of Kimi k1.5's online policy mirror descent (arXiv:2501.12599, section 2.3.2): its gradient is
    -A * grad log pi(y) + tau / 2 * grad (log pi(y) / pi_old(y))^2, where y is the whole response and A the return minus
    the mean of its group (advantage=dr_grpo). The regularizer replaces clipping. The loss is written per token, with
    the response's log-ratio as a constant factor, so it has this gradient under every aggregation."""
    assert batch.logprobs is not None and batch.advantages is not None
    ratio = Ratio.of(output, batch)
    moved = ((output.logprobs.detach() - batch.logprobs) * batch.mask).sum(-1, keepdim=True)
    return -(batch.advantages - tau * moved) * output.logprobs * batch.mask, ratio.metrics


def with_current_logprobs(output: TokenOutput, batch: Batch, *, loss: Loss) -> LossOutput:
    """Compute `loss` with the current log-probs as those of the old policy, so that ratios are 1 and keep their
    gradient. This is exact in the first optimizer step after sampling (algorithm.old_logprobs=skip)."""
    return loss(output, batch.with_(logprobs=output.logprobs.detach()))


def first_pass_metrics(output: TokenOutput, batch: Batch) -> LossOutput:
    """Return a loss of zero and the metrics that otherwise come from the log-probs before the update."""
    assert batch.sampler_logprobs is not None
    current = output.logprobs.detach()
    metrics = {"rollout/logprob_gap": (current - batch.sampler_logprobs).abs(), "rollout/entropy": output.entropy}
    if batch.ref_logprobs is not None:
        metrics["rollout/kl"] = current - batch.ref_logprobs
    return torch.zeros_like(output.logprobs), {name: values.detach() for name, values in metrics.items()}


def correct_nll(output: TokenOutput, batch: Batch, *, coef: float) -> LossOutput:
    """Compute -coef * log p of the tokens of correct responses (positive-example language-model loss, VAPO,
    arXiv:2504.05118). It is averaged over all responses, whereas the paper averages over correct ones."""
    assert batch.correct is not None
    return -coef * output.logprobs * batch.correct[:, None], {}


def clipped_value(values: Tensor, batch: Batch, *, clip: Positive | None = 0.2) -> LossOutput:
    """Compute PPO's clipped value loss (arXiv:2006.05990, section 3.5): half the larger squared error of the value and
    of the value clipped to within `clip` of the old value; clip=None: half the squared error. values: [b, T]."""
    if clip is None:
        return squared_value(values, batch)
    assert batch.values is not None and batch.returns is not None
    change = values - batch.values
    clipped_values = batch.values + change.clamp(-clip, clip)
    unclipped, clipped = (values - batch.returns).square(), (clipped_values - batch.returns).square()
    active = (change.abs() > clip) & (clipped > unclipped)  # the second condition alone would count rounding errors
    return 0.5 * torch.maximum(unclipped, clipped), {"clip_fraction": active.float()}


def squared_value(values: Tensor, batch: Batch) -> LossOutput:
    """Compute half the squared error of the value, without PPO's clipping. values: [b, T]."""
    assert batch.returns is not None
    return 0.5 * (values - batch.returns).square(), {}


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
