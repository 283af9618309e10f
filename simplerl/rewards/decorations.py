r"""Finds gold answers with decorations around the value: a sentence, a unit, an option letter, a remark in brackets.

A plain value is graded as equal to such a gold answer only if the comparison can remove the decoration. `decorated`
returns the decoration and the plain value; `audit_golds` checks whether the plain value is graded as correct, so that
unusable gold answers are found before a benchmark is run.
"""

from __future__ import annotations

import calendar
import re
from collections.abc import Iterable
from dataclasses import dataclass

from simplerl.rewards.choices import parse_gold_choice
from simplerl.rewards.equality import compare
from simplerl.rewards.latex import FUNCTIONS, GREEK
from simplerl.rewards.normalize import normalize
from simplerl.rewards.rules import EQUAL
from simplerl.rewards.stated import sentence_value
from simplerl.rewards.units import split_unit
from simplerl.types import Problem

SENTENCE, OPTION, BRACKETS = "a sentence", "an option letter", "a remark in brackets"
UNIT, WORDS = "a unit", "words beside the value"
_REMARK = re.compile(r"(?s)(.*?[\d)}])\s*[(（]([^()（）]*[^\W\d_]{2,}[^()（）]*)[)）]\s*\.?")
# What has letters and no words: subscripts, environments and commands.
_COMMAND = re.compile(
    r"_\s*\{[^{}]*(?:\{[^{}]*\}[^{}]*)*\}|\\(?:begin|end)\s*\{[^{}]*\}(?:\{[^{}]*\})?|\\operatorname\*?\s*\{[^{}]*\}|\\[A-Za-z]+"
)
_WORD = re.compile(r"(?<![^\W_])[^\W\d_]{2,}|(?<=\d)[^\W\d_a-zA-Z]{2,}")  # not the letters of 3xyz
_CONNECTIVES = frozenset(("and", "or"))  # between values
_SHORT_WORDS = frozenset(("by", "is", "to", "of", "in", "at", "on", "if", "per", "no"))
_DATES = frozenset(map(str.lower, (*calendar.month_name, *calendar.day_name)))
_NUMBER = re.compile(r"-?\d+(?:,\d{3})*(?:\.\d+)?(?:/\d+)?")


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
    if (remark := _REMARK.fullmatch(gold.strip())) and words_in(remark[2]):
        return BRACKETS, remark[1]
    measured, words = split_unit(plain), words_in(gold)
    if (measured.unit or measured.percent) and not words_in(measured.value):
        return UNIT, measured.value
    if len(words) > 5 or (words and re.search(r"\d", plain) and words_in(measured.value)):
        numbers = _NUMBER.findall(plain)
        return (SENTENCE if len(words) > 5 else WORDS), numbers[0].replace(",", "") if len(numbers) == 1 else ""
    return None


def words_in(text: str) -> list[str]:
    """Return the words of a text, without LaTeX commands, functions, dates and products of variables. Words that only
    connect values (3 and 4) are none."""
    found = [one for one in _WORD.findall(_COMMAND.sub(" ", text)) if _is_word(one)]
    return [] if _CONNECTIVES.issuperset(found) else found


def _is_word(letters: str) -> bool:
    """Return whether letters are a word: not a function (sin), a part of a date or a product of variables (xy)."""
    if letters in FUNCTIONS or letters in GREEK or letters.lower() in _DATES:
        return False
    if not letters.isascii():
        return True
    return letters.lower() in _SHORT_WORDS | _CONNECTIVES or (len(letters) > 2 and not letters.isupper())


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
    and the first ids with gold answer and plain value."""
    lines = []
    for kind, rows in audit_golds(problems).items():
        missed = [(problem, decoration) for problem, decoration in rows if not decoration.met]
        if missed:
            more = f"; and {len(missed) - shown} more" if len(missed) > shown else ""
            named = "; ".join(_shown(*one) for one in missed[:shown])
            lines.append(
                f"Gold answers with {kind}: {len(rows)}, of which {len(missed)} are not graded as equal to their plain "
                f"value ({named}{more}): reduce them to the value or exclude these rows."
            )
    return lines


def _shown(problem: Problem, decoration: Decoration) -> str:
    """Return the id, gold answer and plain value of a row, in one line."""
    gold = repr(problem.answer if len(problem.answer) <= 60 else problem.answer[:57] + "...")
    return f"{problem.id}: {gold}, value {decoration.value!r}" if decoration.value else f"{problem.id}: {gold}"
