"""Reward functions: (response, Problem, *, keywords) -> Score. One YAML of conf/reward/ names each.

To add one: write such a function in any importable module and a YAML with its `_target_`. It runs in
the worker processes of `simplerl.rewards.pool`, which kill it at the time limit; a parameter called
`wrong`, where the function has one, is the reward of an answer that was lost that way.
Importing this module is light: math-verify and sympy load at the first comparison that needs them.
"""

from __future__ import annotations

from simplerl.rewards.equal import EQUAL, NO_ANSWER, PUBLISHED, Rule, judge
from simplerl.rewards.extract import boxed_answer, cut_at_stop, lenient_answer
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
    `unboxed` where nothing is boxed, even if the right answer stands in the text; a box with nothing to compare
    in it (empty, only spaces, punctuation or commands) is no box.

    The published rules, `qwen` of the evaluation and `qwen_train` of the training, read as published too: `unboxed`
    only where the word "boxed" is absent; a bare or unterminated box is read on, and "final answer is $...$. I hope"
    comes first.
    `fbox`: \fbox{} counts as well, which the published rule (it looks for "boxed") does not do.
    Parts: boxed; gold_unread, 1 where the answer met a gold that no parser reads.
    """
    answer, boxed = _answer(response, problem, rule, fbox=fbox)
    verdict = judge(answer or "", problem.answer, rule=rule, source=problem.source)
    parts = {"boxed": float(boxed), "gold_unread": float(verdict.gold_unread)}
    if verdict.status == NO_ANSWER and (rule not in PUBLISHED or not boxed):
        return Score(unboxed, False, NO_ANSWER, None, parts | {"boxed": 0.0})
    right = verdict.status == EQUAL
    return Score(correct if right else wrong, right, verdict.status, answer, parts)


def _answer(response: str, problem: Problem, rule: Rule, *, fbox: bool) -> tuple[str | None, bool]:
    """(the boxed answer, whether anything is boxed)."""
    if rule not in PUBLISHED:
        answer = boxed_answer(response, fbox=fbox)
        return answer, answer is not None
    from simplerl.rewards.qwen import qwen_answer

    boxed = "boxed" in cut_at_stop(response)
    return (qwen_answer(response, problem.source) if boxed else None), boxed


def binary(response: str, problem: Problem, *, rule: Rule = "math_verify", fbox: bool = False) -> Score:
    r"""1 for a right answer in the last \boxed{}, otherwise 0."""
    return strict(response, problem, correct=1.0, wrong=0.0, unboxed=0.0, rule=rule, fbox=fbox)


def lenient(response: str, problem: Problem, *, rule: Rule = "math_verify") -> Score:
    """1 for a right final answer wherever it stands (box, "the answer is", last number), otherwise 0."""
    if rule in PUBLISHED:
        from simplerl.rewards.qwen import qwen_answer

        answer = qwen_answer(response, problem.source)
    else:
        answer = lenient_answer(response)
    boxed = float(boxed_answer(response) is not None)
    verdict = judge(answer or "", problem.answer, rule=rule, source=problem.source)
    right = verdict.status == EQUAL
    parts = {"boxed": boxed, "gold_unread": float(verdict.gold_unread)}
    return Score(float(right), right, verdict.status, answer, parts)
