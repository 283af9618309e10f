"""What the base model of the micro world has read.

A mixture of the habits that the base model of the paper shows: quick steps with a box (and slips), long Python
programs that state no answer, rambling without a box, and rarely a self-check. The wording of the question tilts
the mixture, so that greedy decoding is a mixture too. Drills are bare sums and comparisons.

Of the hard products the corpus knows a quarter by heart (`Step.known`); of the others it guesses the middle digits,
so that only working them out by tens and ones gets them right, and no reinforcement of the quick way can.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import islice
from random import Random

from simplerl.micro.world import LARGEST, WORDINGS, Expression, Step, expressions, wording
from simplerl.types import Problem

STEP_SLIP, KNOWN_SLIP = 0.05, 0.15  # chance of a planted slip: easy step, hard product known by heart
CHECK_AFTER_GUESS, CHECK_AFTER_KNOWN = 0.16, 0.05  # chance that steps with such a product check it
RIGHT_GUESS, RIGHT_KNOWN = 0.35, 0.65  # chance that what is checked is right
UNBOXED_CHECK = 0.15  # chance that an answer with a check has no box

QUICK, CODE, RAMBLE, CHECK, DRILL = "quick", "code", "ramble", "check", "drill"
DRILL_SHARE = 0.4  # of all documents
DRILL_PROMPT = "Practice:\n"
VERDICTS = ("same", "different")


@dataclass(frozen=True)
class Document:
    """One text of the corpus: the model reads `prompt` and learns `answer`.

    `final` is the number that the answer ends with (None: it states none); `slips` counts the wrong values
    that were not repaired; `given` is a span of `answer` that is read but not learnt.
    """

    prompt: str
    answer: str
    style: str
    value: int | None = None
    final: int | None = None
    slips: int = 0
    given: tuple[int, int] = (0, 0)


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


def guess(rng: Random, value: int) -> int:
    """The first and the last digit of a product, and any digits between them."""
    digits = str(value)
    return int(digits[0] + "".join(rng.choice("0123456789") for _ in digits[1:-1]) + digits[-1])


def _plan_slips(rng: Random, item: Expression) -> dict[int, int]:
    """What is written instead of the values of some steps, such that every later result stays in range."""
    for _ in range(20):
        slips: dict[int, int] = {}
        for index in range(len(item.ops)):
            step, value = item.steps(slips)[index]
            if not 0 <= value <= LARGEST:
                break
            if step.hard and not step.known:
                slips[index] = guess(rng, value)
            elif rng.random() < (KNOWN_SLIP if step.hard else STEP_SLIP):
                slips[index] = slip(rng, value)
        if all(0 <= value <= LARGEST for _, value in item.steps(slips)):
            return slips
    return {}


def _numbered(index: int) -> str:
    return "First " if index == 0 else "Then "


def quick_answer(rng: Random, item: Expression, boxed: bool = True) -> Document:
    steps = item.steps(_plan_slips(rng, item))
    lines = [f"{_numbered(i)}{step} = {value}" for i, (step, value) in enumerate(steps)]
    final = steps[-1][1]
    lines.append(f"The answer is \\boxed{{{final}}}" if boxed else f"The answer is {final}")
    slips = sum(value != step.value for step, value in steps)
    return Document("", "\n".join(lines), QUICK, item.value, final, slips)


def worked(step: Step) -> list[Step]:
    """A hard product by tens and ones: a * b = a * tens + a * ones."""
    tens, ones = Step(step.a, "*", step.b // 10 * 10), Step(step.a, "*", step.b % 10)
    return [tens, ones, Step(tens.value, "+", ones.value)]


def comparison(new: int, old: int) -> str:
    return f"{new} or {old}? " + (f"same, keep {new}" if new == old else f"different, use {new}")


def check_answer(rng: Random, item: Expression) -> Document:
    """Careful steps; the hard product is written in one go, then worked out, compared and repaired. Its first value
    is given, not learnt, because the quick answers say how good first values are."""
    lines: list[str] = []
    given = (0, 0)
    for index, (step, value) in enumerate(item.steps()):
        lines.append(f"{_numbered(index)}{step} = {value}")
        if not step.hard:
            continue
        first = value
        if rng.random() >= (RIGHT_KNOWN if step.known else RIGHT_GUESS):
            first = slip(rng, value) if step.known else guess(rng, value)
        lines[-1] = f"{_numbered(index)}{step} = {first}"
        end = len("\n".join(lines))
        given = (end - len(str(first)), end)
        word = rng.choice(("recheck", "recheck", "rethink", "try again"))
        parts = [f"{part} = {part.value}" for part in worked(step)]
        lines += [f"wait, {word}: {parts[0]}", *parts[1:], comparison(value, first)]
    boxed = rng.random() >= UNBOXED_CHECK
    lines.append(f"The answer is \\boxed{{{item.value}}}" if boxed else f"The answer is {item.value}")
    return Document("", "\n".join(lines), CHECK, item.value, item.value, given=given)


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
    if kind < 0.20:
        step = Step(rng.randint(11, 99), "*", rng.choice((rng.randint(2, 9), 10 * rng.randint(1, 9))))
        return f"{step} = {step.value}"
    if kind < 0.27:
        step = Step(rng.randint(2, 9), "*", rng.randint(2, 99))
        return f"{step} = {step.value}"
    if kind < 0.46:  # the last line of a worked product
        step = worked(Step(rng.randint(11, 99), "*", 10 * rng.randint(1, 9) + rng.randint(1, 9)))[-1]
        return f"{step} = {step.value}"
    if kind < 0.79:
        small, large = rng.randint(2, 99), rng.choice((rng.randint(2, 198), rng.randint(2, 999), rng.randint(2, 9801)))
        high = max(small, large)
        step = rng.choice((Step(small, "+", large), Step(large, "+", small), Step(high, "-", small + large - high)))
        return f"{step} = {step.value}"
    value = rng.choice((rng.randint(0, 9), rng.randint(10, 99), rng.randint(100, 999), rng.randint(1000, LARGEST)))
    return comparison(value, value if rng.random() < 0.5 else slip(rng, value))


def drill(rng: Random) -> Document:
    """Bare sums and comparisons, written as they stand in the answers."""
    return Document(DRILL_PROMPT, "\n".join(_drill_line(rng) for _ in range(rng.randint(3, 5))), DRILL)


def _answer(rng: Random, item: Expression, template: str) -> Document:
    _, steps, code, _ = WORDINGS[template]
    draw = rng.random()
    if draw < steps:
        hard = [step for step, _ in item.steps() if step.hard]
        share = 0.0 if not hard else CHECK_AFTER_KNOWN if hard[0].known else CHECK_AFTER_GUESS
        return check_answer(rng, item) if rng.random() < share else quick_answer(rng, item)
    return code_answer(rng, item) if draw < steps + code else ramble_answer(rng, item)


def documents(seed: int = 0, drill_share: float = DRILL_SHARE) -> Iterator[Document]:
    """The endless corpus."""
    rng = Random(f"corpus-{seed}")
    for item in expressions("pretrain", rng):
        while rng.random() < drill_share:
            yield drill(rng)
        template = wording(rng)
        found = _answer(rng, item, template)
        prompt = template.format(item) + "\n"
        yield replace(found, prompt=prompt)


def problems(count: int, seed: int = 0) -> list[Problem]:
    """The first question-and-answer documents of the corpus as problems with a solution, for fine-tuning."""
    found = (document for document in documents(seed, drill_share=0.0))
    return [
        Problem(f"micro-corpus-{seed}-{i}", d.prompt.rstrip("\n"), str(d.value), "micro", d.style, d.answer)
        for i, d in enumerate(islice(found, count))
    ]
