"""Words that follow a value and are not part of it: units, counted things, percent signs, currencies."""

from __future__ import annotations

import re
from dataclasses import dataclass

_SCALES: dict[str, dict[str, float]] = {  # size of a unit within its dimension
    "length": {
        "mm": 1e-3, "millimeter": 1e-3, "cm": 1e-2, "centimeter": 1e-2, "m": 1.0, "meter": 1.0, "metre": 1.0,
        "km": 1e3, "kilometer": 1e3, "in": 0.0254, "inch": 0.0254, "inche": 0.0254, "ft": 0.3048, "foot": 0.3048,
        "feet": 0.3048, "yd": 0.9144, "yard": 0.9144, "mi": 1609.344, "mile": 1609.344,
    },
    "time": {
        "s": 1.0, "sec": 1.0, "second": 1.0, "min": 60.0, "minute": 60.0, "h": 3600.0, "hr": 3600.0, "hour": 3600.0,
        "day": 86400.0, "week": 604800.0, "month": 2.6e6, "year": 3.2e7, "yr": 3.2e7,
    },
    "mass": {"mg": 1e-6, "g": 1e-3, "gram": 1e-3, "kg": 1.0, "kilogram": 1.0, "lb": 0.4536, "pound": 0.4536,
             "oz": 0.02835, "ounce": 0.02835, "ton": 1000.0},
    "volume": {"ml": 1e-3, "milliliter": 1e-3, "l": 1.0, "liter": 1.0, "litre": 1.0, "gallon": 3.785, "cup": 0.24},
    "money": {"cent": 0.01, "\\$": 1.0, "dollar": 1.0},
}  # fmt: skip
_SCALE = {name: (kind, size) for kind, names in _SCALES.items() for name, size in names.items()}

_SHORT = (
    "mm|cm|dm|km|ft|yd|mi|kg|mg|lbs?|oz|ml|mL|kL|mph|kph|km/h|m/s|cm/s|hrs?|min|mins|sec|secs|yrs?|sq|cu|Hz|kHz|MHz|"
    "kW|kJ|eV|keV|MeV|GeV|erg|ergs|rad|deg|amu|mol|Pa|kPa|atm|dB|USD|units?|AU|pc|ly|nm"
)
_NOT_UNITS = {
    "am", "pm", "a.m.", "p.m.", "is", "are", "if", "or", "and", "to", "not", "than", "but", "when", "for", "with",
    "plus", "minus", "times", "over", "mod", "remainder", "between",
    "where", "wrong", "only", "else", "odd", "even", "prime",
    "divided", "squared", "cubed", "more", "less", "base", "undefined", "infinity", "ln", "log", "sin", "cos", "tan",
    "th",    "hundred", "thousand", "million", "billion", "trillion", "dozen", "factorial", "choose", "raise",
    "lambda", "import",
}  # fmt: skip
_POWER = r"(?:\s*\^\s*\{?\s*-?\d\s*\}?)?"
_FONT = r"\\(?:text|mbox|textbf|textit|textrm|textnormal|mathrm|rm|hbox|emph|textup)\s*\{"
_TEXT = _FONT + r"([^{}\d=<>]*(?:\^-?\d[^{}\d=<>]*)?)\}"
_TAIL_TEXT = re.compile(r"\s*/?\s*" + _TEXT + _POWER + r"\s*\.?$")
_TAIL_WORDS = re.compile(r"(?<=[\d)}%])\s+([A-Za-z][A-Za-z./-]{2,}(?:\s+[A-Za-z][A-Za-z./-]+){0,5})" + _POWER + r"$")
_TAIL_SHORT = re.compile(r"(?<=[\d)}])\s*(" + _SHORT + r")" + _POWER + r"$")
_PERCENT = re.compile(
    r"\s*(?:%|\bpercent(?:age)?\b|\bper cent\b|\bpct\b\.?|" + _FONT + r"\s*(?:%|percent|percentage|pct)\s*\})"
)
_MODULUS = re.compile(r"\s*\\p?mod\s*\{?\s*\d+\s*\}?$|\s*\(?\s*(?:\\text\s*\{\s*)?\(?\s*mod\s*\}?\s*\d+\s*\)?$")


@dataclass(frozen=True)
class Measured:
    """A value with what was written after it."""

    value: str
    unit: str = ""
    percent: bool = False


def split_unit(text: str) -> Measured:
    r"""Takes units off the end of a cleaned answer: `5 \text{ cm}^2`, `\$ 5`, `20 %`, `18 dollars`, `5 cm`.

    Words count as a unit only after a digit or a closing bracket; single letters only within \text.
    """
    unit, percent = "", False
    value = text
    if "\\$" in value:
        stripped = value.replace("\\$", " ").strip()
        value, unit = stripped, "\\$"
    if found := _MODULUS.search(value):
        value = value[: found.start()]
    while value:
        if found := _PERCENT.search(value):
            if value[found.end() :].strip() or percent or not value[: found.start()].strip():
                break
            value, percent = value[: found.start()].rstrip(), True
            continue
        shorter, word = _cut(value)
        if shorter is None:
            break
        value, unit = shorter, unit or word
    return Measured(value.strip(), _singular(unit), percent)


def _cut(value: str) -> tuple[str | None, str]:
    for pattern in (_TAIL_TEXT, _TAIL_WORDS, _TAIL_SHORT):
        found = pattern.search(value)
        if found is None or not value[: found.start()].strip(" ({[\\"):
            continue
        word = found.group(1).strip(" ~,.-").lower()
        rest = value[: found.start()].rstrip()
        if rest[-1] in "+-*/^_=<>,(" or set(re.findall(r"[a-z.]+", word)) & _NOT_UNITS:
            continue
        is_math_font = "\\mathrm" in found.group()
        if is_math_font and len(word) == 1 and found.group(1).strip(" ~").isupper():
            continue
        return rest, word
    return None, ""


def _singular(unit: str) -> str:
    unit = re.sub(r"^(?:square|cubic|sq|cu)\.?\s+", "", unit)
    return unit[:-1] if len(unit) > 2 and unit.endswith("s") else unit


def units_contradict(a: str, b: str) -> bool:
    """Both are known units of one dimension and of different size (5 cm is not 5 m)."""
    if a == b or a not in _SCALE or b not in _SCALE:
        return False
    (kind_a, size_a), (kind_b, size_b) = _SCALE[a], _SCALE[b]
    return kind_a == kind_b and size_a != size_b
