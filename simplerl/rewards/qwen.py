r"""Implements the published rules, so that results can be compared with published tables.

`rule=qwen` is the evaluation of Qwen2.5-Math, reimplemented from its described behaviour, quirks included: a number
also equals a hundred times and a hundredth of itself, within 1e-4; the kind of bracket is ignored, so (0,1] equals
[0,1]; lists are ordered; single letters are removed as units (except for `minerva_math`); a multiple-choice answer is
the last A-E in the text; everything equals an empty gold answer. One part is deliberately not reproduced: the original
evaluates text that does not look like LaTeX as Python. Here `simplerl.rewards.algebra` and then math-verify compare it.

`rule=qwen_train` is the published training reward, which normalises the answer but not the gold answer, so that no
answer equals a gold answer that contains a degree sign, \text, \$ or \pm.
"""

from __future__ import annotations

import re
from math import isclose

from simplerl.rewards import algebra
from simplerl.rewards.extract import cut_at_stop
from simplerl.rewards.structure import split_outside_brackets
from simplerl.rewards.symbolic import math_verify_status

SOURCES_WITH_UNITS = ("minerva",)  # units are kept in answers to problems of these sources
_RELATIVE_TOLERANCE = 1e-4
_UNIT_WORDS = (
    "units?|degrees?|inch(?:es)?|feet|foot|ft|cm|mm|km|meters?|miles?|mph|hours?|hr|minutes?|min|seconds?|days?|weeks?|"
    "months?|years?|dollars?|cents?|square|cubic|points?|people|students|percent|pounds?|grams?|kg|liters?|gallons?|"
    "pm|am|east|west|north|south|[acghlmost]"
)
_UNIT = re.compile(rf"(^|\W|(?<=\d))(?:{_UNIT_WORDS})($|\W)")
_MAX_ANSWER = 2000  # characters; the rest of an answer is ignored
# Notation that the parser of the published training reward cannot read in a gold answer.
_UNPARSED_BY_PUBLISHED = re.compile(r"\\circ|\\(?:text|mbox|textbf|mathrm)\s*\{|\\\$|\\[pm][pm](?![a-z])")
_NUMBER = re.compile(r"-?\d*\.?\d+")
_CHOICE = re.compile(r"\b[A-E]\b")
_MATRIX = re.compile(
    r"^\\begin\{(?:pmatrix|bmatrix|array)\}(?:\{[a-z]*\})?(.*)\\end\{(?:pmatrix|bmatrix|array)\}$", re.S
)


def qwen_answer(response: str, source: str = "") -> str | None:
    """Extract and normalise the answer as the published evaluation does; None if nothing is found.

    The first of these that the text contains: "final answer is $...$. I hope" (first occurrence), "boxed" (last), "the
    answer is" (last), "final answer is" (last), any number (last).
    """
    text = cut_at_stop(response)
    answer, found, _ = text.partition("final answer is $")[2].partition("$. I hope")
    marker = next((one for one in ("boxed", "he answer is", "final answer is") if one in text), None)
    if not found and marker is not None:
        answer = text.rsplit(marker, 1)[1]
        answer = _after_boxed(answer) if marker == "boxed" else answer
    elif not found:
        answer = next(reversed(_NUMBER.findall(text.replace(",", ""))), "")
    answer = re.sub(r"\n\s*", "", answer.strip().split("\n\n")[0]).lstrip(":").rstrip("./")
    return normal_form(answer[:_MAX_ANSWER], source) or None


def _after_boxed(rest: str) -> str:
    """Return the content of a box, given the text after "boxed"; an unterminated box extends to the end."""
    if not rest.startswith("{"):
        return rest.split("$", maxsplit=1)[0].strip()
    depth = 0
    for i, character in enumerate(rest):
        depth += (character == "{") - (character == "}")
        if depth == 0:
            return rest[1:i]
    return rest[1:]


