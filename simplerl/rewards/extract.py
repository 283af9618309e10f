r"""Extracts the final answer from a response, without comparing or evaluating it, in time linear in the text.

The rules are the same for every reward:
- The response ends at the first stop string.
- Strict extraction takes the content of the last well-formed \boxed{...}: braces match at any depth, and `\{ \}` are
  literal. Unclosed boxes are ignored, and an empty last box means no answer. The outer of two nested boxes counts.
  Boxes are never combined, and no alternatives are tried: only the last of several boxes counts, and "3 or 4" in a box
  is one (wrong) answer.
- A box in a code block or in quoted text counts. \fbox{} counts only if the caller asks for it.
- Lenient extraction takes the last box, else an unclosed last box, else the value after the last "answer is",
  "Answer:", "####" or "A:", else mathematics on the last line, else the last number.
- Text between two dollar amounts is not a formula: it is recognised by a digit after the closing $, or by three plain
  words inside.
- "5 or 6" is one answer with two items, and so is a list that directly follows a marker; "20, up from 15" is 20.
- A number within an expression without math delimiters (sqrt(2), 5^2, 3y) is not extracted alone: the whole expression
  is the answer.
"""

from __future__ import annotations

import re

STOP_STRINGS = ("</s>", "<|im_end|>", "<|endoftext|>", "<|im_start|>", "<|eot_id|>", "<|end_of_text|>")
_STOP = re.compile("|".join(map(re.escape, STOP_STRINGS)))
_BOX = {
    False: re.compile(r"\\boxed\s*\{|\\\\(?!boxed)|\\[{}]|[{}]"),  # \\ ends a row, even before a brace
    True: re.compile(r"\\(?:f?boxed|fbox|framebox)\s*\{|\\\\(?!f?boxed|f(?:rame)?box)|\\[{}]|[{}]"),
}
_FIRST = {False: re.compile(r"\\boxed"), True: re.compile(r"\\(?:boxed|fbox|framebox)")}


def cut_at_stop(text: str) -> str:
    """Return the text before the first stop string."""
    found = _STOP.search(text)
    return text[: found.start()] if found else text


def last_boxed(text: str, *, fbox: bool = True) -> str | None:
    r"""Return the content of the last well-formed \boxed{} of a solution or response, or None.

    fbox: also accept \fbox{} and \framebox{}. An empty last box gives "".
    """
    first = _FIRST[fbox].search(text)
    if first is None:
        return None
    open_braces: list[tuple[bool, int]] = []  # (whether it opens a box, start of its content)
    best: tuple[int, int] | None = None
    for token in _BOX[fbox].finditer(text, first.start()):
        piece = token.group()
        if piece[-1] == "{" and piece != "\\{":
            open_braces.append((piece != "{", token.end()))
        elif piece == "}" and open_braces:
            is_box, start = open_braces.pop()
            if is_box:
                best = (start, token.start())
    return None if best is None else text[best[0] : best[1]]


def boxed_answer(response: str, *, fbox: bool = False) -> str | None:
    """Return the answer by strict extraction, or None if there is none."""
    answer = last_boxed(cut_at_stop(response), fbox=fbox)
    return answer.strip() or None if answer is not None else None


_MARKER = re.compile(
    r"(?:final\s+answer|answer|result|solution)\s*(?:\*\*|__)?\s*(?:is|are|should be|would be|:|=)\s*(?:\*\*|__)?\s*:?"
    r"|^\s*A\s*:|####|答案(?:是|为|：|:)",
    re.I | re.M,
)
_ANSWER_LABEL = re.compile(r"(?:\*\*)?(?:final\s+)?answer(?:\*\*)?\s*:?(?:\*\*)?\s*(?=\\[(\[]|\$)", re.I)
_PLAIN_WORD = re.compile(r"(?<![\\A-Za-z{])[A-Za-z]{2,}|\\(?:text|mbox|mathrm)\s*\{[^{}]*\}")
_MATH = re.compile(r"\$\$(.+?)\$\$|(?<!\\)\$((?:\\.|[^$\\\n])+)\$(?!\d)|\\\((.+?)\\\)|\\\[(.+?)\\\]", re.S)
_AMOUNT = r"-?(?:\d{1,3}(?:,\d{3})+|\d+)(?:\.\d+)?|-?\.\d+"
_NUMBER = re.compile(rf"(?<![\w.])(?:\\?\$\s*)?((?:{_AMOUNT})(?:\s*/\s*(?:{_AMOUNT}))?(?:[eE][+-]?\d+)?)(\s*\\?%)?")
_ITEM = rf"(?:\$(?:\\.|[^$\\\n])+\$(?!\d)|\\\((?:(?!\\\)).)+\\\)|\\?\$?\s?(?:{_AMOUNT})(?:/\d+)?(?![\w^]))"
_ITEMS = rf"{_ITEM}(?:,\s+{_ITEM}){{0,60}}"  # the space keeps 1,234,567 from matching in exponentially many ways
_CHOICES = re.compile(rf"{_ITEMS},?\s+or\s+{_ITEM}")
_LIST = re.compile(rf"{_ITEMS}(?:,?\s+(?:or|and)\s+{_ITEM}|(?<=.)(?=\.?\s*(?:$|\n)))")
_QUOTED = re.compile(r"""(?:"([^"\n]{1,80})"|“([^”\n]{1,80})”|`{1,3}([^`\n]{1,80})`{1,3})""")
_ASIDE = re.compile(
    rf"(\\?\$?\s?(?:{_AMOUNT})(?:\s*\\?%)?(?:\s+[a-z]+){{0,3}}),\s+(?!(?:and|or|so|then|thus|hence|giving|which)\b)[a-z]"
)
_EXPRESSION_BEFORE = re.compile(
    r"(?:[\^√/*·×+({\[]|[A-Za-z)\]}][-+*/^({]+)$"
)  # text before a number that is part of an expression
_EXPRESSION_AFTER = re.compile(
    r"\^|√|π|\\?(?:sqrt|pi)\b|[*/·×+]\s?(?:[\d(\\√]|[A-Za-z](?![A-Za-z]))|\((?![A-Za-z]{2})|[A-Za-z](?![A-Za-z])"
)
_SENTENCE_END = re.compile(r"\.(?=\s|$)|[!?](?=\s)|\n|。")
_MAX_EXPRESSION = 60  # characters of an expression that are read on each side of a number
_TAIL = 4000  # characters at the end of a response that are searched for an answer without a marker


