r"""Parses an answer into its structure: a value, a collection, a tuple or interval, an equation, a matrix, ...

Collections ("1, -2", "1 or -2", `\{1,-2\}`, a union) are unordered. Tuples and intervals are ordered, and their kind
of bracket counts. An inequality in one variable and `x \in I` are parsed into the interval that they describe.
"""

from __future__ import annotations

import itertools
import re
from dataclasses import replace
from functools import lru_cache

from simplerl.rewards.characters import TEXT_GROUP
from simplerl.rewards.forms import (
    INFINITY,
    Congruence,
    Equation,
    Inequality,
    Matrix,
    Ordered,
    Structure,
    Unordered,
    Value,
    half_lines,
    intersection,
    interval,
    linear,
)
from simplerl.rewards.lists import are_verdicts, groups, is_row, labelled_parts
from simplerl.rewards.matrices import matrix_cells, rows_in_brackets, scaled_vector
from simplerl.rewards.numeric import parse_number
from simplerl.rewards.units import split_modulus, split_unit

MAX_NESTING = 6

_OPENING_TOKENS = {"(", "[", "{", "\\{", "\\langle", "\\lfloor", "\\lceil"}
_CLOSING_TOKENS = {")", "]", "}", "\\}", "\\rangle", "\\rfloor", "\\rceil"}
_TOKEN = re.compile(r"\\[A-Za-z]+|\\.|.", re.S)
_RELATIONS = {
    "=": "=", "<": "<", ">": ">", "\\le": "<=", "\\ge": ">=", "\\ne": "!=", "\\in": "in", "\\approx": "=",
    "\\equiv": "equiv",
}  # fmt: skip
_NAME = re.compile(r"(?:[A-Za-z]|\\[A-Za-z]+)(?:_(?:\w|\{[^{}]*\}))?'*(?:\([^()]*\))?")
_OVER_REALS = re.compile(rf"(?:{_NAME.pattern}|\([^()]*\))\s*(?:\\in\s*(?:\\mathbb\s*\{{?\s*R\s*\}}?|\\?R))?\s*")
_WORDS = re.compile(r"\\(?:text|mathrm|mbox)\s*\{[^{}\d]*\}")
_REAL = r"(?:\\mathbb\s*\{?\s*R\s*\}?|\\R(?![a-z])|(?:the set of )?all real(?:s| numbers))"
_REALS = re.compile(rf"\s*{_REAL}\s*", re.I)
_REALS_WITHOUT = re.compile(
    rf"\s*{_REAL}\s*(?:(?:\\setminus|-)\s*\\\{{(?P<set>[^{{}}]+)\\\}}|(?:except(?: for)?|other than|but) (?P<list>.+))",
    re.I,
)