def normal_form(text: str, source: str = "") -> str:
    """Return the text in the notation in which the published evaluation compares, without unit-like letters."""
    text = text.strip().replace("\n", "").rstrip(".").replace("\\!", "")
    text = re.sub(r"\\begin\{array\}\{.*?\}", r"\\begin{pmatrix}", text).replace("\\end{array}", "\\end{pmatrix}")
    text = text.replace("bmatrix", "pmatrix").replace("tfrac", "frac").replace("dfrac", "frac")
    text = re.sub(r"\\neq?\b", r"\\ne ", text).replace("\\leq", "\\le").replace("\\geq", "\\ge")
    text = text.replace("\\left", "").replace("\\right", "").replace("\\{", "{").replace("\\}", "}")
    without_text = re.sub(r"\\text\{.*?\}$", "", text).strip()
    text = without_text or text
    if not any(name in source for name in SOURCES_WITH_UNITS):
        for _ in range(2):
            shorter = _UNIT.sub(r"\1\2", text)
            text = shorter or text
    text = re.sub(r"\^\s*(?:\{\\circ\}|\\circ)", "", text)
    text = text.replace("\\$", "").replace("$", "").replace("\\(", "").replace("\\)", "")
    text = re.sub(r"\\(?:text|mbox|mathrm|mathbf)\s*\{(.*?)\}", r"\1", text)
    text = re.sub(r"(?:x|y|z)\s*(?:=|\\in)\s*|\\emptyset", lambda m: "{}" if "empty" in m[0] else "", text)
    text = text.replace("\\%", "").replace("%", "").replace("and", "").replace("infinity", "\\infty")
    text = text.replace("+\\inf", "\\inf").replace("j", "i") if "j" in text and "i" not in text else text
    text = re.sub(r"(\d+)\.0*(?!\d)", r"\1", text)
    text = re.sub(r"(?<!\\)\\ ", "", re.sub(r"(?<!\d)\.(?=\d)", "0.", text))
    if text.count("=") == 1 and text.index("=") <= 2:
        text = text.split("=")[1]
    text = re.sub(r"\\sqrt(\w)", r"\\sqrt{\1}", text)
    text = re.sub(r"\\frac(\d)(\d)", r"\\frac{\1}{\2}", re.sub(r"\\frac(\d)\{", r"\\frac{\1}{", text))
    if halves := re.fullmatch(r"(-?\d+)/(\d+)", text.strip()):
        text = f"\\frac{{{halves[1]}}}{{{halves[2]}}}"
    return re.sub(r"(\\[A-Za-z]+) +(?=[A-Za-z])|( )", lambda m: f"{m[1]} " if m[1] else "", text)


def qwen_equal(answer: str, gold: str, source: str = "", *, gold_as_written: bool = False) -> bool:
    """Return the published verdict. gold_as_written: as in training, do not normalise the gold answer."""
    if gold.strip() in ("A", "B", "C", "D", "E"):
        choices = _CHOICE.findall(answer.upper())
        return bool(choices) and choices[-1] == gold.strip()
    answer = normal_form(answer, source)
    if not gold_as_written:
        return _equal(answer, normal_form(gold, source), 0)
    if _UNPARSED_BY_PUBLISHED.search(gold):
        return answer.lower() == gold.strip().lower()
    return _equal(answer, gold.strip(), 0)


def _number(text: str) -> float | None:
    text = text.replace(",", "")
    scale = 1.0
    if text.endswith("%"):
        text, scale = text[:-1].rstrip("\\"), 0.01
    if not re.fullmatch(r"[+-]?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d{1,3})?", text) or len(text) > 300:
        return None
    return float(text) * scale


def _equal(a: str, g: str, depth: int) -> bool:  # noqa: PLR0911 - the order of checks is the published one
    if not g or a.lower() == g.lower():
        return True
    if not a or depth > 3:
        return False
    x, y = _number(a), _number(g)
    if x is not None and y is not None:
        return any(isclose(x, scaled, rel_tol=_RELATIVE_TOLERANCE) for scaled in (y / 100, y, y * 100))
    bare_a, bare_g = a.strip("[]() {}"), g.strip("[]() {}")
    if bare_a.lower() == bare_g.lower():
        return True
    if a[0] in "([" and g[0] in "([" and a[-1] in ")]" and g[-1] in ")]":
        return _pairwise(a[1:-1], g[1:-1], depth)
    if (matrix_a := _MATRIX.match(a)) and (matrix_g := _MATRIX.match(g)):
        rows_a, rows_g = ([r.split("&") for r in m[1].split("\\\\") if r] for m in (matrix_a, matrix_g))
        return [len(r) for r in rows_a] == [len(r) for r in rows_g] and all(
            _equal(p, q, depth + 1) for ra, rg in zip(rows_a, rows_g, strict=True) for p, q in zip(ra, rg, strict=True)
        )
    if a.count("=") == 1 and g.count("=") == 1:
        sides = [f"({left})-({right})" for left, right in (a.split("="), g.split("="))]
        return any(algebra.expressions_equal(side, sides[1]) is True for side in (sides[0], f"-({sides[0]})"))
    return _is_same_expression(a, g) or ("," in g and "," in a and _pairwise(a, g, depth))


def _pairwise(a: str, g: str, depth: int) -> bool:
    parts_a, parts_g = (split_outside_brackets(text, frozenset(","))[0] for text in (a, g))
    return len(parts_a) == len(parts_g) > 1 and all(
        _equal(p, q, depth + 1) for p, q in zip(parts_a, parts_g, strict=True)
    )


def _is_same_expression(a: str, g: str) -> bool:
    a, g = (re.sub(r"\\(?:cdot|times)", "*", text.replace("\\div", "/")) for text in (a, g))
    if re.sub(r"\s", "", a) == re.sub(r"\s", "", g):  # a gold answer that is not normalised keeps its spaces
        return True
    verdict = algebra.expressions_equal(a, g)
    if verdict is None and not algebra.is_not_computable(a):
        return math_verify_status(a, g) == "equal"
    return bool(verdict)
