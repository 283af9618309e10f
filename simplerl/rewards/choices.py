r"""Reads multiple-choice answers: option letters with or without their text, several letters, statement numbers.

`(B) 12`, `\text{Option B}`, `B\left(\frac{1}{2}\right)` choose B. `A, C`, `A \text{ and } C` and `AC` are the same
options, as are `①③` and `(1)(3)`.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from simplerl.rewards.characters import TEXT_GROUP

MAX_CHARACTERS = 300  # a longer answer is not an option
_LEAD = (
    r"(?i:(?:the\s+)?(?:correct\s+|final\s+)?(?:option|choice|answer|选项|正确答案|答案|故选|应选|选择|选)\s*"
    r"(?:is|are|为|是)?\s*:?\s*)"
)
_LETTER = r"\(?\s*(?P<letter>[A-J])\s*\)?"
_CAPITAL = re.compile("[A-J]")
_SMALL = re.compile(rf"(?P<lead>{_LEAD})?(?P<open>\(\s*)?(?P<letter>[a-j])(?P<mark>\s*\)|\s*\.(?=\s|$)|(?=\s*$))")
_ALONE = re.compile(rf"(?:{_LEAD})?{_LETTER}\s*[.):]?")
_WITH_CONTENT = re.compile(
    rf"(?:{_LEAD})?(?:\(\s*(?P<bracketed>[A-J])\s*\)\s*[.:]?|(?P<marked>[A-J])\s*[.):]|(?P<bare>[A-J])\s*(?=[(\[]|\n(?!\d|\s*[-+*/^_=<>!?'%|]|[a-z](?![a-z]))))\s*(?P<rest>\S.*)",
    re.S,
)
_DENIAL = re.compile(
    r"\s*(?:is|are|was|were|isn't|aren't|wasn't|weren't)\b|\s*not?\s*(?:$|the|this|it\b|right|correct|true|valid|\(?[A-J]\b)"
    r"|\s*cannot\s+be\s+(?:correct|right|true|valid|the)\b"
    r"|\b(?:isn't|aren't|no longer|wrong|incorrect|false|invalid|reject\w*|eliminat\w*|exclu\w*|fails?|unlikely"
    r"|instead|but|except|nor)\b|错|不对|不正确|不是|排除",
    re.I,
)
_OTHER = (
    re.compile(  # another option; I counts only after "or" or "not" or in brackets, otherwise it numbers a statement
        r"(?<![A-Za-z\\_^])(?:[A-HJ]|(?<=or )I|(?<=not )I|(?<=^, )I|(?<=[(])I(?=\)))"
        r"(?![A-Za-z_^'|<>=+*/(-]|\s*[=<>+*/^_(-]|\s*\\(?:cup|cap|in|subset|le|ge)(?![a-z]))"
    )
)
_SEPARATORS = re.compile(r"[\s,;&]|and\b|[和与及且]")
_SEVERAL = re.compile(rf"(?:{_LEAD})?(?P<letters>(?:[A-J]|\([A-J]\)){{2,10}})\.?")
_STATEMENT = re.compile(r"\\circled\{?(\d{1,2})\}?|\((\d{1,2})\)")
_ROMAN = ("", "I", "II", "III", "IV", "V", "VI")
_STATEMENTS = re.compile(r"(?:\\circled\{?\d{1,2}\}?|\(\d{1,2}\)){1,20}")


@dataclass(frozen=True)
class Choice:
    """Holds an option letter and the text or value written after it. denied: the text rejects this option or names
    another one."""

    letter: str
    content: str = ""  # the text or value; "" if there is only a letter
    denied: bool = False


def _plain(text: str) -> str:
    r"""Return the text without \text commands and outer brackets of a set; a newline marks where \text{} ended."""
    text = re.sub(r"(?<=[A-JIV)])\s+only[\s.]*$", "", TEXT_GROUP.sub("\\1\n", text)).strip()
    inner = re.fullmatch(r"\\\{(.*)\\\}", text, re.S)
    return (inner[1] if inner else text).strip()


def _with_large_letter(plain: str) -> str:
    """Return the text with a large option letter: (c) as (C). A letter that is nothing but itself is not the constant
    e, i or j."""
    small = _SMALL.match(plain)
    if small is None or not (small["letter"] not in "eij" or small["lead"] or small["open"] or small["mark"]):
        return plain
    start, end = small.span("letter")
    return plain[:start] + plain[start:end].upper() + plain[end:]


def parse_choice(text: str) -> Choice | None:
    """Return the option that a normalised text chooses, or None if it does not state exactly one."""
    if len(text) > MAX_CHARACTERS or not re.search("[A-Ja-j]", text):
        return None
    plain = _with_large_letter(_plain(text))
    if found := _ALONE.fullmatch(plain):
        return Choice(found["letter"])
    if (found := _WITH_CONTENT.fullmatch(plain)) is None:
        return None
    letter, rest = found["bracketed"] or found["marked"] or found["bare"], found["rest"]
    if found["bare"] and rest[0] in "([" and rest[-1] not in ")]":
        return None
    denied = _DENIAL.search(rest) is not None if not _DENIAL.match(rest) else True
    return Choice(letter, rest.strip(), denied or _OTHER.search(rest) is not None)


def parse_gold_choice(gold: str) -> Choice | None:
    r"""Return the option of a gold answer that states letter and content, `C. 1-i` or `\textbf{(B) } 12`; else None.

    A point A(1,2) and a ratio A:B are not options.
    """
    if not _CAPITAL.search(gold):
        return None
    found = re.fullmatch(r"(?:\(\s*([A-J])\s*\)|([A-J])\s*[.)]|([A-J])\s*:(?!\s*[A-Z]\b))\s*(\S.*)", _plain(gold), re.S)
    if found is None or re.match(r"[,;]|\(?[A-J]\)|[-+*/=^<>]", found[4]):
        return None
    return Choice(found[1] or found[2] or found[3], found[4].strip())


def option_content(answer: str, gold: str) -> str:
    """Return the value of an answer such as (B) 12 if the gold answer does not name an option; otherwise ""."""
    choice = parse_gold_choice(answer)
    if choice is None or choice.content.startswith("(") or re.search(rf"(?<![A-Za-z\\]){choice.letter}(?![a-z])", gold):
        return ""
    return choice.content


def is_option_with_letter_of(answer: str, gold: str) -> bool:
    """Return whether an answer such as (A) 5 is an option whose letter occurs in a gold answer that is none: it is not
    the product 5A."""
    found = re.match(r"\(\s*([A-J])\s*\)\s*(?=[\w\\])", _plain(answer)) if _CAPITAL.search(answer) else None
    return found is not None and re.search(rf"(?<![A-Za-z\\]){found[1]}(?![a-z])", gold) is not None


def only_letter(gold: str) -> str:
    """Return the letter of a gold answer that consists of one option letter, such as (B); otherwise ""."""
    if not re.search("[A-Ja-j]", gold):
        return ""
    if small := re.fullmatch(r"\(\s*([a-j])\s*\)", _plain(gold)):
        return small[1].upper()
    found = _ALONE.fullmatch(_plain(gold))
    return found["letter"] if found else ""


def option_letters(text: str) -> frozenset[str]:
    """Return the letters of a text that is two option letters or more and nothing else; else an empty set."""
    if len(text) > MAX_CHARACTERS or not _CAPITAL.search(text):
        return frozenset()
    found = _SEVERAL.fullmatch(_SEPARATORS.sub("", _plain(text)))
    letters = re.findall(r"[A-J]", found["letters"]) if found else []
    return frozenset(letters) if len(set(letters)) == len(letters) else frozenset()


def statements(text: str) -> frozenset[int]:
    """Return the statement numbers that a text lists, such as ①③, (1)(3) or I and III; else an empty set."""
    if not re.search(r"[IV(]|\\circled", text):
        return frozenset()
    roman = re.findall(r"[^\s,;&]+", re.sub(r"\band\b", ",", _plain(text[:MAX_CHARACTERS])))
    if len(roman) > 1 and all(one in _ROMAN for one in roman):
        return frozenset(map(_ROMAN.index, roman))
    plain = _SEPARATORS.sub("", _plain(text[:MAX_CHARACTERS]))
    if _STATEMENTS.fullmatch(plain) is None:
        return frozenset()
    numbers = [int(a or b) for a, b in _STATEMENT.findall(plain)]
    return frozenset(numbers) if len(numbers) > 1 or "\\circled" in plain else frozenset()


def offers_alternatives(answer: str) -> bool:
    """Return whether an answer, before normalisation, contains "or": it then names alternatives, not a set."""
    return re.search(r"\bor\b|或", answer) is not None
