r"""Compares values in special notations: numbers in a base, clock times, ratios, minutes of arc, compound quantities.

Each function returns whether the two texts are equal, or None if they are not both in its notation.
"""

from __future__ import annotations

import itertools
import math
import re
from fractions import Fraction

from simplerl.rewards import algebra
from simplerl.rewards.characters import TEXT_GROUP
from simplerl.rewards.dimensions import unit_size
from simplerl.rewards.numeric import parse_number

_BASES = re.findall(  # names of the bases 2 to 16, then of 2, 3, 4, 8, 10 and 16
    r"\w+",
    """two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen
    binary ternary quaternary octal decimal hexadecimal""",
)
_BASE_OF_WORD = dict(zip(_BASES, (*range(2, 17), 2, 3, 4, 8, 10, 16), strict=True))
_BASED = re.compile(
    r"(?P<sign>-?)\s*(?:\(\s*(?P<d1>[0-9A-F.]+)\s*\)|(?P<d2>[0-9A-F.]+))\s*"
    r"(?:_\s*\{?\s*\(?\s*(?:base\s*)?(?P<b1>\d+|[a-z]+)\s*\)?\s*\}?|\(?\s*(?:in\s+)?base[\s-]*(?P<b2>\d+|[a-z]+)\s*\)?)"
)
_CLOCK = re.compile(r"(\d{1,2})\s*:\s*([0-5]\d)(?:\s*:\s*([0-5]\d))?\s*([ap]m)?", re.I)
_TWO_DIGITS = re.compile(r"0\d")
_ANGLE = re.compile(
    r"(?P<sign>-?)\s*(?P<degrees>\d+)\s*\^\s*\{?\s*\\circ\s*\}?\s*(?P<minutes>\d+(?:\.\d+)?)\s*(?:'(?!')|\^\s*\{?\s*'\s*\}?)"
    r"\s*(?:(?P<seconds>\d+(?:\.\d+)?)\s*(?:''|\"))?"
)
_ANGLE_IN_WORDS = re.compile(
    r"(-?\s*\d+)\s*(?:degrees?|deg\.?|\^\s*\{?\s*\\circ\s*\}?)\s*(?:,|and\b)?\s*(\d+(?:\.\d+)?)\s*(?:arc\s?)?min(?:ute)?s?\.?"
    r"(?:\s*(?:,|and\b)?\s*(\d+(?:\.\d+)?)\s*(?:arc\s?)?sec(?:ond)?s?\.?)?"
)
_PART = re.compile(
    r"(?P<number>\d+(?:\.\d+)?|\\frac\s*\{\s*\d+\s*\}\s*\{\s*\d+\s*\})\s*(?P<unit>[A-Za-z]+)\.?(?![A-Za-z])\s*(?:,|and\b)?\s*"
)


def equal_in_notation(a: str, g: str) -> bool | None:
    """Return whether two texts are equal in the first special notation that both use; None if they share none."""
    a, g = (TEXT_GROUP.sub(r" \1 ", side).strip() for side in (a, g))
    for compare in (_same_base, _same_time, _same_ratio):
        if (verdict := compare(a, g)) is not None:
            return verdict
    return None


def _same_base(a: str, g: str) -> bool | None:
    x, y = _based(a), _based(g)
    return x == y if x and y else None


def _based(text: str) -> tuple[str, str, int] | None:
    if (found := _BASED.fullmatch(text)) is None:
        return None
    name = found["b1"] or found["b2"]
    base = int(name) if name.isdigit() and len(name) < 4 else _BASE_OF_WORD.get(name, 0)
    digits = found["d1"] or found["d2"]
    return (found["sign"], digits.lstrip("0") or "0", base) if base > 1 and digits.strip(".") else None


def _same_time(a: str, g: str) -> bool | None:
    x, y = _CLOCK.fullmatch(a), _CLOCK.fullmatch(g)
    if x is None or y is None:
        return None
    times = [tuple(int(part or 0) for part in found.groups()[:3]) for found in (x, y)]
    halves = [(found[4] or "").lower() for found in (x, y)]
    return times[0] == times[1] and halves[0] == halves[1]


def _ratio(text: str) -> list[str] | None:
    parts = [part.strip() for part in re.split(r":|(?<=\d)\s+to\s+(?=\d)", text)]
    return parts if 2 <= len(parts) <= 8 and all(algebra.parse_or_none(part) is not None for part in parts) else None


def _same_ratio(a: str, g: str) -> bool | None:
    """Return whether a_1:...:a_n equals g_1:...:g_n, by cross multiplication; None unless both are ratios. With a part
    such as 05 they may be times, so that only equal texts are equal. A ratio whose first part is 0 equals none."""
    if ":" not in g and " to " not in g:
        return None
    x, y = _ratio(a), _ratio(g)
    if x is None or y is None:
        return None
    if any(_TWO_DIGITS.match(part) for part in (*x, *y)):
        return a == g
    if len(x) != len(y) or any(parse_number(part) and not parse_number(part).value for part in (x[0], y[0])):  # type: ignore[union-attr]
        return False
    return all(
        algebra.expressions_equal(f"({p})*({y[0]})", f"({q})*({x[0]})") is True
        for p, q in zip(x[1:], y[1:], strict=True)
    )


def angle_in_degrees(text: str) -> str:
    r"""Convert an angle in degrees, minutes and seconds to an exact fraction of degrees: 30^\circ 15' 36'' becomes
    1513/50^\circ. Any other text is returned unchanged."""
    if "'" not in text or (found := _ANGLE.fullmatch(text.strip())) is None:
        return text
    value = Fraction(found["degrees"]) + Fraction(found["minutes"]) / 60 + Fraction(found["seconds"] or 0) / 3600
    return f"{found['sign']}{value}^\\circ"


def angle_in_signs(text: str) -> str:
    """Write 30 degrees 15 minutes 36 seconds with the signs for degrees, minutes and seconds; return any other text
    unchanged."""
    if "min" not in text or (found := _ANGLE_IN_WORDS.fullmatch(TEXT_GROUP.sub(r" \1 ", text).strip())) is None:
        return text
    return f"{found[1]}^\\circ {found[2]}'" + (f" {found[3]}''" if found[3] else "")


def same_compound_quantity(a: str, g: str) -> bool | None:
    """Return whether two quantities such as 3 hours 45 minutes and 225 minutes are equal; None unless both are
    quantities and one has several parts."""
    x, y = _compound(a), _compound(g)
    if x is None or y is None or max(x[2], y[2]) < 2:
        return None
    return x[0] == y[0] and math.isclose(x[1], y[1], rel_tol=1e-9)


def _compound(text: str) -> tuple[str, float, int] | None:
    """Return (dimension, size in the base unit, number of parts) of a quantity such as 3 hours 45 minutes, whose units
    become smaller from part to part; None if the text is not one."""
    if not text[:1].isdigit() and not text.startswith("\\frac"):
        return None
    plain = TEXT_GROUP.sub(r" \1 ", text).strip()
    end, total, kinds, sizes = 0, 0.0, set(), []
    while end < len(plain):
        found = _PART.match(plain, end)
        known = unit_size(found["unit"].lower()) if found else None
        value = parse_number(found["number"]) if found else None
        if found is None or known is None or value is None:
            return None
        kinds.add(known[0])
        sizes.append(known[1])
        total += float(value.value) * known[1]
        end = found.end()
    descending = all(x > y for x, y in itertools.pairwise(sizes))
    return (kinds.pop(), total, len(sizes)) if len(kinds) == 1 and descending else None
