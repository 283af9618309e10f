"""Evaluates expression trees, exactly if possible, and recognises arithmetic that an answer left undone.

Rational arithmetic stays in `Fraction`; everything else is computed by mpmath to DIGITS digits. Powers, factorials and
function arguments are bounded, so that no expression of a model can make an evaluation slow or large.
"""

from __future__ import annotations

import operator
import zlib
from collections.abc import Callable
from fractions import Fraction
from functools import partial, reduce
from math import factorial, isqrt
from typing import Any

import mpmath

from simplerl.rewards.latex import FUNCTIONS, Tree, contains, nodes, symbols

DIGITS = 40  # decimal digits of mpmath while expressions are evaluated
RELATIVE_TOLERANCE = mpmath.mpf(10) ** -28  # two computed values closer than this are taken as equal
MAX_BITS = 20_000  # size of an exact power
MAX_MAGNITUDE = 10**6  # largest exponent, and largest argument of exp, gamma and the like
_CONSTANTS = {"e": mpmath.e, "i": mpmath.mpc(0, 1), "\\pi": mpmath.pi}
# Calls that count as unfinished work; square roots are a way to write a number.
_OPERATIONS = FUNCTIONS | {"factorial", "gamma", "binom", "log_base", "abs", "floor", "ceil"}


class NotComputable(ValueError):
    """Raised for a value that is undefined, too large, or of a kind that this module does not compute."""


class Evaluator:
    """Evaluates trees with given values of the variables.

    point: value of each variable. degree: value of one degree, pi / 180 if angles are compared in radians.
    log_base: base of `\\log` without a subscript; None means e.
    """

    def __init__(self, point: dict[str, Any], degree: Any = 1, log_base: int | None = None) -> None:
        self.point, self.degree, self.log_base = point, degree, log_base

    def value(self, tree: Tree) -> Any:  # noqa: PLR0911 - one return per kind of node
        """Return a Fraction if the arithmetic is rational, otherwise an mpf or mpc. Raises NotComputable if the value
        is undefined or too large."""
        head = tree[0]
        if head == "num":
            return tree[1]
        if head == "sym":
            return +_CONSTANTS[tree[1]] if tree[1] in _CONSTANTS else self.point[tree[1]]
        if head == "call":
            return self.call(tree[1], tree[2:])
        if head == "deg":
            return self.value(tree[1]) * self.degree
        parts = [self.value(part) for part in tree[1:]]
        if head == "neg":
            return -parts[0]
        if head == "pow":
            return _power(*parts)
        if head == "div":
            return _divide(*parts)
        return reduce(partial(_combine, operator.add if head == "add" else operator.mul), parts)

    def call(self, name: str, arguments: tuple[Tree, ...]) -> Any:  # noqa: PLR0911 - one return per function
        if name in ("sin", "cos", "tan", "cot", "sec", "csc"):
            inner = Evaluator(self.point, mpmath.pi / 180, self.log_base)
            return _call_finite(getattr(mpmath, name), _bounded(inner.value(arguments[0])))
        values = [self.value(argument) for argument in arguments]
        x = values[0]
        if name == "apply":
            return _value_of_unknown_function(*values)
        if name in ("sqrt", "root"):
            return _root(x, values[1] if name == "root" else 2)
        if name == "abs":
            return abs(x)
        if name in ("floor", "ceil"):
            if isinstance(x, Fraction):
                return Fraction(x.__floor__() if name == "floor" else x.__ceil__())
            return _call_finite(getattr(mpmath, name), _bounded(x))
        if name == "factorial":
            return _factorial(x)
        if name == "gamma":
            return _factorial(_combine(operator.sub, x, Fraction(1)))
        if name == "binom":
            below = _combine(operator.mul, _factorial(values[1]), _factorial(_combine(operator.sub, x, values[1])))
            return _divide(_factorial(x), below)
        if name == "log":
            return _call_finite(mpmath.log, _bounded(x), *([self.log_base] if self.log_base else []))
        if name == "log_base":
            return _divide(_call_finite(mpmath.log, _bounded(x)), _call_finite(mpmath.log, _bounded(values[1])))
        real = "log" if name == "ln" else name.replace("arc", "a")
        return _call_finite(getattr(mpmath, real), _bounded(x))


def _bounded(x: Any) -> Any:
    """Convert to mpmath. Raises NotComputable above MAX_MAGNITUDE, where the functions become slow."""
    x = as_mpf(x)
    if abs(x) > MAX_MAGNITUDE:
        raise NotComputable("large argument")
    return x


def as_mpf(x: Any) -> Any:
    return mpmath.mpf(x.numerator) / x.denominator if isinstance(x, Fraction) else x


def _combine(operation: Callable[[Any, Any], Any], a: Any, b: Any) -> Any:
    """Apply a binary operation exactly if both values are fractions, otherwise in mpmath."""
    exact = isinstance(a, Fraction) and isinstance(b, Fraction)
    return operation(a, b) if exact else operation(as_mpf(a), as_mpf(b))


def _divide(a: Any, b: Any) -> Any:
    if b == 0:
        raise NotComputable("division by zero")
    return _combine(operator.truediv, a, b)


