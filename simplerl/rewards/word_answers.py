"""Answers that are words: names, yes and no, "no solution", and the letter of an option."""

from __future__ import annotations

import re

from simplerl.rewards.normalize import plain

_OPTION = re.compile(r"(?:\\[a-z]+\s*\{\s*)?\(?([A-J])[).:]\s*\}?(?=\s*\S)")  # (B) 12, B: 12
_DENIAL = re.compile(
    r"\b(?:is|are|was|were|isn't|aren't|not|never|cannot|can't|neither|nor|no longer|wrong|incorrect|false|invalid|"
    r"reject\w*|eliminat\w*|exclu\w*|impossible|fails?|unlikely|instead|but|except)\b",
    re.I,
)
_LETTER = re.compile(r"(?<![A-Za-z\\])[A-J](?![A-Za-z])")


def chosen_option(answer: str, gold: str) -> bool | None:
    """Whether `(B) 12` chooses the gold letter; None where the gold is no letter or the answer names no option.

    An answer that names another letter as well, as `(A) or (B)` and `(A) not B` do, chooses none, nor does one that
    says anything of its option but the value: `(A) is wrong`.
    """
    if not re.fullmatch(r"\(?[A-J]\)?", gold):
        return None
    if (found := _OPTION.match(answer)) is None:
        return False if len(_LETTER.findall(answer)) > 1 else None
    return found.group(1) in gold and len(_LETTER.findall(answer)) == 1 and not _DENIAL.search(answer, found.end())


_SYNONYMS = {
    "nosolution": "emptyset", "nosolutions": "emptyset", "none": "emptyset", "norealsolution": "emptyset",
    "norealsolutions": "emptyset", "emptyset": "emptyset", "nullset": "emptyset", "theemptyset": "emptyset",
    "dne": "undefined", "doesnotexist": "undefined", "undefined": "undefined", "notdefined": "undefined",
}  # fmt: skip
_SPACED = re.compile(r"(?<=\d)\\(?=\d)")  # as `plain` writes a space between digits
_KNOWN = re.compile(r"\\(?:frac|sqrt|pi|infty|binom|ldots|sum|int|lim|log|ln|sin|cos|tan|mathbb)")


def is_text(text: str) -> bool:
    r"""Words rather than mathematics: \text{west}, three plain letters or more, option letters like (C)."""
    if _KNOWN.search(text):
        return False
    bare = plain(text).strip("(){}.")
    if "\\text" in text or "\\mbox" in text:
        return not re.search(r"\d", bare) or not re.fullmatch(r"[\d.,+\-*/^]+", bare)
    return bool(re.fullmatch(r"[A-Za-z']{3,}(?:-[A-Za-z']{2,})*|[A-Z]{2,}|[A-Z]", bare)) or bool(
        re.search(r"[A-Za-z]{4,}", re.sub(r"\\[A-Za-z]+", "", text))
    )


def words_of(text: str) -> str:
    letters = re.sub(r"[^\w:+-]", "", _SPACED.sub("_", plain(text)).replace("\\emptyset", "emptyset"))
    folded = letters if len(letters) == 1 else letters.casefold()
    return _SYNONYMS.get(folded, folded)
