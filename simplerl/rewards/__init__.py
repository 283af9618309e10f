"""Reward functions: (response, Problem, *, keywords) -> Score. One YAML of conf/reward/ names each.

To add one: write such a function in any importable module and a YAML with its `_target_`. It runs in
the worker processes of `simplerl.rewards.pool`, which kill it at the time limit; a parameter called
`wrong`, where the function has one, is the reward of an answer that was lost that way.
Importing this module is light: math-verify and sympy load at the first comparison that needs them.
"""

from __future__ import annotations

from simplerl.rewards.equal import EQUAL, NO_ANSWER, Rule, compare
from simplerl.rewards.extract import boxed_answer, lenient_answer
from simplerl.types import Problem, Score

__all__ = ["binary", "lenient", "strict"]


def strict(
    response: str,
    problem: Problem,
    *,
    correct: float = 1.0,
    wrong: float = -0.5,
    unboxed: float = -1.0,
    rule: Rule = "math_verify",
    fbox: bool = False,
) -> Score:
    r"""The published rule: `correct` for a right answer in the last \boxed{}, `wrong` for a wrong one,
    `unboxed` where nothing is boxed, even if the right answer stands in the text.

    `fbox`: \fbox{} counts as well, which the published rule (it looks for "boxed") does not do.
    """
    answer = boxed_answer(response, fbox=fbox)
    if answer is None:
        return Score(unboxed, False, NO_ANSWER, None, {"boxed": 0.0})
    status = compare(answer, problem.answer, rule=rule, source=problem.source)
    right = status == EQUAL
    return Score(correct if right else wrong, right, status, answer, {"boxed": 1.0})


def binary(response: str, problem: Problem, *, rule: Rule = "math_verify", fbox: bool = False) -> Score:
    r"""1 for a right answer in the last \boxed{}, otherwise 0."""
    return strict(response, problem, correct=1.0, wrong=0.0, unboxed=0.0, rule=rule, fbox=fbox)


def lenient(response: str, problem: Problem, *, rule: Rule = "math_verify") -> Score:
    """1 for a right final answer wherever it stands (box, "the answer is", last number), otherwise 0."""
    if rule == "qwen":
        from simplerl.rewards.qwen import qwen_answer

        answer = qwen_answer(response, problem.source)
    else:
        answer = lenient_answer(response)
    boxed = float(boxed_answer(response) is not None)
    if answer is None:
        return Score(0.0, False, NO_ANSWER, None, {"boxed": boxed})
    status = compare(answer, problem.answer, rule=rule, source=problem.source)
    right = status == EQUAL
    return Score(float(right), right, status, answer, {"boxed": boxed})
