"""Defines the structures that an answer can have, and intersects the intervals that its inequalities describe.

`simplerl.rewards.structure` parses a text into one of them; `simplerl.rewards.comparison` compares two of them.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache

from simplerl.rewards.algebra import parse_or_none
from simplerl.rewards.evaluation import Evaluator, NotComputable, constant_value, variables
from simplerl.rewards.latex import nodes

INFINITY = "\\infty"
MAX_INTERVALS = 20  # of each condition that is intersected


@dataclass(frozen=True)
class Value:
    """Holds a text without further structure: a number, an expression or words."""

    text: str


@dataclass(frozen=True)
class Unordered:
    """Holds the items of a list, set or union. braces: it is written {...}.

    joined: "or" if it is a union or its items are relations joined by "or", "and" if they are joined by "and",
    otherwise "". A collection joined by "or" never equals one joined by "and".
    """

    items: tuple[Structure, ...]
    braces: bool = False
    joined: str = ""


@dataclass(frozen=True)
class Ordered:
    """Holds a point, a sequence or an interval. variable: the name of the variable if it is written as an inequality,
    otherwise ""."""

    opening: str  # "(", "[" or another bracket, or "" for a value and its condition; so is `closing`
    items: tuple[Structure, ...]
    closing: str
    variable: str = ""


@dataclass(frozen=True)
class Equation:
    """Holds two or more sides joined by "="."""

    sides: tuple[str, ...]


@dataclass(frozen=True)
class Inequality:
    """Holds left < right, left <= right or left != right, if it does not describe an interval of one variable."""

    sides: tuple[str, ...]
    operators: tuple[str, ...]  # "<", "<=" or "!="


@dataclass(frozen=True)
class Congruence:
    """Holds a statement such as x \\equiv 3 (mod 5)."""

    sides: tuple[str, ...]  # as in x \equiv 3: x, 3
    modulus: str  # as written: 5


@dataclass(frozen=True)
class Matrix:
    """Holds rows of cells; a vector has one row or one column."""

    rows: tuple[tuple[Structure, ...], ...]


Structure = Value | Unordered | Ordered | Equation | Inequality | Congruence | Matrix


def interval(opening: str, low: str, high: str, closing: str, variable: str = "") -> Ordered:
    """Return the interval between two ends, described by inequalities in `variable` if that is set."""
    return Ordered(opening, (Value(low), Value(high)), closing, variable)


def rows_of_lists(structure: Structure) -> Matrix | None:
    """Return a list in square brackets whose items are all lists in square brackets or parentheses, such as
    [[1,2],[3,4]], as a matrix of these rows; None for any other structure. Rows may differ in length."""
    if not isinstance(structure, Ordered) or structure.opening != "[":
        return None
    rows = [item.items for item in structure.items if isinstance(item, Ordered) and item.opening in "[("]
    return Matrix(tuple(rows)) if len(rows) == len(structure.items) else None


def without_groups(several: Unordered) -> tuple[Structure, ...]:
    """Return the items of a list with the items of its groups in place of the groups; see `lists.groups`."""
    return tuple(
        itertools.chain.from_iterable(
            item.items
            if (isinstance(item, Unordered) and not item.braces) or (isinstance(item, Ordered) and not item.opening)
            else (item,)
            for item in several.items
        )
    )


def sorted_by_name(several: Unordered) -> Unordered:
    """Sort a list such as y = 2, x = 1 by name if the names are different single letters; else return it unchanged."""
    names = [item.sides[0].strip() for item in several.items if isinstance(item, Equation)]
    if len(names) < len(several.items) or len(set(names)) < len(names) or any(len(name) > 1 for name in names):
        return several
    return Unordered(tuple(dict(sorted(zip(names, several.items, strict=True))).values()))


def half_lines(conditions: Sequence[Structure]) -> bool:
    """Return whether the conditions are one below and one above a number, such as x > 1 and x < 3."""
    ends = [one.items for one in conditions if isinstance(one, Ordered) and one.variable]
    return (
        len(ends) == len(conditions) == 2
        and sorted(_is_infinite(end) for one in ends for end in one)
        == [
            False,
            False,
            True,
            True,
        ]
        and _is_infinite(ends[0][0]) != _is_infinite(ends[1][0])
    )


def intersection(conditions: Sequence[Structure]) -> Structure | None:
    """Return the numbers that meet all conditions: an interval, several, or the empty set.

    Returns None if the conditions are not inequalities in one and the same variable, or if two ends that have to be
    compared are not numbers.
    """
    parts = [one.items if isinstance(one, Unordered) and not one.braces else (one,) for one in conditions]
    intervals = [[one for one in part if isinstance(one, Ordered) and one.variable] for part in parts]
    if any(len(mine) < len(part) or len(mine) > MAX_INTERVALS for mine, part in zip(intervals, parts, strict=True)):
        return None
    if len({one.variable for mine in intervals for one in mine}) != 1:
        return None
    common = intervals[0]
    for others in intervals[1:]:
        pairs = [_overlap(a, b) for a, b in itertools.product(common, others)]
        overlaps = [one for one in pairs if one is not None]
        if len(overlaps) < len(pairs):
            return None
        common = [one for one in overlaps if not _is_empty(one)][:MAX_INTERVALS]
    return common[0] if len(common) == 1 else Unordered(tuple(common)) if common else Value("\\emptyset")


def _overlap(a: Ordered, b: Ordered) -> Ordered | None:
    """Return the intersection of two intervals, which may be empty; None if their ends cannot be compared."""
    low, high = _inner(a, b, 0), _inner(a, b, 1)
    if low is None or high is None:
        return None
    ends = low.items[0], high.items[1]
    if not any(map(_is_infinite, ends)) and None in map(_number, ends):
        return a if a == b else None
    return Ordered(low.opening, ends, high.closing, a.variable)


def _inner(a: Ordered, b: Ordered, side: int) -> Ordered | None:
    """Return the interval whose lower (side 0) or upper (side 1) end bounds the intersection; None if unknown."""
    for one, other in ((a, b), (b, a)):
        if _is_infinite(one.items[side]):
            return other
    x, y = _number(a.items[side]), _number(b.items[side])
    if x is None or y is None:
        return a if a.items[side] == b.items[side] else None
    if x == y:
        return a if (a.opening, a.closing)[side] in "()" else b
    return a if (x > y) == (side == 0) else b


def _is_empty(one: Ordered) -> bool:
    low, high = map(_number, one.items)
    if low is None or high is None:
        return False
    return low > high or (low == high and (one.opening, one.closing) != ("[", "]"))


def _is_infinite(end: Structure) -> bool:
    return isinstance(end, Value) and end.text in (INFINITY, "-" + INFINITY)


def _number(end: Structure) -> float | None:
    return _real(end.text) if isinstance(end, Value) else None


@lru_cache(maxsize=1024)
def _real(text: str) -> float | None:
    """Return the value of a constant expression such as \\sqrt{2}; None if it has variables or no real value."""
    tree = parse_or_none(text)
    if tree is None or variables(tree):
        return None
    try:
        return float(constant_value(tree))
    except (NotComputable, TypeError, OverflowError):
        return None


def linear(text: str) -> tuple[str, Fraction, Fraction] | None:
    """Return (x, a, b) of a text that is a x + b with a letter x and rational numbers a, not 0, and b; else None."""
    tree = parse_or_none(text)
    if tree is None or len(names := variables(tree)) != 1 or {n[0] for n in nodes(tree)} & {"call", "pow", "deg"}:
        return None
    name = names.pop()
    try:
        at = [Evaluator({name: Fraction(x)}).value(tree) for x in (0, 1, 2, 7)]
    except NotComputable:
        return None
    if not all(isinstance(value, Fraction) for value in at):
        return None
    slope, constant = at[1] - at[0], at[0]
    is_line = slope != 0 and all(slope * x + constant == value for x, value in ((2, at[2]), (7, at[3])))
    return (name, slope, constant) if is_line else None