@lru_cache(maxsize=16384)
def split_outside_brackets(text: str, separators: frozenset[str]) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Split at the separators that are outside all brackets; return the pieces and the separators found."""
    pieces: list[str] = []
    found: list[str] = []
    depth = start = 0
    for token in _TOKEN.finditer(text):
        piece = token.group()
        if piece in _OPENING_TOKENS:
            depth += 1
        elif piece in _CLOSING_TOKENS:
            depth -= 1
        elif piece in separators and depth == 0:
            pieces.append(text[start : token.start()].strip())
            found.append(piece)
            start = token.end()
    pieces.append(text[start:].strip())
    return tuple(pieces), tuple(found)


_COMMAS, _UNIONS = frozenset(",;"), frozenset(["\\cup"])
_OR, _AND = frozenset(["\\vee"]), frozenset(["\\wedge"])  # between relations, see `normalize`
_RELATION_SIGN = re.compile(r"[<>=]|\\(?:le|ge|ne|in)(?![a-z])")
_SIGNS = re.compile(r"\\[pm][pm](?![a-z])")
_RELATION_TOKENS = frozenset(_RELATIONS)


@lru_cache(maxsize=8192)
def parse_structure(text: str, depth: int = 0) -> Structure:  # noqa: PLR0911 - one return per kind
    """Return the structure of a normalised answer. Anything nested deeper than MAX_NESTING is a Value."""
    text = text.strip()
    if depth > MAX_NESTING or _is_number(text):
        return Value(text)
    if (found := _real_intervals(text) or _labelled(text, depth)) is not None:
        return found
    text = _outward_brackets(text)
    pieces, separators = split_outside_brackets(text, _COMMAS)
    if len(pieces) > 1 and all(pieces):
        return _grouped(pieces, separators, depth) or _conditions(pieces, depth)
    if (joined := _joined_conditions(text, depth)) is not None:
        return joined
    pieces, _ = split_outside_brackets(text, _UNIONS)
    if len(pieces) > 1 and all(pieces):
        return replace(_collection(pieces, depth, open_sets=True), joined="or")
    pieces, operators = split_outside_brackets(text, _RELATION_TOKENS)
    if operators and all(pieces):
        return _parse_relation(pieces, tuple(_RELATIONS[o] for o in operators), depth)
    if (bracketed := _bracketed(text)) is not None:
        return _parse_bracketed(text, *bracketed, depth)
    if (cells := matrix_cells(text)) is not None:
        return _matrix(cells, depth)
    if (vector := scaled_vector(text)) is not None:
        opening, items, transposed = vector
        if transposed:
            return _matrix([[item] for item in items], depth)
        return Ordered(
            opening, tuple(parse_structure(item, depth + 1) for item in items), ")" if opening == "(" else "]"
        )
    if _SIGNS.search(text):
        if two := _plus_minus_values(text):
            return Unordered(two)
        values = [text.replace("\\pm", a).replace("\\mp", b) for a, b in (("+", "-"), ("-", "+"))]
        return Unordered(tuple(parse_structure(value.lstrip("+ "), depth + 1) for value in values))
    return Value(text)


def _is_number(text: str) -> bool:
    """Return whether the text is a number; one with thousands may have a unit: $1,234."""
    return parse_number(text if "," not in text else split_unit(text).value) is not None


def _matrix(cells: list[list[str]], depth: int) -> Matrix:
    return Matrix(tuple(tuple(parse_structure(cell, depth + 1) for cell in row) for row in cells))


def _plus_minus_values(text: str) -> tuple[Value, Value] | None:
    r"""Return the two values of 2 \pm 1, which is a way to write 1 and 3 and not an unfinished sum; else None."""
    left, _, right = re.sub(_SIGNS, "\n", text, count=1).partition("\n")
    a, b = parse_number(left), parse_number(right)
    if a is None or b is None or a.decimal or b.decimal or not left.strip():
        return None
    return Value(str(a.value + b.value)), Value(str(a.value - b.value))


def _real_intervals(text: str) -> Structure | None:
    r"""Return the interval of \mathbb{R} or "all reals", or the intervals left when numbers are excluded; else None."""
    if "real" not in text and "R" not in text:
        return None
    text = TEXT_GROUP.sub(r"\1 ", text)
    if _REALS.fullmatch(text):
        return interval("(", "-" + INFINITY, INFINITY, ")")
    if (found := _REALS_WITHOUT.fullmatch(text)) is None:
        return None
    points = found["set"] or found["list"]
    pieces = [piece.strip() for piece in points.split(",")]
    values = {piece: one.value for piece in pieces if (one := parse_number(piece)) is not None}
    if not pieces or len(values) < len(pieces):
        return None
    ends = ["-" + INFINITY, *sorted(values, key=values.__getitem__), INFINITY]
    return Unordered(tuple(interval("(", low, high, ")") for low, high in itertools.pairwise(ends)))


def _collection(pieces: tuple[str, ...], depth: int, *, open_sets: bool) -> Unordered:
    """Return the pieces as one list; nested lists are merged into it. open_sets: also merge sets in braces."""
    items: list[Structure] = []
    for piece in pieces:
        item = parse_structure(piece, depth + 1)
        items.extend(item.items if isinstance(item, Unordered) and (open_sets or not item.braces) else [item])
    return Unordered(tuple(items))


def _labelled(text: str, depth: int) -> Structure | None:
    parts = labelled_parts(text) if depth == 0 else ()
    return Ordered("(", tuple(parse_structure(part, 1) for part in parts), ")") if parts else None


def _grouped(pieces: tuple[str, ...], separators: tuple[str, ...], depth: int) -> Structure | None:
    """Return a list of verdicts in order, or groups in any order: rows of a value and its condition, or lists; else
    None."""
    if are_verdicts(pieces):
        return Ordered("(", tuple(map(Value, pieces)), ")")
    found = groups(pieces, separators)
    parsed = [tuple(parse_structure(piece, depth + 2) for piece in group) for group in found]
    if any(map(is_row, found)):
        return Unordered(tuple(Ordered("", row, "") for row in parsed))
    return Unordered(tuple(map(Unordered, parsed))) if found else None


def _conditions(pieces: tuple[str, ...], depth: int) -> Structure:
    """Return the items of a list; conditions that must all hold (x > 1, x < 3, or with x != 2) are intersected."""
    several = _collection(pieces, depth, open_sets=False)
    if any(re.search(r"\\ne(?![a-z])", piece) for piece in pieces):
        return intersection([parse_structure(piece, depth + 1) for piece in pieces]) or several
    both = intersection(several.items) if half_lines(several.items) else None
    return both if isinstance(both, Ordered) else several


def _joined_conditions(text: str, depth: int) -> Structure | None:
    """Return the set of numbers that relations joined by "or", else by "and", describe, or None if the text has
    neither; x > 3 or x < 5 is not the interval (3,5)."""
    for joined, sign in (("or", _OR), ("and", _AND)):
        pieces, _ = split_outside_brackets(text, sign)
        if len(pieces) == 1 or not all(map(_RELATION_SIGN.search, pieces)):
            continue  # p \\vee q
        if joined == "and":
            both = intersection([parse_structure(piece, depth + 1) for piece in pieces])
            if both is not None:
                return both
        return replace(_collection(pieces, depth, open_sets=False), joined=joined)
    return None


def _outward_brackets(text: str) -> str:
    """Return the text with intervals such as ]2,5[ written as (2,5)."""
    if "]" not in text[:1] and "[" not in text[-1:]:
        return text
    text = re.sub(r"\]([^\[\]]*,[^\[\]]*)\[", r"(\1)", text)
    return re.sub(r"^\]([^\[\]]*,[^\[\]]*)\]$", r"(\1]", re.sub(r"^\[([^\[\]]*,[^\[\]]*)\[$", r"[\1)", text))


def _bracketed(text: str) -> tuple[str, str, str] | None:
    """Return (opening, content, closing) if the last bracket closes the first, as also in (0,1]; else None."""
    tokens = _TOKEN.findall(text)
    opening, closing = tokens[0] if tokens else "", tokens[-1] if tokens else ""
    if opening not in ("(", "[", "\\{", "\\langle") or closing not in (")", "]", "\\}", "\\rangle"):
        return None
    depth = 0
    for i, token in enumerate(tokens):
        depth += (token in _OPENING_TOKENS) - (token in _CLOSING_TOKENS)
        if depth == 0 and i < len(tokens) - 1:
            return None
    return opening, text[len(opening) : len(text) - len(closing)].strip(), closing


def _parse_bracketed(text: str, opening: str, inside: str, closing: str, depth: int) -> Structure:
    if opening == "\\{" and closing == "\\}":
        for bar in ("|", ":"):
            head, found = split_outside_brackets(inside, frozenset([bar]))
            if len(found) == 1 and head[1]:
                condition = parse_structure(head[1], depth + 1)
                named = not isinstance(condition, Value) and _OVER_REALS.fullmatch(head[0])
                return _without_variable(condition) if named else Value(text)
        pieces, _ = split_outside_brackets(inside, _COMMAS)  # within braces 4,112 is two numbers
        listed = len(pieces) > 1 and all(pieces)
        content = _conditions(pieces, depth + 1) if listed else parse_structure(inside, depth + 1)
        items = content.items if isinstance(content, Unordered) and not content.braces else (content,)
        return Unordered(items, braces=True)
    if (opening, closing) == ("[", "]") and (rows := rows_in_brackets(inside)) is not None:
        return _matrix(rows, depth)
    pieces, _ = split_outside_brackets(inside, _COMMAS)
    if len(pieces) < 2 or not all(pieces):
        return parse_structure(inside, depth + 1) if opening == "(" and closing == ")" else Value(text)
    items = tuple(parse_structure(piece, depth + 1) for piece in pieces)
    if opening == "\\langle":
        opening, closing = "(", ")"
    if all(isinstance(item, Equation) for item in items):
        return Unordered(items)
    if len(items) == 2 and opening in "([":
        opening = "(" if pieces[0] == "-" + INFINITY else opening
        closing = ")" if pieces[1] == INFINITY else closing
    return Ordered(opening, items, closing)


def _without_variable(condition: Structure) -> Structure:
    """Drop the name of the variable of {x | x > 3}, which may have any name."""
    if isinstance(condition, Ordered):
        return replace(condition, variable="")
    if isinstance(condition, Unordered):
        return replace(condition, items=tuple(map(_without_variable, condition.items)))
    return condition


def _parse_relation(sides: tuple[str, ...], operators: tuple[str, ...], depth: int) -> Structure:  # noqa: PLR0911 - one return per relation
    if set(operators) == {"="}:
        return Equation(sides)
    if set(operators) == {"equiv"}:
        last, modulus = split_modulus(sides[-1])
        return Congruence((*sides[:-1], last), modulus)
    if operators == ("in",):
        named = _NAME.fullmatch(sides[0])
        return parse_structure(sides[1], depth + 1) if named else Value(f"{sides[0]}\\in {sides[1]}")
    if operators == ("!=",):
        if not _NAME.fullmatch(sides[0]):
            return Inequality(sides, operators)
        name, point = sides
        below = interval("(", "-" + INFINITY, point, ")", name)
        return Unordered((below, interval("(", point, INFINITY, ")", name)))
    if set(operators) <= {">", ">="}:
        sides = sides[::-1]
        operators = tuple(o.replace(">", "<") for o in operators[::-1])
    if not set(operators) <= {"<", "<="}:
        return Value(" ".join(itertools.chain(*itertools.zip_longest(sides, operators, fillvalue=""))).strip())
    if len(sides) == 2 and (around := _absolute_value(sides, operators[0])) is not None:
        return around
    first, last = ("[" if operators[0] == "<=" else "("), ("]" if operators[-1] == "<=" else ")")
    if len(sides) == 3 and _NAME.fullmatch(sides[1]):
        low, name, high = sides
        return interval("(" if low == "-" + INFINITY else first, low, high, ")" if high == INFINITY else last, name)
    if len(sides) == 2 and _NAME.fullmatch(sides[0]) and not _NAME.fullmatch(sides[1]):
        return interval("(", "-" + INFINITY, sides[1], last, sides[0])
    if len(sides) == 2 and _NAME.fullmatch(sides[1]) and not _NAME.fullmatch(sides[0]):
        return interval(first, sides[0], INFINITY, ")", sides[1])
    return Inequality(sides, operators)


def _absolute_value(sides: tuple[str, ...], operator: str) -> Structure | None:
    """Return the intervals of |2x-1| < 3 or 3 < |x|, with a positive number; None for any other relation."""
    bars = [re.fullmatch(r"\|([^|]+)\|", side.strip()) for side in sides]
    inside = bars[0] or bars[1]
    number = parse_number(sides[0 if bars[1] else 1])
    if inside is None or number is None or number.value <= 0 or (line := linear(inside[1])) is None:
        return None
    name, slope, constant = line
    low, high = sorted((sign * number.value - constant) / slope for sign in (-1, 1))
    closed = operator == "<="
    if bars[0]:
        return interval("[" if closed else "(", str(low), str(high), "]" if closed else ")", name)
    below = interval("(", "-" + INFINITY, str(low), "]" if closed else ")", name)
    return Unordered((below, interval("[" if closed else "(", str(high), INFINITY, ")", name)), joined="or")


def is_label(text: str, *, gold: bool) -> bool:
    """Return whether a left side only names the quantity that follows: x, f(x), S_{n}, (x, y), AB, \\text{Area}.

    In a gold answer it must be one name. In an answer it may also be a sum or product of names (m+n = 371) without
    numbers: 2x+z = 1 is an equation and not the value 1.
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
    name = r"[A-Za-z]{1,2}"
    if not gold and re.fullmatch(rf"\\frac\s*\{{{name}\}}\s*\{{{name}\}}|{name}\s*/\s*{name}", text):
        return True
    return not gold and not re.search(r"[\d*/^=<>-]|\\frac|\\sqrt", bare)


def gold_alternatives(gold: str) -> tuple[str, ...]:
    """Split a gold answer that states a set twice, such as `x < -7: (-\\infty, -7)`; return any other one alone."""
    condition, colon, interval = gold.partition(":")
    is_double = bool(colon) and re.search(r"[<>]|\\[lg]e\b", condition) and interval.strip()[:1] in ("(", "[")
    return (condition, interval) if is_double else (gold,)
