"""Computes the metrics of a training step from its rollouts and from its scored batch."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from statistics import fmean, pstdev

from torch import Tensor

from simplerl.algorithms.losses import LOG_RATIO_LIMIT
from simplerl.evals.behaviour import TEXT_METRICS, has_end_token
from simplerl.types import FINISH_LENGTH, FINISH_STOP, Batch, Rollout, score_of


def prefixed(prefix: str, metrics: dict[str, float]) -> dict[str, float]:
    """Return the metrics with `<prefix>/` before each name."""
    return {f"{prefix}/{name}": value for name, value in metrics.items()}


def _mean(name: str, values: Iterable[float]) -> dict[str, float]:
    """Return {name: mean}, or {} if there are no values."""
    values = list(values)
    return {name: fmean(values)} if values else {}


def rollout_metrics(rollouts: Sequence[Rollout]) -> dict[str, float]:
    """Return the metrics rollout/* and reward/* of the graded rollouts of a step.

    Lengths are in tokens and include the stop token; shares and fractions are of the responses. A mean over no
    responses, such as the length of correct responses if none is correct, is left out.
    """
    scores = [score_of(r) for r in rollouts]
    lengths = [len(r.token_ids) for r in rollouts]
    texts = [r.text for r in rollouts]
    finishes = [r.finish_reason for r in rollouts]
    metrics = {
        "rollout/responses": float(len(rollouts)),
        "rollout/tokens": float(sum(lengths)),
        "rollout/truncated_share": fmean(f == FINISH_LENGTH for f in finishes),
        **{f"rollout/{name}": fmean(map(feature, texts)) for name, feature in TEXT_METRICS.items()},
        "rollout/end_token_share": fmean(map(has_end_token, texts)),  # besides the stop token, which texts omit
        "reward/mean": fmean(s.reward for s in scores),
        "reward/std": pstdev(s.reward for s in scores),
        "reward/correct": fmean(s.correct for s in scores),
        **{f"reward/{x}_fraction": fmean(s.status == x for s in scores) for x in ("no_answer", "timeout", "failed")},
        "reward/solved_problems": _fraction_of_problems(rollouts, any),
        "reward/mastered_problems": _fraction_of_problems(rollouts, all),
    }
    rows = list(zip(lengths, finishes, scores, strict=True))
    metrics |= _mean("rollout/response_length", lengths)
    metrics |= _mean("rollout/response_length_stopped", (n for n, f, _ in rows if f == FINISH_STOP))
    metrics |= _mean("rollout/response_length_correct", (n for n, _, s in rows if s.correct))
    metrics |= _mean("rollout/response_length_wrong", (n for n, _, s in rows if not s.correct))
    for part in sorted({name for s in scores for name in s.parts}):
        metrics |= _mean(f"reward/{part}", (s.parts[part] for s in scores if part in s.parts))
    return metrics


def _fraction_of_problems(rollouts: Sequence[Rollout], quantifier: object) -> float:
    """Return the fraction of problems for which any sample, or all, are correct. quantifier: the function `any` or
    `all`."""
    groups: dict[str, list[bool]] = {}
    for rollout in rollouts:
        groups.setdefault(rollout.prompt.problem.id, []).append(score_of(rollout).correct)
    return fmean(quantifier(group) for group in groups.values())  # type: ignore[operator]


def batch_metrics(batch: Batch) -> dict[str, float]:
    """Return metrics of the scored batch of a step before its update, mostly means over response tokens.

    rollout/logprob_gap is the absolute difference between the trainer's and the sampler's log-probabilities. It
    measures numerical differences only if both use the same distribution, which is not the case with
    sampling.top_p < 1 or top_k > 0 (the sampler truncates its distribution), rollout.ahead=1 (the sampler's weights
    are older), or algorithm.logprobs_at_temperature_1 with another sampling.temperature.

    Without log-probs before the update (algorithm.old_logprobs=skip), metrics that need them are left out;
    `simplerl.algorithms.losses.first_pass_metrics` gives their means.
    """

    def mean(values: Tensor) -> float:
        return float(values[batch.mask].mean())

    assert batch.sampler_logprobs is not None and batch.advantages is not None
    metrics = {
        "train/advantage_mean": mean(batch.advantages),
        "train/advantage_abs": mean(batch.advantages.abs()),
        "train/prompt_tokens": float((batch.attention & ~batch.mask).sum()),
    }
    if batch.logprobs is not None:
        gap = batch.logprobs - batch.sampler_logprobs
        metrics["rollout/logprob_gap"] = mean(gap.abs())
        metrics["rollout/logprob_gap_max"] = float(gap.abs().max())
    if batch.entropy is not None:
        metrics["rollout/entropy"] = mean(batch.entropy)
    if batch.logprobs is not None and batch.ref_logprobs is not None:
        log_ratio = batch.logprobs - batch.ref_logprobs
        metrics["rollout/kl"] = mean(log_ratio)  # k1 estimator (Schulman 2020), per token
        metrics["rollout/kl_per_response"] = float(log_ratio.sum(-1).mean())
        metrics["rollout/kl_clamped"] = mean((log_ratio.abs() > LOG_RATIO_LIMIT).float())  # where k3 is not exact
    if batch.values is not None and batch.returns is not None:
        returns, errors = batch.returns[batch.mask], (batch.returns - batch.values)[batch.mask]
        metrics["critic/value_mean"] = mean(batch.values)
        metrics["critic/return_mean"] = float(returns.mean())
        variance = float(returns.var(correction=0))
        if variance > 0:
            metrics["critic/explained_variance"] = 1 - float(errors.var(correction=0)) / variance
    return metrics
