"""Provides negative controls: rewards that do not favour correct answers, with which a gain in accuracy is compared.

An accuracy that also rises under one of them is not an effect of the reward (arXiv:2506.10947). All of them also grade
the response by `strict`, so that the logged fraction correct and the evaluations mean the same as in other runs.
"""

from __future__ import annotations

import re
import zlib
from dataclasses import replace

from simplerl.rewards import strict
from simplerl.rewards.rules import Rule
from simplerl.types import Count, Fraction, Problem, Response, Score


def _draw(response: Response, problem: Problem, seed: int) -> float:
    """Return a number in [0, 1) that is a function of the seed, the problem and `response.key`, so that a resumed run
    repeats it."""
    return zlib.crc32(f"{seed} {problem.id} {response.key}".encode()) / 2**32


def random_reward(
    response: Response,
    problem: Problem,
    *,
    probability: Fraction = 0.5,
    seed: int = 0,
    wrong: float = 0.0,
    rule: Rule = "math_verify",
) -> Score:
    """Score 1 with the given probability and otherwise `wrong`, independently of the response (see `_draw`)."""
    chosen = _draw(response, problem, seed) < probability
    return replace(strict(response, problem, rule=rule), reward=1.0 if chosen else wrong)


def inverted(response: Response, problem: Problem, *, wrong: float = 0.0, rule: Rule = "math_verify") -> Score:
    """Score 1 for a boxed answer that is not correct, and otherwise `wrong`."""
    score = strict(response, problem, rule=rule)
    return replace(score, reward=1.0 if score.parts["boxed"] and not score.correct else wrong)


def format_only(response: Response, problem: Problem, *, wrong: float = 0.0, rule: Rule = "math_verify") -> Score:
    """Score 1 for any boxed answer, and otherwise `wrong`."""
    score = strict(response, problem, rule=rule)
    return replace(score, reward=1.0 if score.parts["boxed"] else wrong)


def wrong_gold(
    response: Response, problem: Problem, *, wrong: float = 0.0, offset: int = 1, rule: Rule = "math_verify"
) -> Score:
    """Score 1 for a boxed answer that equals a wrong gold answer, and otherwise `wrong`; `Score.correct` still refers
    to the true one. The wrong gold answer is the true one plus `offset` * k, with k from 1 to 5 depending on the
    problem."""
    score = strict(response, problem, rule=rule)
    distance = offset * (1 + zlib.crc32(problem.id.encode()) % 5)
    whole = re.fullmatch(r"-?\d+", problem.answer)
    gold = str(int(problem.answer) + distance) if whole else f"({problem.answer})+{distance}"
    rewarded = strict(response, replace(problem, answer=gold), rule=rule).correct
    return replace(score, reward=1.0 if rewarded else wrong)


def length_only(
    response: Response, problem: Problem, *, tokens: Count = 64, wrong: float = 0.0, rule: Rule = "math_verify"
) -> Score:
    """Score the response by its length alone: linearly from `wrong` at length 0 to 1 at `tokens` tokens or more."""
    length = min(len(response.tokens) / tokens, 1.0)
    return replace(strict(response, problem, rule=rule), reward=wrong + (1 - wrong) * length)


def noisy(
    response: Response,
    problem: Problem,
    *,
    flip: Fraction = 0.2,
    seed: int = 0,
    wrong: float = 0.0,
    rule: Rule = "math_verify",
) -> Score:
    """Score 1 for a correct boxed answer and otherwise `wrong`, and the other way round with probability `flip`, as a
    verifier that errs does (see `_draw`)."""
    score = strict(response, problem, rule=rule)
    flipped = _draw(response, problem, seed) < flip
    return replace(score, reward=1.0 if score.correct != flipped else wrong)
