r"""Finds gold answers with decorations around the value: a sentence, a unit, an option letter, a remark in brackets.

A plain value is graded as equal to such a gold answer only if the comparison can remove the decoration. `decorated`
returns the decoration and the plain value; `audit_golds` checks whether the plain value is graded as correct, so that
unusable gold answers are found before a benchmark is run.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

from simplerl.rewards.choices import parse_gold_choice
from simplerl.rewards.equality import compare
from simplerl.rewards.normalize import normalize
from simplerl.rewards.rules import EQUAL
from simplerl.rewards.stated import sentence_value
from simplerl.rewards.units import split_unit
from simplerl.types import Problem

SENTENCE, OPTION, BRACKETS = "a sentence", "an option letter", "a remark in brackets"
UNIT, WORDS = "a unit", "words beside the value"
_REMARK = re.compile(r"(?s)(.*?[\d)}])\s*[(（]([^()（）]*[^\W\d_]{2,}[^()（）]*)[)）]\s*\.?")
_COMMAND = re.compile(r"\\(?:text|mathrm|mbox|textbf)\b|\\[A-Za-z]+(?:\{[^{}]*\})?")
_WORD = re.compile(r"[^\W\d_]{2,}")


@dataclass(frozen=True)
class Decoration:
    """Holds the decoration of a gold answer: its kind, and the value without it."""

    kind: str  # SENTENCE, OPTION, BRACKETS, UNIT or WORDS
    value: str  # "" if it cannot be determined
    met: bool  # whether `value` as an answer is graded as correct


def decorated(gold: str) -> tuple[str, str] | None:
    """Return (kind of decoration, plain value) of a gold answer, or None for a plain one. The value is "" if the answer
    has several numbers, or none, among words."""
    if (value := sentence_value(gold)) is not None:
        return SENTENCE, value
    plain = normalize(gold)
    if (choice := parse_gold_choice(plain)) is not None:
        return OPTION, choice.letter
    if remark := _REMARK.fullmatch(gold.strip()):
        return BRACKETS, remark[1]
    words = _WORD.findall(_COMMAND.sub(" ", plain))
    if (len(words) > 2 and re.search(r"\d", plain) and split_unit(plain).value == plain) or len(words) > 5:
        numbers = re.findall(r"-?\d+(?:\.\d+)?(?:/\d+)?", plain)
        return (SENTENCE if len(words) > 5 else WORDS), numbers[-1] if len(numbers) == 1 else ""
    measured = split_unit(plain)
    return (UNIT, measured.value) if measured.unit or measured.percent else None


def audit_golds(problems: Iterable[Problem]) -> dict[str, list[tuple[Problem, Decoration]]]:
    """Return {kind of decoration: [(problem, decoration)]} for the problems with a decorated gold answer, in order."""
    found: dict[str, list[tuple[Problem, Decoration]]] = {}
    for problem in problems:
        if (one := decorated(problem.answer)) is not None:
            met = bool(one[1]) and compare(one[1], problem.answer, source=problem.source) == EQUAL
            found.setdefault(one[0], []).append((problem, Decoration(*one, met)))
    return found


def describe_golds(problems: Iterable[Problem], shown: int = 5) -> list[str]:
    """Return one warning per kind of decoration with which some plain values are not graded as correct, with counts
    and the first ids."""
    lines = []
    for kind, rows in audit_golds(problems).items():
        missed = [problem.id for problem, decoration in rows if not decoration.met]
        if missed:
            more = f" and {len(missed) - shown} more" if len(missed) > shown else ""
            lines.append(
                f"Gold answers with {kind}: {len(rows)}, of which {len(missed)} are not graded as equal to their plain "
                f"value ({', '.join(missed[:shown])}{more}): reduce them to the value or exclude these rows."
            )
    return lines
