"""Decides whether two expressions are equal: rational numbers exactly, other values numerically, at sample points if
there are variables.

Two expressions that agree to about 28 digits at several points of mixed sign and size are taken as the same function
(polynomial identity testing after Schwartz and Zippel, over the reals). If one side contains a decimal, the tolerance
is 1e-4 (in the gold answer) or 1e-6 (only in the answer). Points at which either value is not real are skipped if
enough others remain, because there sqrt(a b) = sqrt(a) sqrt(b) depends on a convention; but if exactly one side
contains an absolute value, a point at which only one value is real shows a difference, as for ln|x| and ln x. Nothing
is simplified or searched, so the cost is bounded.
"""

from __future__ import annotations

import zlib
from fractions import Fraction
from functools import lru_cache
from typing import Any

import mpmath

from simplerl.rewards.evaluation import (
    DIGITS,
    RELATIVE_TOLERANCE,
    Evaluator,
    NotComputable,
    as_mpf,
    constant_value,
    variables,
)
from simplerl.rewards.latex import ParseError, Tree, contains, has_decimal, parse, symbols
from simplerl.rewards.opaque import marked, same_matrix_product

NUM_POINTS = 7


@lru_cache(maxsize=4096)
def _sample_points(names: tuple[str, ...], complex_names: frozenset[str] = frozenset()) -> list[dict[str, Any]]:
    """Return the points at which functions are compared: small positive, larger, then of mixed sign; variables in
    `complex_names` have an imaginary part too.

    A variable's values depend on its name alone, so that verdicts are reproducible. Without variables there is one
    empty point.
    """
    points = []
    for k in range(NUM_POINTS if names else 1):
        point: dict[str, Any] = {}
        for name in names:
            seed = zlib.crc32(f"{name}:{k}".encode())
            value = Fraction(seed % 9973 + 1009, 4999)  # 0.2 .. 2.2
            if k in (2, 3):
                value = value * 7 + (seed >> 20) % 5
            if k == 4 or (k > 4 and (seed >> 16) % 2):
                value = -value
            point[name] = mpmath.mpc(as_mpf(value), as_mpf(value) / 3) if name in complex_names else value
        points.append(point)
    return points


def _close(answer: Any, gold: Any, tolerance: Any) -> bool:
    if isinstance(answer, Fraction) and isinstance(gold, Fraction) and (answer == gold or not tolerance):
        return answer == gold
    a, g = as_mpf(answer), as_mpf(gold)
    return bool(abs(a - g) <= max(tolerance, RELATIVE_TOLERANCE) * max(abs(a), abs(g)))


def _tolerance(answer: Tree, gold: Tree) -> Any:
    if has_decimal(gold):
        return mpmath.mpf("1e-4")
    return mpmath.mpf("1e-6") if has_decimal(answer) else 0


def _agree_at_points(answer: Tree, gold: Tree, degrees: tuple[Any, Any], log_base: int | None) -> bool | None:
    """Return whether the trees agree at every point at which both are real; None if too few points can be evaluated.

    degrees: value of one degree in the answer and in the gold.
    """
    names = variables(answer) | variables(gold)
    needed = 2 if names else 1
    tolerance = _tolerance(answer, gold)
    rounded_answer = bool(tolerance) and not has_decimal(gold)  # the tolerance is then absolute for large values
    one_has_bars = contains(answer, "abs") != contains(gold, "abs")
    compared, complex_pairs = 0, []
    for point in _sample_points(tuple(sorted(names)), _complex_variables(answer, gold)):
        try:
            a = Evaluator(point, degrees[0], log_base).value(answer)
            g = Evaluator(point, degrees[1], log_base).value(gold)
        except NotComputable:
            continue
        is_complex = mpmath.im(as_mpf(a)) != 0, mpmath.im(as_mpf(g)) != 0
        if one_has_bars and is_complex[0] != is_complex[1]:
            return False
        if any(is_complex):
            complex_pairs.append((a, g))
            continue
        if not _close(a, g, tolerance / max(1, abs(as_mpf(g))) if rounded_answer else tolerance):
            return False
        compared += 1
    if compared >= needed:
        return True
    if complex_pairs and compared + len(complex_pairs) >= needed:
        return all(_close(a, g, tolerance) for a, g in complex_pairs)
    return None


def _complex_variables(*trees: Tree) -> frozenset[str]:
    """Return z and w if an absolute value and i occur, as in |z-i|: real values would not tell it from |z+i|."""
    is_modulus = any(contains(tree, "abs") and "i" in symbols(tree) for tree in trees)
    return frozenset("zw") if is_modulus else frozenset()


