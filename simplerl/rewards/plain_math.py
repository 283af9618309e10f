"""Recognises mathematics in text without delimiters: signs in words, and expressions with spaces as wholes."""

from __future__ import annotations

import re

from simplerl.rewards.latex import FUNCTIONS
from simplerl.rewards.units import Quantity, split_unit

_SUPERSCRIPTS = str.maketrans("⁰¹²³⁴⁵⁶⁷⁸⁹⁻⁺", "0123456789-+")
_POWER_OF_TEN = re.compile(
    r"(?:(?<=\d)\s?(?:×|[xX*·⋅∙]|\\times|\\cdot)\s?|(?<![\w.,\\^]))10\s?"
    r"(?:\^\s?\{?\s?([-+]?\d{1,3})(?!\d)\}?|([⁻⁺]?[⁰¹²³⁴-⁹]{1,3}))"
)
_MINUS = re.compile(
    r"(?:\b(?:negative|(?<![\d)\]}$%]\s)(?<!\b[a-z]\s)minus|минус)\s|负|負|零下|マイナス|마이너스\s?)(?=[\d.]*\d)", re.I
)
_COMPARED = re.compile(
    r"(?:(?P<less>(?<!\d\s)\b(?:less|smaller|fewer)\sthan\s|(?<!不)小[于於])|(?<!\d\s)\b(?:greater|larger|bigger|more)\sthan\s|(?<!不)大[于於])"
    r"(?=[-.]?\d)",
    re.I,
)
_FUNCTION = rf"\\?(?:{'|'.join(sorted(FUNCTIONS | {'sqrt', 'pi'}, key=len, reverse=True))})"
_DELIMITED = r"(?<!\\)\$(?:\\.|[^$\\\n])+\$(?!\d)|\\\((?:(?!\\\)).){1,300}\\\)|\\\[(?:(?!\\\]).){1,300}\\\]"
_SPACED = re.compile(  # spaces within an expression: around an operator between operands, or after a comma in brackets
    rf"({_DELIMITED})|(?<![A-Za-z\\][A-Za-z])(?<=[\w)\]}}!%]) ?(?P<sign>[-+*/^×·÷<>≤≥±]) "
    r"(?=\\?[\d({\[√-]|\\[a-z]|[A-Za-z](?![A-Za-z]))|(?P<pair>[(\[][^()\[\]\n$\\A-Za-z]{1,60}[)\]])"
    rf"|\b(?P<name>{_FUNCTION}) (?P<of>\d+(?:\.\d+)?)(?!\d|\.\d)"
)
_PI = re.compile(r"(?<![\\A-Za-z])pi(?![A-Za-z])")
_WORD = re.compile(rf"{_FUNCTION}(?![A-Za-z])|\\[A-Za-z]+|(?<=\d)[A-Za-z]{{1,3}}(?![A-Za-z])|(?:xy|yz|xz)(?![A-Za-z])")
_CHARACTERS = re.compile(r"[\w\s\\^{}()\[\]|+\-*/×·÷=<>≤≥≠±!,.:;%√∞∪∩∈°']+")
_NOT_ONE = re.compile(r"[A-Za-zÀ-ɏ]{2,}|[\u0400-\U0001ffff]|</?[A-Za-z]\w*>|=>|->|\|.*\|.*\||[.:;]\s\S|^[-+*/=|:.\s]*$")
_BULLET = re.compile(r"\A(?:[-*•>#]+|\(?\w{1,2}[.)])\s(?![-+*/=<>^(])")
_LABEL = re.compile(r"\s*\\?[A-Za-z]+(?:_\w|_\{\w+\}|\d|')?(?:\([^()]{1,20}\))?\s*")
_NUMBER = re.compile(r"\s*-?[\d.,]+(?:\s?/\s?\d+)?(?:\s?%)?\s*")
_BRACKETED_NUMBER = re.compile(r"[(\[{\s]*-?[\d.,]+(?:\\times10\^\{[-+]?\d+\})?[)\]}\s%]*")
_CALL = re.compile(rf"{_FUNCTION}|\\[A-Za-z]+|[A-Za-z](?=\()|(?<=\d)[CP](?=\d)")


def plain_text(text: str) -> str:
    """Return the text with single spaces and newlines, minus signs as hyphens, and powers of ten in one notation."""
    text = re.sub(r"\s+", lambda run: "\n" if "\n" in run[0] else " ", text)
    text = re.sub(r"[−–](?=[\d.^])", "-", text)
    return _POWER_OF_TEN.sub(_power_of_ten, text)


def _power_of_ten(found: re.Match[str]) -> str:
    scale = "" if found.group().startswith("10") else "\\times"
    return f"{scale}10^{{{found[1] or found[2].translate(_SUPERSCRIPTS)}}}"


def with_signs(text: str) -> str:
    """Return the text with the words for a sign or a comparison before a number as signs: minus 5 as -5, 小于5 as
    <5."""
    text = _MINUS.sub("-", text)
    return _COMPARED.sub(lambda found: "<" if found["less"] else ">", text)


def without_inner_spaces(text: str) -> str:
    """Return the text without the spaces within expressions: 3x + 2 as 3x+2, (2, 5) as (2,5), ln 5 as ln(5)."""
    return _SPACED.sub(_joined, text)


def _joined(found: re.Match[str]) -> str:
    if found["sign"]:
        return found["sign"]
    if found["pair"]:
        return found["pair"].replace(" ", "")
    return f"{found['name']}({found['of']})" if found["name"] else found[0]


def whole_expression(text: str) -> str | None:
    """Return a text that is mathematics as a whole, such as (x - 2)(x + 3), x = 3, y = 4 or 5 hours 30 minutes; None if
    it has other words, is one number, or computes a number: 2 + 3 = 5."""
    text = _BULLET.sub("", text.strip()).strip(" *_`")
    text = _PI.sub(r"\\pi", text.rstrip("."))
    if len(text) > 300 or re.search(r"\$|\\[()\[\]]", text) or _BRACKETED_NUMBER.fullmatch(text):
        return None
    parts = re.split(r"(?<=[A-Za-z])(?:,? and|,)?\s(?=\d)", text) if re.match(r"[-.]?\d", text) else [text]
    values = [split_unit(part, Quantity("")).value for part in parts]
    if not all(map(_is_mathematics, values)):
        return None
    if len(parts) > 1:
        return text if all(value != part for value, part in zip(values, parts, strict=True)) else None
    if _BRACKETED_NUMBER.fullmatch(values[0]) or ("=" in text and not _states_relation(values[0])):
        return None
    return text


def _is_mathematics(text: str) -> bool:
    bare = _WORD.sub(" ", text)
    return (
        _CHARACTERS.fullmatch(text) is not None and _NOT_ONE.search(bare) is None and re.search(r"\w", text) is not None
    )


def _states_relation(text: str) -> bool:
    """Return whether equations are an answer as a whole, not a computation or derivation whose last value counts."""
    equations = [piece.split("=") for piece in re.split(r"[,;]\s", text)]
    if len(equations) > 1:
        return all(_LABEL.fullmatch(sides[0]) and len(sides) == 2 for sides in equations)
    first, last = equations[0][0], equations[0][-1]
    computed = _LABEL.fullmatch(first) is not None or not re.search("[A-Za-z]", _CALL.sub("", first))
    return not (computed and _NUMBER.fullmatch(last))
