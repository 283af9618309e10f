r"""What kind of thing an answer is: a value, several values, a tuple or interval, an equation, a matrix.

Several values ("1, -2", "1 or -2", `\{1,-2\}`, a union) have no order; tuples and intervals have one, and
their brackets count. A one-variable inequality and `x \in I` are the interval they describe.
"""

from __future__ import annotations

import itertools
import re
from dataclasses import dataclass
from functools import lru_cache

from simplerl.rewards.normalize import TEXT_GROUP
from simplerl.rewards.numeric import number
from simplerl.rewards.units import split_modulus

MAX_NESTING = 6


@dataclass(frozen=True)
class Value:
    text: str


@dataclass(frozen=True)
class Several:
    items: tuple[Shape, ...]
    braces: bool = False


@dataclass(frozen=True)
class Ordered:
    """A point, a sequence, or an interval; `variable` where it was written as an inequality."""

    opening: str
    items: tuple[Shape, ...]
    closing: str
    variable: str = ""


@dataclass(frozen=True)
class Equation:
    sides: tuple[str, ...]


@dataclass(frozen=True)
class Inequality:
    """left < right or left <= right that is no interval of one variable."""

    sides: tuple[str, ...]
    operators: tuple[str, ...]  # "<" or "<="


@dataclass(frozen=True)
class Congruence:
    """x = 3 (mod 5), written with \\equiv."""

    sides: tuple[str, ...]
    modulus: str


@dataclass(frozen=True)
class Matrix:
    rows: tuple[tuple[Shape, ...], ...]


Shape = Value | Several | Ordered | Equation | Inequality | Congruence | Matrix

_OPENING, _CLOSING = (
    {"(", "[", "{", "\\{", "\\langle", "\\lfloor", "\\lceil"},
    {")", "]", "}", "\\}", "\\rangle", "\\rfloor", "\\rceil"},
)
_TOKEN = re.compile(r"\\[A-Za-z]+|\\.|.", re.S)
_RELATIONS = {
    "=": "=",
    "<": "<",
    ">": ">",
    "\\le": "<=",
    "\\ge": ">=",
    "\\ne": "!=",
    "\\in": "in",
    "\\approx": "=",
    "\\equiv": "equiv",
}
_NAME = re.compile(r"(?:[A-Za-z]|\\[A-Za-z]+)(?:_(?:\w|\{[^{}]*\}))?'*(?:\([^()]*\))?")
_OVER_REALS = re.compile(rf"(?:{_NAME.pattern}|\([^()]*\))\s*(?:\\in\s*(?:\\mathbb\s*\{{?\s*R\s*\}}?|\\R))?\s*")
_WORDS = re.compile(r"\\(?:text|mathrm|mbox)\s*\{[^{}\d]*\}")
_INFINITY = "\\infty"
_MATRIX = re.compile(r"\\begin\{pmatrix\}(.*)\\end\{pmatrix\}", re.S)
_REAL = r"(?:\\mathbb\s*\{?\s*R\s*\}?|\\R(?![a-z])|(?:the set of )?all real(?:s| numbers))"
_REALS = re.compile(rf"\s*{_REAL}\s*", re.I)
_REALS_WITHOUT = re.compile(
    rf"\s*{_REAL}\s*(?:(?:\\setminus|-)\s*\\\{{(?P<set>[^{{}}]+)\\\}}|(?:except(?: for)?|other than|but) (?P<list>.+))",
    re.I,
)


