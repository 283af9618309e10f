"""Computations that an answer leaves undone: 16-3-4 is not 9, or a policy could box the question.

The root of a square is a number here: sqrt(16) alone may stand for 4, sqrt(16)+1 is a sum that was not done.
"""

from __future__ import annotations

from fractions import Fraction

import mpmath

from simplerl.rewards.algebra import CONSTANTS, SAME, OutOfReach, constant
from simplerl.rewards.latex import FUNCTIONS, Tree, contains, symbols

_TASKS = FUNCTIONS | {"factorial", "binom", "log_base", "abs", "floor", "ceil"}  # not a number's form


def is_computation(tree: Tree) -> bool:
    """Whether arithmetic on given numbers was left undone: 16-3-4, 17*23, 3!, log_2 8, 7+0x; not 2^10, sqrt(2)/2."""
    if contains(tree, *_TASKS):
        return True
    return _adds_rationals(tree) or bool(symbols(tree) - CONSTANTS)


def _is_rational(tree: Tree) -> bool:
    if tree[0] == "num":
        return True
    if tree[0] == "call" and tree[1] in ("sqrt", "root"):
        return _is_rational(tree[2]) and _comes_to_a_fraction(tree)
    return tree[0] in ("neg", "div", "pow", "add", "mul") and all(_is_rational(part) for part in tree[1:])


def _comes_to_a_fraction(tree: Tree) -> bool:
    """As sqrt(16) and the cube root of 27 do, sqrt(2) does not."""
    try:
        value = constant(tree)
    except OutOfReach:
        return False
    if isinstance(value, Fraction):
        return True
    if mpmath.im(value) != 0:
        return False
    near = Fraction(mpmath.nstr(value, 36)).limit_denominator(10**6)
    return bool(abs(value * near.denominator - near.numerator) <= SAME * near.denominator)


def _is_power_of_ten(tree: Tree) -> bool:
    return bool(tree[0] == "pow" and tree[1] == ("num", Fraction(10), False))


def _adds_rationals(tree: Tree) -> bool:
    if tree[0] == "add" and sum(map(_is_rational, tree[1:])) > 1 and not _is_mixed_number(tree):
        return True
    if tree[0] == "mul":
        numbers = [part for part in tree[1:] if _is_rational(part)]
        if len(numbers) > 1 and not any(map(_is_power_of_ten, numbers)):
            return True
    return any(_adds_rationals(part) for part in tree[1:] if isinstance(part, tuple))


def _is_mixed_number(tree: Tree) -> bool:
    return len(tree) == 3 and bool(tree[1][0] == "num" and tree[2][0] == "div" and tree[2][1][0] == "num")
