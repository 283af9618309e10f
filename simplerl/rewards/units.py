r"""Splits units off a value: words for units and counted things, percent signs and currencies.

The rules are chosen to avoid false positives:
- Words in an answer are units only if the list in `unit_words.txt` or the gold answer contains them.
- Words in a gold answer (which never reads "5 incorrect") are units, unless they hedge (maybe, or), count (six, dozen,
  thirds, k), compute (root, pi, below) or negate, or text follows after a comma. In an answer quarters and roots are
  units only if the gold answer names them.
- A word in another script is a unit only if the list contains it: 元 is one, 万 (ten thousand) is not.
- A single letter is a unit only within \text, and only if it is a common unit: never i, e, j or d. The letters \mu and
  \Omega begin or are a unit within \text; in an answer also bare after a number (8 \mu m), unless the gold answer has
  them or the letters may be a product (\mu g, \mu N).
- Signs and codes of currencies stand before or after the value: £5, Rs. 5, US$5. Different currencies are different.
- If both sides name a unit, it must be the same: the same dimension and size in any spelling (cm^2, square
  centimeters), otherwise the same words. The word "units" is ignored, except that square and cubic units differ. A
  counter of another script (页) differs from every unit and every other counter, but not from a noun (pages).
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from simplerl.rewards.characters import CURRENCY_SIGNS
from simplerl.rewards.dimensions import POWERS, YEN_OR_YUAN, singular, unit_factors
from simplerl.rewards.latex import FUNCTIONS, GREEK


def _singular_noun(plural: str) -> str:
    for ending, replacement in (("ies", "y"), ("ches", "ch"), ("shes", "sh"), ("xes", "x"), ("sses", "ss"), ("s", "")):
        if plural.endswith(ending) and len(plural) > len(ending) + 1:
            return plural.removesuffix(ending) + replacement
    return plural


WORD_LIST = Path(__file__).with_name("unit_words.txt")
_UNITS, _COUNTED, _MODIFIERS, _TRAILING_MODIFIERS, _NOT_UNITS, _NOT_UNITS_IN_SINGULAR, _OTHER_SCRIPTS = (
    frozenset(section.split())
    for section in re.split(r"(?:^#.*\n)+", WORD_LIST.read_text(encoding="utf-8"), flags=re.M)[-7:]
)
_UNIT_WORDS = _UNITS | {f"{unit}s" for unit in _UNITS if len(unit) > 1} | _COUNTED | set(map(_singular_noun, _COUNTED))
_FOREIGN = dict(one.split("=") for one in sorted(_OTHER_SCRIPTS))

_SHORT = (
    "mm|cm|dm|km|ft|yd|mi|kg|mg|lbs?|oz|ml|mL|kL|mph|kph|km/h|m/s|cm/s|hrs?|min|mins|sec|secs|yrs?|sq|cu|Hz|kHz|MHz|"
    "kW|kJ|eV|keV|MeV|GeV|erg|ergs|rad|deg|amu|mol|Pa|kPa|atm|dB|USD|units?|AU|pc|ly|nm"
)
_COUNTS = re.compile(
    r"(?:thir|four|fif|six|seven|eigh|nine)teen(?:th)?|(?:twen|thir|for|fif|six|seven|eigh|nine)t(?:y|ieth)|[a-z]+llion(?:th)?"
    r"|(?:four|fif|six|seven|eigh|nin|ten|eleven|twelf|hundred|thousand)th|[a-z]+(?<!dai)(?<!week)(?<!month)(?<!hour)ly"
)  # number words, fractions (tenths), adverbs
_UNIT_LETTERS = frozenset("msghlLVNJWACFT")
_NO_LETTERS = frozenset(FUNCTIONS | GREEK)
_POWER = r"(?:\s*\^\s*\{?\s*(-?\d)\s*\}?)?"
_FONT = r"\\(?:text|mbox|textbf|textit|textrm|textnormal|mathrm|rm|hbox|emph|textup)\s*\{"
_TEXT = _FONT + r"([^{}\d=<>]*(?:\^-?\d[^{}\d=<>]*)?)\}"
_TAIL_TEXT = re.compile(r"\s*/?\s*" + _TEXT + _POWER + r"\s*\.?$")
_AFTER_PI = r"|(?<=\\pi)(?=\s)"
_TAIL_WORDS = re.compile(
    r"(?:(?<=[\d)}%])" + _AFTER_PI + r")\s+([A-Za-z][A-Za-z./-]{2,}(?:\s+[A-Za-z][A-Za-z./-]+){0,5})" + _POWER + r"$"
)
_TAIL_SHORT = re.compile(r"(?:(?<=[\d)}])" + _AFTER_PI + r")\s*(" + _SHORT + r")" + _POWER + r"$")
_TAIL_DEGREE = re.compile(r"(?P<sign>\^\s*(?:\\circ|\{\s*\\circ\s*\}))\s*(?:" + _FONT + r")?\s*(?P<scale>[CFK])\s*\}?$")
_SCRIPT = r"[^\x00-\x7fÀ-ɏ]"  # letters of other scripts; mathematical characters have been translated before
_TAIL_SCRIPT = re.compile(
    rf"\s*(?:{_FONT})?\s*(?P<word>{_SCRIPT}(?:\s?[./]?\s?{_SCRIPT}){{0,30}})\.?\s*\}}?" + _POWER + r"\s*\.?$"
)
_TAIL_BRACKET = re.compile(r"(?<=[\d)}\s])\s*[(\[]\s*(?P<unit>[^()\[\]]{1,60})[)\]]$")
_CURRENCIES = {
    "$": "dollar",
    "£": "pound",
    "€": "euro",
    "₹": "rupee",
    "₽": "ruble",
    "₩": "won",
    "₪": "shekel",
    "₺": "lira",
    "¥": YEN_OR_YUAN,
    "￥": YEN_OR_YUAN,
}
_DOLLARS = {"A": "australian dollar", "C": "canadian dollar", "HK": "hongkong dollar"}
_CODES = {
    "usd": "dollar", "eur": "euro", "gbp": "pound", "inr": "rupee", "rs": "rupee", "cny": "yuan", "rmb": "yuan",
    "jpy": "yen", "cad": "canadian dollar",
}  # fmt: skip
_SIGN = re.compile(rf"(?:(?:{_FONT})?\s*\b(?P<country>US|HK|[AC])\s*\}}?\s*)?\\\$|[{CURRENCY_SIGNS}]")
_CODE = re.compile(  # before the value; those after it are in the list of units
    rf"(?P<minus>-?)\s*(?:{_FONT})?\s*(?P<code>Rs|USD|EUR|GBP|INR|CNY|RMB|JPY)\s*\.?\s*\}}?\s*(?=[\d.])"
)
_TAIL_MICRO = re.compile(
    rf"(?<=[\d}})])\s*(?P<font>{_FONT})?\s*\\mu\s*(?P<inner>{_FONT})?\s*(?P<unit>mol|[msgLlAVFCJWNH])\s*\}}{{0,2}}$"
)
_TAIL_OHM = re.compile(
    rf"(?<=[\d}})])\s*(?P<font>{_FONT})?\s*(?P<prefix>[kM]?)\s*\}}?\s*(?P<inner>{_FONT})?\s*\\Omega\s*\}}?$"
)
_FORCES = ("g", "N")
_EXPONENT = re.compile(rf"({_FONT}[^{{}}]*)\^\s*\{{\s*(-?\d)\s*\}}")  # within \text
_PRODUCT = re.compile(rf"({_FONT}[^{{}}]*)\}}\s*\*\s*{_FONT}")  # \text{N}*\text{m}
_PERCENT = re.compile(
    r"\s*(?:%|\bpercent(?:age)?\b|\bper cent\b|\bpct\b\.?|" + _FONT + r"\s*(?:%|percent|percentage|pct)\s*\})"
)
_MODULUS = re.compile(
    r"\s*\\[pb]?mod\s*\{?\s*(\d+)\s*\}?$|\s*\(?\s*(?:\\text\s*\{\s*)?\(?\s*mod(?:ulo)?\s*\}?\s*(\d+)\s*\)?\s*\}?\s*\)?$"
)


@dataclass(frozen=True)
class Quantity:
    """Holds a value and the unit, percent sign and modulus that were written after it."""

    value: str
    unit: str = ""
    percent: bool = False
    modulus: str = ""


def split_modulus(text: str) -> tuple[str, str]:
    """Split 3 (mod 5) into "3" and "5"; the modulus is empty if the text does not end in one."""
    found = _MODULUS.search(text)
    return (text[: found.start()].strip(), found.group(1) or found.group(2)) if found else (text, "")


@lru_cache(maxsize=8192)
def split_unit(text: str, gold: Quantity | None = None) -> Quantity:
    r"""Split the units off a normalised text: `5 \text{ cm}^2`, `\$ 5`, `20 %`, `18 dollars`, `5 cm`.

    Words are units only after a digit or a closing bracket, single letters only within \text.
    gold: the gold answer if `text` is an answer, None if `text` is the gold answer itself. An answer may use the words
    of the gold answer's unit in addition to the known ones.
    """
    percent, modulus = False, ""
    named = frozenset(re.findall(r"[a-z]+", gold.unit.lower())) if gold else None
    value, unit = _split_currency(text)
    if "^{" in value or "^ {" in value or "}" in value:
        value = _PRODUCT.sub(r"\1 ", _EXPONENT.sub(r"\1^\2", value))
    residue, divisor = split_modulus(value)
    if divisor and re.fullmatch(r"-?\s*\d+", residue):
        value, modulus = residue, divisor
    while value:
        if (found := _TAIL_BRACKET.search(value)) and value[: found.start()].strip(" ({[\\"):
            inside = split_unit(f"1 {found['unit'].strip()}", gold)
            if inside.value != "1" or not (inside.unit or inside.percent) or re.search(r"[a-z]-[a-z]", found["unit"]):
                break
            value, unit = value[: found.start()].rstrip(), f"{inside.unit} {unit}".strip()
            percent = percent or inside.percent
            continue
        if found := _PERCENT.search(value):
            if value[found.end() :].strip() or percent or not value[: found.start()].strip():
                break
            value, percent = value[: found.start()].rstrip(), True
            continue
        shorter, word = _split_greek_unit(value, gold)
        if shorter is None:
            shorter, word = _split_last_unit(value, named)
        if shorter is None:
            break
        value, unit = shorter, f"{word} {unit}".strip()
    return Quantity(value.strip(), unit, percent, modulus)


def _split_currency(text: str) -> tuple[str, str]:
    """Split the sign or code of a currency off a value."""
    if found := _CODE.match(text):
        return found["minus"] + text[found.end() :], _CODES[found["code"].lower()]
    if text.isascii() and "\\$" not in text:
        return text, ""
    if (found := _SIGN.search(text)) is None:
        return text, ""
    currency = _DOLLARS.get(found["country"] or "", _CURRENCIES[found.group()[-1]])
    return " ".join(_SIGN.sub(" ", text).split()), currency


def _split_greek_unit(value: str, gold: Quantity | None) -> tuple[str | None, str]:
    r"""Split 8 \mu\text{m} or 5 \text{k}\Omega into value and unit; return (None, "") for any other text.

    Without \text, the unit is split off only in an answer, and only if the gold answer lacks the Greek letter; \mu g
    and \mu N without \text are products, as in friction."""
    if "\\mu" not in value and "\\Omega" not in value:
        return None, ""
    for pattern, letter in ((_TAIL_MICRO, "\\mu"), (_TAIL_OHM, "\\Omega")):
        found = pattern.search(value)
        bare = found is not None and not (found["font"] or found["inner"])
        if found is None or (bare and (gold is None or letter in gold.value or found[0][-1:] in _FORCES)):
            continue
        prefix = {"": "", "k": "kilo", "M": "mega"}[found["prefix"]] if letter == "\\Omega" else "micro"
        return value[: found.start()].rstrip(), prefix + ("ohm" if letter == "\\Omega" else found["unit"].lower())
    return None, ""


def _split_last_unit(value: str, named: frozenset[str] | None) -> tuple[str | None, str]:
    if found := _TAIL_DEGREE.search(value):
        return value[: found.end("sign")], _DEGREE_SCALES[found["scale"]]
    if found := _TAIL_SCRIPT.search(value):
        unit = _foreign_unit(found["word"], in_gold=named is None)
        rest = value[: found.start()].rstrip()
        usable = unit and rest.strip(" ({[\\") and rest[-1] not in "+-*/^_=<>,("
        return (rest, unit + (f"^{found[2]}" if found[2] else "")) if usable else (None, "")
    for pattern in (_TAIL_TEXT, _TAIL_WORDS, _TAIL_SHORT):
        found = pattern.search(value)
        if found is None or not value[: found.start()].strip(" ({[\\"):
            continue
        word = re.sub(r"[ ~,.-]+$", "", found.group(1)).lstrip(" ~.-")
        word = re.sub(r"(?<=[/*(])\s*K\b", "kelvin", word)  # a K alone may mean thousand
        rest = value[: found.start()].rstrip()
        if rest[-1] in "+-*/^_=<>,(" or not _is_unit(word, named, mathematical="\\mathrm" in found.group()):
            continue
        per = "per " if re.match(r"\s*/", found.group()) else ""
        word = _CODES.get(word.lower(), word.lower())
        return rest, f"{per}{word}" + (f"^{found.group(2)}" if found.group(2) else "")
    return None, ""


_NUMERALS_AND_HEDGES = re.compile("[零一二两三四五六七八九十百千万亿兆半多余几数或和与不非无没错否左右约倍折成之是若]")


def _foreign_unit(word: str, *, in_gold: bool) -> str:
    """Return the name of a unit in another script, square and cubic units as powers, or "" if the word is not one.

    In a gold answer, any noun may follow a counter: 3只兔子.
    """
    names = []
    for part in re.split(r"\s*[/每]\s*", re.sub(r"\s+", "", word)):
        power = {"平方": "^2", "立方": "^3", "кв": "^2", "куб": "^3"}.get(
            match[0] if (match := _POWER_WORD.match(part)) else "", ""
        )
        bare = part[match.end() :].lstrip(".") if match and power else part
        name = _counter(part) or _counter(bare.rstrip("."))
        counter = _counter(part[:1]) if name is None and in_gold and len(part) <= 6 else None
        if counter is not None and (not counter.isascii() or counter in ("unit", "person")):
            name = None if _NUMERALS_AND_HEDGES.search(part) else counter
        if name is None:
            return ""
        names.append(name if part in _FOREIGN else name + power)
    return " per ".join(names)


_POWER_WORD = re.compile("平方|立方|кв|куб")


def _counter(word: str) -> str | None:
    """Return the name of a word of another script, which for a counter is the word itself; None if it is not listed."""
    name = _FOREIGN.get(word)
    return word if name == "counter" else name


def _is_unit(word: str, named: frozenset[str] | None, *, mathematical: bool) -> bool:
    """Return whether the words after a value are a unit.

    named: the words of the gold answer's unit, or None if the text is the gold answer. mathematical: the words are
    written in \\mathrm.
    """
    if len(word) == 1 and (word not in _UNIT_LETTERS or (mathematical and word.isupper())):
        return False
    if re.search(r"[,;:!?]|" + _SCRIPT, word):
        return False
    words = re.findall(r"[a-z.]+", word.lower())
    if words and words[-1] in POWERS:  # 5 cubic
        return False
    words = re.findall(r"[a-z.]+", re.sub(r"\b(?:square|cubic)\s+(?=[a-z])(?!root)", "", word.lower()))
    if named is not None and not _all_known(words, named):
        return False
    return not any(
        one in _NOT_UNITS
        or singular(one) in _NOT_UNITS - _NOT_UNITS_IN_SINGULAR
        or _COUNTS.fullmatch(singular(one))
        or one in _NO_LETTERS
        for one in words
    )


def _all_known(words: list[str], named: frozenset[str]) -> bool:
    """Return whether all words are units or their modifiers; any word may follow "of", as in cups of flour."""
    words = [word.strip(".") for word in words]
    head = words[: words.index("of")] if "of" in words[1:-1] else words
    head = head[:-1] if len(head) > 1 and head[-1] in _TRAILING_MODIFIERS else head
    return not head or (
        (head[-1] in _UNIT_WORDS or head[-1] in named)
        and all(w in _UNIT_WORDS or w in _MODIFIERS or w in named for w in head)
    )


_DEGREE_SCALES = {"C": "celsius", "F": "fahrenheit", "K": "kelvin"}
_DEGREE_SIGN = re.compile(r"\^\s*(?:\\circ|\{\s*\\circ\s*\})\s*$")


def angle_unit(measured: Quantity) -> str:
    """Return the angular unit of a quantity: "degree", "radian", or "" if it has none."""
    factors = unit_factors(measured.unit) if measured.unit else ()
    if factors and len(factors) == 1 and factors[0][0] == "angle":
        return "degree" if factors[0][1] == 1 else "radian"
    return "degree" if _DEGREE_SIGN.search(measured.value) else ""
