r"""What a response looks like, read from its text alone: pure functions, cheap enough for every rollout.

They describe behaviour, they do not judge it: a base model reflects, too, so plot them against step 0.
"""

from __future__ import annotations

import re

# SimpleRL-Zoo's list (arXiv 2503.18892), as whole words, in any case.
REFLECTION_WORDS = ("recheck", "rethink", "try again", "wait", "alternatively", "retry", "however")
WINDOW, LONGEST_WORD = 8, 16  # of `repetition`: words per window; longer words are cut, so that "1111..." repeats

_BOX = re.compile(r"\\(?:boxed|fbox)\b")
_CODE = re.compile(
    r"```\s*(?:python|py)\b"
    r"|^\s*(?:def \w+\(|print\(|from [\w.]+ import |import \w[\w.]*(?: as \w+)?\s*$)",
    re.MULTILINE | re.IGNORECASE,
)
_REFLECTION = re.compile(rf"\b(?:{'|'.join(REFLECTION_WORDS)})\b".replace(" ", r"\s+"), re.IGNORECASE)
_PIECE = re.compile(rf"\S{{1,{LONGEST_WORD}}}")


def has_box(text: str) -> bool:
    r"""A \boxed or \fbox stands in it, closed or not."""
    return _BOX.search(text) is not None


def is_code(text: str) -> bool:
    """It holds Python: a fenced block, or a line that defines, imports or prints."""
    return _CODE.search(text) is not None


def reflection_words(text: str) -> list[str]:
    """The reflection words in it, in order, lower-case."""
    return [" ".join(word.lower().split()) for word in _REFLECTION.findall(text)]


def reflects(text: str) -> bool:
    return _REFLECTION.search(text) is not None


def repetition(text: str) -> float:
    """Share of its windows of 8 consecutive words that stood in it before; 0 for texts under 9 words."""
    words = _PIECE.findall(text)
    windows = len(words) - WINDOW + 1
    if windows < 2:
        return 0.0
    return 1.0 - len({tuple(words[i : i + WINDOW]) for i in range(windows)}) / windows
