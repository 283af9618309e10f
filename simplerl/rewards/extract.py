r"""Extracts the content of the last \boxed{} from a response or a solution, in time linear in the text.

- The response ends at the first end-of-text or turn token of any model family that is written out in it.
- A well-formed \boxed{...} has matching braces at any depth, and `\{ \}` are literal. Unclosed boxes are ignored, and
  an empty last box means no answer. The outer of two nested boxes counts.
- Boxes are never combined, and no alternatives are tried: only the last of several boxes counts, and "3 or 4" in a box
  is one (wrong) answer.
- A box in a code block or in quoted text counts. \fbox{} counts only if the caller asks for it.

`simplerl.rewards.free_text` extracts answers that are not in a box.
"""

from __future__ import annotations

import re

_OF = r"[_▁ ]?of[_▁ ]?(?:text|turn|sentence|message|document|role|utterance|prompt|response)|[_▁](?:text|turn|response)"
_EDGE = rf"(?:end|start|begin)(?:{_OF}|[_▁]header[_▁]id)(?:[_▁]token)?|(?:eo[stmdpah]|[bs]o[sp])(?:[_▁](?:id|token))?"
_ROLE = r"user|assistant|system|human|bot|observation"
_PART = rf"(?:im|turn|role|message|msg|header|text|response)[_▁](?:end|start|begin|sep|{_ROLE})"
# End-of-text and turn tokens: <|...|> of Qwen, Llama, Phi, Cohere, Granite and gpt-oss, <｜...｜> of DeepSeek, <...> of
# Gemma, [...] of Mistral. Tokens within a response, such as <|end_of_thought|>, are not among them.
_STOP = re.compile(
    rf"<[|｜](?:{_EDGE}|{_PART}|{_ROLE}|end|return)[|｜]>|\[\|(?:{_EDGE}|{_ROLE})\|\]|<(?:seed:)?(?:{_EDGE})>"
    r"|<turn\|>|<\|turn>|</s>|\[(?:/?INST|EO[ST])\]",
    re.I,
)
_BOX = {
    False: re.compile(r"\\boxed\s*\{|\\\\(?!boxed)|\\[{}]|[{}]"),  # \\ ends a row, even before a brace
    True: re.compile(r"\\(?:f?boxed|fbox|framebox)\s*\{|\\\\(?!f?boxed|f(?:rame)?box)|\\[{}]|[{}]"),
}
_FIRST = {False: re.compile(r"\\boxed"), True: re.compile(r"\\(?:boxed|fbox|framebox)")}


def cut_at_stop(text: str) -> str:
    """Return the text before the first end-of-text or turn token, such as <|im_end|>, that is written out in it."""
    found = _STOP.search(text) if _may_have_stop(text) else None
    return text[: found.start()] if found else text


def _may_have_stop(text: str) -> bool:
    """Return False only if the text has no end token: a search for single characters is faster than the pattern."""
    if "<" in text:
        return True
    start = text.find("[")
    while start >= 0:
        if text[start + 1 : start + 2] in ("|", "/", "I", "i", "E", "e"):
            return True
        start = text.find("[", start + 1)
    return False


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
    r"""Return the content of the last \boxed{} before the first end-of-text or turn token that is written out in the
    response; None if there is no box or it is empty."""
    answer = last_boxed(cut_at_stop(response), fbox=fbox)
    return answer.strip() or None if answer is not None else None
