"""Compares a normalised answer with a normalised gold answer, structure by structure and value by value.

`simplerl.rewards.equality` states the decisions that are implemented here. Per value the cheapest test comes first:
exact numbers, equal strings, words, expressions at sample points, and finally math-verify.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace

from simplerl.rewards import algebra, choices
from simplerl.rewards.dimensions import units_conflict
from simplerl.rewards.evaluation import is_unfinished_computation
from simplerl.rewards.forms import (
    Congruence,
    Equation,
    Inequality,
    Matrix,
    Ordered,
    Structure,
    Unordered,
    Value,
    rows_of_lists,
    sorted_by_name,
    without_groups,
)
from simplerl.rewards.latex import Tree
from simplerl.rewards.normalize import equality_key
from simplerl.rewards.notations import angle_in_degrees, angle_in_signs, equal_in_notation, same_compound_quantity
from simplerl.rewards.numeric import (
    DEGREES,
    Number,
    is_close,
    is_ratio_equal_to,
    needs_literal_match,
    parse_number_or_word,
    without_multiplier,
)
from simplerl.rewards.phrases import has_words, is_words, split_words, words_of
from simplerl.rewards.rules import DIFFERENT, EQUAL, FAILED, TIMEOUT, Verdict
from simplerl.rewards.stated import approximations, split_unit_after_bracket, stated_value
from simplerl.rewards.structure import gold_alternatives, is_label, parse_structure, split_outside_brackets
from simplerl.rewards.symbolic import is_unparseable, math_verify_status
from simplerl.rewards.units import Quantity, angle_unit, split_modulus, split_unit

MAX_ITEMS = 60  # of an unordered collection; longer ones differ


class Unfinished(Exception):
    """Raised instead of a verdict if math-verify timed out or failed, so that no cache keeps the outcome."""

    def __init__(self, status: str) -> None:
        super().__init__(status)
        self.status = status


@dataclass
class Comparator:
    """Compares one answer with one gold answer; in every method `a` is of the answer and `g` of the gold answer.

    measured: gold answers are rounded measurements.
    """

    measured: bool
    unfinished: str | None = None  # status of a math-verify call that did not finish
    gold_unread: bool = False  # no parser could read the gold answer

    def verdict(self, answer: str, gold: str) -> Verdict:
        """Compare two normalised texts. Raises Unfinished if the outcome depends on a math-verify call that timed out
        or failed."""
        if any(self.texts(answer, one) for one in gold_alternatives(gold)):
            return Verdict(EQUAL)
        if self.unfinished:
            raise Unfinished(self.unfinished)
        return Verdict(DIFFERENT, self.gold_unread)

    def texts(self, a: str, g: str) -> bool:
        """Return whether two whole texts are equal as options, as compound quantities or else by structure."""
        a, g = angle_in_signs(a), angle_in_signs(g)
        for compare in (self.options, same_compound_quantity):
            if (verdict := compare(a, g)) is not None:
                return verdict
        golds = [parse_structure(split_unit_after_bracket(one)) for one in approximations(g) or (g,)]
        answers = [parse_structure(split_unit_after_bracket(one, Quantity(""))) for one in approximations(a)]
        if "\\approx" in a and "\\approx" in g:  # the same statement as a whole
            return any(self.equal(*pair) for pair in zip(answers, golds, strict=False)) or self.equal(
                parse_structure(a), parse_structure(g)
            )
        return any(self.equal(one, wanted) for one in answers for wanted in golds)

    def options(self, a: str, g: str) -> bool | None:  # noqa: PLR0911 - one return per form of the gold answer
        """Return whether multiple-choice answers are equal; None if the gold answer is not an option or the answer
        chooses none."""
        if letters := choices.option_letters(g) or choices.statements(g):
            chosen = choices.option_letters(a) or choices.statements(a)
            return chosen == letters if chosen else None
        choice = choices.parse_choice(a)
        if letter := choices.only_letter(g):
            return None if choice is None else choice.letter == letter and not choice.denied
        if (gold := choices.parse_gold_choice(g)) is None:
            if choices.is_option_with_letter_of(a, g):
                return False
            labelled = choices.option_content(a, g)
            return self.texts(labelled, g) if labelled else None
        if choice is None:
            return self.texts(a, gold.content)
        if choice.letter != gold.letter or choice.denied:
            return False
        return not choice.content or is_words(choice.content) or self.texts(choice.content, gold.content)

    def equal(self, a: Structure, g: Structure) -> bool:  # noqa: PLR0911 - one return per pair of kinds
        """Return whether two structures of any kind are equal."""
        if isinstance(a, Equation) and isinstance(g, Equation):
            return self.equations(a, g)
        if isinstance(g, Equation):
            is_named = len(g.sides) == 2 and is_label(g.sides[0], gold=True)
            value = g.sides[1] if is_named else stated_value(g, gold=True)
            return value is not None and self.equal(a, parse_structure(value))
        if isinstance(a, Equation):
            value = stated_value(a, gold=False, formulas=True)
            return value is not None and self.equal(parse_structure(value), g)
        if isinstance(a, Unordered) or isinstance(g, Unordered):
            return self.unordered(a, g)
        if isinstance(a, Congruence) or isinstance(g, Congruence):
            return self.congruences(a, g)
        if isinstance(a, Ordered) and isinstance(g, Ordered):
            if a.variable and g.variable and not _same_text(a.variable, g.variable):
                return False
            return (a.opening, a.closing) == (g.opening, g.closing) and self.in_order(a.items, g.items)
        if isinstance(a, Inequality) and isinstance(g, Inequality):
            return self.inequalities(a, g)
        if isinstance(a, Matrix) or isinstance(g, Matrix):
            return self.matrices(a, g)
        if isinstance(a, Value) and isinstance(g, Value):
            return self.values(a.text, g.text)
        return False

    def in_order(self, a: tuple[Structure, ...], g: tuple[Structure, ...]) -> bool:
        """Return whether two sequences have equal items in the same order."""
        return len(a) == len(g) and all(self.equal(x, y) for x, y in zip(a, g, strict=True))

    def unordered(self, a: Structure, g: Structure) -> bool:
        """Return whether two collections have equal items in any order, or a collection equals a value or a tuple."""
        a, g = _resplit(a, g), _resplit(g, a)
        if isinstance(a, Unordered) and isinstance(g, Unordered):
            flat = without_groups(a), without_groups(g)
            if (flat[0] == a.items) != (flat[1] == g.items) and self.in_order(*flat):
                return True
            if len(a.items) != len(g.items) or len(a.items) > MAX_ITEMS or {a.joined, g.joined} == {"or", "and"}:
                return False
            unmatched = list(g.items)
            for item in a.items:
                match = next((i for i, other in enumerate(unmatched) if self.items(item, other)), None)
                if match is None:
                    return False
                unmatched.pop(match)
            return True
        swapped = isinstance(g, Unordered)
        several, other = (g, a) if swapped else (a, g)
        assert isinstance(several, Unordered)
        if isinstance(other, Ordered) and not several.braces:
            several = sorted_by_name(several)
        mine: tuple[Structure, ...] = several.items
        theirs: tuple[Structure, ...] = (other,)
        if len(mine) == 1:
            if several.braces and mine[0] in _EMPTY:
                return False
        elif isinstance(other, Ordered) and not several.braces and (other.opening, other.closing) == ("(", ")"):
            theirs = other.items
        return self.in_order(theirs, mine) if swapped else self.in_order(mine, theirs)

    def items(self, a: Structure, g: Structure) -> bool:
        """Return whether two elements of collections are equal; a set in a collection equals only another set."""
        nested = (isinstance(side, Unordered) and side.braces for side in (a, g))
        return len(set(nested)) == 1 and self.equal(a, g)

    def congruences(self, a: Structure, g: Structure) -> bool:
        """Return whether congruences are equal: x \\equiv 3 (mod 5) equals 3 (mod 5), but not 3."""
        if isinstance(a, Congruence) and isinstance(g, Congruence):
            if (a.modulus, len(a.sides)) != (g.modulus, len(g.sides)) or not _same_text(a.sides[0], g.sides[0]):
                return False
            return all(self.values(x, y) for x, y in zip(a.sides[1:], g.sides[1:], strict=True))
        stated, value = (a, g) if isinstance(a, Congruence) else (g, a)
        assert isinstance(stated, Congruence)
        if not isinstance(value, Value) or not is_label(stated.sides[0], gold=True):
            return False
        residue, modulus = split_modulus(value.text)
        if modulus != stated.modulus or not modulus or len(stated.sides) != 2:
            return False
        return self.values(stated.sides[1], residue) if stated is a else self.values(residue, stated.sides[1])

    def equations(self, a: Equation, g: Equation) -> bool:
        """Return whether two equations are equal: their right sides if the left sides are the same, otherwise the
        equations as relations."""
        if len(a.sides) == len(g.sides) == 2:
            if _same_text(a.sides[0], g.sides[0]) or _NAMES_OF_Y.fullmatch(f"{a.sides[0]}={g.sides[0]}"):
                return self.equal(parse_structure(a.sides[1]), parse_structure(g.sides[1]))
            if any(map(has_words, (*a.sides, *g.sides))):
                return self.sides(a.sides, g.sides) or self.sides(a.sides[::-1], g.sides)
            return _is_same_relation(a.sides, g.sides)
        values = stated_value(a, gold=False), stated_value(g, gold=True)
        if values[0] is not None and values[1] is not None:
            same_value = self.equal(parse_structure(values[0]), parse_structure(values[1]))
            return same_value and _same_text(a.sides[0], g.sides[0])
        return self.sides(a.sides, g.sides)

    def sides(self, a: tuple[str, ...], g: tuple[str, ...]) -> bool:
        """Return whether the sides of two relations are equal one by one."""
        return len(a) == len(g) and all(self.values(x, y) for x, y in zip(a, g, strict=True))

    def inequalities(self, a: Inequality, g: Inequality) -> bool:
        """Return whether inequalities with the same operators have the same sides or are equal as relations."""
        if a.operators != g.operators:  # so they also have the same number of sides
            return False
        if all(map(_same_text, a.sides, g.sides)):
            return True
        if any(map(has_words, (*a.sides, *g.sides))):  # words are not products of letters
            return self.sides(a.sides, g.sides)
        return len(a.sides) == 2 and _is_same_relation(a.sides, g.sides, positive=a.operators[0] != "!=")

    def matrices(self, a: Structure, g: Structure) -> bool:
        """Return whether two matrices are equal cell by cell, or a row or column vector equals a tuple. Nested lists
        count as matrices too."""
        if isinstance(a, Matrix) and isinstance(g, Matrix):
            return len(a.rows) == len(g.rows) and all(self.in_order(x, y) for x, y in zip(a.rows, g.rows, strict=True))
        if (nested := rows_of_lists(a if isinstance(g, Matrix) else g)) is not None:
            return self.matrices(nested, g) if isinstance(g, Matrix) else self.matrices(a, nested)
        matrix, other = (a, g) if isinstance(a, Matrix) else (g, a)
        assert isinstance(matrix, Matrix)
        is_vector = 1 in (len(matrix.rows), len(matrix.rows[0]))
        if not is_vector or not isinstance(other, Ordered) or other.opening != "(":
            return False
        flat = tuple(cell for row in matrix.rows for cell in row)
        return self.in_order(flat, other.items) if matrix is a else self.in_order(other.items, flat)

    def values(self, answer: str, gold: str) -> bool:  # noqa: PLR0911 - cheapest test first
        """Return whether two values are equal, compared by units, then as numbers, strings, words or expressions."""
        if _INTEGER.fullmatch(answer) and _INTEGER.fullmatch(gold):
            return int(answer) == int(gold)
        g = split_unit(without_multiplier(gold))
        a = split_unit(without_multiplier(answer), g)
        if a.modulus and a.modulus != g.modulus:  # a class of numbers is not a number
            return False
        if {angle_unit(a), angle_unit(g)} == {"degree", "radian"}:
            return _is_same_angle(*((a, g) if angle_unit(a) == "degree" else (g, a)))
        if units_conflict(a.unit, g.unit) or _percent_of_a_unit(a, g):
            return False
        a, g = (replace(one, value=angle_in_degrees(_ROMAN.sub(r" \1 ", one.value))) for one in (a, g))
        x, y = parse_number_or_word(a.value), parse_number_or_word(g.value)
        if x is not None and y is not None:
            return self.numbers(x, a.percent, y, g.percent)
        if _same_text(a.value, g.value):
            return True
        if (verdict := equal_in_notation(a.value, g.value)) is not None:
            return verdict
        if is_words(a.value) or is_words(g.value):
            return self.phrases(a.value, g.value)
        if needs_literal_match(a.value) or needs_literal_match(g.value):
            return is_ratio_equal_to(a.value, y, gold=False) or is_ratio_equal_to(g.value, x, gold=True)
        if y is not None:
            return self.value_against_number(a, g)
        same = algebra.expressions_equal(a.value, g.value)
        if same is None and not algebra.is_not_computable(a.value):
            return self.by_math_verify(a.value, g.value)
        return bool(same)

    def phrases(self, answer: str, gold: str) -> bool:
        """Return whether texts with words have the same words and equal mathematics between them."""
        a, g = split_words(answer), split_words(gold)
        if not a or words_of(a) != words_of(g):
            return False
        if len(a) == len(g) == 1:
            return a[0].is_words or g[0].is_words or _same_text(answer, gold)
        return all(self.texts(x.text, y.text) for x, y in zip(a, g, strict=True) if not x.is_words)

    def numbers(self, x: Number, x_percent: bool, y: Number, y_percent: bool) -> bool:
        """Return whether an answer x equals a gold answer y; if only one has a percent sign, it may also mean a
        hundredth."""
        if is_close(x, y, measured=self.measured):
            return True
        if x_percent == y_percent:
            return False
        if x_percent:
            x = replace(x, value=x.value / 100)
        else:
            y = replace(y, value=y.value / 100)
        return is_close(x, y, measured=self.measured)

    def value_against_number(self, a: Quantity, g: Quantity) -> bool:
        """Return whether an expression equals a gold number: a root or power may be equal to it, an unfinished
        computation never is."""
        tree: Tree | None = algebra.parse_or_none(a.value)
        if tree is None or is_unfinished_computation(tree):
            return False
        values = [g.value, f"({g.value})/100"] if g.percent != a.percent else [g.value]
        return any(algebra.expressions_equal(a.value, value) for value in values)

    def by_math_verify(self, answer: str, gold: str) -> bool:
        """Return math-verify's verdict; record a call that did not finish and a gold answer that no parser reads.
        math-verify ignores primes, so values with different primes differ."""
        if set(_PRIMED.findall(answer)) != set(_PRIMED.findall(gold)):
            return False
        status = math_verify_status(answer, gold)
        self.gold_unread |= status == DIFFERENT and algebra.parse_or_none(gold) is None and is_unparseable(gold)
        if status in (TIMEOUT, FAILED):
            self.unfinished = status
        return status == EQUAL


def _percent_of_a_unit(a: Quantity, g: Quantity) -> bool:
    """Return whether exactly one side is a percentage and the value without "%" has a unit or a degree sign."""
    other = g if a.percent else a
    return a.percent != g.percent and bool(other.unit or DEGREES.search(other.value))


def _same_text(a: str, g: str) -> bool:
    return equality_key(a) == equality_key(g)


def _is_same_angle(degrees: Quantity, radians: Quantity) -> bool:
    return algebra.expressions_equal(f"({DEGREES.sub('', degrees.value)})*\\pi/180", radians.value) is True


def _is_same_relation(a: tuple[str, ...], g: tuple[str, ...], *, positive: bool = False) -> bool:
    """Return whether two equations or inequalities are multiples of each other, by a positive factor if `positive`.

    Relations are never passed to math-verify, which would call sympy's solve(), which may not terminate.
    """
    sides = [split_unit(side, Quantity("")) for side in a] + [split_unit(side) for side in g]
    trees = [tree for side in sides if (tree := algebra.parse_or_none(side.value)) is not None]
    return len(trees) == 4 and algebra.equations_equal((trees[0], trees[1]), (trees[2], trees[3]), positive=positive)


def _resplit(structure: Structure, other: Structure) -> Structure:
    """Return 1,100 as a list of two numbers if `other` is a list; return any other structure unchanged."""
    if isinstance(structure, Value) and isinstance(other, Unordered) and "," in structure.text:
        return Unordered(tuple(map(Value, split_outside_brackets(structure.text, frozenset(","))[0])))
    return structure


_PRIMED = re.compile(r"\S\s*'+")
_EMPTY = (Value("\\emptyset"), Value("emptyset"))
_NAMES_OF_Y = re.compile(r"y=(?:[fgh]\s*\(\s*x\s*\)|y_\{hat\})|(?:[fgh]\s*\(\s*x\s*\)|y_\{hat\})=y")
_INTEGER = re.compile(r"-?[0-9]+")
_ROMAN = re.compile(r"\\mathrm\s*\{\s*([A-Za-z]{1,3})\s*\}")
