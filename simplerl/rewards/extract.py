r"""Where the final answer stands in a response. Nothing here judges or evaluates it; all is linear in the text.

Decided once, for every reward:
- Text from the first stop string on does not exist.
- Strict: the content of the last well-formed \boxed{...} (braces matched, any nesting, `\{ \}` literal).
  Unclosed boxes are ignored; a last box that is empty is no answer; of boxes within boxes the outer counts,
  unless it holds nothing else. Boxes are never joined and no alternatives are tried: several boxes are one
  shot, the last, and "3 or 4" within a box is one (wrong) answer.
- A box in a code block or in quoted text is a box. \fbox{} counts only where the caller says so.
- Lenient: the last box; else an unclosed last box; else the value after the last "answer is", "Answer:",
  "####", "A:"; else mathematics on the last line; else the last number.
"""

from __future__ import annotations

import re

STOP_STRINGS = ("</s>", "<|im_end|>", "<|endoftext|>", "<|im_start|>", "<|eot_id|>", "<|end_of_text|>")
_STOP = re.compile("|".join(map(re.escape, STOP_STRINGS)))
_BOX = {
    False: re.compile(r"\\boxed\s*\{|\\[{}]|[{}]"),
    True: re.compile(r"\\(?:f?boxed|fbox|framebox)\s*\{|\\[{}]|[{}]"),
}
_FIRST = {False: re.compile(r"\\boxed"), True: re.compile(r"\\(?:boxed|fbox|framebox)")}


def cut_at_stop(text: str) -> str:
    """The text before the first stop string."""
    found = _STOP.search(text)
    return text[: found.start()] if found else text


def last_boxed(text: str, *, fbox: bool = True) -> str | None:
    r"""Content of the last well-formed \boxed{} (by default also \fbox{}, \framebox{}), or None.

    For MATH-style solutions and responses alike; an empty last box gives "".
    """
    first = _FIRST[fbox].search(text)
    if first is None:
        return None
    open_braces: list[tuple[bool, int]] = []  # is it a box?, where its content starts
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
    """The strict answer, or None. Nested boxes that hold nothing else are unwrapped."""
    answer = last_boxed(cut_at_stop(response), fbox=fbox)
    return answer.strip() or None if answer is not None else None


_MARKER = re.compile(
    r"(?:final\s+answer|answer|result|solution)\s*(?:\*\*|__)?\s*(?:is|are|should be|would be|:|=)\s*(?:\*\*|__)?\s*:?"
    r"|^\s*A\s*:|####|答案(?:是|为|：|:)",
    re.I | re.M,
)
_ANSWER_LABEL = re.compile(r"(?:\*\*)?(?:final\s+)?answer(?:\*\*)?\s*:?(?:\*\*)?\s*(?=\\[(\[]|\$)", re.I)
_MATH = re.compile(r"\$\$(.+?)\$\$|\$([^$\n]+)\$|\\\((.+?)\\\)|\\\[(.+?)\\\]", re.S)
_AMOUNT = r"-?(?:\d{1,3}(?:,\d{3})+|\d+)(?:\.\d+)?|-?\.\d+"
_NUMBER = re.compile(rf"(?<![\w.])(?:\\?\$\s*)?((?:{_AMOUNT})(?:\s*/\s*(?:{_AMOUNT}))?(?:[eE][+-]?\d+)?)(\s*\\?%)?")
_SENTENCE_END = re.compile(r"\.(?=\s|$)|[!?](?=\s)|\n|。")
_TAIL = 4000  # characters of a response's end in which an answer without a marker is looked for


def lenient_answer(response: str) -> str | None:
    """The final answer wherever it stands, or None. Only reads: nothing is computed."""
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
    return _last_mention(last_line) or _last_mention(tail)


def _unclosed_box(text: str) -> str | None:
    start = text.rfind("\\boxed")
    if start < 0:
        return None
    rest = re.split(r"\n|\$|\\\)|\\\]", text[start + len("\\boxed") :].lstrip(" {"), maxsplit=1)[0]
    return rest.strip(" .}") or None


def _value_after(text: str) -> str | None:
    """The value that a marker announces: to the end of its sentence, mathematics first."""
    text = text.lstrip(" \t\n:*_")
    if math := _MATH.match(text):
        return _inside(math)
    end = _SENTENCE_END.search(text)
    sentence = (text[: end.start()] if end else text).strip(" *_.,:;$")
    if not sentence:
        return None
    if len(sentence.split()) <= 3 and (re.search(r"\d|[A-Z]\b|\\", sentence) or len(sentence.split()) == 1):
        return sentence
    return _last_mention(sentence) or (sentence if len(sentence) <= 60 else None)


def _last_mention(text: str) -> str | None:
    """The last formula or number of a text, whichever ends later."""
    best: tuple[int, str] | None = None
    for math in _MATH.finditer(text):
        best = (math.end(), _inside(math))
    for found in _NUMBER.finditer(text):
        if best is None or found.start() >= best[0]:
            best = (found.end(), re.sub(r"\s", "", found.group(1) + (found.group(2) or "")))
    return best[1] if best else None


def _inside(math: re.Match[str]) -> str:
    return next(group for group in math.groups() if group is not None).strip()
