"""Numbers as people write them, read exactly, and how close two of them must be."""

from __future__ import annotations

import re
from dataclasses import dataclass
from fractions import Fraction

from simplerl.rewards.normalize import TEXT_GROUP

DECIMAL_TOLERANCE = Fraction(1, 10**4)  # relative, where the gold answer is itself a rounded decimal
EXACT_TOLERANCE = Fraction(1, 10**6)  # a decimal that stands for an exact gold: absolute, relative below 1
MAX_EXPONENT = 400
MAX_DIGITS = 300

_INT = r"\d+|\d{1,3}(?:,\d{3})+"
_DECIMAL = rf"(?:(?:{_INT})(?:\.\d*)?|\.\d+)"
_EXPONENT = r"\s*(?:\*\s*10\s*\^\s*\{?\s*(?P<ten>[+-]?\s*\d+)\s*\}?|[eE]\s*(?P<e>[+-]?\d+))"
_SIGN = r"(?P<sign>(?:[+-]\s*)*)"
_NUMBER = re.compile(rf"{_SIGN}(?P<body>{_DECIMAL})(?:{_EXPONENT})?")
_POWER_OF_TEN = re.compile(rf"{_SIGN}10\s*\^\s*(?:\{{\s*(?P<ten>[+-]?\s*\d+)\s*\}}|(?P<digit>\d+))")
_PART = rf"(?:{_DECIMAL})"
_FRACTION = re.compile(
    rf"{_SIGN}(?P<whole>\d+\s*(?=\\frac)|\d+\s+(?=\d+\s*/))?"
    rf"(?:\\frac\s*(?:\{{\s*(?P<n1>-?\s*{_PART})\s*\}}|(?P<n2>\d))\s*(?:\{{\s*(?P<d1>{_PART})\s*\}}|(?P<d2>\d))"
    rf"|(?P<n3>{_PART})\s*/\s*(?P<d3>-?{_PART})|\(\s*(?P<n4>-?{_PART})\s*/\s*(?P<d4>{_PART})\s*\))"
)
_REPEATING = re.compile(rf"{_SIGN}(?P<whole>\d*)\.(?P<fixed>\d*)\\overline\s*\{{(?P<again>\d+)\}}")
_GROUPED = re.compile(r"[+-]?\s*[1-9]\d{0,2}(?: \d{3})+(?:\.\d+)?")


@dataclass(frozen=True)
class Number:
    value: Fraction
    decimal: bool = False  # written with a decimal point, or in scientific notation: rounded


def number(text: str) -> Number | None:  # noqa: PLR0911 - a notation each
    """The number that the whole text is, or None: integer, decimal, a/b, mixed, scientific; thousands marks."""
    text = text.strip()
    if len(text) > MAX_DIGITS:
        return None
    if _GROUPED.fullmatch(text):
        text = text.replace(" ", "")
    while len(text) > 2 and text[0] == "(" and text[-1] == ")" and text.count("(") == 1:
        text = text[1:-1].strip()
    if found := _NUMBER.fullmatch(text):
        exponent = _integer(found["ten"] or found["e"] or "0")
        if abs(exponent) > MAX_EXPONENT:
            return None
        body = _decimal(found["body"])
        rounded = "." in found["body"] or found["e"] is not None
        return Number(_signed(found["sign"], body * Fraction(10) ** exponent), rounded)
    if found := _POWER_OF_TEN.fullmatch(text):
        exponent = _integer(found["ten"] or found["digit"])
        return None if abs(exponent) > MAX_EXPONENT else Number(_signed(found["sign"], Fraction(10) ** exponent))
    if found := _REPEATING.fullmatch(text):
        scale, nines = 10 ** len(found["fixed"]), 10 ** len(found["again"]) - 1
        value = Fraction(int(found["whole"] + found["fixed"] or "0"), scale) + Fraction(
            int(found["again"]), scale * nines
        )
        return Number(_signed(found["sign"], value))
    if found := _FRACTION.fullmatch(text):
        top = _decimal(found["n1"] or found["n2"] or found["n3"] or found["n4"])
        bottom = _decimal(found["d1"] or found["d2"] or found["d3"] or found["d4"])
        if bottom == 0:
            return None
        whole = _decimal(found["whole"]) if found["whole"] else Fraction(0)
        return Number(_signed(found["sign"], whole + top / bottom))
    return None


def _integer(text: str) -> int:
    return int(re.sub(r"\s", "", text))


def _decimal(text: str) -> Fraction:
    return Fraction(re.sub(r"[\s,]", "", text).rstrip(".") or "0")


def _signed(sign: str, value: Fraction) -> Fraction:
    return -value if sign.count("-") % 2 else value


def is_close(answer: Number, gold: Number, *, measured: bool = False) -> bool:
    """Integers and exact fractions exactly; a decimal gold to 1e-4 of itself; an exact gold, given as a
    decimal, to 1e-6. `measured`: golds are measurements, so that 56.0 too is a rounded decimal."""
    if answer.value == gold.value:
        return True
    difference = abs(answer.value - gold.value)
    if gold.decimal and (measured or gold.value.denominator != 1):
        return difference <= DECIMAL_TOLERANCE * abs(gold.value)
    if answer.decimal and gold.value.denominator != 1:
        return difference <= EXACT_TOLERANCE * min(Fraction(1), abs(gold.value))
    return False


DEGREES = re.compile(r"\s*\^\s*(?:\\circ|\{\s*\\circ\s*\})\s*(?:\\?(?:text|mathrm|mbox)?\s*\{?\s*[CF]\s*\}?)?$")
_SMALL = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve")
_WORD_NUMBERS = {word: Number(Fraction(i)) for i, word in enumerate(_SMALL)}


def value_number(text: str) -> Number | None:
    """`number`, also with a degree sign, within \\text, or as a word up to twelve."""
    found = number(text)
    if found is not None:
        return found
    inner = TEXT_GROUP.sub(r"\1", text).strip()
    return number(DEGREES.sub("", inner)) or _WORD_NUMBERS.get(inner.lower())


_LITERAL = re.compile(
    r"\\ldots|\.\.\.|:|\d\s*(?:_|')|(?<![_^\d.])(?<!\\frac)(?<!\\frac )\d+\s+[\d.]|^\d{1,4}([-/])\d{1,2}\1\d{1,4}$"
)


def is_string_only(text: str) -> bool:
    """Continued lists, numbers in another base or side by side, dates, times, ratios, minutes of arc: nothing but
    the same string is the same."""
    return _LITERAL.search(text.strip()) is not None


def is_ratio(text: str, other: Number | None) -> bool:
    """Whether 5:8 is the exact number."""
    found = re.fullmatch(r"([1-9]\d*)\s*:\s*([1-9]\d*)", text.strip())
    return bool(found and other and not other.decimal and other.value * int(found[2]) == int(found[1]))
