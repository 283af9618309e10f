"""Generates the problems of the micro world: integer arithmetic.

A problem asks for the value of an expression with two or three of the operators + - *, e.g. `What is 23 + 59 * 78?`.
Every intermediate result lies in 0..9999. 60 % of the expressions contain a *hard product*, of two 2-digit numbers,
neither of them a multiple of ten.

Everything is a pure function of its seed. The splits are disjoint, because a hash of the expression decides to which
split it belongs. The base model's training corpus is in `simplerl.micro.corpus`.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from random import Random
from typing import Literal

from simplerl.errors import require
from simplerl.types import Count, Problem

LARGEST = 9999
SPLITS = {"pretrain": range(0, 80), "rl": range(80, 90), "heldout": range(90, 100)}  # percent of all expressions
HARD_FRACTION = 0.6
LEVELS = ("2", "2h", "3", "3h")
MAX_REPEATS = 2000  # candidates in a row that are known or of another level
# wording -> (its frequency, fractions of step-by-step, code and rambling answers to it)
WORDINGS = {
    "What is {}?": (0.20, 0.70, 0.18, 0.12),
    "Compute {}.": (0.16, 0.70, 0.18, 0.12),
    "Find {}.": (0.16, 0.70, 0.18, 0.12),
    "Work out {}.": (0.16, 0.70, 0.18, 0.12),
    "Calculate {}.": (0.12, 0.28, 0.62, 0.10),
    "Evaluate {}.": (0.10, 0.28, 0.62, 0.10),
    "Simplify {}.": (0.10, 0.30, 0.15, 0.55),
}


@dataclass(frozen=True)
class Step:
    """Represents one operation on two integers in the evaluation of an expression."""

    a: int
    op: str
    b: int

    @property
    def value(self) -> int:
        return {"+": self.a + self.b, "-": self.a - self.b, "*": self.a * self.b}[self.op]

    @property
    def hard(self) -> bool:
        """Return whether this is a product of two 2-digit numbers, neither of them a multiple of ten."""
        return self.op == "*" and all(10 < factor < 100 and factor % 10 for factor in (self.a, self.b))

    @property
    def memorised(self) -> bool:
        """Return whether the base model has memorised this hard product: a factor ends in 1 or is below 15."""
        return any(factor % 10 == 1 or factor < 15 for factor in (self.a, self.b))

    def __str__(self) -> str:
        return f"{self.a} {self.op} {self.b}"


@dataclass(frozen=True)
class Expression:
    """Represents integers joined by operators, with at most one pair of brackets."""

    numbers: tuple[int, ...]
    ops: tuple[str, ...]
    bracket: tuple[int, int] | None = None  # (start, stop): brackets enclose the operands start to stop - 1

    def __str__(self) -> str:
        words = [str(number) for number in self.numbers]
        if self.bracket:
            start, stop = self.bracket
            words[start], words[stop - 1] = f"({words[start]}", f"{words[stop - 1]})"
        return words[0] + "".join(f" {op} {word}" for op, word in zip(self.ops, words[1:], strict=True))

    def reductions(self) -> Iterator[tuple[int, int, str]]:
        """Yield the order of evaluation as (slot a, slot b, op); the result replaces slot a."""
        slots, ops = list(range(len(self.numbers))), list(self.ops)
        while ops:
            low, high = 0, len(ops)
            if self.bracket:
                inside = [i for i, slot in enumerate(slots) if self.bracket[0] <= slot < self.bracket[1]]
                if len(inside) > 1:
                    low, high = inside[0], inside[-1]
            index = next((i for i in range(low, high) if ops[i] == "*"), low)
            yield slots[index], slots[index + 1], ops[index]
            del slots[index + 1], ops[index]

    def steps(self, slips: dict[int, int] | None = None) -> list[tuple[Step, int]]:
        """Return every step with the value written for it. `slips` maps a step's index to a wrong value, which later
        steps then use."""
        values, steps = list(self.numbers), []
        for index, (left, right, op) in enumerate(self.reductions()):
            step = Step(values[left], op, values[right])
            written = (slips or {}).get(index, step.value)
            values[left] = written
            steps.append((step, written))
        return steps

    @property
    def value(self) -> int:
        return self.steps()[-1][1]

    @property
    def hard(self) -> bool:
        return any(step.hard for step, _ in self.steps())


def _is_valid(expression: Expression) -> bool:
    """Return whether results stay in range, factors stay below 100 and at most one product is hard."""
    steps = [step for step, _ in expression.steps()]
    if any(not 0 <= step.value <= LARGEST for step in steps):
        return False
    products = [step for step in steps if step.op == "*"]
    return all(max(step.a, step.b) < 100 for step in products) and sum(step.hard for step in products) <= 1


def _candidate(rng: Random) -> Expression:
    """Return a random expression that may be invalid."""
    count = 3 if rng.random() < 0.6 else 4
    numbers = tuple(rng.randint(2, 99) for _ in range(count))
    ops = tuple(rng.choice("+-*") for _ in range(count - 1))
    bracket = None
    if rng.random() < 0.5:
        start = rng.randrange(count - 1)
        stop = start + 2 if count == 3 or rng.random() < 0.7 or start + 3 > count else start + 3
        if "*" not in ops[start : stop - 1] and stop - start < count:
            bracket = (start, stop)
    return Expression(numbers, ops, bracket)


def expression(rng: Random) -> Expression:
    """Return a random expression with intermediate results in 0..LARGEST and at most one hard product."""
    hard = rng.random() < HARD_FRACTION
    while True:
        candidate = _candidate(rng)
        if (("*" in candidate.ops) or not hard) and _is_valid(candidate) and candidate.hard == hard:
            return candidate


def split_of(text: str) -> str:
    """Return the split that an expression, given as text, belongs to."""
    bucket = int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") % 100
    return next(name for name, buckets in SPLITS.items() if bucket in buckets)


def expressions(split: str, rng: Random) -> Iterator[Expression]:
    """Yield random expressions of a split without end; they may repeat. Raises ValueError for a split that is not in
    SPLITS."""
    if split not in SPLITS:
        raise ValueError(f"unknown split={split}: choose one of {', '.join(SPLITS)}.")
    while True:
        candidate = expression(rng)
        if split_of(str(candidate)) == split:
            yield candidate


def wording(rng: Random) -> str:
    """Return a random question template with a `{}` for the expression."""
    return rng.choices(list(WORDINGS), [weights[0] for weights in WORDINGS.values()])[0]


def asked(
    split: str, count: int, seed: int = 0, levels: Sequence[str] | None = None
) -> Iterator[tuple[Expression, Problem]]:
    """Yield `count` different expressions of a split, each with the problem that asks for its value.

    Raises ConfigError if no level, or an unknown one, is in `levels`, or after MAX_REPEATS repeats in a row.
    """
    wanted = set(LEVELS) if levels is None else {str(level) for level in levels}
    require(
        bool(wanted) and wanted <= set(LEVELS),
        f"data.levels={levels} must name some of {', '.join(LEVELS)}, or be null for all.",
    )
    rng = Random(f"{split}-{seed}")
    found: set[str] = set()
    repeats = 0
    for item in expressions(split, rng):
        if len(found) == count:
            return
        text, level = str(item), f"{len(item.ops)}{'h' if item.hard else ''}"
        repeats += 1
        require(
            repeats <= MAX_REPEATS,
            f"data.count={count} exceeds the different problems found: lower it to {len(found)}.",
        )
        if text not in found and level in wanted:
            repeats = 0
            name = f"micro-{split}-{seed}-{len(found)}"
            found.add(text)
            yield item, Problem(name, wording(rng).format(text), str(item.value), source="micro", level=level)


def problems(
    split: Literal["pretrain", "rl", "heldout"], count: Count, seed: int = 0, levels: list[str] | None = None
) -> list[Problem]:
    """Return `count` different problems of a split (pretrain, rl or heldout).

    Their level is the number of operators, followed by `h` if there is a hard product. levels: keep only these of
    2, 2h, 3 and 3h; None: all."""
    return [problem for _, problem in asked(split, count, seed, levels)]
