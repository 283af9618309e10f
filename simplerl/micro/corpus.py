"""Generates the training corpus of the micro world's base model.

The corpus mixes the habits of a base model before RL: short step-by-step answers with a boxed result (and slips, that
is, planted errors), long Python programs that state no answer, rambling without a box, and rarely a self-check. The
wording of the question shifts the mixture, so that greedy decoding shows a mixture too. Drills are bare sums and
comparisons.

Quick answers give a quarter of the hard products from memory (`Step.memorised`), correct except for slips. For the
others they guess the middle digits, so that only working a product out by tens and ones gives the correct result, and
RL cannot improve quick answers to it.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import islice
from random import Random

from simplerl.micro.world import LARGEST, WORDINGS, Expression, Step, asked, expressions, wording
from simplerl.types import Problem

EASY_SLIP_RATE, MEMORISED_SLIP_RATE = 0.05, 0.15  # probability of a slip in an easy step, in a memorised hard product
GUESSED_CHECK_RATE, MEMORISED_CHECK_RATE = 0.16, 0.05  # probability that an answer checks its hard product
GUESSED_CORRECT_RATE, MEMORISED_CORRECT_RATE = 0.35, 0.65  # probability that a checked product was correct
UNBOXED_CHECK_RATE = 0.15  # probability that an answer with a check has no box

QUICK, CODE, RAMBLE, CHECK, DRILL = "quick", "code", "ramble", "check", "drill"
DRILL_FRACTION = 0.4  # of all documents
DRILL_PROMPT = "Practice:\n"
VERDICTS = ("same", "different")


@dataclass(frozen=True)
class Document:
    """Holds one text of the corpus: the model is trained on `answer`, given `prompt`."""

    prompt: str
    answer: str
    style: str  # QUICK, CODE, RAMBLE, CHECK or DRILL
    value: int | None = None  # value of the expression; None for a drill
    final: int | None = None  # the number that the answer ends with; None if it states none
    slips: int = 0  # number of wrong values that the answer does not repair
    given: tuple[int, int] = (0, 0)  # a span of `answer` that is excluded from the loss


def slip(rng: Random, value: int) -> int:
    """Return a wrong value near `value`, in 0..LARGEST: one or two digits changed, or off by a small round number."""
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
    """Return `value` with random digits between the first and the last."""
    digits = str(value)
    return int(digits[0] + "".join(rng.choice("0123456789") for _ in digits[1:-1]) + digits[-1])


def _plan_slips(rng: Random, item: Expression) -> dict[int, int]:
    """Choose the solution steps that get a guessed or wrong value, as {step index: value}, such that every result stays
    in 0..LARGEST; {} if 20 attempts fail."""
    for _ in range(20):
        slips: dict[int, int] = {}
        for index in range(len(item.ops)):
            step, value = item.steps(slips)[index]
            if not 0 <= value <= LARGEST:
                break
            if step.hard and not step.memorised:
                slips[index] = guess(rng, value)
            elif rng.random() < (MEMORISED_SLIP_RATE if step.hard else EASY_SLIP_RATE):
                slips[index] = slip(rng, value)
        if all(0 <= value <= LARGEST for _, value in item.steps(slips)):
            return slips
    return {}


def _step_line(index: int, step: Step, value: int) -> str:
    return f"{'Then' if index else 'First'} {step} = {value}"


def _answer_line(value: int, boxed: bool) -> str:
    return f"The answer is \\boxed{{{value}}}" if boxed else f"The answer is {value}"


def quick_answer(rng: Random, item: Expression, boxed: bool = True) -> Document:
    """Return an answer with the steps, including slips, and the result, without checking anything."""
    steps = item.steps(_plan_slips(rng, item))
    final = steps[-1][1]
    lines = [*(_step_line(i, *step) for i, step in enumerate(steps)), _answer_line(final, boxed)]
    slips = sum(value != step.value for step, value in steps)
    return Document("", "\n".join(lines), QUICK, item.value, final, slips)


def worked(step: Step) -> list[Step]:
    """Return the three steps that compute a hard product by tens and ones: a * b = a * tens + a * ones."""
    tens, ones = Step(step.a, "*", step.b // 10 * 10), Step(step.a, "*", step.b % 10)
    return [tens, ones, Step(tens.value, "+", ones.value)]


def comparison(new: int, old: int) -> str:
    """Return the line of a self-check that compares a recomputed value with the first one."""
    return f"{new} or {old}? " + (f"same, keep {new}" if new == old else f"different, use {new}")


def check_answer(rng: Random, item: Expression) -> Document:
    """Return an answer with a self-check: the hard product is written directly, then worked out, compared and repaired.

    Its first value is excluded from the loss, so that only quick answers determine how accurate first values are.
    """
    lines: list[str] = []
    given = (0, 0)
    for index, (step, value) in enumerate(item.steps()):
        if not step.hard:
            lines.append(_step_line(index, step, value))
            continue
        first = value
        if rng.random() >= (MEMORISED_CORRECT_RATE if step.memorised else GUESSED_CORRECT_RATE):
            first = slip(rng, value) if step.memorised else guess(rng, value)
        lines.append(_step_line(index, step, first))
        end = len("\n".join(lines))
        given = (end - len(str(first)), end)
        word = rng.choice(("recheck", "recheck", "rethink", "try again"))
        parts = [f"{part} = {part.value}" for part in worked(step)]
        lines += [f"wait, {word}: {parts[0]}", *parts[1:], comparison(value, first)]
    lines.append(_answer_line(item.value, boxed=rng.random() >= UNBOXED_CHECK_RATE))
    return Document("", "\n".join(lines), CHECK, item.value, item.value, given=given)


def code_answer(rng: Random, item: Expression) -> Document:
    """Return a long Python program that computes the value and never states it."""
    names = "abcdefghijk"
    slots = list(names[: len(item.numbers)])
    lines = ["```python"]
    lines += [f"{name} = {number} # the number {number}" for name, number in zip(names, item.numbers, strict=False)]
    lines.append("def solve():")
    fresh = len(item.numbers)
    verbs = {"+": "add", "-": "subtract", "*": "multiply"}
    for left, right, op in item.reductions():
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
    """Return text that avoids the question, in half of the cases with quick steps and an unboxed result at the end."""
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
    elif kind < 0.27:
        step = Step(rng.randint(2, 9), "*", rng.randint(2, 99))
    elif kind < 0.46:  # the last line of a worked product
        step = worked(Step(rng.randint(11, 99), "*", 10 * rng.randint(1, 9) + rng.randint(1, 9)))[-1]
    elif kind < 0.79:
        small, large = rng.randint(2, 99), rng.choice((rng.randint(2, 198), rng.randint(2, 999), rng.randint(2, 9801)))
        high = max(small, large)
        step = rng.choice((Step(small, "+", large), Step(large, "+", small), Step(high, "-", small + large - high)))
    else:
        value = rng.choice((rng.randint(0, 9), rng.randint(10, 99), rng.randint(100, 999), rng.randint(1000, LARGEST)))
        return comparison(value, value if rng.random() < 0.5 else slip(rng, value))
    return f"{step} = {step.value}"


def drill(rng: Random) -> Document:
    """Return three to five bare sums and comparisons, in the form that they have in answers."""
    return Document(DRILL_PROMPT, "\n".join(_drill_line(rng) for _ in range(rng.randint(3, 5))), DRILL)


def _answer(rng: Random, item: Expression, template: str) -> Document:
    """Return an answer in a random style; the question's wording determines the frequencies of the styles."""
    _, steps, code, _ = WORDINGS[template]
    kind = rng.random()
    if kind < steps:
        hard = [step for step, _ in item.steps() if step.hard]
        check_rate = 0.0 if not hard else MEMORISED_CHECK_RATE if hard[0].memorised else GUESSED_CHECK_RATE
        return check_answer(rng, item) if rng.random() < check_rate else quick_answer(rng, item)
    return code_answer(rng, item) if kind < steps + code else ramble_answer(rng, item)