def _call_finite(function: Any, *arguments: Any) -> Any:
    """Call an mpmath function. Raises NotComputable if it fails or its result is not finite."""
    try:
        result = function(*arguments)
    except (ValueError, ZeroDivisionError, OverflowError) as error:
        raise NotComputable(str(error)) from error
    if not mpmath.isfinite(result):
        raise NotComputable("not finite")
    return result


def _power(base: Any, exponent: Any) -> Any:
    if isinstance(base, Fraction) and isinstance(exponent, Fraction) and exponent.denominator == 1:
        n = exponent.numerator
        bits = max(base.numerator.bit_length(), base.denominator.bit_length())
        if abs(n) * bits > MAX_BITS and abs(base) not in (0, 1):
            raise NotComputable("large power")
        if base == 0 and n < 0:
            raise NotComputable("division by zero")
        return base**n
    if isinstance(base, Fraction) and isinstance(exponent, Fraction):
        return _root(_power(base, Fraction(exponent.numerator)), Fraction(exponent.denominator))
    base, exponent = as_mpf(base), _bounded(exponent)
    if abs(base) > mpmath.mpf(10) ** MAX_MAGNITUDE:
        raise NotComputable("large base")
    if base == 0:
        return mpmath.mpf(0)
    return _call_finite(mpmath.power, base, exponent)


def _root(x: Any, degree: Any) -> Any:
    """Return the real root if there is one (cube roots of negative numbers too), otherwise the principal complex one; a
    rational square root is exact. Raises NotComputable for degree 0."""
    odd = isinstance(degree, Fraction) and degree.denominator == 1 and degree.numerator % 2
    if isinstance(x, Fraction) and degree == 2 and x >= 0:
        rational = Fraction(isqrt(x.numerator), isqrt(x.denominator))
        if rational**2 == x:
            return rational
    x, degree = as_mpf(x), as_mpf(degree)
    if degree == 0:
        raise NotComputable("zeroth root")
    if odd and mpmath.im(x) == 0 and x < 0:
        return -_call_finite(mpmath.power, -x, 1 / degree)
    return _call_finite(mpmath.sqrt, x) if degree == 2 else _call_finite(mpmath.power, x, 1 / degree)


def _value_of_unknown_function(function: Any, x: Any) -> Any:
    """Return a number of about the size of the function's sample value that depends on it and on the argument alone."""
    seed = zlib.crc32(f"{mpmath.nstr(as_mpf(function), 20)}({mpmath.nstr(as_mpf(x), 20)})".encode())
    return _combine(operator.mul, function, Fraction(seed % 9973 + 5003, 9973))


def _factorial(x: Any) -> Any:
    if isinstance(x, Fraction) and x.denominator == 1:
        if not 0 <= x <= 3000:
            raise NotComputable("large factorial")
        return Fraction(factorial(int(x)))
    return _call_finite(mpmath.gamma, _bounded(x) + 1)


def constant_value(tree: Tree) -> Any:
    """Return the value of a tree without variables. Raises NotComputable if it is undefined or too large."""
    with mpmath.workdps(DIGITS):
        return Evaluator({}).value(tree)


def is_unfinished_computation(tree: Tree) -> bool:
    """Return whether the tree has variables or unfinished arithmetic. Accepting it would reward boxing the question.

    True for 16-3-4, 17*23, 3!, log_2 8 and 7+0x; false for 2^10 and sqrt(2)/2, which are ways to write a number.
    The root of a square counts as a number: sqrt(16) alone may mean 4, but sqrt(16)+1 is an undone sum.
    """
    return contains(tree, *_OPERATIONS) or _adds_rationals(tree) or bool(variables(tree))


def variables(tree: Tree) -> set[str]:
    """Return the names of all symbols in a tree that are not constants."""
    return symbols(tree) - _CONSTANTS.keys()


def _is_rational(tree: Tree) -> bool:
    if tree[0] == "num":
        return True
    if tree[0] == "call" and tree[1] in ("sqrt", "root"):
        return _is_rational(tree[2]) and _is_rational_value(tree)
    return tree[0] in ("neg", "div", "pow", "add", "mul") and all(_is_rational(part) for part in tree[1:])


def _is_rational_value(tree: Tree) -> bool:
    """Return whether the value of an expression is rational: sqrt(16) and the cube root of 27 are, sqrt(2) is not.
    False if it cannot be computed."""
    try:
        value = constant_value(tree)
    except NotComputable:
        return False
    if isinstance(value, Fraction):
        return True
    if mpmath.im(value) != 0:
        return False
    near = Fraction(mpmath.nstr(value, 36)).limit_denominator(10**6)
    return bool(abs(value * near.denominator - near.numerator) <= RELATIVE_TOLERANCE * near.denominator)


def _adds_rationals(tree: Tree) -> bool:
    """Return whether any node adds rational numbers or multiplies them, except by a power of ten."""
    for node in nodes(tree):
        numbers = [part for part in node[1:] if _is_rational(part)] if node[0] in ("add", "mul") else []
        if len(numbers) > 1 and node[0] == "add":
            return True
        ten = ("num", Fraction(10), False)
        if len(numbers) > 1 and node[0] == "mul" and not any(n[0] == "pow" and n[1] == ten for n in numbers):
            return True
    return False
