"""Whether an answer equals a gold answer, by one of four rules, with a status instead of a bare bool.

`math_verify` (the default): both in one notation -> structure -> strings, exact numbers, sampled expressions ->
math-verify for what is left. `exact`: equal strings after that normalisation. `qwen`: the published evaluation;
`qwen_train`: the published training reward, which leaves the gold as it is written.

Choices: integers exactly; a decimal gold to 1e-4 of itself; an exact gold needs 1e-6; x % may mean x or x/100,
nothing else is scaled; letters are never units; lists have no order but every item counts, tuples and intervals
have one; a computation left undone (16-3-4, 3!, \\int) is not the number it comes to, but 5 = 10/2 is 5 and 2 \\pm 1
is 1 and 3. A set over other than the reals is no interval; ln|x| is not ln x; a bar makes another quantity.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Literal, get_args

from simplerl.errors import ConfigError
from simplerl.rewards import algebra
from simplerl.rewards.latex import Tree, symbols
from simplerl.rewards.normalize import clean, plain
from simplerl.rewards.numeric import DEGREES, Number, is_close, is_ratio, is_string_only, number, value_number
from simplerl.rewards.structure import (
    Congruence,
    Equation,
    Inequality,
    Matrix,
    Ordered,
    Several,
    Shape,
    Value,
    alternatives,
    by_name,
    is_label,
    shape,
    split_top,
)
from simplerl.rewards.unevaluated import is_computation
from simplerl.rewards.units import Measured, angle_unit, split_modulus, split_unit, units_contradict
from simplerl.rewards.word_answers import chosen_option, is_text, words_of

EQUAL, DIFFERENT, NO_ANSWER, TIMEOUT, FAILED = "equal", "different", "no_answer", "timeout", "failed"
Rule = Literal["math_verify", "qwen", "exact", "qwen_train"]  # another one is refused before the run starts
RULES: tuple[Rule, ...] = get_args(Rule)
PUBLISHED: tuple[Rule, ...] = ("qwen", "qwen_train")
MAX_CHARACTERS = 2000  # longer answers are right only as the same string
MAX_ITEMS = 60
MEASURED_SOURCES = ("minerva",)  # golds are rounded measurements


@dataclass(frozen=True)
class Verdict:
    """`gold_unread`: the answer had to be compared with a gold that no reader here makes anything of."""

    status: str
    gold_unread: bool = False


class _Lost(Exception):
    """A comparison that did not finish; raised so that no cache keeps it."""


def check_rule(rule: str) -> None:
    """Raises ConfigError for an unknown rule."""
    if rule not in RULES:
        raise ConfigError(f"rule={rule} is unknown: choose one of {', '.join(RULES)}.")


def compare(answer: str, gold: str, *, rule: str = "math_verify", source: str = "") -> str:
    """EQUAL, DIFFERENT, NO_ANSWER (an empty answer), TIMEOUT or FAILED. An empty gold equals nothing,
    except under the published rules. Raises ConfigError for an unknown rule."""
    return judge(answer, gold, rule=rule, source=source).status


def judge(answer: str, gold: str, *, rule: str = "math_verify", source: str = "") -> Verdict:
    """As `compare`, with whether the gold was read."""
    check_rule(rule)
    answer = answer.strip()
    if not answer:
        return Verdict(NO_ANSWER)
    try:
        return _judge(answer, gold.strip(), rule, source)
    except _Lost as lost:
        return Verdict(str(lost))


@lru_cache(maxsize=65536)
def _judge(answer: str, gold: str, rule: str, source: str) -> Verdict:  # noqa: PLR0911 - cheapest first
    if answer == gold and rule != "qwen_train":
        return Verdict(EQUAL)
    if len(answer) > MAX_CHARACTERS or (not gold and rule not in PUBLISHED):
        return Verdict(DIFFERENT)
    if rule in PUBLISHED:
        from simplerl.rewards.qwen import qwen_equal

        return Verdict(EQUAL if qwen_equal(answer, gold, source, gold_as_written=rule == "qwen_train") else DIFFERENT)
    a, g = clean(answer), cleaned_gold(gold)
    if not re.sub(r"[\s{}.,;:$]", "", a):
        return Verdict(NO_ANSWER)
    if plain(a) == plain(g):
        return Verdict(EQUAL)
    if rule == "exact":
        return Verdict(DIFFERENT)
    return _Comparison(any(name in source for name in MEASURED_SOURCES)).verdict(a, g)


@lru_cache(maxsize=16384)
def cleaned_gold(gold: str) -> str:
    return clean(gold)


def warm() -> None:
    """Loads and runs once whatever the first comparison would otherwise wait for."""
    compare("\\sqrt{2}x+1", "1+2^{1/2}x")
    from simplerl.rewards import symbolic

    symbolic.warm()


@dataclass
class _Comparison:
    measured: bool
    lost: str | None = None  # status of a math-verify call that did not finish
    gold_unread: bool = False

    def verdict(self, answer: str, gold: str) -> Verdict:
        a = shape(split_unit_outside(answer, Measured("")))
        if any(self.shapes(a, shape(split_unit_outside(one))) for one in alternatives(gold)):
            return Verdict(EQUAL)
        if self.lost:
            raise _Lost(self.lost)
        return Verdict(DIFFERENT, self.gold_unread)

    def shapes(self, a: Shape, g: Shape) -> bool:  # noqa: PLR0911 - a pair of kinds each
        if isinstance(a, Equation) and isinstance(g, Equation):
            return self.equations(a, g)
        if isinstance(g, Equation):
            return len(g.sides) == 2 and is_label(g.sides[0], gold=True) and self.shapes(a, shape(g.sides[1]))
        if isinstance(a, Equation):
            return self.value_of(a, g)
        if isinstance(a, Several) or isinstance(g, Several):
            return self.several(a, g)
        if isinstance(a, Congruence) or isinstance(g, Congruence):
            return self.congruences(a, g)
        if isinstance(a, Ordered) and isinstance(g, Ordered):
            if a.variable and g.variable and plain(a.variable) != plain(g.variable):
                return False
            return (a.opening, a.closing) == (g.opening, g.closing) and self.in_order(a.items, g.items)
        if isinstance(a, Inequality) and isinstance(g, Inequality):
            return self.inequalities(a, g)
        if isinstance(a, Matrix) or isinstance(g, Matrix):
            return self.matrices(a, g)
        if isinstance(a, Value) and isinstance(g, Value):
            return self.values(a.text, g.text)
        return False

    def in_order(self, a: tuple[Shape, ...], g: tuple[Shape, ...]) -> bool:
        return len(a) == len(g) and all(self.shapes(x, y) for x, y in zip(a, g, strict=True))

    def several(self, a: Shape, g: Shape) -> bool:  # noqa: PLR0911 - sets, then a set and one value
        a, g = _resplit(a, g), _resplit(g, a)
        if isinstance(a, Several) and isinstance(g, Several):
            if len(a.items) != len(g.items) or len(a.items) > MAX_ITEMS:
                return False
            left = list(g.items)
            for item in a.items:
                match = next((i for i, other in enumerate(left) if self.items(item, other)), None)
                if match is None:
                    return False
                left.pop(match)
            return True
        for several, other, swapped in ((a, g, False), (g, a, True)):
            is_point = isinstance(several, Several) and isinstance(other, Ordered) and not several.braces
            one = by_name(several) if is_point and isinstance(several, Several) else several
            if isinstance(one, Several) and not isinstance(other, Several):
                if len(one.items) == 1:
                    if one.braces and one.items[0] in _EMPTY:
                        return False
                    return self.shapes(other, one.items[0]) if swapped else self.shapes(one.items[0], other)
                if isinstance(other, Ordered) and not one.braces and (other.opening, other.closing) == ("(", ")"):
                    return self.in_order(other.items, one.items) if swapped else self.in_order(one.items, other.items)
        return False

    def items(self, a: Shape, g: Shape) -> bool:
        """A set within a set is no other item of it."""
        nested = (isinstance(side, Several) and side.braces for side in (a, g))
        return len(set(nested)) == 1 and self.shapes(a, g)

    def congruences(self, a: Shape, g: Shape) -> bool:
        """A statement with \\equiv needs its modulus: x = 3 (mod 5) is 3 (mod 5), and not 3."""
        if isinstance(a, Congruence) and isinstance(g, Congruence):
            if (a.modulus, len(a.sides)) != (g.modulus, len(g.sides)) or plain(a.sides[0]) != plain(g.sides[0]):
                return False
            return all(self.values(x, y) for x, y in zip(a.sides[1:], g.sides[1:], strict=True))
        stated, value = (a, g) if isinstance(a, Congruence) else (g, a)
        if (
            not isinstance(stated, Congruence)
            or not isinstance(value, Value)
            or not is_label(stated.sides[0], gold=True)
        ):
            return False
        residue, modulus = split_modulus(value.text)
        if modulus != stated.modulus or not modulus or len(stated.sides) != 2:
            return False
        return self.values(stated.sides[1], residue) if stated is a else self.values(residue, stated.sides[1])

    def equations(self, a: Equation, g: Equation) -> bool:
        if len(a.sides) == len(g.sides) == 2:
            if plain(a.sides[0]) == plain(g.sides[0]) or _are_names_of_y(a.sides[0], g.sides[0]):
                return self.shapes(shape(a.sides[1]), shape(g.sides[1]))
            return _same_relation(a.sides, g.sides)
        return self.shapes(shape(a.sides[-1]), shape(g.sides[-1])) and plain(a.sides[0]) == plain(g.sides[0])

    def value_of(self, a: Equation, g: Shape) -> bool:
        """x = 5, or x = 2+3 = 5, or 5 = 10/2, where the gold is a bare 5; every side after the name must agree."""
        if number(a.sides[0]) is not None:
            same = all(algebra.expressions_equal(a.sides[0], side) is True for side in a.sides[1:])
            return same and self.shapes(shape(a.sides[0]), g)
        last = a.sides[-1]
        if not is_label(a.sides[0], gold=False):
            trees = [algebra.parsed(side) for side in a.sides]
            done = number(last) is not None and all(tree is not None and not symbols(tree) for tree in trees)
            same = done and all(algebra.expressions_equal(side, last) is True for side in a.sides[:-1])
            return same and self.shapes(shape(last), g)  # 3+5 = 8
        for side in a.sides[1:-1]:
            if algebra.expressions_equal(side, last) is not True:
                return False
        return self.shapes(shape(last), g)

    def inequalities(self, a: Inequality, g: Inequality) -> bool:
        if a.operators != g.operators:
            return False
        if [plain(side) for side in a.sides] == [plain(side) for side in g.sides]:
            return True
        return len(a.sides) == len(g.sides) == 2 and _same_relation(a.sides, g.sides, positive=a.operators[0] != "!=")

    def matrices(self, a: Shape, g: Shape) -> bool:
        if isinstance(a, Matrix) and isinstance(g, Matrix):
            return len(a.rows) == len(g.rows) and all(self.in_order(x, y) for x, y in zip(a.rows, g.rows, strict=True))
        matrix, other = (a, g) if isinstance(a, Matrix) else (g, a)
        if not isinstance(matrix, Matrix) or not isinstance(other, Ordered) or other.opening != "(":
            return False
        flat = tuple(cell for row in matrix.rows for cell in row)
        if 1 not in (len(matrix.rows), len(matrix.rows[0])):
            return False
        return self.in_order(flat, other.items) if matrix is a else self.in_order(other.items, flat)

    def values(self, answer: str, gold: str) -> bool:  # noqa: PLR0911 - cheapest first
        g = split_unit(gold)
        a = split_unit(answer, g)
        if a.modulus and g.modulus and a.modulus != g.modulus:
            return False
        if {angle_unit(a), angle_unit(g)} == {"degree", "radian"}:
            return _same_angle(*((a, g) if angle_unit(a) == "degree" else (g, a)))
        if units_contradict(a.unit, g.unit):
            return False
        a, g = (replace(side, value=_ROMAN.sub(r" \1 ", side.value)) for side in (a, g))
        x, y = value_number(a.value), value_number(g.value)
        if x is not None and y is not None:
            return self.numbers(x, a.percent, y, g.percent)
        if plain(a.value) == plain(g.value):
            return True
        if (chosen := chosen_option(a.value, g.value)) is not None:
            return chosen
        if is_text(a.value) or is_text(g.value):
            return words_of(a.value) == words_of(g.value) != ""
        if is_string_only(a.value) or is_string_only(g.value):
            return is_ratio(a.value, y) or is_ratio(g.value, x)
        if y is not None:
            return self.value_against_number(a, g, y)
        verdict = algebra.expressions_equal(a.value, g.value)
        if verdict is None and not algebra.is_out_of_reach(a.value):
            return self.by_math_verify(a.value, g.value)
        return bool(verdict)

    def numbers(self, x: Number, x_percent: bool, y: Number, y_percent: bool) -> bool:
        if is_close(x, y, measured=self.measured):
            return True
        if x_percent == y_percent:
            return False
        hundredth = replace(x, value=x.value / 100) if x_percent else replace(y, value=y.value / 100)
        return (
            is_close(hundredth, y, measured=self.measured)
            if x_percent
            else is_close(x, hundredth, measured=self.measured)
        )

    def value_against_number(self, a: Measured, g: Measured, gold: Number) -> bool:
        """The gold is a number and the answer is not a plain one: a root or power may be it, a task may not."""
        tree: Tree | None = algebra.parsed(a.value)
        if tree is None or is_computation(tree):
            return False
        for text in [g.value, f"({g.value})/100"] if g.percent != a.percent else [g.value]:
            if algebra.expressions_equal(a.value, text):
                return True
        return False

    def by_math_verify(self, answer: str, gold: str) -> bool:
        from simplerl.rewards.symbolic import is_unread, symbolic_status

        status = symbolic_status(answer, gold)
        self.gold_unread |= status == DIFFERENT and algebra.parsed(gold) is None and is_unread(gold)
        if status in (TIMEOUT, FAILED):
            self.lost = status
        return status == EQUAL


def _same_angle(degrees: Measured, radians: Measured) -> bool:
    return algebra.expressions_equal(f"({DEGREES.sub('', degrees.value)})*\\pi/180", radians.value) is True


def _same_relation(a: tuple[str, ...], g: tuple[str, ...], *, positive: bool = False) -> bool:
    """left = right in both, read here or not at all: math-verify would solve() them, which need not end."""
    sides = [split_unit(side, Measured("")) for side in a] + [split_unit(side) for side in g]
    trees = [tree for side in sides if (tree := algebra.parsed(side.value)) is not None]
    return len(trees) == 4 and algebra.equations_equal((trees[0], trees[1]), (trees[2], trees[3]), positive=positive)


def split_unit_outside(text: str, gold: Measured | None = None) -> str:
    """A tuple, list or matrix without the unit after its closing bracket; anything else as it is."""
    measured = split_unit(text, gold)
    return measured.value if _BRACKETED.fullmatch(measured.value) else text


def _resplit(shape_: Shape, other: Shape) -> Shape:
    """1,100 beside a list is a list of two, not eleven hundred."""
    if isinstance(shape_, Value) and isinstance(other, Several) and "," in shape_.text:
        pieces, _ = split_top(shape_.text, frozenset(","))
        return Several(tuple(Value(piece) for piece in pieces))
    return shape_


_BRACKETED = re.compile(r"(?:[(\[].*,|\\\{|\\langle|\\begin).*[)\]}]|\\langle.*\\rangle", re.S)
_EMPTY = (Value("\\emptyset"), Value("emptyset"))
_ROMAN = re.compile(r"\\mathrm\s*\{\s*([A-Za-z]{1,3})\s*\}")


def _are_names_of_y(a: str, g: str) -> bool:
    return any(one.strip() == "y" and re.fullmatch(r"[fgh]\s*\(\s*x\s*\)", other) for one, other in ((a, g), (g, a)))
