"""Measures the speed and memory of grading.

`python -m simplerl.bench.grader_speed [batches=10] [rows=8192] [workers=2] [tokens=0] [pairs=FOLDER]`

First, batches of synthetic responses of about 3,000 tokens are streamed through the strict reward, as a sampler would
do it. Second, our comparison is timed against math-verify on the same (answer, gold) pairs in one process: synthetic
pairs, or those of a folder of labelled cases (`simplerl.bench.grader_accuracy`). Nothing is written to disk.

tokens: number of token ids per response that are sent with the text, as a sampler does; 0 measures the text alone.
"""

from __future__ import annotations

import os
import random
import time
import warnings
from collections.abc import Iterator
from functools import partial
from pathlib import Path

from simplerl.bench.grader_accuracy import read_cases
from simplerl.errors import ConfigError
from simplerl.grade import run_command
from simplerl.rewards import equality, strict
from simplerl.rewards.extract import boxed_answer
from simplerl.rewards.pool import Grader
from simplerl.rewards.process import resident_bytes
from simplerl.rewards.rules import EQUAL
from simplerl.rewards.symbolic import load_math_verify
from simplerl.types import Problem, Prompt, Rollout

CHARACTERS = 10_500  # about 3,000 tokens of mathematical prose
SAMPLES = 8
_PROSE = (
    "Let us denote the unknown by $x$ and write the condition as $\\frac{x^{2}+3x}{2} = 14$. Then {x : x > 0} "
    "is the set we look at, so $x^2+3x-28 = (x+7)(x-4)$ and only one factor matters. Wait, let me check this "
    "again: for x = 4 we have 16 + 12 = 28, as it should be.\n\\[ \\sqrt{\\frac{49}{4}} = \\frac{7}{2} \\]\n"
    "Therefore the sum of the first terms is 3 + 5 + 7 = 15, which gives the next step. "
)


def golds(count: int, seed: int) -> list[str]:
    """Return gold answers in the proportions of MATH: mostly integers, then fractions, roots, tuples, sets, words."""
    r = random.Random(seed)
    forms = [
        (60, lambda: str(r.randint(-50, 5000))),
        (12, lambda: f"\\frac{{{r.randint(1, 40)}}}{{{r.randint(2, 41)}}}"),
        (6, lambda: f"{r.randint(2, 9)}\\sqrt{{{r.randint(2, 30)}}}"),
        (4, lambda: f"{r.random() * 100:.2f}"),
        (3, lambda: f"{r.randint(1, 99)}\\%"),
        (4, lambda: f"({r.randint(-9, 9)},{r.randint(-9, 9)})"),
        (3, lambda: f"{r.randint(-9, 0)}, {r.randint(1, 9)}"),
        (3, lambda: f"[{r.randint(-9, 0)}, \\infty)"),
        (3, lambda: f"x^{r.randint(2, 5)}-{r.randint(2, 9)}x+{r.randint(1, 9)}"),
        (1, lambda: f"\\text{{{r.choice(['Monday', 'even', 'ellipse'])}}}"),
        (1, lambda: f"\\begin{{pmatrix}} {r.randint(1, 9)} \\\\ {r.randint(1, 9)} \\end{{pmatrix}}"),
    ]
    weights = [weight for weight, _ in forms]
    return [r.choices(forms, weights)[0][1]() for _ in range(count)]


def answer_to(gold: str, r: random.Random) -> str:
    """Return an answer as a policy writes it: equal to the gold, in another notation, wrong, or malformed."""
    kind = r.choices(["same", "notation", "other", "near", "computation", "broken"], [40, 15, 15, 20, 6, 4])[0]
    if kind == "notation":
        ending = r.choice(["", ".", "\\text{ units}"])
        return gold.replace("\\frac", "\\dfrac").replace(",", ", ").replace("-", "- ") + ending
    if kind == "other":
        return golds(1, r.randrange(10**9))[0]
    if kind == "near":
        return gold + str(r.randint(0, 9)) if gold[-1].isdigit() else gold.replace("2", "3").replace("-", "+")
    if kind == "computation":
        return f"{r.randint(2, 99)}+{r.randint(2, 99)}\\cdot {r.randint(2, 9)}-\\sqrt{{{r.randint(2, 99)}}}"
    return gold[:-1] + "}{" if kind == "broken" else gold