@lru_cache(maxsize=16384)
def split_top(text: str, separators: frozenset[str]) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Pieces between separators that stand outside all brackets, and the separators."""
    pieces: list[str] = []
    found: list[str] = []
    depth = start = 0
    for token in _TOKEN.finditer(text):
        piece = token.group()
        if piece in _OPENING:
            depth += 1
        elif piece in _CLOSING:
            depth -= 1
        elif piece in separators and depth == 0:
            pieces.append(text[start : token.start()].strip())
            found.append(piece)
            start = token.end()
    pieces.append(text[start:].strip())
    return tuple(pieces), tuple(found)


_COMMAS, _UNIONS = frozenset(",;"), frozenset(["\\cup"])
_SIGNS = re.compile(r"\\[pm][pm](?![a-z])")
_RELATION_TOKENS = frozenset(_RELATIONS)


def shape(text: str, depth: int = 0) -> Shape:  # noqa: PLR0911 - a kind each
    """The structure of a cleaned answer."""
    text = text.strip()
    if depth > MAX_NESTING or number(text) is not None:
        return Value(text)
    if (reals := _reals(text)) is not None:
        return reals
    pieces, _ = split_top(text, _COMMAS)
    if len(pieces) > 1 and all(pieces):
        return _several(pieces, depth)
    pieces, _ = split_top(text, _UNIONS)
    if len(pieces) > 1 and all(pieces):
        return _flat(tuple(shape(piece, depth + 1) for piece in pieces))
    pieces, operators = split_top(text, _RELATION_TOKENS)
    if operators and all(pieces):
        return _relation(pieces, tuple(_RELATIONS[o] for o in operators), depth)
    if (bracketed := _bracketed(text)) is not None:
        return _brackets(text, *bracketed, depth)
    if found := _MATRIX.fullmatch(text):
        rows = [row.split("&") for row in found.group(1).split("\\\\") if row.strip()]
        return Matrix(tuple(tuple(shape(cell, depth + 1) for cell in row) for row in rows))
    if _SIGNS.search(text):
        if two := _both(text):
            return Several(two)
        values = [text.replace("\\pm", a).replace("\\mp", b) for a, b in (("+", "-"), ("-", "+"))]
        return Several(tuple(shape(value.lstrip("+ "), depth + 1) for value in values))
    return Value(text)


def _both(text: str) -> tuple[Value, Value] | None:
    r"""2 \pm 1 is a way to write 1 and 3, not a sum left undone."""
    left, _, right = re.sub(_SIGNS, "\n", text, count=1).partition("\n")
    a, b = number(left), number(right)
    if a is None or b is None or a.decimal or b.decimal or not left.strip():
        return None
    return Value(str(a.value + b.value)), Value(str(a.value - b.value))


def _reals(text: str) -> Shape | None:
    r"""\mathbb{R} or "all reals", or the intervals that are left of them without given numbers."""
    if "real" not in text and "R" not in text:
        return None
    text = TEXT_GROUP.sub(r"\1 ", text)
    if _REALS.fullmatch(text):
        return _interval("(", "-" + _INFINITY, _INFINITY, ")")
    if (found := _REALS_WITHOUT.fullmatch(text)) is None:
        return None
    points = found["set"] or found["list"]
    pieces = [piece.strip() for piece in points.split(",")]
    values = {piece: one.value for piece in pieces if (one := number(piece)) is not None}
    if not pieces or len(values) < len(pieces):
        return None
    ends = ["-" + _INFINITY, *sorted(values, key=values.__getitem__), _INFINITY]
    return Several(tuple(_interval("(", low, high, ")") for low, high in itertools.pairwise(ends)))


def _several(pieces: tuple[str, ...], depth: int) -> Shape:
    items: list[Shape] = []
    for piece in pieces:
        item = shape(piece, depth + 1)
        items.extend(item.items if isinstance(item, Several) and not item.braces else [item])
    return Several(tuple(items))


def _flat(items: tuple[Shape, ...]) -> Shape:
    return Several(tuple(part for item in items for part in (item.items if isinstance(item, Several) else [item])))


def _bracketed(text: str) -> tuple[str, str, str] | None:
    """(opening, inside, closing) where the first bracket is closed by the last; intervals may mix ( and ]."""
    tokens = _TOKEN.findall(text)
    opening, closing = tokens[0] if tokens else "", tokens[-1] if tokens else ""
    if opening not in ("(", "[", "\\{", "\\langle") or closing not in (")", "]", "\\}", "\\rangle"):
        return None
    depth = 0
    for i, token in enumerate(tokens):
        depth += (token in _OPENING) - (token in _CLOSING)
        if depth == 0 and i < len(tokens) - 1:
            return None
    return opening, text[len(opening) : len(text) - len(closing)].strip(), closing


def _brackets(text: str, opening: str, inside: str, closing: str, depth: int) -> Shape:
    if opening == "\\{" and closing == "\\}":
        for bar in ("|", ":"):
            head, found = split_top(inside, frozenset([bar]))
            if len(found) == 1 and head[1]:
                condition = shape(head[1], depth + 1)
                named = not isinstance(condition, Value) and _OVER_REALS.fullmatch(head[0])
                return condition if named else Value(text)
        content = shape(inside, depth + 1)
        items = content.items if isinstance(content, Several) and not content.braces else (content,)
        return Several(items, braces=True)
    pieces, _ = split_top(inside, _COMMAS)
    if len(pieces) < 2 or not all(pieces):
        return shape(inside, depth + 1) if opening == "(" and closing == ")" else Value(text)
    items = tuple(shape(piece, depth + 1) for piece in pieces)
    if opening == "\\langle":
        opening, closing = "(", ")"
    if all(isinstance(item, Equation) for item in items):
        return Several(items)
    if len(items) == 2 and opening in "([":
        opening = "(" if pieces[0] == "-" + _INFINITY else opening
        closing = ")" if pieces[1] == _INFINITY else closing
    return Ordered(opening, items, closing)


def _interval(opening: str, low: str, high: str, closing: str, variable: str = "") -> Ordered:
    return Ordered(opening, (Value(low), Value(high)), closing, variable)


def _relation(sides: tuple[str, ...], operators: tuple[str, ...], depth: int) -> Shape:  # noqa: PLR0911 - a relation each
    if set(operators) == {"="}:
        return Equation(sides)
    if set(operators) == {"equiv"}:
        last, modulus = split_modulus(sides[-1])
        return Congruence((*sides[:-1], last), modulus)
    if operators == ("in",):
        return shape(sides[1], depth + 1) if _NAME.fullmatch(sides[0]) else Value(f"{sides[0]}\\in {sides[1]}")
    if operators == ("!=",):
        if not _NAME.fullmatch(sides[0]):
            return Inequality(sides, operators)
        name = sides[0]
        below, above = (
            _interval("(", "-" + _INFINITY, sides[1], ")", name),
            _interval("(", sides[1], _INFINITY, ")", name),
        )
        return Several((below, above))
    if set(operators) <= {">", ">="}:
        sides = sides[::-1]
        operators = tuple(o.replace(">", "<") for o in operators[::-1])
    if not set(operators) <= {"<", "<="}:
        return Value(" ".join(sides))
    first, last = ("[" if operators[0] == "<=" else "("), ("]" if operators[-1] == "<=" else ")")
    if len(sides) == 3 and _NAME.fullmatch(sides[1]):
        low, name, high = sides
        return _interval("(" if low == "-" + _INFINITY else first, low, high, ")" if high == _INFINITY else last, name)
    if len(sides) == 2 and _NAME.fullmatch(sides[0]) and not _NAME.fullmatch(sides[1]):
        return _interval("(", "-" + _INFINITY, sides[1], last, sides[0])
    if len(sides) == 2 and _NAME.fullmatch(sides[1]) and not _NAME.fullmatch(sides[0]):
        return _interval(first, sides[0], _INFINITY, ")", sides[1])
    return Inequality(sides, operators)


def is_label(text: str, *, gold: bool) -> bool:
    """Whether a left side only names what is asked for: x, f(x), S_{n}, (x, y), AB, \\text{Area}.

    A gold label is one name; an answer may also name a sum or product (m+n = 371), but never with numbers in it:
    2x+z = 1 is an equation, not the value 1.
    """
    bare = re.sub(r"_(?:\w|\{[^{}]*\})|\([^()]*\)(?=$|[:])", "", text)
    if (found := _WORDS.search(text)) and (found.start() == 0 or not re.search(r"\d", bare)):
        return True
    if _NAME.fullmatch(text):
        return True
    if re.fullmatch(
        r"\([A-Za-z\\, ]+\)|\|?[A-Z]{1,6}'*\|?(?:_\w+)?|\\angle\s*[A-Z_{}0-9 ]+|[A-Z]+\s*:\s*[A-Z]+|[a-z]{4,}[a-z ]*",
        text.strip(),
    ):
        return True
    if re.fullmatch(r"[A-Z](?:_\{?\w+\}?)?\s*:\s*[A-Z](?:_\{?\w+\}?)?", text):
        return True
    return not gold and not re.search(r"[\d*/^=<>-]|\\frac|\\sqrt", bare)


def alternatives(gold: str) -> tuple[str, ...]:
    """Answer keys that say it twice, as `x < -7: (-\\infty, -7)`."""
    condition, colon, interval = gold.partition(":")
    is_double = bool(colon) and re.search(r"[<>]|\\[lg]e\b", condition) and interval.strip()[:1] in ("(", "[")
    return (condition, interval) if is_double else (gold,)


def by_name(several: Several) -> Several:
    """y = 2, x = 1 in the order of the names, where all are different single letters."""
    names = [item.sides[0].strip() for item in several.items if isinstance(item, Equation)]
    if len(names) < len(several.items) or len(set(names)) < len(names) or any(len(name) > 1 for name in names):
        return several
    return Several(tuple(item for _, item in sorted(zip(names, several.items, strict=True), key=lambda pair: pair[0])))
