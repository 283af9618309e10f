r"""Marks what is not a product of letters before two expressions are compared: function values, derivatives, angles.

f(x) may be a value of f or the product of f and x. A letter before a bracket is a function if it is never a factor in
either text and at least once has an argument without a sum, as in f(0), f(2x) or f(g(x)); before (0) it always is one.
So a(b+c), n(n+1)/2 and P(1.05)^t stay products. The marks are `\apply{f}(...)`, which `simplerl.rewards.latex` parses
as a call, and subscripts: \angle_{ABC}, \Delta_{x}, d_{y}.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise

from simplerl.rewards.latex import FUNCTIONS, GREEK, MAX_TOKENS, TOKEN

_MAY_BE_MARKED = re.compile(
    r"[A-Za-z0-9'}]\s*\(|\\(?:angle|triangle|Delta|partial)(?![A-Za-z])|(?<![A-Za-z])d\s?[A-Za-z\\]"
)
_NO_FUNCTIONS = {"e", "i", "\\pi", "\\infty", "\\Gamma", "\\partial", "\\nabla", "\\angle", "\\triangle"}
_BEFORE_OPERAND = {"^", "_", "\\frac", "\\sqrt", "\\binom"}  # of one token, if it has no braces
_OPERATOR_NAME = re.compile(r"\\mathrm\s*\{\s*([A-Za-z]+[a-z])\s*\}(?=\s*\()")
_FIGURE = re.compile(
    r"\\(angle|triangle)\s*(?:\{\s*([A-Z]\s*[A-Z]\s*[A-Z]|[A-Z])\s*\}|([A-Z]\s*[A-Z]\s*[A-Z]|[A-Z])(?![A-Za-z_'])(?!\s+[A-Z]))"
)
_SYMBOL = rf"(?:[A-Za-z]|\\(?:{'|'.join(sorted(GREEK))})(?![A-Za-z]))(?:_(?:\{{[^{{}}]*\}}|\w))?"
_DIFFERENCE = re.compile(rf"\\(Delta|partial)\s*(?:({_SYMBOL})|\{{\s*({_SYMBOL})\s*\}})")
_DERIVATIVE = re.compile(
    rf"\\frac\s*\{{\s*d\s*({_SYMBOL})?\s*\}}\s*\{{\s*d\s*({_SYMBOL})\s*\}}|(?<![A-Za-z])d\s?({_SYMBOL})?\s*/\s*d\s?({_SYMBOL})"
)
_MATRIX_WORD = re.compile(r"\s*(-?\d*)((?:\s*[A-Z](?:\s*\^\s*(?:\{\s*(?:-\s*1|T|\\top)\s*\}|T|\\top))?)+)\s*")
_MATRIX = re.compile(r"([A-Z])(?:\s*\^\s*\{?\s*(-\s*1|T|\\top))?")


@dataclass(frozen=True)
class _Name:
    """Holds an occurrence of a letter with its subscripts and primes; argument: the tokens of the bracket after it."""

    name: str
    start: int
    end: int
    argument: tuple[str, ...] = ()


def marked(answer: str, gold: str) -> tuple[str, str]:
    """Return the two texts with marks for what is not a product of letters in them."""
    if not _MAY_BE_MARKED.search(answer) and not _MAY_BE_MARKED.search(gold):
        return answer, gold
    texts = tuple(_with_figures(_OPERATOR_NAME.sub(r" \\apply{\1}", text)) for text in (answer, gold))
    tokens = [TOKEN.findall(text) for text in texts]
    if max(map(len, tokens)) > MAX_TOKENS:
        return answer, gold
    found = [list(_names(one)) for one in tokens]
    both = [name for names in found for name in names]
    functions = {one.name for one in both if one.argument and _is_of_function(one.argument)}
    functions -= {one.name for one in both if not one.argument}
    functions |= {one.name for one in both if one.argument[:3] == ("(", "0", ")")}
    first, second = (_with_calls(one, names, functions) for one, names in zip(tokens, found, strict=True))
    return first, second


def _with_figures(text: str) -> str:
    """Give an angle, a triangle, a difference or a derivative one symbol; an angle CBA has that of the angle ABC."""
    text = _FIGURE.sub(_figure, text)
    text = _DERIVATIVE.sub(_derivative, text)
    return _DIFFERENCE.sub(lambda of: f"\\{of[1]}_{{{_bare(of[2] or of[3])}}}", text)


def _derivative(found: re.Match[str]) -> str:
    above, below = found[1] or found[3] or "", found[2] or found[4]
    return f"\\frac{{d_{{{_bare(above)}}}}}{{d_{{{_bare(below)}}}}}"


def _figure(found: re.Match[str]) -> str:
    name = _bare(found[2] or found[3])
    return f"\\{found[1]}_{{{min(name, name[::-1])}}}"


def _bare(name: str) -> str:
    return re.sub(r"[{}\s]", "", name)


def _names(tokens: list[str]) -> Iterator[_Name]:
    """Yield the letters of a text that may be functions, each with its argument."""
    end = 0
    for start, token in enumerate(tokens):
        if start < end or token in _NO_FUNCTIONS or not _is_letter(token):
            continue
        end = _end_of_name(tokens, start)
        before = tokens[start - 1] if start else ""
        is_operand = before in _BEFORE_OPERAND or (before != "{" and tokens[max(start - 2, 0)] == "\\frac")
        argument = () if is_operand else _bracket(tokens, end)
        yield _Name("".join(one for one in tokens[start:end] if one not in "{}"), start, end, argument)


def _is_letter(token: str) -> bool:
    return (token.isalpha() and token.isascii()) or (token[0] == "\\" and token[1:] in GREEK - FUNCTIONS)


def _end_of_name(tokens: list[str], start: int) -> int:
    """Return the position after the subscripts and primes of the letter at `start`."""
    end = start + 1
    while end < len(tokens) and tokens[end] in ("_", "'"):
        opens = tokens[end] == "_" and tokens[end + 1 : end + 2] == ["{"]
        if opens and "}" not in tokens[end:]:
            return end
        end = tokens.index("}", end) + 1 if opens else end + (2 if tokens[end] == "_" else 1)
    return end


def _bracket(tokens: list[str], start: int) -> tuple[str, ...]:
    """Return the tokens of the bracket that opens at `start` and one token after it; () if none opens or it is not
    closed."""
    depth = 0
    for end in range(start, len(tokens) if tokens[start : start + 1] == ["("] else 0):
        depth += (tokens[end] == "(") - (tokens[end] == ")")
        if depth == 0:
            return tuple(tokens[start : end + 2])
    return ()


def _is_of_function(bracket: tuple[str, ...]) -> bool:
    """Return whether a bracket after a letter holds an argument: no sum within it and no exponent after it."""
    is_sum = any(sign in ("+", "-") and previous not in ("(", "{", "[") for previous, sign in pairwise(bracket[:-1]))
    return not is_sum and bracket[-1] != "^"


def _with_calls(tokens: list[str], names: list[_Name], functions: set[str]) -> str:
    r"""Return the text in which each function before a bracket is \apply{name}."""
    pieces = list(tokens)
    for one in names:
        if one.argument and one.name in functions:
            pieces[one.start : one.end] = [f"\\apply{{{one.name}}}", *[""] * (one.end - one.start - 1)]
    return " ".join(piece for piece in pieces if piece)


def same_matrix_product(answer: str, gold: str) -> bool | None:
    """Return whether two products of capital letters of which one is inverted or transposed, as in P^{-1}AP, have equal
    factors in the same order; None for any other texts."""
    a, g = _MATRIX_WORD.fullmatch(answer), _MATRIX_WORD.fullmatch(gold)
    if a is None or g is None or "^" not in answer + gold:
        return None
    return a[1] == g[1] and _reduced(a[2]) == _reduced(g[2])


def _reduced(product: str) -> list[tuple[str, str]]:
    """Return the factors as (letter, exponent), without a matrix beside its inverse."""
    factors: list[tuple[str, str]] = []
    for letter, exponent in _MATRIX.findall(product):
        factor = letter, exponent.replace(" ", "").replace("\\top", "T")
        if factors and factors[-1][0] == letter and {factors[-1][1], factor[1]} == {"", "-1"}:
            factors.pop()
        else:
            factors.append(factor)
    return factors
