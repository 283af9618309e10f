"""Compares units by dimension and size: cm^2 and square centimeters are one unit, cm and m are two."""

from __future__ import annotations

import re

_SCALES: dict[str, dict[str, float]] = {  # size of each unit relative to the base unit of its dimension
    "length": {
        "nm": 1e-9, "nanometer": 1e-9, "microm": 1e-6, "micrometer": 1e-6, "mm": 1e-3, "millimeter": 1e-3, "cm": 1e-2,
        "centimeter": 1e-2, "m": 1.0, "meter": 1.0, "metre": 1.0, "km": 1e3, "kilometer": 1e3, "in": 0.0254,
        "inch": 0.0254, "inche": 0.0254, "ft": 0.3048, "foot": 0.3048, "feet": 0.3048, "yd": 0.9144, "yard": 0.9144,
        "mi": 1609.344, "mile": 1609.344,
    },
    "time": {
        "ns": 1e-9, "nanosecond": 1e-9, "micros": 1e-6, "microsecond": 1e-6, "ms": 1e-3, "msec": 1e-3,
        "millisecond": 1e-3, "s": 1.0, "sec": 1.0, "second": 1.0, "min": 60.0, "minute": 60.0, "h": 3600.0,
        "hr": 3600.0, "hour": 3600.0, "day": 86400.0, "week": 604800.0, "month": 2.6e6, "year": 3.2e7, "yr": 3.2e7,
    },
    "mass": {
        "microg": 1e-9, "microgram": 1e-9, "mg": 1e-6, "g": 1e-3, "gram": 1e-3, "kg": 1.0, "kilogram": 1.0,
        "lb": 0.4536, "pound": 0.4536, "oz": 0.02835, "ounce": 0.02835, "ton": 1000.0,
    },
    "volume": {
        "microl": 1e-6, "microliter": 1e-6, "ml": 1e-3, "milliliter": 1e-3, "l": 1.0, "liter": 1.0, "litre": 1.0,
        "gallon": 3.785, "cup": 0.24,
    },
    "money": {"cent": 0.01, "dollar": 1.0},
    "angle": {"degree": 1.0, "deg": 1.0, "rad": 57.29578, "radian": 57.29578},
}  # fmt: skip
_SCALE = {name: (kind, size) for kind, names in _SCALES.items() for name, size in names.items()}
# Units of other scripts without a dimension here
_MEASURES = re.compile(
    "yuan|jiao|yen|won|euro|rupee|ruble|kopeck|shekel|baht|riyal|dinar|lira|celsius|fahrenheit|kelvin|newton|joule|watt"
    "|kilowatt|volt|ampere|ohm|pascal|hertz|hectare|mu|jin|person"
)
YEN_OR_YUAN = "¥"  # the sign of both currencies
_POWER = re.compile(r"\b(square|sq|cubic|cu)\b|\^(\d)")
POWERS = {"square": 2, "sq": 2, "cubic": 3, "cu": 3}
_Factor = tuple[str, float, int, int]  # dimension, size, power, 1 in the numerator or -1 in the denominator


def singular(word: str) -> str:
    """Return a word without the s of a plural."""
    return word[:-1] if len(word) > 2 and word.endswith("s") else word


def unit_size(name: str) -> tuple[str, float] | None:
    """Return (dimension, size in the base unit) of a unit in singular or plural, or None if it is not known."""
    return _SCALE.get(name) or _SCALE.get(singular(name))


def unit_factors(unit: str) -> tuple[_Factor, ...] | None:
    """Return the factors of a unit, the same for every spelling, or None if the unit contains an unknown word."""
    unit = re.sub(r"\bmph\b", "mile per hour", re.sub(r"\bkph\b", "km per hour", unit))
    unit = re.sub(r"\\(?=[a-z])", "", unit)
    factors: list[_Factor] = []
    power, side = 1, 1
    for token in re.findall(r"\bper\b|/|[^\s/*]+", unit):
        if token in ("per", "/"):
            side = -1
        elif token.rstrip(".") in POWERS:
            power = POWERS[token.rstrip(".")]
        else:
            name, _, raised = token.partition("^")
            known = unit_size(name)
            if known is None:
                return None
            exponent = int(raised or power) * side
            factor = (*known, abs(exponent), -1 if exponent < 0 else 1)
            if factor not in factors:  # $5 dollars
                factors.append(factor)
            power, side = 1, 1
    return tuple(sorted(factors))


def _unit_key(unit: str) -> str:
    """Return a key under which spellings of the same words are equal; empty for the word "units"."""
    words = " ".join(singular(word) for word in unit.split())
    words = re.sub(r"\bpeople\b", "person", words)
    words = re.sub(r"\b(?:square |cubic |sq |cu )?unit(?:\^\d)?\b", "", words)
    return re.sub(r"^degree (?=celsiu|fahrenheit|kelvin)|[\s.*-]+", "", words)


def units_conflict(a: str, b: str) -> bool:
    """Return whether both sides have a unit and the units differ: cm and m, m and m^2, 元 and 页, north and south."""
    if not (a and b):
        return False
    keys = _unit_key(a), _unit_key(b)
    if keys[0] == keys[1] or not all(keys):
        powers = _power(a), _power(b)
        return not all(keys) and None not in powers and powers[0] != powers[1]
    if YEN_OR_YUAN in a + b:
        return not all(re.search(rf"{YEN_OR_YUAN}|yuan|yen", one) for one in (a, b))
    if a.isascii() != b.isascii():  # a counter and a word
        words = (a if a.isascii() else b).split()
        return any(unit_size(word.partition("^")[0]) or _MEASURES.fullmatch(singular(word)) for word in words)
    factors = unit_factors(a)
    return factors is None or factors != unit_factors(b)


def _power(unit: str) -> int | None:
    """Return the power that a unit is written with: 2 for square units and cm^2; None if it has none."""
    found = _POWER.search(unit)
    return (POWERS[found[1]] if found[1] else int(found[2])) if found else None
