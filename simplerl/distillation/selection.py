"""Selects which answers of a teacher become the data set, and says why each of the others is left out.

A function of conf/teacher/ (`teacher.keep`) gets the usable answers to one problem and returns those to keep, the best
first. An answer is usable if it is neither truncated nor repetitive. Near-duplicates and answers beyond
`teacher.per_problem` are left out in this order of preference.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from simplerl.config import TeacherConfig
from simplerl.errors import ConfigError
from simplerl.evals.behaviour import repetition
from simplerl.types import FINISH_LENGTH

KEPT = ""
# Why an answer is left out, in the order in which it is decided.
OVERLAP, TRUNCATED, REPETITIVE = "overlaps a benchmark", "truncated", "repetitive"
INCORRECT, NOT_CHOSEN, DUPLICATE, SURPLUS = "incorrect", "not chosen by teacher", "near-duplicate", "over per_problem"
REASONS = (OVERLAP, TRUNCATED, REPETITIVE, INCORRECT, NOT_CHOSEN, DUPLICATE, SURPLUS)


@dataclass(frozen=True)
class Answer:
    """Holds one graded response of the teacher, as functions of conf/teacher/ see it."""

    problem_id: str
    sample: int  # index from 0 among the responses to the problem
    question: str
    response: str
    tokens: int  # with the stop token
    finish_reason: str  # FINISH_STOP | FINISH_LENGTH
    reward: float
    correct: bool


Keep = Callable[[list[Answer]], list[Answer]]


class Duplicates(Protocol):
    """Remembers the kept answers."""

    def find(self, answer: Answer) -> Answer | None:
        """Return a kept answer that is similar to `answer`, or None."""

    def add(self, answer: Answer) -> None:
        """Remember a kept answer."""


# Functions of conf/teacher/


def correct(answers: list[Answer]) -> list[Answer]:
    """Return the correct answers, in the order of sampling."""
    return [answer for answer in answers if answer.correct]


def everything(answers: list[Answer]) -> list[Answer]:
    """Return all answers, in the order of sampling."""
    return answers


def shortest(answers: list[Answer]) -> list[Answer]:
    """Return the correct answers, those with fewest tokens first."""
    return sorted(correct(answers), key=lambda answer: answer.tokens)


def longest(answers: list[Answer]) -> list[Answer]:
    """Return the correct answers, those with most tokens first."""
    return sorted(correct(answers), key=lambda answer: -answer.tokens)


# Selection


def choose(answers: Sequence[Answer], teacher: TeacherConfig) -> tuple[list[Answer], list[str]]:
    """Return the answers to one problem that `teacher.keep` returns, and the reason why each answer is left out (KEPT
    if it is returned), in the order of `answers`. Raises ConfigError if the function returns anything else."""
    reasons = [_unusable(answer, teacher) for answer in answers]
    usable = [answer for answer, reason in zip(answers, reasons, strict=True) if not reason]
    chosen = _checked(teacher.keep(list(usable)) if usable else [], usable, teacher.keep)
    kept = {answer.sample for answer in chosen}
    for index, answer in enumerate(answers):
        if not reasons[index] and answer.sample not in kept:
            reasons[index] = NOT_CHOSEN if answer.correct else INCORRECT
    return chosen, reasons


def _unusable(answer: Answer, teacher: TeacherConfig) -> str:
    if teacher.drop_truncated and answer.finish_reason == FINISH_LENGTH:
        return TRUNCATED
    if teacher.max_repetition is not None and repetition(answer.response) > teacher.max_repetition:
        return REPETITIVE
    return KEPT


def _checked(chosen: Any, usable: Collection[Answer], keep: Any) -> list[Answer]:
    """Return what a function of conf/teacher/ has returned. Raises ConfigError unless it is a list of answers that the
    function was given, each at most once."""
    answers = isinstance(chosen, list) and all(isinstance(one, Answer) for one in chosen)
    if answers and len(set(chosen)) == len(chosen) and set(usable).issuperset(chosen):
        return list(chosen)
    function = getattr(keep, "func", keep)
    raise ConfigError(
        f"teacher.keep ({function.__module__}.{function.__qualname__}) must return a list of the answers that it is "
        f"given, each at most once, not {chosen!r:.60}."
    )


def select(
    groups: Iterable[Sequence[Answer]],
    teacher: TeacherConfig,
    duplicates: Duplicates | None = None,
    overlapping: Collection[str] = (),
) -> list[str]:
    """Return why each answer is left out, KEPT or one of REASONS, in the order of `groups`.

    groups: the answers by problem. duplicates: finds and remembers near-duplicates; None: they are kept. overlapping:
    ids of problems that are left out because they overlap with a benchmark."""
    every: list[str] = []
    for group in groups:
        if group[0].problem_id in overlapping:
            every += [OVERLAP] * len(group)
            continue
        chosen, reasons = choose(group, teacher)
        position = {answer.sample: index for index, answer in enumerate(group)}
        count = 0
        for answer in chosen:
            if duplicates is not None and duplicates.find(answer) is not None:
                reasons[position[answer.sample]] = DUPLICATE
            elif teacher.per_problem is not None and count == teacher.per_problem:
                reasons[position[answer.sample]] = SURPLUS
            else:
                count += 1
                if duplicates is not None:
                    duplicates.add(answer)
        every += reasons
    return every
