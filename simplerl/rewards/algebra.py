"""Whether two expressions are the same: exact arithmetic without variables, sampled points with them.

Two trees that agree to 30 digits at several points, of mixed sign and size, are taken as one function (the
identity test of Schwartz and Zippel, over the reals); points where either is not real are passed over, since
there sqrt(a b) and sqrt(a) sqrt(b) are only conventions (where just one tree has an absolute value they tell
ln|x| from ln x). No simplification, no search: the cost is bounded.
"""

from __future__ import annotations

import zlib
from fractions import Fraction
from functools import lru_cache
from typing import Any

import mpmath

from simplerl.rewards.latex import Tree, Unreadable, contains, has_decimal, read, symbols

DIGITS = 40
SAME = mpmath.mpf(10) ** -28
MAX_BITS = 20_000  # of an exact power
MAX_MAGNITUDE = 10**6  # of an exponent or the argument of exp, gamma, ...
POINTS = 7
CONSTANTS = {"e", "i", "\\pi"}


class OutOfReach(ValueError):
    """The value is too large, undefined, or of a kind that is not computed here."""


class _Evaluation:
    """One reading of a tree: where variables stand, what a degree is, what log's base is."""

    def __init__(self, point: dict[str, Any], degree: Any = 1, log_base: int | None = None) -> None:
        self.point, self.degree, self.log_base = point, degree, log_base

    def value(self, tree: Tree) -> Any:  # noqa: PLR0911 - a kind of node each
        """A Fraction where the arithmetic is rational, else mpf or mpc. Raises OutOfReach."""
        head = tree[0]
        if head == "num":
            return tree[1]
        if head == "sym":
            return self.name(tree[1])
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
        total = parts[0]
        for part in parts[1:]:
            a, b = _matched(total, part)
            total = a + b if head == "add" else a * b
        return total

    def name(self, name: str) -> Any:
        if name == "\\pi":
            return +mpmath.pi
        if name == "e":
            return +mpmath.e
        if name == "i":
            return mpmath.mpc(0, 1)
        return self.point[name]

    def call(self, name: str, arguments: tuple[Tree, ...]) -> Any:  # noqa: PLR0911 - a function each
        if name in ("sin", "cos", "tan", "cot", "sec", "csc"):
            inner = _Evaluation(self.point, mpmath.pi / 180, self.log_base)
            return _finite(getattr(mpmath, name), _real(inner.value(arguments[0])))
        values = [self.value(argument) for argument in arguments]
        x = values[0]
        if name == "sqrt":
            return _root(x, 2)
        if name == "root":
            return _root(x, values[1])
        if name == "abs":
            return abs(x)
        if name in ("floor", "ceil"):
            if isinstance(x, Fraction):
                return Fraction(x.__floor__() if name == "floor" else x.__ceil__())
            return _finite(getattr(mpmath, name), _real(x))
        if name == "factorial":
            return _factorial(x)
        if name == "binom":
            return _divide(_factorial(x), _product(_factorial(values[1]), _factorial(x - values[1])))
        if name == "log":
            return _finite(mpmath.log, _real(x), *([self.log_base] if self.log_base else []))
        if name == "log_base":
            return _divide(_finite(mpmath.log, _real(x)), _finite(mpmath.log, _real(values[1])))
        real = "log" if name == "ln" else name.replace("arc", "a")
        return _finite(getattr(mpmath, real), _real(x))


def _real(x: Any) -> Any:
    x = mpmath.mpf(x.numerator) / x.denominator if isinstance(x, Fraction) else x
    if abs(x) > MAX_MAGNITUDE:
        raise OutOfReach("large argument")
    return x


def _mp(x: Any) -> Any:
    return mpmath.mpf(x.numerator) / x.denominator if isinstance(x, Fraction) else x


def _matched(a: Any, b: Any) -> tuple[Any, Any]:
    return (a, b) if isinstance(a, Fraction) and isinstance(b, Fraction) else (_mp(a), _mp(b))


def _product(a: Any, b: Any) -> Any:
    a, b = _matched(a, b)
    return a * b


def _divide(a: Any, b: Any) -> Any:
    a, b = _matched(a, b)
    if b == 0:
        raise OutOfReach("division by zero")
    return a / b