def lenient_answer(response: str) -> str | None:
    """Return the answer by lenient extraction, or None if there is none."""
    text = cut_at_stop(response)
    if (boxed := last_boxed(text, fbox=True)) is not None and boxed.strip():
        return boxed.strip()
    if (unclosed := _unclosed_box(text)) is not None:
        return unclosed
    markers = list(_MARKER.finditer(text)) + list(_ANSWER_LABEL.finditer(text))
    for marker in sorted(markers, key=lambda m: m.start(), reverse=True):
        value = _value_after(text[marker.end() : marker.end() + _TAIL])
        if value is not None:
            return value
    tail = text[-_TAIL:].rstrip()
    last_line = tail.rsplit("\n", 1)[-1]
    return _last_formula_or_number(last_line) or _last_formula_or_number(tail)


def _unclosed_box(text: str) -> str | None:
    start = text.rfind("\\boxed")
    if start < 0:
        return None
    rest = re.split(r"\n|\$|\\\)|\\\]", text[start + len("\\boxed") :].lstrip(" {"), maxsplit=1)[0]
    return rest.strip(" .}") or None


def _value_after(text: str) -> str | None:
    """Return the value that follows a marker: a list, a formula, a quotation, or the value in the same sentence."""
    text = text.lstrip(" \t\n:*_")
    if (listed := _LIST.match(text)) and len(_items(listed.group())) > 1:
        return ", ".join(_items(listed.group()))
    if (math := _MATH.match(text)) and _is_math(math):
        return _content(math)
    if quoted := _QUOTED.match(text):
        return _content(quoted).strip(" .") or None
    if aside := _ASIDE.match(text):
        text = aside.group(1)
    end = _SENTENCE_END.search(text)
    sentence = (text[: end.start()] if end else text).strip(" *_.,:;$")
    if not sentence:
        return None
    if len(sentence.split()) <= 3 and (re.search(r"\d|[A-Z]\b|\\", sentence) or len(sentence.split()) == 1):
        return sentence
    return _last_formula_or_number(sentence) or (sentence if len(sentence) <= 60 else None)


def _last_formula_or_number(text: str) -> str | None:
    """Return the formula, number or choice ("3 or 4") that ends last in a text."""
    best: tuple[int, str] | None = None
    for math in _MATH.finditer(text):
        if _is_math(math):
            best = (math.end(), _content(math))
    for found in _NUMBER.finditer(text):
        if best is None or found.start() >= best[0]:
            best = (found.end(), _enclosing_expression(text, found))
    for choices in _CHOICES.finditer(text):
        if best is not None and choices.end() >= best[0]:
            best = (choices.end(), ", ".join(_items(choices.group())))
    return best[1] if best else None


def _is_math(math: re.Match[str]) -> bool:
    """Return whether a match between delimiters is mathematics, not the text between two dollar amounts."""
    words: list[str] = [] if math.group(2) is None else _PLAIN_WORD.findall(math.group(2))
    return len([word for word in words if not word.startswith("\\")]) < 3


def _items(listed: str) -> list[str]:
    pieces = re.split(r",?\s+(?:or|and)\s+|(?<=[\d$)]),\s+", listed)
    return [piece.strip(" $").removeprefix("\\(").removesuffix("\\)").strip(" \\$") for piece in pieces]


def _enclosing_expression(text: str, found: re.Match[str]) -> str:
    """Return a number, or the expression without spaces and math delimiters that contains it."""
    before = text[max(0, found.start(1) - _MAX_EXPRESSION) : found.start(1)]
    after = text[found.end(1) : found.end(1) + _MAX_EXPRESSION]
    left = re.split(r"[\s=:]", before)[-1].lstrip("*_\"'`$")
    right = re.split(r"[\s=]|[.,;:](?!\d)", after, maxsplit=1)[0].rstrip("*_\"'`$!?")
    if _EXPRESSION_BEFORE.search(left) or _EXPRESSION_AFTER.match(right):
        whole = left + found.group(1) + right
        if whole.startswith("(") and whole.count("(") > whole.count(")"):
            whole = whole[1:]
        if re.fullmatch(rf"[(\[{{]*({_AMOUNT})[)\]}}]*", whole) is None:
            return whole
    return re.sub(r"\s", "", found.group(1) + (found.group(2) or ""))


def _content(math: re.Match[str]) -> str:
    return next(group for group in math.groups() if group is not None).strip()
