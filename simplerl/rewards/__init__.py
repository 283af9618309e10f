"""Provides the built-in reward functions: (response, Problem, *, keywords) -> Score.

To add a reward, write such a function in any importable module and a YAML file in conf/reward/ that names it as
`_target_`. The response is a `simplerl.types.Response`: a string that also has `tokens`, `finish_reason` and
`truncated`. Instead of a Score it may return a number, which counts as correct if it is positive; `trl` and `verl` run
functions that were written for those libraries.

Rewards run in the worker processes of `simplerl.rewards.pool`, which kill a worker at the time limit. An answer whose
grading did not finish gets the value of the function's parameter `wrong`, or 0 if it has none.

Importing this package is fast: sympy and math-verify are loaded by the first comparison that needs them.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

from simplerl.rewards.adapters import trl, verl
from simplerl.rewards.equality import judge
from simplerl.rewards.extract import boxed_answer, cut_at_stop
from simplerl.rewards.free_text import lenient_answer
from simplerl.rewards.qwen import qwen_answer
from simplerl.rewards.returned import UnusableScore, score_fields
from simplerl.rewards.rules import EQUAL, NO_ANSWER, PUBLISHED_RULES, Environment, Rule
from simplerl.types import Problem, Reward, Score

__all__ = ["FIXED_RULES", "WithFixedRules", "binary", "lenient", "strict", "think_format", "trl", "verl", "weighted"]

THINK_FORMAT = re.compile(
    r"\s*<think>(?:(?!</?think>).)*</think>\s*<answer>(?:(?!</?answer>).)*</answer>\s*", re.DOTALL
)


def strict(
    response: str,
    problem: Problem,
    *,
    correct: float = 1.0,
    wrong: float = -0.5,
    unboxed: float = -1.0,
    rule: Rule = "math_verify",
    fbox: bool = False,
    environment: Environment = "training",
) -> Score:
    r"""Score a response by the published rule, which reads only the last \boxed{}.

    correct, wrong: reward of a boxed answer that equals, or does not equal, the gold answer.
    unboxed: reward if there is no \boxed{}, or only one without content (empty, or only spaces, punctuation or
    formatting commands), even if the text states the correct answer.
    rule: how answers are compared, see `simplerl.rewards.equality`. `qwen` and `qwen_train` also extract the answer as
    published: `unboxed` applies only if the word "boxed" is absent, an unterminated box is accepted, and
    "final answer is $...$. I hope" takes precedence over a box.
    fbox: also accept \fbox{}, which the published rule does not.
    environment: packages that rule=qwen_train follows, see `simplerl.rewards.qwen`; other rules ignore it.

    `Score.parts` has boxed, 1 if an answer was boxed, and gold_unread, 1 if no parser could read the gold answer.
    """
    if rule in PUBLISHED_RULES:
        boxed = "boxed" in cut_at_stop(response)
        answer = qwen_answer(response, problem.source) if boxed else None
    else:
        answer = boxed_answer(response, fbox=fbox)
        boxed = answer is not None
    verdict = judge(answer or "", problem.answer, rule=rule, source=problem.source, environment=environment)
    parts = {"boxed": float(boxed), "gold_unread": float(verdict.gold_unread)}
    if verdict.status == NO_ANSWER and (rule not in PUBLISHED_RULES or not boxed):
        return Score(unboxed, False, NO_ANSWER, None, parts | {"boxed": 0.0})
    is_correct = verdict.status == EQUAL
    return Score(correct if is_correct else wrong, is_correct, verdict.status, answer, parts)


def binary(
    response: str,
    problem: Problem,
    *,
    rule: Rule = "math_verify",
    fbox: bool = False,
    environment: Environment = "training",
) -> Score:
    r"""Score 1 if the last \boxed{} holds the correct answer, otherwise 0. Keywords and parts as in `strict`."""
    return strict(response, problem, correct=1.0, wrong=0.0, unboxed=0.0, rule=rule, fbox=fbox, environment=environment)


def lenient(
    response: str, problem: Problem, *, rule: Rule = "math_verify", environment: Environment = "training"
) -> Score:
    """Score 1 if the final answer is correct wherever it is written, otherwise 0.

    The answer is taken from the last box, else after "the answer is", else it is the last number: see
    `simplerl.rewards.free_text`. Keywords and parts as in `strict`.
    """
    published = rule in PUBLISHED_RULES
    answer = qwen_answer(response, problem.source) if published else lenient_answer(response)
    boxed = float(boxed_answer(response) is not None)
    verdict = judge(answer or "", problem.answer, rule=rule, source=problem.source, environment=environment)
    is_correct = verdict.status == EQUAL
    parts = {"boxed": boxed, "gold_unread": float(verdict.gold_unread)}
    return Score(float(is_correct), is_correct, verdict.status, answer, parts)


def think_format(response: str, problem: Problem, *, opened: bool = False) -> Score:
    """Score 1 if the response consists of <think>...</think><answer>...</answer> and nothing else, otherwise 0
    (DeepSeek-R1-Zero, arXiv:2501.12948, section 2.2.2). opened: the prompt already ends with <think>."""
    text = "<think>" + response if opened else response
    fits = THINK_FORMAT.fullmatch(text) is not None
    return Score(float(fits), fits, EQUAL if fits else NO_ANSWER)


def weighted(
    response: str,
    problem: Problem,
    *,
    functions: dict[str, Callable[[str, Problem], Score]],
    weights: dict[str, float],
    wrong: float = 0.0,
) -> Score:
    """Score a weighted sum of reward functions. The first one decides whether the response is correct. `Score.parts`
    has the parts of the first and the unweighted reward of each, by name.

    wrong: reward of an answer whose grading did not finish."""
    scores = {name: function(response, problem) for name, function in functions.items()}
    first = next(iter(scores.values()))
    parts = {**first.parts, **{name: score.reward for name, score in scores.items()}}
    return replace(first, reward=sum(weights[name] * score.reward for name, score in scores.items()), parts=parts)


# Evaluations also judge every response by these rewards, with their default keywords, so that runs can be compared.
FIXED_RULES = {"strict": strict, "lenient": lenient}


class WithFixedRules(partial[Score]):
    """Wraps a reward so that it also judges each response by FIXED_RULES, in the same call: the verdicts are the parts
    correct_strict and correct_lenient of its score, 1 or 0. Comparisons are cached, so the same answer is compared
    once. A rule that raises counts as not correct and does not change the score of the reward."""

    @classmethod
    def of(cls, reward: Reward) -> WithFixedRules:
        """Wrap `reward`, a function or a partial, so that it also judges each response by FIXED_RULES."""
        return cls(reward.func, *reward.args, **reward.keywords) if isinstance(reward, partial) else cls(reward)

    def __call__(self, response: str, problem: Problem) -> Score:  # type: ignore[override]
        value: Any = super().__call__(response, problem)
        try:
            score = value if isinstance(value, Score) else Score(*score_fields(value, len(response)))
        except UnusableScore:  # the grading worker reports it
            return value  # type: ignore[no-any-return]
        verdicts = {f"correct_{name}": _verdict(name, response, problem) for name in FIXED_RULES}
        return replace(score, parts={**score.parts, **verdicts})


def _verdict(name: str, response: str, problem: Problem) -> float:
    try:
        return float(FIXED_RULES[name](response, problem).correct)
    except Exception:
        return 0.0
