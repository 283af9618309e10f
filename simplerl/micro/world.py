"""Questions of the micro world and the corpus that its base model is pre-trained on.

A question asks for the value of an expression with two or three of + - *, e.g. `What is 23 + 59 * 78?`;
every intermediate result lies in 0..9999. Six in ten contain a *hard product* of two 2-digit numbers, which
a small model gets wrong in one go and right when it works it out by tens and ones.

The corpus mixes the habits that the base model of the paper shows: quick steps with a box (and slips), long
Python programs that state no answer, rambling without a box, and rarely a self-check. The wording of the
question tilts the mixture, so that greedy decoding is a mixture too. Drills are bare sums and comparisons.

Everything is a pure function of its seed. Splits are disjoint because a hash of the expression assigns each
expression to one of them.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from random import Random
from typing import Literal

from simplerl.types import Problem

LARGEST = 9999
SPLITS = {"pretrain": range(0, 80), "rl": range(80, 90), "heldout": range(90, 100)}  # per cent of all expressions
HARD_SHARE = 0.6
STEP_SLIP, HARD_SLIP, CHECKED_SLIP = 0.05, 0.4, 0.5  # chance of a planted slip: easy step, hard product, before a check

QUICK, CODE, RAMBLE, CHECK, DRILL = "quick", "code", "ramble", "check", "drill"
CHECK_SHARE = 0.10  # of the box-bound answers to questions with a hard product ... see `style_of`
DRILL_SHARE = 0.4  # of all documents
# wording -> (how often it is used, share of step-by-step, code, ramble among its answers)
WORDINGS = {
    "What is {}?": (0.20, 0.70, 0.18, 0.12),
    "Compute {}.": (0.16, 0.70, 0.18, 0.12),
    "Find {}.": (0.16, 0.70, 0.18, 0.12),
    "Work out {}.": (0.16, 0.70, 0.18, 0.12),
    "Calculate {}.": (0.12, 0.28, 0.62, 0.10),
    "Evaluate {}.": (0.10, 0.28, 0.62, 0.10),
    "Simplify {}.": (0.10, 0.30, 0.15, 0.55),
}
DRILL_PROMPT = "Practice:\n"


@dataclass(frozen=True)
class Step:
    """One operation on two integers, as the order of evaluation reaches it."""

    a: int
    op: str
    b: int

    @property
    def value(self) -> int:
        return {"+": self.a + self.b, "-": self.a - self.b, "*": self.a * self.b}[self.op]

    @property
    def hard(self) -> bool:
        return self.op == "*" and _two_digits(self.a) and _two_digits(self.b)

    def __str__(self) -> str:
        return f"{self.a} {self.op} {self.b}"


def _two_digits(number: int) -> bool:
    return 10 < number < 100 and number % 10 != 0


@dataclass(frozen=True)
class Expression:
    """Integers joined by operators, with at most one pair of brackets around operands [start, stop)."""

    numbers: tuple[int, ...]
    ops: tuple[str, ...]
    bracket: tuple[int, int] | None = None

    def __str__(self) -> str:
        words = [str(number) for number in self.numbers]
        if self.bracket:
            start, stop = self.bracket
            words[start], words[stop - 1] = f"({words[start]}", f"{words[stop - 1]})"
        return words[0] + "".join(f" {op} {word}" for op, word in zip(self.ops, words[1:], strict=True))

    def reductions(self) -> Iterator[tuple[int, int, str, int, int]]:
        """The order of evaluation as (slot a, slot b, op) over operand slots; a result replaces slot a."""
        slots, ops = list(range(len(self.numbers))), list(self.ops)
        while ops:
            low, high = 0, len(ops)
            if self.bracket:
                inside = [i for i, slot in enumerate(slots) if self.bracket[0] <= slot < self.bracket[1]]
                if len(inside) > 1:
                    low, high = inside[0], inside[-1]
            index = next((i for i in range(low, high) if ops[i] == "*"), low)
            yield slots[index], slots[index + 1], ops[index], index, len(ops)
            del slots[index + 1], ops[index]

    def steps(self, slips: dict[int, int] | None = None) -> list[tuple[Step, int]]:
        """Every step with the value written for it; `slips` maps a step's index to a wrong value, which the later
        steps then go on with."""
        values, steps = list(self.numbers), []
        for index, (left, right, op, _, _) in enumerate(self.reductions()):
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


def _acceptable(expression: Expression) -> bool:
    steps = [step for step, _ in expression.steps()]
    if any(not 0 <= step.value <= LARGEST for step in steps):
        return False
    products = [step for step in steps if step.op == "*"]
    return all(max(step.a, step.b) < 100 for step in products) and sum(step.hard for step in products) <= 1


def _candidate(rng: Random) -> Expression:
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
    """A random expression whose intermediate results stay in 0..LARGEST, with at most one hard product."""
    hard = rng.random() < HARD_SHARE
    while True:
        candidate = _candidate(rng)
        if (("*" in candidate.ops) or not hard) and _acceptable(candidate) and candidate.hard == hard:
            return candidate


def split_of(text: str) -> str:
    """The split that an expression, as written, belongs to."""
    bucket = int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") % 100
    return next(name for name, buckets in SPLITS.items() if bucket in buckets)


def _expressions(split: str, rng: Random) -> Iterator[Expression]:
    if split not in SPLITS:
        raise ValueError(f"split={split} is unknown: choose one of {', '.join(SPLITS)}.")
    while True:
        candidate = expression(rng)
        if split_of(str(candidate)) == split:
            yield candidate


def _wording(rng: Random) -> str:
    return rng.choices(list(WORDINGS), [weights[0] for weights in WORDINGS.values()])[0]


def problems(split: Literal["pretrain", "rl", "heldout"], count: int, seed: int = 0) -> list[Problem]:
    """`count` different questions of a split (pretrain | rl | heldout); level is the number of operators, with `h`
    where there is a hard product."""
    rng = Random(f"{split}-{seed}")
    found: dict[str, Problem] = {}
    for item in _expressions(split, rng):
        if len(found) == count:
            break
        text = str(item)
        if text not in found:
            level = f"{len(item.ops)}{'h' if item.hard else ''}"
            found[text] = Problem(
                id=f"micro-{split}-{seed}-{len(found)}",
                question=_wording(rng).format(text),
                answer=str(item.value),
                source="micro",
                level=level,
            )
    return list(found.values())


@dataclass(frozen=True)
class Document:
    """One text of the corpus: the model reads `prompt` and learns `answer`.

    `final` is the number that the answer ends with (None: it states none); `slips` counts the planted
    errors that were not repaired.
    """

    prompt: str
    answer: str
    style: str
    value: int | None = None
    final: int | None = None
    slips: int = 0


def slip(rng: Random, value: int) -> int:
    """A near miss: one or two digits changed, or off by a small round number; in 0..LARGEST, never `value`."""
    while True:
        if rng.random() < 0.4:
            wrong = value + rng.choice((-1, 1)) * rng.choice((1, 2, 10, 10, 20, 100, 100, 200))
        else:
            digits = list(str(value))
            for _ in range(rng.choice((1, 1, 2))):
                digits[rng.randrange(len(digits))] = rng.choice("0123456789")
            wrong = int("".join(digits)) if digits[0] != "0" or len(digits) == 1 else -1
        if wrong != value and 0 <= wrong <= LARGEST:
            return wrong


def _plan_slips(rng: Random, item: Expression, hard_slip: float, step_slip: float) -> dict[int, int]:
    """Slips for some steps of an expression, such that every later result stays in range."""
    for _ in range(8):
        slips: dict[int, int] = {}
        for index in range(len(item.ops)):
            step, value = item.steps(slips)[index]
            if rng.random() < (hard_slip if step.hard else step_slip) and 0 <= value <= LARGEST:
                slips[index] = slip(rng, value)
        if all(0 <= value <= LARGEST for _, value in item.steps(slips)):
            return slips
    return {}


def _numbered(index: int) -> str:
    return "First " if index == 0 else "Then "


def quick_answer(rng: Random, item: Expression, boxed: bool = True) -> Document:
    slips = _plan_slips(rng, item, HARD_SLIP, STEP_SLIP)
    steps = item.steps(slips)
    lines = [f"{_numbered(i)}{step} = {value}" for i, (step, value) in enumerate(steps)]
    final = steps[-1][1]
    lines.append(f"The answer is \\boxed{{{final}}}" if boxed else f"The answer is {final}")
    return Document("", "\n".join(lines), QUICK, item.value, final, len(slips))


def worked(step: Step) -> list[Step]:
    """A hard product by tens and ones: a * b = a * tens + a * ones."""
    tens, ones = Step(step.a, "*", step.b // 10 * 10), Step(step.a, "*", step.b % 10)
    return [tens, ones, Step(tens.value, "+", ones.value)]


def comparison(new: int, old: int) -> str:
    return f"{new} or {old}? " + (f"same, keep {new}" if new == old else f"different, use {new}")


def check_answer(rng: Random, item: Expression) -> Document:
    """Careful steps; the hard product is written in one go, then worked out, compared and repaired."""
    lines = []
    for index, (step, value) in enumerate(item.steps()):
        if not step.hard:
            lines.append(f"{_numbered(index)}{step} = {value}")
            continue
        first = slip(rng, value) if rng.random() < CHECKED_SLIP else value
        word = rng.choice(("recheck", "recheck", "rethink", "try again"))
        lines.append(f"{_numbered(index)}{step} = {first}")
        parts = [f"{part} = {part.value}" for part in worked(step)]
        lines += [f"wait, {word}: {parts[0]}", *parts[1:], comparison(value, first)]
    boxed = rng.random() < 0.85
    lines.append(f"The answer is \\boxed{{{item.value}}}" if boxed else f"The answer is {item.value}")
    return Document("", "\n".join(lines), CHECK, item.value, item.value)


def code_answer(rng: Random, item: Expression) -> Document:
    """A long Python program that computes the value and never states it."""
    names = "abcdefghijk"
    slots = {slot: names[slot] for slot in range(len(item.numbers))}
    lines = ["```python"]
    for slot, number in enumerate(item.numbers):
        lines.append(f"{names[slot]} = {number} # the number {number}")
    lines.append("def solve():")
    fresh = len(item.numbers)
    verbs = {"+": "add", "-": "subtract", "*": "multiply"}
    for left, right, op, _, _ in item.reductions():
        a, b, c = slots[left], slots[right], names[fresh]
        lines += [f"    # {verbs[op]} {a} and {b} to get {c}", f"    {c} = {a} {op} {b}", f"    assert {c} >= 0"]
        lines.append(f"    print({c})")
        slots[left], fresh = c, fresh + 1
    lines += [f"    return {c}", "result = solve()", "print(result)", "```"]
    return Document("", "\n".join(lines), CODE, item.value)


_FILLERS = (
    "We can look at the numbers",
    "Maybe we can add some of the numbers",
    "Maybe the result is about {guess}",
    "It is not easy to see the result",
    "We have {number} and {other} and so on",
    "The number {number} is not big",
    "We can also look at {number} and think about {other}",
)


def ramble_answer(rng: Random, item: Expression) -> Document:
    """Talk around the question; half of the time an unboxed result at the end."""
    lines = ["Let me think about this"]
    for filler in rng.choices(_FILLERS, k=rng.randint(3, 5)):
        number, other = rng.choice(item.numbers), rng.choice(item.numbers)
        guess = 10 * rng.randint(1, 500)
        lines.append(filler.format(number=number, other=other, guess=guess))
    if rng.random() < 0.5:
        return Document("", "\n".join(lines), RAMBLE, item.value)
    rest = quick_answer(rng, item, boxed=False)
    return Document("", "\n".join([*lines, rest.answer]), RAMBLE, item.value, rest.final, rest.slips)


def _drill_line(rng: Random) -> str:
    kind = rng.random()
    if kind < 0.22:
        step = Step(rng.randint(11, 99), "*", rng.choice((rng.randint(2, 9), 10 * rng.randint(1, 9))))
        return f"{step} = {step.value}"
    if kind < 0.30:
        step = Step(rng.randint(2, 9), "*", rng.randint(2, 99))
        return f"{step} = {step.value}"
    if kind < 0.50:  # the last line of a worked product
        step = worked(Step(rng.randint(11, 99), "*", 10 * rng.randint(1, 9) + rng.randint(1, 9)))[-1]
        return f"{step} = {step.value}"
    if kind < 0.84:
        small, large = rng.randint(2, 99), rng.choice((rng.randint(2, 198), rng.randint(2, 999), rng.randint(2, 9801)))
        high = max(small, large)
        step = rng.choice((Step(small, "+", large), Step(large, "+", small), Step(high, "-", small + large - high)))
        return f"{step} = {step.value}"
    value = rng.choice((rng.randint(100, 999), rng.randint(1000, LARGEST)))
    return comparison(value, value if rng.random() < 0.5 else slip(rng, value))


def drill(rng: Random) -> Document:
    """Bare sums and comparisons, written as they stand in the answers."""
    return Document(DRILL_PROMPT, "\n".join(_drill_line(rng) for _ in range(rng.randint(3, 5))), DRILL)


def _answer(rng: Random, item: Expression, wording: str) -> Document:
    _, steps, code, _ = WORDINGS[wording]
    draw = rng.random()
    if draw < steps:
        if item.hard and rng.random() < CHECK_SHARE / HARD_SHARE:
            return check_answer(rng, item)
        return quick_answer(rng, item)
    return code_answer(rng, item) if draw < steps + code else ramble_answer(rng, item)


def documents(seed: int = 0, drill_share: float = DRILL_SHARE) -> Iterator[Document]:
    """The endless corpus."""
    rng = Random(f"corpus-{seed}")
    for item in _expressions("pretrain", rng):
        while rng.random() < drill_share:
            yield drill(rng)
        wording = _wording(rng)
        found = _answer(rng, item, wording)
        prompt = wording.format(item) + "\n"
        yield Document(prompt, found.answer, found.style, found.value, found.final, found.slips)


def corpus(count: int, seed: int = 0) -> list[Problem]:
    """The first question-and-answer documents of the corpus as problems with a solution, for fine-tuning."""
    found = (document for document in documents(seed, drill_share=0.0))
    return [
        Problem(f"micro-corpus-{seed}-{i}", d.prompt.rstrip("\n"), str(d.value), "micro", d.style, d.answer)
        for i, d in enumerate(islice(found, count))
    ]
