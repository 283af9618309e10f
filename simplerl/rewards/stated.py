r"""Finds the value that an equation, an approximation or a sentence states: 5 in `x = 2+3 = 5`.

All sides must agree, so that a chain with a wrong step states nothing.
"""

from __future__ import annotations

import re
from fractions import Fraction

from simplerl.rewards import algebra
from simplerl.rewards.evaluation import is_unfinished_computation, variables
from simplerl.rewards.forms import Equation
from simplerl.rewards.numeric import parse_number
from simplerl.rewards.structure import is_label, split_outside_brackets
from simplerl.rewards.units import Quantity, split_unit

_MATH = re.compile(r"\\\((.+?)\\\)|(?<![\\$])\$([^$]+)\$|\\\[(.+?)\\\]", re.S)
_PLAIN_SENTENCE = re.compile(
    r"(?:[A-Za-z][A-Za-z'’-]*,? ){2,20}(?:is|are|equals|was)(?: equal to)? ([^A-Za-z ,;].{0,40}?)\.?"
)
_WORD = re.compile(r"[A-Za-z]{2,}")


def stated_value(equation: Equation, *, gold: bool, formulas: bool = False) -> str | None:
    """Return the value stated by x = 5, x = 2+3 = 5, 5 = 10/2 or 3+5 = 8; None if there is none or the sides differ.

    gold: the equation is a gold answer, whose words are units. formulas: sides with variables between the name and the
    value need not be checked: A = bh = 12.
    """
    sides = [split_unit(side).value if gold else split_unit(side, Quantity("")).value for side in equation.sides]
    if parse_number(sides[0]) is not None:
        if len(sides) == 2 and _is_variable(sides[1]):  # 5 = x
            return equation.sides[0]
        same = all(_agree(sides[0], side) for side in sides[1:])
        return equation.sides[0] if same else None
    if is_label(equation.sides[0], gold=gold):
        sides = sides[1:]
        if formulas:
            sides = [side for side in sides[:-1] if not _is_formula(side)] + sides[-1:]
    else:
        trees = [algebra.parse_or_none(side) for side in sides]
        if any(tree is None or variables(tree) for tree in trees):
            return None
        if parse_number(sides[-1]) is None and (trees[-1] is None or is_unfinished_computation(trees[-1])):
            return None
    same = all(_agree(side, sides[-1]) for side in sides[:-1])
    return equation.sides[-1] if same else None


def _is_variable(side: str) -> bool:
    tree = algebra.parse_or_none(side)
    return tree is not None and tree[0] == "sym" and bool(variables(tree))


def _agree(side: str, other: str) -> bool:
    r"""Return whether two sides of one equation are equal; \\log may have either base there: \\log 0.01 = -2."""
    return algebra.expressions_equal(side, other, any_base=True) is True


def _is_formula(side: str) -> bool:
    """Return whether a side of an equation is a formula with variables, like bh in A = bh = 12. A side that begins with
    a number is not: in x = 1 y = 2, read as a chain, "1 y" is not a formula."""
    tree = None if re.match(r"-?[\d.]", side) else algebra.parse_or_none(side)
    return tree is not None and bool(variables(tree))


def approximations(text: str) -> tuple[str, ...]:
    r"""Return the exact value and the decimal of `\frac{\pi}{4} \approx 0.785`; () if they disagree.

    Any other text is returned as the only element.
    """
    pieces, found = split_outside_brackets(text, frozenset(["\\approx"]))
    if len(found) != 1 or not all(pieces):
        return (text,)
    exact = split_unit(pieces[0].rpartition("=")[2].strip()).value
    if is_label(exact, gold=False):
        return (text,)
    decimal = split_unit(pieces[1]).value
    number = parse_number(decimal)
    if number is None or parse_number(exact) == number:
        return ()
    last_digit = Fraction(1, 10 ** len(decimal.partition(".")[2])) if "." in decimal else Fraction(1)
    is_near = algebra.is_within(exact, number.value, last_digit)
    return pieces if is_near else ()


def sentence_value(gold: str) -> str | None:
    r"""Return the value of a gold answer that is a sentence: 248 in "The smallest value of \(a\) is \(248\).", or
    25 km/h in "The speed is 25 km/h."

    None if it is not a sentence, or states no value or several.
    """
    if "$" not in gold and "\\" not in gold and (plain := _PLAIN_SENTENCE.fullmatch(gold.strip())):
        return plain[1] if parse_number(split_unit(plain[1]).value) is not None else None
    formulas = list(_MATH.finditer(gold)) if "\\(" in gold or "$" in gold or "\\[" in gold else []
    if not formulas or len(_WORD.findall(_MATH.sub(" ", gold))) < 3:
        return None
    stated = [one for one in formulas if re.search(r"(?:\b(?:is|are|equals?|be|was)|=|:)\s*$", gold[: one.start()])]
    if len(stated) != 1 or gold[stated[0].end() :].strip(" .") or stated[0] is not formulas[-1]:
        return None
    return next(group for group in stated[0].groups() if group is not None)


_BRACKETED = re.compile(r"(?:[(\[].*,|\\\{|\\langle|\\begin).*[)\]}]|\\langle.*\\rangle", re.S)


def split_unit_after_bracket(text: str, gold: Quantity | None = None) -> str:
    """Remove the unit after the closing bracket of a tuple, list or matrix; return any other text unchanged. gold: as
    in `split_unit`."""
    measured = split_unit(text, gold)
    return measured.value if _BRACKETED.fullmatch(measured.value) else text
