r"""Finds LaTeX commands whose backslash JSON has read as part of an escape: "\frac" is a form feed and "rac".

JSON has the escapes \b, \f, \n, \r and \t, so a file in which the backslashes of LaTeX are not doubled is valid if its
commands begin with these letters, and its texts silently lose them.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

_NAMES = {"\b": "a backspace", "\f": "a form feed", "\n": "a line break", "\r": "a carriage return", "\t": "a tab"}
_LETTERS = {"\b": "b", "\f": "f", "\n": "n", "\r": "r", "\t": "t"}
# Commands, without their first letter, whose rest is not a word, so that no text has it after a line break or tab.
_COMMANDS = {
    "\n": (
        "eq|eg|abla|ot|otin|ewline|ewcommand|geq|leq|geqslant|leqslant|subseteq|ubseteq|atural|earrow|warrow|olimits|"
        "onumber|oindent|ormalsize|cong|sim|prec|succ"
    ),
    "\r": (
        "ight|ightarrow|ightharpoonup|ightleftharpoons|ightleftarrows|ho|ceil|brace|brack|vert|Vert|elax|enewcommand|"
        "oot|group|hd"
    ),
    "\t": (
        "ext|extbf|extit|extrm|extsf|exttt|extup|extnormal|extstyle|imes|heta|anh|frac|binom|ilde|riangle|"
        "riangleq|riangleleft|riangleright|ag|herefore|hinspace|hickapprox|hickspace|iny|woheadrightarrow"
    ),
}
_CERTAIN = re.compile(
    "\b|\f(?=[a-z])|" + "|".join(f"{sign}(?=(?:{rest})(?![a-zA-Z]))" for sign, rest in _COMMANDS.items())
)
# Rests that are words, names of variables or units: such a break counts only within $...$ of a text without commands.
_POSSIBLE = re.compile(
    r"\n(?=(?:u|e|i|mid)(?![a-zA-Z]))|\r(?=(?:angle|floor|m)(?![a-zA-Z]))|\t(?=(?:an|au|o|op)(?![a-zA-Z]))"
)
_COMMAND = re.compile(r"\\[a-zA-Z]")


def lost_backslash(value: Any, always: bool = True) -> str | None:
    """Return what is wrong with a value, or the texts of a chat or list, in which an escape of JSON stands for the
    beginning of a LaTeX command; None if there is no such text.

    always: also for a text that has kept other commands. It was damaged before this file was written, as in one
    question of MATH, so that doubling backslashes does not help."""
    for text in _texts(value):
        if not always and _COMMAND.search(text):
            continue
        found = _CERTAIN.search(text) or _in_mathematics(text)
        if found is not None:
            sign = found[0]
            rest = re.match(r"[a-zA-Z]*", text[found.end() :])
            command = f"\\{_LETTERS[sign]}{rest[0] if rest else ''}"
            return f"has {_NAMES[sign]} in place of {command[:2]} of {command} (double the backslashes: \\{command})"
    return None


def _in_mathematics(text: str) -> re.Match[str] | None:
    """Return the first possible damage between single dollar signs, in a text that has kept no command."""
    if "$" not in text or _COMMAND.search(text):
        return None
    return next((one for one in _POSSIBLE.finditer(text) if text.count("$", 0, one.start()) % 2), None)


def _texts(value: Any) -> Iterator[str]:
    """Yield a text, or the texts within a list or object."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping | list):
        for one in value.values() if isinstance(value, Mapping) else value:
            yield from _texts(one)
