r"""Finds what is written around the value of a gold answer: a sentence, a unit, an option letter, a remark in brackets.

Such a gold answer is met by a plain correct value only if the comparison can take the decoration off; data checks count
those for which it cannot.
"""

from __future__ import annotations

import re

_MATH = re.compile(r"\\\((.+?)\\\)|(?<![\\$])\$([^$]+)\$|\\\[(.+?)\\\]", re.S)
_WORD = re.compile(r"[A-Za-z]{2,}")


def sentence_value(gold: str) -> str | None:
    r"""Return the value of a gold answer that is a sentence: 248 in "The smallest value of \(a\) is \(248\)."

    None if it is not a sentence, or states no value or several.
    """
    formulas = list(_MATH.finditer(gold)) if "\\(" in gold or "$" in gold or "\\[" in gold else []
    if not formulas or len(_WORD.findall(_MATH.sub(" ", gold))) < 3:
        return None
    stated = [one for one in formulas if re.search(r"(?:\b(?:is|are|equals?|be|was)|=|:)\s*$", gold[: one.start()])]
    if len(stated) != 1 or gold[stated[0].end() :].strip(" .") or stated[0] is not formulas[-1]:
        return None
    return next(group for group in stated[0].groups() if group is not None)
