r"""`rule=qwen`: the verdicts of the published evaluation (Qwen2.5-Math's), for comparison with its tables.

Written anew from its described behaviour, quirks included: a number equals a hundredth and a hundred times
itself, within 1e-4; brackets do not count, so (0,1] is [0,1]; lists are ordered; single letters go as units
(golds of `minerva_math` excepted); a choice is the last A-E in the answer; an empty gold accepts anything.
One part is not reproduced, on purpose: there, text that looks like no LaTeX is evaluated as Python. Here the
last resort is the bounded reader of `simplerl.rewards.algebra`, then math-verify.

`rule=qwen_train`: the published training reward, which brings the answer to that notation and leaves the gold as it
was written: a gold with a degree sign, \text, \$ or \pm in it is met by no answer.
"""

from __future__ import annotations

import re

from simplerl.rewards import algebra
from simplerl.rewards.extract import cut_at_stop
from simplerl.rewards.structure import split_top

KEEPS_UNITS = ("minerva",)
_RELATIVE = 1e-4
_UNIT_WORDS = (
    "units?|degrees?|inch(?:es)?|feet|foot|ft|cm|mm|km|meters?|miles?|mph|hours?|hr|minutes?|min|seconds?|days?|weeks?|"
    "months?|years?|dollars?|cents?|square|cubic|points?|people|students|percent|pounds?|grams?|kg|liters?|gallons?|"
    "pm|am|east|west|north|south|[acghlmost]"
)
_UNIT = re.compile(rf"(^|\W|(?<=\d))(?:{_UNIT_WORDS})($|\W)")
_HOPE = ("final answer is $", "$. I hope")
_LONGEST = 2000  # characters of an answer that are looked at
_UNREAD = re.compile(r"\\circ|\\(?:text|mbox|textbf|mathrm)\s*\{|\\\$|\\[pm][pm](?![a-z])")  # by the published parser
_NUMBER = re.compile(r"-?\d*\.?\d+")
_CHOICE = re.compile(r"\b[A-E]\b")
_MATRIX = re.compile(
    r"^\\begin\{(?:pmatrix|bmatrix|array)\}(?:\{[a-z]*\})?(.*)\\end\{(?:pmatrix|bmatrix|array)\}$", re.S
)


def qwen_answer(response: str, source: str = "") -> str | None:
    """ "final answer is $...$. I hope" (the first), else after the last "boxed", "the answer is", "final answer
    is", else the last number of the text; normalised."""
    text = cut_at_stop(response)
    start = text.find(_HOPE[0])
    end = text.find(_HOPE[1], start + len(_HOPE[0])) if start >= 0 else -1
    if end >= 0:
        answer = text[start + len(_HOPE[0]) : end]
    elif "boxed" in text:
        answer = _after_boxed(text.rsplit("boxed", 1)[1])
    elif "he answer is" in text:
        answer = text.rsplit("he answer is", 1)[1]
    elif "final answer is" in text:
        answer = text.rsplit("final answer is", 1)[1]
    else:
        numbers = _NUMBER.findall(text.replace(",", ""))
        answer = numbers[-1] if numbers else ""
    answer = re.sub(r"\n\s*", "", answer.strip().split("\n\n")[0]).lstrip(":").rstrip("./")
    return normal_form(answer[:_LONGEST], source) or None


def _after_boxed(rest: str) -> str:
    """Braces matched where there are any; a bare or unterminated box runs on."""
    if not rest.startswith("{"):
        return rest.split("$", maxsplit=1)[0].strip()
    depth = 0
    for i, character in enumerate(rest):
        depth += (character == "{") - (character == "}")
        if depth == 0:
            return rest[1:i]
    return rest[1:]


def normal_form(text: str, source: str = "") -> str:
    """The notation in which the published evaluation compares; letters that look like units are gone."""
    text = text.strip().replace("\n", "").rstrip(".").replace("\\!", "")
    text = re.sub(r"\\begin\{array\}\{.*?\}", r"\\begin{pmatrix}", text).replace("\\end{array}", "\\end{pmatrix}")
    text = text.replace("bmatrix", "pmatrix").replace("tfrac", "frac").replace("dfrac", "frac")
    text = re.sub(r"\\neq?\b", r"\\ne ", text).replace("\\leq", "\\le").replace("\\geq", "\\ge")
    text = text.replace("\\left", "").replace("\\right", "").replace("\\{", "{").replace("\\}", "}")
    without_text = re.sub(r"\\text\{.*?\}$", "", text).strip()
    text = without_text or text
    if not any(name in source for name in KEEPS_UNITS):
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
    """The published verdict on an answer and a gold, both brought to its notation (in training only the answer)."""
    if gold.strip() in ("A", "B", "C", "D", "E"):
        choices = _CHOICE.findall(answer.upper())
        return bool(choices) and choices[-1] == gold.strip()
    answer = normal_form(answer, source)
    if not gold_as_written:
        return _equal(answer, normal_form(gold, source), 0)
    if _UNREAD.search(gold):
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


def _near(a: float, g: float) -> bool:
    return abs(a - g) <= _RELATIVE * max(abs(a), abs(g))


def _equal(a: str, g: str, depth: int) -> bool:  # noqa: PLR0911 - the published order of checks
    if not g or a.lower() == g.lower():
        return True
    if not a or depth > 3:
        return False
    x, y = _number(a), _number(g)
    if x is not None and y is not None:
        return any(_near(x, scaled) for scaled in (y / 100, y, y * 100))
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
    return _same(a, g) or ("," in g and "," in a and _pairwise(a, g, depth))


def _pairwise(a: str, g: str, depth: int) -> bool:
    parts_a, parts_g = (split_top(text, frozenset(","))[0] for text in (a, g))
    return len(parts_a) == len(parts_g) > 1 and all(
        _equal(p, q, depth + 1) for p, q in zip(parts_a, parts_g, strict=True)
    )


def _same(a: str, g: str) -> bool:
    a, g = (re.sub(r"\\(?:cdot|times)", "*", text.replace("\\div", "/")) for text in (a, g))
    if re.sub(r"\s", "", a) == re.sub(r"\s", "", g):  # a gold as written keeps its spaces
        return True
    verdict = algebra.expressions_equal(a, g)
    if verdict is None and not algebra.is_out_of_reach(a):
        from simplerl.rewards.symbolic import symbolic_status

        return symbolic_status(a, g) == "equal"
    return bool(verdict)
