r"""Computes text features of responses, such as boxed answers, code and reflection words.

The functions are pure and linear in the length of the text, so cheap enough for every rollout. They describe behaviour
and do not measure quality: base models also reflect, so compare with step 0. A separate module, because training
metrics, evaluation and analysis share it and it imports only `re`.
"""

from __future__ import annotations

import re
from collections.abc import Callable

from simplerl.rewards.extract import cut_at_stop

# The list of SimpleRL-Zoo (arXiv 2503.18892), matched as whole words, ignoring case.
REFLECTION_WORDS = ("recheck", "rethink", "try again", "wait", "alternatively", "retry", "however")
WINDOW = 8  # words per window of `repetition`
LONGEST_WORD = 16  # characters; longer words are split, so that "1111..." counts as a repetition

_BOX = re.compile(r"\\(?:boxed|fbox)\b")
_CODE = re.compile(  # [^\S\n] is white space within a line: \s would scan a run of blank lines from each of them
    r"```\s*(?:python|py)\b"
    r"|^[^\S\n]*(?:def \w+\(|print\(|from [\w.]+ import |import \w[\w.]*(?: as \w+)?[^\S\n]*$)",
    re.MULTILINE | re.IGNORECASE,
)
_REFLECTION = re.compile(rf"\b(?:{'|'.join(REFLECTION_WORDS)})\b".replace(" ", r"\s+"), re.IGNORECASE)
_WORD = re.compile(rf"\S{{1,{LONGEST_WORD}}}")


def has_box(text: str) -> bool:
    r"""Return whether the text contains a \boxed or \fbox, closed or not."""
    return _BOX.search(text) is not None


def is_code(text: str) -> bool:
    """Return whether the text contains Python: a fenced block, or a line that defines, imports or prints."""
    return _CODE.search(text) is not None


def reflects(text: str) -> bool:
    """Return whether the text contains a reflection word."""
    return _REFLECTION.search(text) is not None


def has_end_token(text: str) -> bool:
    """Return whether the text, from which the stop token was removed, contains an end-of-text or turn token of a known
    chat format."""
    return cut_at_stop(text) != text


def repetition(text: str) -> float:
    """Return the fraction of windows of 8 consecutive words that occur earlier in the text; 0 below 9 words."""
    words = _WORD.findall(text)
    windows = len(words) - WINDOW + 1
    if windows < 2:
        return 0.0
    return 1.0 - len({tuple(words[i : i + WINDOW]) for i in range(windows)}) / windows


# The text features that training and evaluation report, as means over responses.
TEXT_METRICS: dict[str, Callable[[str], float]] = {
    "box_share": has_box,
    "code_share": is_code,
    "reflection_share": reflects,
    "repetition": repetition,
}
