"""Defines reward shaping: functions that take all graded rollouts of a step and return them with other rewards, masked
(`mask_truncated`) or with other tokens (`forced_eos`). Set in conf/algorithm/shape/.

Several functions can be applied in order: algorithm/shape=[kimi_length,soft_overlong].
"""

from __future__ import annotations

import math
from dataclasses import replace
from functools import cache

from simplerl.types import Count, Rollout, group_rollouts, score_of


def add_reward(rollout: Rollout, part: str, amount: float) -> Rollout:
    """Return a copy with `amount` added to the reward and logged as the metric reward/<part>."""
    score = score_of(rollout)
    parts = {**score.parts, part: amount}
    return replace(rollout, score=replace(score, reward=score.reward + amount, parts=parts))


def kimi_length(rollouts: list[Rollout], *, weight: float = 1.0) -> list[Rollout]:
    """Add the length reward of Kimi k1.5 (arXiv:2501.12599, section 2.3.3), times `weight`.

    Let lambda = 0.5 - (length - min) / (max - min), with the minimum and maximum length in the group. Correct responses
    get lambda and incorrect ones min(0, lambda); all get 0 if their lengths are equal."""
    bounds = {}
    for group in group_rollouts(rollouts):
        lengths = [len(rollout.token_ids) for rollout in group]
        bounds[group[0].prompt.problem.id] = min(lengths), max(lengths)

    def reward(rollout: Rollout) -> float:
        shortest, longest = bounds[rollout.prompt.problem.id]
        if shortest == longest:
            return 0.0
        value = 0.5 - (len(rollout.token_ids) - shortest) / (longest - shortest)
        return value if score_of(rollout).correct else min(0.0, value)

    return [add_reward(rollout, "length_reward", weight * reward(rollout)) for rollout in rollouts]


def soft_overlong(rollouts: list[Rollout], *, max_length: int, buffer: Count, penalty: float = 1.0) -> list[Rollout]:
    """Subtract DAPO's soft overlong punishment (arXiv:2503.14476, eq. 13): 0 up to max_length - buffer tokens, then
    linearly increasing to `penalty` at max_length and constant beyond."""

    def reward(rollout: Rollout) -> float:
        beyond = len(rollout.token_ids) - (max_length - buffer)
        return -penalty * min(max(beyond, 0) / buffer, 1.0)

    return [add_reward(rollout, "overlong", reward(rollout)) for rollout in rollouts]


@cache
def _eos_token_id(model: str) -> int:
    from transformers import AutoTokenizer

    return int(AutoTokenizer.from_pretrained(model).eos_token_id)


def forced_eos(rollouts: list[Rollout], *, model: str, rows: Count = 2) -> list[Rollout]:
    """Make every response end with the end token of `model`'s tokenizer, as the published run did: in each block of
    `rows` consecutive rollouts, the last token of the longest response is overwritten, keeping its log-prob, and
    shorter responses get one more token with log-prob 0. Truncated responses then look finished, and the result depends
    on the size of the block."""
    eos_token_id, ended = _eos_token_id(model), []
    for start in range(0, len(rollouts), rows):
        block = rollouts[start : start + rows]
        longest = max(len(rollout.token_ids) for rollout in block)
        for rollout in block:
            tokens, logprobs = rollout.token_ids, rollout.logprobs
            if tokens[-1] != eos_token_id and len(tokens) == longest:
                tokens = (*tokens[:-1], eos_token_id)
            elif tokens[-1] != eos_token_id:
                tokens, logprobs = (*tokens, eos_token_id), (*logprobs, 0.0)
            ended.append(replace(rollout, token_ids=tokens, logprobs=logprobs))
    return ended


def mask_truncated(rollouts: list[Rollout]) -> list[Rollout]:
    """Mask truncated responses in the loss (overlong filtering, DAPO, arXiv:2503.14476, section 3.4). Their rewards
    still count in group statistics."""
    return [replace(rollout, trained=not rollout.response.truncated) for rollout in rollouts]


def cosine_length(
    rollouts: list[Rollout],
    *,
    max_length: Count,
    correct_short: float = 2.0,
    correct_long: float = 1.0,
    wrong_short: float = -10.0,
    wrong_long: float = 0.0,
    truncated: float = -10.0,
) -> list[Rollout]:
    """Replace the reward by the cosine length reward (arXiv:2502.03373, section 4.2): a correct response earns
    `correct_short` at length 0 and `correct_long` at `max_length` tokens, an incorrect one `wrong_short` and
    `wrong_long`, with half a cosine between; a truncated one earns `truncated`."""

    def reward(rollout: Rollout) -> float:
        if rollout.response.truncated:
            return truncated
        short, long = (correct_short, correct_long) if score_of(rollout).correct else (wrong_short, wrong_long)
        progress = min(len(rollout.token_ids) / max_length, 1.0)
        return long + (short - long) * (1 + math.cos(math.pi * progress)) / 2

    return [add_reward(r, "cosine_length", reward(r) - score_of(r).reward) for r in rollouts]


def repetition(rollouts: list[Rollout], *, ngram: Count = 20, penalty: float = 1.0) -> list[Rollout]:
    """Subtract from each reward `penalty` times the fraction of the response's n-grams of tokens that repeat an earlier
    one; 0 for a response of less than `ngram` tokens."""

    def fraction(tokens: tuple[int, ...]) -> float:
        total = len(tokens) - ngram + 1
        return 1 - len({tokens[i : i + ngram] for i in range(total)}) / total if total > 0 else 0.0

    return [add_reward(r, "repetition", -penalty * fraction(r.token_ids)) for r in rollouts]
