r"""Measures the accuracy of the grading rules on labelled cases:

    python -m simplerl.bench.grader_accuracy FOLDER [RULE ...]

Prints the fraction of correct verdicts per file and rule, and every case that the first rule (default: math_verify)
gets wrong. Besides the rules, the baseline `math_verify_alone` is math-verify's own parse and verify of the boxed
answer (of the whole response in lenient cases), with its handling of percent signs fixed.

FOLDER holds JSONL files with a labelled case per row: id (unique over all files), response_or_answer (null: generated
from the recipe gen), gold, kind ("answer": the text is put into \boxed{}), mode (strict or lenient), expected (true,
false, or null if only time and safety are tested), tag and optionally reward. A file is read up to the first row
without response_or_answer.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, cast

from simplerl.rewards import lenient, strict
from simplerl.rewards.pool import Grader
from simplerl.rewards.rules import RULES, Rule
from simplerl.rewards.symbolic import math_verify_alone
from simplerl.types import Problem, Reward, Score

CHOICES = ("policy", "hard", "lenient-hard", "multibox", "unevaluated")  # tags that are reported separately
BASELINE = "math_verify_alone"


@dataclass(frozen=True)
class Case:
    """Holds a labelled response. expected: whether it is correct, None if only time and safety are tested. reward: the
    expected reward, None if not labelled. tag: the kind of notation or attack that it tests."""

    id: str
    file: str
    mode: str  # strict | lenient
    text: str
    gold: str
    expected: bool | None
    reward: float | None
    tag: str


def generate_text(recipe: Any) -> str:
    """Return the text of a recipe: a list of [piece, repetitions], or the name of a long text."""
    if recipe == "range_box":
        return "\\boxed{" + ",".join(map(str, range(1, 100_001))) + "}"
    if recipe == "count_boxes":
        return "".join(f"\\boxed{{{i}}}" for i in range(1, 100_001))
    if recipe == "poly2000":
        return "\\boxed{" + "+".join(f"{i}x^{{{i}}}" for i in range(2000)) + "}"
    return "".join(piece * times for piece, times in recipe)


def read_cases(folder: Path) -> Iterator[Case]:
    """Yield the labelled cases of all files in a folder that have them."""
    for path in sorted(folder.glob("*.jsonl")):
        for line in path.read_text().splitlines():
            row = json.loads(line)
            if "response_or_answer" not in row:
                break  # a file of another kind
            text = row["response_or_answer"]
            text = generate_text(row["gen"]) if text is None else text
            if row["kind"] == "answer":
                text = f"\\boxed{{{text}}}"
            labels = (row["expected"], row.get("reward"), row["tag"])
            yield Case(row["id"], path.stem, row["mode"], text, row["gold"], *labels)


def grade_cases(rows: list[Case], rule: str) -> list[tuple[Score, float]]:
    """Return (score, seconds) of each case, graded in the worker pool by the reward for its mode (strict or lenient).

    rule: one of RULES, or BASELINE."""
    results: dict[str, tuple[Score, float]] = {}
    known = cast(Rule, rule)
    rewards: dict[str, Reward] = {"strict": partial(strict, rule=known), "lenient": partial(lenient, rule=known)}
    if rule == BASELINE:
        rewards = {"strict": partial(math_verify_alone), "lenient": partial(math_verify_alone, boxed=False)}
    for mode, reward in rewards.items():
        chosen = [row for row in rows if row.mode == mode]
        if chosen:
            with Grader(reward) as grader:
                pairs = ((row.text, Problem(row.id, "", row.gold)) for row in chosen)
                results |= dict(zip((row.id for row in chosen), grader.grade_timed(pairs), strict=True))
    return [results[row.id] for row in rows]


def is_verdict_correct(case: Case, result: Score) -> bool:
    """Return whether the verdict is the expected one and, if the case states a reward, the reward too."""
    return result.correct == case.expected and case.reward in (None, result.reward)


def main(arguments: list[str]) -> None:
    parser = argparse.ArgumentParser(
        prog="python -m simplerl.bench.grader_accuracy",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("folder", metavar="FOLDER", type=Path, help="folder with labelled cases in JSONL files")
    parser.add_argument(
        "rules",
        metavar="RULE",
        nargs="*",
        help=f"rules to measure: {', '.join((*RULES, BASELINE))} (default: all but qwen_train)",
    )
    options = parser.parse_args(arguments)
    if unknown := sorted(set(options.rules) - {*RULES, BASELINE}):
        parser.error(f"{unknown[0]} is not a rule: choose from {', '.join((*RULES, BASELINE))}")
    print_accuracy(list(read_cases(options.folder)), options.rules or ["math_verify", BASELINE, "qwen", "exact"])


def print_accuracy(rows: list[Case], rules: list[str]) -> None:
    """Print the table of accuracies, the slowest case, and the misses of the first rule."""
    scored = {rule: grade_cases(rows, rule) for rule in rules}
    print(f"{'':28}" + "".join(f"{rule:>24}" for rule in rules) + "   correct / rows (false positives)")
    groups: dict[str, list[int]] = {}
    for i, row in enumerate(rows):
        if row.expected is not None:
            groups.setdefault(row.file + (f" [{row.tag}]" if row.tag in CHOICES else ""), []).append(i)
    for group, members in sorted(groups.items()):
        line = f"{group:28}"
        for rule in rules:
            correct = sum(is_verdict_correct(rows[i], scored[rule][i][0]) for i in members)
            false = sum(scored[rule][i][0].correct and not rows[i].expected for i in members)
            line += f"{f'{correct}/{len(members)} {100 * correct / len(members):.1f}% ({false})':>24}"
        print(line)
    slowest = max(range(len(rows)), key=lambda i: scored[rules[0]][i][1])
    print(f"slowest under {rules[0]}: {rows[slowest].id}, {scored[rules[0]][slowest][1]:.2f} s")
    for row, (result, _) in zip(rows, scored[rules[0]], strict=True):
        if row.expected is not None and not is_verdict_correct(row, result):
            shown = row.text if len(row.text) < 150 else "..." + row.text[-150:]
            verdict = f"expected {row.expected}, {result.status}: {result.extracted!s:.80}"
            print(f"{row.id} [{row.tag}] {verdict} || {row.gold!r:.100} || {shown!r}")


if __name__ == "__main__":
    main(sys.argv[1:])
