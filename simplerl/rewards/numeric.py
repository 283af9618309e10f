"""Parses numbers in the notations that people use into exact fractions, and decides whether two are close enough."""

from __future__ import annotations

import re
from dataclasses import dataclass
from fractions import Fraction
from math import gcd

from simplerl.rewards.characters import CURRENCY_SIGNS, TEXT_GROUP

DECIMAL_TOLERANCE = Fraction(1, 10**4)  # relative error allowed if the gold answer is a rounded decimal
EXACT_TOLERANCE = Fraction(1, 10**6)  # error of a decimal answer to an exact gold answer: absolute, relative below 1
MAX_EXPONENT = 400
MAX_DIGITS = 300

_INT = r"\d+|[1-9]\d{0,2}(?:,\d{3})+"
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
    """Holds an exact value and whether it was written as a decimal."""

    value: Fraction
    decimal: bool = False  # written with a decimal point or in e notation, so possibly rounded


def parse_number(text: str) -> Number | None:  # noqa: PLR0911 - one return per notation
    """Parse a text that is one number as a whole; return None for any other text.

    Accepts integers, decimals, a/b, mixed numbers, repeating decimals, scientific notation and thousands separators.
    Within brackets a comma separates coordinates: (4,112) is a point.
    """
    text = text.strip()
    if len(text) > MAX_DIGITS:
        return None
    if _GROUPED.fullmatch(text):
        text = text.replace(" ", "")
    while len(text) > 2 and text[0] == "(" and text[-1] == ")" and text.count("(") == 1 and "," not in text:
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
    """Return whether an answer is close enough to a gold answer.

    Integers and exact fractions must be equal. A decimal gold answer allows DECIMAL_TOLERANCE, a decimal answer to an
    exact fraction EXACT_TOLERANCE. measured: gold answers are measurements, so that even 56.0 is a rounded decimal.
    """
    if answer.value == gold.value:
        return True
    difference = abs(answer.value - gold.value)
    if gold.decimal and (measured or gold.value.denominator != 1):
        return difference <= DECIMAL_TOLERANCE * abs(gold.value)
    if answer.decimal and gold.value.denominator != 1:
        return difference <= EXACT_TOLERANCE * min(Fraction(1), abs(gold.value))
    return False


DEGREES = re.compile(r"\s*\^\s*(?:\\circ|\{\s*\\circ\s*\})\s*(?:\\?(?:text|mathrm|mbox)?\s*\{?\s*[CF]\s*\}?)?$")
_SMALL = re.findall(  # 0 to 19
    r"\w+",
    """zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen seventeen
    eighteen nineteen""",
)
_TENS = ("", "", "twenty", "thirty", "forty", "fifty", "sixty", "seventy", "eighty", "ninety")
_WORDS = {word: i for i, word in enumerate(_SMALL)} | {word: 10 * i for i, word in enumerate(_TENS) if word}
_MULTIPLIERS = {
    "hundred": 100, "thousand": 10**3, "million": 10**6, "billion": 10**9, "trillion": 10**12, "万": 10**4, "萬": 10**4,
    "亿": 10**8, "億": 10**8, "만": 10**4, "억": 10**8,
}  # fmt: skip
_MULTIPLIED = re.compile(
    rf"(?P<sign>(?:\\\$|[{CURRENCY_SIGNS}+-]|\s)*)(?P<number>{_DECIMAL})\s*(?P<open>\\(?:text|mathrm|mbox)\s*\{{)?\s*"
    rf"(?P<times>{'|'.join(_MULTIPLIERS)})(?![a-z])\s*(?P<rest>.*)",
    re.I | re.S,
)


def parse_number_or_word(text: str) -> Number | None:
    r"""Parse as `parse_number` does, and also a number with a degree sign, within \text, or in English words; None for
    any other text."""
    found = parse_number(text)
    if found is not None:
        return found
    inner = TEXT_GROUP.sub(r" \1 ", text).strip()
    if (found := parse_number(DEGREES.sub("", inner))) is not None:
        return found
    return _number_in_words(inner.lower())


def without_multiplier(text: str) -> str:
    r"""Return 2.5 \text{ million dollars} as 2500000 \text{dollars}; any text without a multiplier unchanged."""
    if (found := _MULTIPLIED.fullmatch(text.strip())) is None:
        return text
    value = _decimal(found["number"]) * _MULTIPLIERS[found["times"].lower()]
    unit = "" if found["rest"] == "}" else f"{found['open'] or ''}{found['rest']}"
    return f"{found['sign']}{value} {unit}".strip()


def _number_in_words(text: str) -> Number | None:
    """Return the number that English words name, such as two hundred and five; None for any other text."""
    total = part = 0
    before = 1000  # value of the word before: ones follow tens, and both follow a multiplier
    for word in re.split(r"[\s-]+(?:and\s+(?=\w))?", text):
        value = _WORDS.get(word)
        if value is None and word.isascii() and part and (times := _MULTIPLIERS.get(word)):
            part *= times
            if times > 100:
                total, part = total + part, 0
            before = 1000
        elif value is not None and (before == 1000 or (before >= 20 and 0 < value < 10)):
            part, before = part + value, value
        else:
            return None
    return Number(Fraction(total + part))


_LITERAL = re.compile(
    r"\\ldots|\.\.\.|:|\d\s*(?:_|')|(?<![_^\d.])(?<!\\frac)(?<!\\frac )\d+\s+[\d.]|^\d{1,4}([-/])\d{1,2}\1\d{1,4}$"
)


def needs_literal_match(text: str) -> bool:
    """Return whether a value must be compared as a string only.

    True for lists that end in dots, numbers in another base, adjacent numbers, dates, times, ratios and minutes of arc.
    """
    return _LITERAL.search(text.strip()) is not None


def is_ratio_equal_to(text: str, other: Number | None, *, gold: bool) -> bool:
    """Return whether the text is a ratio like 5:8 that equals the number `other`, which must not be a decimal.

    gold: the text is the gold answer. 3:45 may be a time: as a gold answer it equals no number, and as an answer only
    if it is a ratio in lowest terms (16:25 = 16/25).
    """
    found = re.fullmatch(r"([1-9]\d*)\s*:\s*([1-9]\d*)", text.strip())
    if found is None or other is None or other.decimal:
        return False
    if (
        len(found[1]) < 3
        and "09" < found[2] < "60"
        and len(found[2]) == 2
        and (gold or gcd(*map(int, found.groups())) > 1)
    ):
        return False
    return other.value * int(found[2]) == int(found[1])