def _finite(function: Any, *arguments: Any) -> Any:
    try:
        result = function(*arguments)
    except (ValueError, ZeroDivisionError, OverflowError) as error:
        raise OutOfReach(str(error)) from error
    if not mpmath.isfinite(result):
        raise OutOfReach("not finite")
    return result


def _power(base: Any, exponent: Any) -> Any:
    if isinstance(base, Fraction) and isinstance(exponent, Fraction) and exponent.denominator == 1:
        n = exponent.numerator
        bits = max(base.numerator.bit_length(), base.denominator.bit_length())
        if abs(n) * bits > MAX_BITS and abs(base) not in (0, 1):
            raise OutOfReach("large power")
        if base == 0 and n < 0:
            raise OutOfReach("division by zero")
        return base**n
    if isinstance(base, Fraction) and isinstance(exponent, Fraction):
        return _root(_power(base, Fraction(exponent.numerator)), Fraction(exponent.denominator))
    base, exponent = _mp(base), _real(exponent)
    if abs(base) > mpmath.mpf(10) ** MAX_MAGNITUDE:
        raise OutOfReach("large base")
    if base == 0:
        return mpmath.mpf(0)
    return _finite(mpmath.power, base, exponent)


def _root(x: Any, degree: Any) -> Any:
    """Real where there is a real root (cube roots of negative numbers), exact where it is rational."""
    odd = isinstance(degree, Fraction) and degree.denominator == 1 and degree.numerator % 2
    if isinstance(x, Fraction) and degree == 2 and x >= 0:
        top, bottom = _exact_sqrt(x.numerator), _exact_sqrt(x.denominator)
        if top is not None and bottom is not None:
            return Fraction(top, bottom)
    x, degree = _mp(x), _mp(degree)
    if degree == 0:
        raise OutOfReach("zeroth root")
    if odd and mpmath.im(x) == 0 and x < 0:
        return -_finite(mpmath.power, -x, 1 / degree)
    return _finite(mpmath.sqrt, x) if degree == 2 else _finite(mpmath.power, x, 1 / degree)


def _exact_sqrt(n: int) -> int | None:
    from math import isqrt

    root = isqrt(n)
    return root if root * root == n else None


def _factorial(x: Any) -> Any:
    if isinstance(x, Fraction) and x.denominator == 1:
        if not 0 <= x <= 3000:
            raise OutOfReach("large factorial")
        from math import factorial

        return Fraction(factorial(int(x)))
    return _finite(mpmath.gamma, _real(x) + 1)


@lru_cache(maxsize=4096)
def _points(names: tuple[str, ...]) -> list[dict[str, Fraction]]:
    """Where functions are compared: positive, larger, then of mixed sign; always the same for a name."""
    points = []
    for k in range(POINTS):
        point = {}
        for name in names:
            seed = zlib.crc32(f"{name}:{k}".encode())
            value = Fraction(seed % 9973 + 1009, 4999)  # 0.2 .. 2.2
            if k in (2, 3):
                value = value * 7 + (seed >> 20) % 5
            if k == 4 or (k > 4 and (seed >> 16) % 2):
                value = -value
            point[name] = value
        points.append(point)
    return points


def _close(answer: Any, gold: Any, tolerance: Any) -> bool:
    if isinstance(answer, Fraction) and isinstance(gold, Fraction):
        if answer == gold:
            return True
        if not tolerance:
            return False
    a, g = _mp(answer), _mp(gold)
    return bool(abs(a - g) <= max(tolerance, SAME) * max(abs(a), abs(g)))


def _tolerance(answer: Tree, gold: Tree) -> Any:
    if has_decimal(gold):
        return mpmath.mpf("1e-4")
    return mpmath.mpf("1e-6") if has_decimal(answer) else 0


def _agree(answer: Tree, gold: Tree, degrees: tuple[Any, Any], log_base: int | None) -> bool | None:
    """Whether the trees agree wherever both are real; None where they could not be evaluated at all."""
    names = tuple(sorted((symbols(answer) | symbols(gold)) - CONSTANTS))
    tolerance = _tolerance(answer, gold)
    rounded_answer = bool(tolerance) and not has_decimal(gold)  # then the tolerance is absolute for large values
    one_has_bars = contains(answer, "abs") != contains(gold, "abs")
    compared, complex_pairs = 0, []
    for point in _points(names) if names else [{}]:
        try:
            a = _Evaluation(point, degrees[0], log_base).value(answer)
            g = _Evaluation(point, degrees[1], log_base).value(gold)
        except OutOfReach:
            continue
        is_complex = mpmath.im(_mp(a)) != 0, mpmath.im(_mp(g)) != 0
        if one_has_bars and is_complex[0] != is_complex[1]:
            return False
        if any(is_complex):
            complex_pairs.append((a, g))
            continue
        if not _close(a, g, tolerance / max(1, abs(_mp(g))) if rounded_answer else tolerance):
            return False
        compared += 1
    if compared >= (2 if names else 1):
        return True
    if complex_pairs and compared + len(complex_pairs) >= (2 if names else 1):
        return all(_close(a, g, tolerance) for a, g in complex_pairs)
    return None


