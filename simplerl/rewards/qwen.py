r"""Implements the published rules, so that results can be compared with published tables.

`rule=qwen` is the evaluation of Qwen2.5-Math, reimplemented from its behaviour, quirks included:
- A number also equals a hundred times and a hundredth of itself, within 1e-4.
- The kind of bracket is ignored, so (0,1] equals [0,1]. A multiple-choice answer is the last A-E in the text.
- Single letters are removed as units (except for `minerva_math`), twice from the answer and once from the gold answer.
- If the parser cannot read a text to its end, the part before counts, so 1,2 equals 1,3.
One part is deliberately not reproduced: the original evaluates text that does not look like LaTeX as Python. Here
`simplerl.rewards.algebra` and then math-verify compare it.

`rule=qwen_train` is the published training reward, which normalises the answer but not the gold answer, so that no
answer equals a gold answer that contains \text, a degree sign or \$. What its parser reads depends on the installed
packages: those of the training README (`environment=training`) read neither `\!` nor `\frac 92`, those of the
evaluation folder (`environment=evaluation`) do. `python -m simplerl.bench.published_agreement` measures the agreement
with recorded verdicts.
"""

from __future__ import annotations

import re
from math import isclose

import mpmath

from simplerl.rewards import algebra
from simplerl.rewards.evaluation import NotComputable, as_mpf, constant_value, variables
from simplerl.rewards.extract import cut_at_stop
from simplerl.rewards.rules import Environment
from simplerl.rewards.symbolic import math_verify_status

