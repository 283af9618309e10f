r"""Generates word problems of addition and subtraction in several steps, for real language models on a CPU:

    A farm had 10 apples and bought 38 more. Then it sold 12 of them. How many apples does it have now?

Everything is a pure function of its seed. The splits are disjoint in their numbers and signs, not only in their words,
because a hash of the expression decides to which split it belongs.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate, pairwise
from random import Random
from typing import Literal

from simplerl.data.rows import setting
from simplerl.errors import ConfigError, require
from simplerl.types import Count, Fraction, Problem

Split = Literal["sft", "rl", "heldout"]
SPLITS = {"sft": range(0, 10), "rl": range(10, 80), "heldout": range(80, 100)}  # percent of all expressions
OWNERS = ("shop", "farm", "school", "market", "museum", "hotel", "library", "club", "kitchen", "team")
THINGS = ("apples", "books", "chairs", "eggs", "lamps", "pens", "plates", "boxes", "tickets", "stones", "cups", "balls")
GAINS = ("bought {} more", "found {} more", "was given {} more")
LOSSES = ("sold {} of them", "lost {} of them", "gave away {} of them")
FRUITLESS = 1000  # stop after this many candidates in a row that are no new problem of the split


@dataclass(frozen=True)
class Sum:
    """Represents a first number and the changes to it; every intermediate result is at least 0."""

    terms: tuple[int, ...]  # the first number, then the changes, negative for losses

    @property
    def results(self) -> list[int]:
        """Return the first number and the result of each step."""
        return list(accumulate(self.terms))

    def __str__(self) -> str:
        return f"{self.terms[0]}" + "".join(f" {'-' if term < 0 else '+'} {abs(term)}" for term in self.terms[1:])

    def question(self, rng: Random) -> str:
        """Return the sum in words chosen by `rng`."""
        owner, thing = rng.choice(OWNERS), rng.choice(THINGS)
        first, *later = [rng.choice(LOSSES if term < 0 else GAINS).format(abs(term)) for term in self.terms[1:]]
        then = "".join(f" Then it {change}." for change in later)
        return f"A {owner} had {self.terms[0]} {thing} and {first}.{then} How many {thing} does it have now?"

    def solution(self) -> str:
        """Return the steps and the boxed result."""
        changes = zip(pairwise(self.results), self.terms[1:], strict=True)
        steps = [f"{a} {'-' if term < 0 else '+'} {abs(term)} = {b}." for (a, b), term in changes]
        return f"{' '.join(steps)} The answer is \\boxed{{{self.results[-1]}}}."


def split_of(text: str) -> str:
    """Return the split that an expression, given as text, belongs to."""
    bucket = int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") % 100
    return next(name for name, buckets in SPLITS.items() if bucket in buckets)


def _candidates(rng: Random, steps: Sequence[int], largest: int, losses: float) -> Iterator[Sum]:
    """Yield random sums without end; they may repeat."""
    while True:
        terms = [rng.randint(2, largest)]
        for _ in range(rng.choice(steps)):
            total, change = sum(terms), rng.randint(2, largest)
            terms.append(-change if change <= total and rng.random() < losses else change)
        yield Sum(tuple(terms))


def problems(
    *,
    split: Split,
    count: Count,
    seed: int = 0,
    steps: Sequence[int] = (2, 3),
    largest: int = 99,
    losses: Fraction = 0.5,
) -> list[Problem]:
    """Return `count` different problems of a split, with solutions. Raises ConfigError if there are not as many.

    split: sft and rl for training, heldout for evaluation; no expression is in two of them.
    steps: numbers of additions and subtractions of a problem, which are its level; each is equally frequent.
    largest: the largest number of a question. losses: probability of a subtraction where the result is at least 0.
    """
    require(
        bool(steps) and all(isinstance(one, int) and one >= 1 for one in steps),
        f"{setting('steps')}={list(steps)} must list whole numbers from 1, such as '{setting('steps')}=[2,3]'.",
    )
    require(largest >= 9, f"{setting('largest')}={largest} leaves few sums: set at least {setting('largest')}=9.")
    rng, found, fruitless = Random(f"{split}-{seed}"), dict[str, Problem](), 0
    for item in _candidates(rng, list(steps), largest, losses):
        if len(found) == count:
            break
        text = str(item)
        if text in found or split_of(text) != split:
            fruitless += 1
            if fruitless > FRUITLESS:
                key = setting("count")
                raise ConfigError(
                    f"{key}={count} is more than the sums of split={split}, of which {len(found)} were found: "
                    f"set {key}={len(found)} or raise {setting('largest')}."
                )
            continue
        name, fruitless = f"sums-{split}-{seed}-{len(found)}", 0
        level = str(len(item.terms) - 1)
        found[text] = Problem(name, item.question(rng), str(item.results[-1]), "sums", level, item.solution())
    return list(found.values())