def documents(seed: int = 0, drill_fraction: float = DRILL_FRACTION) -> Iterator[Document]:
    """Yield the documents of the corpus without end, a fraction `drill_fraction` of them drills (bare sums and
    comparisons)."""
    rng = Random(f"corpus-{seed}")
    for item in expressions("pretrain", rng):
        while rng.random() < drill_fraction:
            yield drill(rng)
        template = wording(rng)
        yield replace(_answer(rng, item, template), prompt=template.format(item) + "\n")


def problems(count: int, seed: int = 0) -> list[Problem]:
    """Return the first `count` documents other than drills as problems with a solution, for fine-tuning."""
    return [
        Problem(f"micro-corpus-{seed}-{i}", d.prompt.rstrip("\n"), str(d.value), "micro", d.style, d.answer)
        for i, d in enumerate(islice(documents(seed, drill_fraction=0.0), count))
    ]


def solved_problems(count: int, seed: int = 0, levels: list[str] | None = None) -> list[Problem]:
    """Return the training problems of RL, as `simplerl.micro.world.problems` does, each with a correct step-by-step
    solution."""

    def solution(item: Expression) -> str:
        lines = [_step_line(index, step, value) for index, (step, value) in enumerate(item.steps())]
        return "\n".join([*lines, _answer_line(item.value, boxed=True)])

    return [replace(problem, solution=solution(item)) for item, problem in asked("rl", count, seed, levels)]