def trees_equal(answer: Tree, gold: Tree) -> bool | None:
    """None: out of reach. Degrees may meet radians, and log may be to base e or 10, if both sides take it so."""
    with mpmath.workdps(DIGITS):
        degrees: list[tuple[Any, Any]] = [(1, 1)]
        if contains(answer, "deg") != contains(gold, "deg"):
            degrees.append((mpmath.pi / 180, mpmath.pi / 180))
        bases = [None, 10] if contains(answer, "log") or contains(gold, "log") else [None]
        verdict: bool | None = None
        for degree in degrees:
            for base in bases:
                agreed = _agree(answer, gold, degree, base)
                if agreed:
                    return True
                verdict = agreed if verdict is None else verdict
        same_bars = contains(answer, "abs") == contains(gold, "abs")
        if verdict is False and same_bars and _free_constant(answer) and _free_constant(gold):
            return _differ_by_constant(answer, gold)
        return verdict


def _free_constant(tree: Tree) -> bool:
    """Whether the tree is ... + C."""
    return tree[0] == "add" and any(term in (("sym", "C"), ("sym", "c")) for term in tree[1:])


def _differ_by_constant(answer: Tree, gold: Tree) -> bool:
    return _constant_over_points(("add", answer, ("neg", gold)))


def _constant_over_points(tree: Tree) -> bool:
    names = tuple(sorted(symbols(tree) - CONSTANTS))
    values = []
    for point in _points(names) if names else [{}]:
        try:
            value = _mp(_Evaluation(point).value(tree))
        except OutOfReach:
            continue
        if mpmath.im(value) == 0:
            values.append(value)
    return len(values) >= 3 and all(abs(v - values[0]) <= SAME * max(1, abs(values[0])) for v in values)


def equations_equal(answer: tuple[Tree, Tree], gold: tuple[Tree, Tree], *, positive: bool = False) -> bool:
    """Whether left - right of one is a constant (`positive`: for inequalities) times that of the other."""
    with mpmath.workdps(DIGITS):
        difference = [("add", left, ("neg", right)) for left, right in (answer, gold)]
        if symbols(difference[0]) != symbols(difference[1]):
            return False
        ratio = ("div", *difference)
        if not _constant_over_points(ratio):
            return False
        names = tuple(sorted(symbols(ratio) - CONSTANTS))
        try:
            value = _mp(_Evaluation(_points(names)[0] if names else {}).value(ratio))
        except OutOfReach:
            return False
        return bool(value > 0 if positive else value != 0)


@lru_cache(maxsize=16384)
def parsed(text: str, tight: bool = False) -> Tree | None:
    try:
        return read(text, tight=tight)
    except Unreadable:
        return None


def expressions_equal(answer: str, gold: str) -> bool | None:
    """None where either text cannot be read or evaluated here."""
    verdict: bool | None = None
    for tight in (False, True) if "/" in answer + gold else (False,):
        a, g = parsed(answer, tight), parsed(gold, tight)
        if a is None or g is None:
            return None
        agreed = trees_equal(a, g)
        if agreed:
            return True
        verdict = agreed if verdict is None else verdict
    return verdict


def constant(tree: Tree) -> Any:
    """The value of a tree without variables. Raises OutOfReach: too large, or undefined."""
    with mpmath.workdps(DIGITS):
        return _Evaluation({}).value(tree)


def is_out_of_reach(text: str) -> bool:
    """Whether the text is a number too large, or undefined: 10^{10^{10}}, 1/0."""
    tree = parsed(text)
    if tree is None or symbols(tree) - CONSTANTS:
        return False
    try:
        constant(tree)
    except OutOfReach:
        return True
    return False