SOURCES_WITH_UNITS = ("minerva",)  # units are kept in answers to problems of these sources
_RELATIVE_TOLERANCE = 1e-4
_UNIT_WORDS = (
    "units?|deg(?:ree)?s?|inch(?:es)?|feet|foot|ft|cm|mm|km|m(?:et(?:er|re))?s?|miles?|k?mph|hours?|hrs?|minutes?|mins?|"
    "seconds?|secs?|days?|weeks?|months?|years?|yrs?|dollars?|cents?|square|sq|cubic|cubes?|points?|people|students|"
    "m[ea]n|wom[ea]n|percent|pounds?|lbs?|kg|lit(?:er|re)s?|gallons?|yards?|acres?|coins?|apples?|rounds?|more|less|"
    "increase|decrease|pm|am|east|west|noon|prime|ratio|number|per|way|by|are|ab|bc|st|th|rd|[acdghlost]|[a-hqs] ."
)
_UNIT = re.compile(rf"(^|\W)(?:{_UNIT_WORDS})($|\W)")
_MAX_ANSWER = 2000  # characters; the rest of an answer is ignored
_MAX_DEPTH = 3  # of lists within lists
# Notation that the parser of the published training reward cannot read in a gold answer.
_UNREAD = {
    "evaluation": re.compile(
        r"^(?:\\,|[^,])*\\(?:text|mbox|textbf|mathrm)\s*\{|\\circ|\\\$|\\mbox|\\[pm][pm](?![a-z])"
    ),
    "training": re.compile(
        r"\\circ|\\(?:text|mbox|textbf|mathrm)\s*\{|\\\$|\\[pm][pm](?![a-z])"
        r"|\\!|\\frac \d|\\[td]frac ?\d|\\sqrt \d|\\[{]|\\phantom"
    ),
}
_UNREAD_TUPLE = re.compile(r"\\left\s*\([^()]*,|,[^()]*\\right\s*\)")
_NUMBER = re.compile(r"-?\d*\.?\d+")
_CHOICE = re.compile(r"\b[A-E]\b")
_LIST = re.compile(r"[(\[].+[)\]]")
_MATRIX = re.compile(r"\\begin\{[pb]matrix\}(.*)\\end\{[pb]matrix\}", re.S)
_RELATION = re.compile(r"=|<|>|\\[lgn]e(?![A-Za-z])")
_END_OF_PREFIX = re.compile(  # where the parser of the published rules stops reading, outside of brackets
    r"[,;]|\\(?:text[a-z]*|cup|cap|in|approx|quad|qquad|lt|gt)(?![a-z])|(?<=\d)_"
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
    answer = re.sub(r"\n\s*+", "", answer.strip()).removeprefix(":").removesuffix(".").removesuffix("/")
    return normal_form(answer[:_MAX_ANSWER], source) or None


def _after_boxed(rest: str) -> str:
    """Return the content of a box, given the text after "boxed". Without a brace, the content extends to the next $ or
    else to the end; with an unclosed brace, to the end."""
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
    text = text.replace("\\neq", "\\ne").replace("\\leq", "\\le").replace("\\geq", "\\ge")
    text = text.replace("\\left", "").replace("\\right", "").replace("\\{", "{").replace("\\}", "}")
    text = re.sub(r"\\text\{.*?\}$", "", text).strip() or text
    if not any(name in source for name in SOURCES_WITH_UNITS):
        for _ in range(2):
            text = _UNIT.sub(r"\1\2", text) or text
    text = text.replace("^{\\circ}", "").replace("^\\circ", "")
    text = text.replace("\\$", "").replace("$", "").replace("\\(", "").replace("\\)", "")
    text = re.sub(r"\\text\{(.*?)\}", r"\1", text)
    text = re.sub(r"[xyz](?:=|\\in|\\to)", "", text).replace("\\emptyset", "{}")
    text = text.replace("\\%", "").replace("%", "").replace(" .", " 0.").replace("{.", "{0.")
    text = text.replace("infinity", "\\infty")
    text = text if "\\infty" in text else text.replace("inf", "\\infty")
    text = re.sub(r"\\mbox\{.*?\}", "", text.replace("and", "").replace("\\mathbf", ""))
    text = text.replace("j", "i") if "i" not in text else text
    text = re.sub(r"(\d+)\.0*+(?!\d)", r"\1", text)
    text = f"0{text}" if text.startswith(".") else text
    left, equals, right = text.partition("=")
    if equals and "=" not in right and len(left) <= 2:
        text = right
    text = re.sub(r"\\sqrt(\w+)", r"\\sqrt{\1}", text).replace(" ", "")
    text = re.sub(r"\\frac([^{])(?:(?=\{)|(.))", lambda m: f"\\frac{{{m[1]}}}" + (f"{{{m[2]}}}" if m[2] else ""), text)
    if text.count("/") == 1 and (halves := re.fullmatch(r"(-?\d+|[^/]*sqrt[^/]*)/(-?\d+|[^/]*sqrt[^/]*)", text)):
        text = f"\\frac{{{halves[1]}}}{{{halves[2]}}}"
    return text


def qwen_equal(answer: str, gold: str, source: str = "", *, training: Environment | None = None) -> bool:
    """Return the published verdict on an answer that `qwen_answer` extracted.

    training: the environment of the training reward, which does not normalise the gold answer; None: the evaluation.
    """
    gold = gold.strip()
    if re.fullmatch("[A-E]", gold) and _CHOICE.findall(answer.upper())[-1:] == [gold]:
        return True
    if training is None:
        return _equal(normal_form(answer, source), normal_form(gold, source))
    gold = re.sub(r"\\left\s?(?=\[)|\\right\s?(?=\])", "", gold)  # the published parser reads \left only before these
    unread = _UNREAD[training].search(gold) or _UNREAD_TUPLE.search(gold)
    return _equal(answer, gold, parse=unread is None)


def _number(text: str) -> float | None:
    text = text.replace(",", "")
    scale = 1.0
    if text.endswith("%"):
        text, scale = text[:-1].rstrip("\\"), 0.01
    if not re.fullmatch(r"\s*[+-]?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d{1,3})?\s*", text) or len(text) > 300:
        return None
    return float(text) * scale


def _equal(a: str, g: str, *, parse: bool = True, depth: int = 0) -> bool:
    """Return whether two texts are equal by the published rules. parse: whether their parser reads the gold answer."""
    a, g = a.strip(), g.strip()
    if a.lower() == g.lower():
        return True
    x, y = _number(a), _number(g)
    if (
        x is not None
        and y is not None
        and any(isclose(x, z, rel_tol=_RELATIVE_TOLERANCE) for z in (y / 100, y, y * 100))
    ):
        return True
    if not a or not g or depth > _MAX_DEPTH:
        return False
    return _without_brackets(a, g) or (parse and (_part_by_part(a, g, depth) or _is_same_expression(a, g)))


def _without_brackets(a: str, g: str) -> bool:
    inner_a, inner_g = a, g
    ends_a, ends_g = a[0] + a[-1], g[0] + g[-1]
    if (ends_a == "[]" and ends_g != "()") or (ends_a == "()" and ends_g != "[]"):
        inner_a, inner_g = a.strip("[]()"), g.strip("[]()")
    return re.sub(r"[{}()]", "", inner_a).lower() == re.sub(r"[{}()]", "", inner_g).lower()


def _part_by_part(a: str, g: str, depth: int) -> bool:
    """Return whether lists in brackets, matrices or equations are equal part by part; False does not mean unequal."""
    rows: list[list[list[str]]] = []
    if _LIST.match(a) and _LIST.match(g):
        rows = [[text[1:-1].split(",")] for text in (a, g)]
    elif (matrix_a := _MATRIX.fullmatch(a)) and (matrix_g := _MATRIX.fullmatch(g)):
        rows = [[row.split("&") for row in m[1].split("\\\\") if row.strip()] for m in (matrix_a, matrix_g)]
    if rows and [*map(len, rows[0])] == [*map(len, rows[1])]:
        pairs = [pair for row in zip(*rows, strict=True) for pair in zip(*row, strict=True)]
        if all(_equal(p, q, depth=depth + 1) for p, q in pairs):
            return True
    for one, other in ((a, g), (g, a)):
        left, equals, right = one.partition("=")
        if equals and "=" not in right + other and len(left.strip()) <= 2:
            return _equal(right, g, depth=depth + 1) if one is a else _equal(a, right, depth=depth + 1)
    return False


def _readable_prefix(text: str) -> str:
    """Return the part of a text before the published parser stops: at a comma, \\text or an unmatched bracket."""
    depth = 0
    for i, character in enumerate(text):
        depth += (character in "([{") - (character in ")]}")
        if depth < 0 or (depth == 0 and _END_OF_PREFIX.match(text, i)):
            return text[:i]
    return text


def _is_same_expression(a: str, g: str) -> bool:
    a, g = (_readable_prefix(text).strip("$. ") for text in (a, g))
    if "," in a + g or not a or not g:  # a tuple within an expression is not read
        return False
    if re.sub(r"\s", "", a) == re.sub(r"\s", "", g):  # a gold answer that is not normalised keeps its spaces
        return True
    sides_a, sides_g = _RELATION.split(a), _RELATION.split(g)
    if len(sides_a) != len(sides_g) or len(sides_a) > 2:
        return False
    if len(sides_a) == 2:
        a, g = (f"({left})-({right})" for left, right in (sides_a, sides_g))
        return any(algebra.expressions_equal(one, g) is True for one in (a, f"-({a})"))
    a, g = (re.sub(r"\\(?:cdot|times)|(?<=\d)\s?(?=\\frac)", "*", text) for text in (a, g))  # 2\frac58 is a product
    a, g = (re.sub(r"\\div|:", "/", text) for text in (a, g))
    verdict = algebra.expressions_equal(a, g)
    if verdict is None and not algebra.is_not_computable(a):
        return math_verify_status(a, g) == "equal"
    return bool(verdict) or _is_close(a, g)


def _is_close(a: str, g: str) -> bool:
    """Return whether two expressions without variables have nearly the same value."""
    trees = [tree for text in (a, g) if (tree := algebra.parse_or_none(text)) is not None and not variables(tree)]
    if len(trees) < 2:
        return False
    try:
        x, y = (as_mpf(constant_value(tree)) for tree in trees)
    except NotComputable:
        return False
    return bool(mpmath.im(x) == mpmath.im(y) == 0 and abs(x - y) <= _RELATIVE_TOLERANCE * max(abs(x), abs(y)))