def rollouts(count: int, seed: int, tokens: int = 0) -> Iterator[Rollout]:
    """Yield `count` responses of `tokens` token ids to count / SAMPLES problems, in random order."""
    r = random.Random(seed)
    prompts = [
        Prompt(Problem(f"{i:06d}", "", gold), "", ()) for i, gold in enumerate(golds(max(count // SAMPLES, 1), seed))
    ]
    order = [(prompt, sample) for prompt in prompts for sample in range(SAMPLES)]
    r.shuffle(order)
    token_ids = tuple(r.randrange(150_000) for _ in range(tokens))
    text = _PROSE * (2 * CHARACTERS // len(_PROSE))
    for prompt, sample in order[:count]:
        start = r.randrange(len(_PROSE))
        body = text[start : start + CHARACTERS - 80]
        form = r.choices(["boxed", "twice", "unboxed", "cut"], [84, 5, 8, 3])[0]
        answer = answer_to(prompt.problem.answer, r)
        ending = {
            "boxed": f"So the answer is $\\boxed{{{answer}}}$.",
            "twice": f"First I found \\boxed{{{r.randint(0, 99)}}}, but it is \\boxed{{{answer}}}.",
            "unboxed": f"The answer is {answer}.",
            "cut": f"so we get \\boxed{{{answer}"[: r.randint(10, 30)],
        }[form]
        yield Rollout(prompt, sample, body + ending, token_ids, (), "stop")


def children_bytes() -> int:
    """Return the resident memory of all child processes (Linux)."""
    total = 0
    for task in Path("/proc/self/task").iterdir():
        for pid in (task / "children").read_text().split():
            total += int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    return total


def time_stream(batches: int, rows: int, workers: int, tokens: int) -> None:
    """Print time, throughput and memory of each batch that is streamed through the worker pool."""
    print(f"{rows} responses of {CHARACTERS} characters (about 3,000 tokens) per batch, {workers} workers")
    columns = ("batch", "seconds", "per second", "correct", "failed", "parent MiB", "workers MiB")
    print("".join(f"{column:>12}" for column in columns))
    with Grader(partial(strict), workers=workers) as grader:
        for batch in range(batches):
            start = time.perf_counter()
            graded = grader.grade(rollouts(rows, batch, tokens))
            seconds = time.perf_counter() - start
            correct = sum(r.score is not None and r.score.correct for r in graded) / rows
            failed = sum(grader.metrics.values()) * rows
            del graded
            values = (batch, f"{seconds:.2f}", f"{rows / seconds:.0f}", f"{correct:.3f}", f"{failed:.0f}")
            memory = (f"{resident_bytes() / 2**20:.0f}", f"{children_bytes() / 2**20:.0f}")
            print("".join(f"{value:>12}" for value in (*values, *memory)), flush=True)


def time_comparison(pairs: list[tuple[str, str]]) -> None:
    """Print the CPU seconds and the rate of our comparison and of math-verify on the same (answer, gold) pairs, which
    must be distinct because ours is cached, and how often the verdicts agree."""
    parse, verify, _, _ = load_math_verify()
    warnings.simplefilter("ignore")
    equality.warm_up()
    start = time.process_time()
    ours = [equality.compare(answer, gold) == EQUAL for answer, gold in pairs]
    our_seconds = time.process_time() - start
    start = time.process_time()
    theirs = [verify(parse(f"\\boxed{{{gold}}}"), parse(f"\\boxed{{{answer}}}")) for answer, gold in pairs]
    their_seconds = time.process_time() - start
    same = sum(a == b for a, b in zip(ours, theirs, strict=True)) / len(pairs)
    print(f"{len(pairs)} distinct pairs, one process, CPU time:")
    print(f"  ours        {our_seconds:8.2f} s {len(pairs) / our_seconds:8.0f}/s")
    print(f"  math-verify {their_seconds:8.2f} s {len(pairs) / their_seconds:8.0f}/s")
    print(f"  ratio {their_seconds / our_seconds:.1f} x; the same verdict on {100 * same:.1f} %")


def synthetic_pairs(count: int) -> list[tuple[str, str]]:
    r = random.Random(0)
    return list({(answer_to(gold, r), gold): None for gold in golds(count, 1)})


def labelled_pairs(folder: Path) -> list[tuple[str, str]]:
    rows = [case for case in read_cases(folder) if case.mode == "strict" and case.file != "hostile"]
    return list({(answer, row.gold): None for row in rows if (answer := boxed_answer(row.text)) is not None})


def main(arguments: list[str]) -> None:
    if {"-h", "--help"} & set(arguments):
        print(__doc__)
        return
    settings = {"batches": "10", "workers": "2", "rows": "8192", "tokens": "0", "pairs": ""}
    for argument in arguments:
        key, _, value = argument.partition("=")
        if key not in settings or not value or (key != "pairs" and not value.isdigit()):
            raise ConfigError(f"{argument} is not a setting: write key=value with one of {', '.join(settings)}.")
        settings[key] = value
    time_stream(*(int(settings[key]) for key in ("batches", "rows", "workers", "tokens")))
    time_comparison(labelled_pairs(Path(settings["pairs"])) if settings["pairs"] else synthetic_pairs(1000))


if __name__ == "__main__":
    run_command(main)