def trees_equal(answer: Tree, gold: Tree, *, any_base: bool = False) -> bool | None:
    """Return whether two trees are equal; None if they cannot be evaluated.

    If only one side has a degree sign, degrees are also compared with radians. `\\log` without a base may be to base e
    or to base 10, so trees with it must be equal in both (any_base: in either). Two antiderivatives with a constant C
    may differ by a constant.
    """
    with mpmath.workdps(DIGITS):
        degrees: list[tuple[Any, Any]] = [(1, 1)]
        if contains(answer, "deg") != contains(gold, "deg"):
            degrees.append((mpmath.pi / 180, mpmath.pi / 180))
        bases = (None, 10) if contains(answer, "log") or contains(gold, "log") else (None,)
        verdict: bool | None = None
        for degree in degrees:
            found = [_agree_at_points(answer, gold, degree, base) for base in bases]
            if all(found) or (any_base and any(found)):
                return True
            verdict = (False if False in found else None) if verdict is None else verdict
        same_bars = contains(answer, "abs") == contains(gold, "abs")
        if verdict is False and same_bars and _has_integration_constant(answer) and _has_integration_constant(gold):
            return _is_constant_at_points(("add", answer, ("neg", gold)))
        return verdict


def _has_integration_constant(tree: Tree) -> bool:
    """Return whether the tree is a sum with C as one term."""
    return tree[0] == "add" and any(term in (("sym", "C"), ("sym", "c")) for term in tree[1:])


def _is_constant_at_points(tree: Tree, complex_names: frozenset[str] = frozenset()) -> bool:
    """Return whether the tree has the same real value at three sample points or more."""
    values = []
    for point in _sample_points(tuple(sorted(variables(tree))), complex_names):
        try:
            value = as_mpf(Evaluator(point).value(tree))
        except NotComputable:
            continue
        if mpmath.im(value) == 0:
            values.append(value)
    return len(values) >= 3 and all(abs(v - values[0]) <= RELATIVE_TOLERANCE * max(1, abs(values[0])) for v in values)


def equations_equal(answer: tuple[Tree, Tree], gold: tuple[Tree, Tree], *, positive: bool = False) -> bool:
    """Return whether left - right of the answer is a non-zero constant multiple of left - right of the gold answer.

    positive: the constant must be positive, as the direction of an inequality requires.
    """
    with mpmath.workdps(DIGITS):
        complex_names = _complex_variables(*answer, *gold)
        difference = [("add", left, ("neg", right)) for left, right in (answer, gold)]
        if symbols(difference[0]) != symbols(difference[1]):
            return False
        ratio = ("div", *difference)
        if not _is_constant_at_points(ratio, complex_names):
            return False
        try:
            value = as_mpf(Evaluator(_sample_points(tuple(sorted(variables(ratio))), complex_names)[0]).value(ratio))
        except NotComputable:
            return False
        return bool(value > 0 if positive else value != 0)


@lru_cache(maxsize=16384)
def parse_or_none(text: str, tight: bool = False) -> Tree | None:
    """Return the tree of a text, or None if `simplerl.rewards.latex` cannot parse it. tight: see `latex.parse`."""
    try:
        return parse(text, tight=tight)
    except ParseError:
        return None


def expressions_equal(answer: str, gold: str, *, any_base: bool = False) -> bool | None:
    """Return whether two texts are equal as expressions; None if either cannot be parsed or evaluated.

    Function values and the like are no products, see `simplerl.rewards.opaque`. A text with "/" is tried with both
    readings of a/2b: (a/2)b and a/(2b). any_base: see `trees_equal`.
    """
    if (same_product := same_matrix_product(answer, gold)) is not None:
        return same_product
    answer, gold = marked(answer, gold)
    verdict: bool | None = None
    for tight in (False, True) if "/" in answer + gold else (False,):
        a, g = parse_or_none(answer, tight), parse_or_none(gold, tight)
        if a is None or g is None:
            return None
        agreed = trees_equal(a, g, any_base=any_base)
        if agreed:
            return True
        verdict = agreed if verdict is None else verdict
    return verdict


def is_within(text: str, value: Fraction, distance: Fraction) -> bool:
    """Return whether the text is a constant expression that differs from a value by less than a distance."""
    tree = parse_or_none(text)
    if tree is None or variables(tree):
        return False
    try:
        difference = as_mpf(constant_value(tree)) - as_mpf(value)
    except NotComputable:
        return False
    return bool(abs(difference) < as_mpf(distance))


def is_not_computable(text: str) -> bool:
    """Return whether the text is a number that is undefined or too large to compute: 1/0, 10^{10^{10}}."""
    tree = parse_or_none(text)
    if tree is None or variables(tree):
        return False
    try:
        constant_value(tree)
    except NotComputable:
        return True
    return False
