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


def lenient_answer(response: str) -> str | None:
    """The final answer wherever it stands, or None."""
    return boxed_answer(response)
