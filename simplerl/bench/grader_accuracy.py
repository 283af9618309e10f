"""The rules on labelled cases: `python -m simplerl.bench.grader_accuracy FOLDER [column ...]`.

The columns are our rules and `alone`: math-verify's own parse and verify of the boxed answer (of the whole text
where the case is lenient), with its percent sign repaired.

FOLDER holds JSONL files with response_or_answer (or gen), gold, kind, mode, expected, tag. Prints the share of
right verdicts by file, for each rule on the same rows, and every miss of the first rule.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from simplerl.errors import ConfigError
from simplerl.rewards import lenient, strict
from simplerl.rewards.rules import RULES
from simplerl.rewards.pool import Grader
from simplerl.rewards.symbolic import math_verify_alone
from simplerl.types import Problem, Reward, Score

CHOICES = ("policy", "hard", "lenient-hard", "multibox", "unevaluated")  # tags reported apart


@dataclass(frozen=True)
class Case:
    id: str
    file: str
    mode: str  # strict | lenient
    text: str
    gold: str
    expected: bool | None
    reward: float | None
    tag: str


def generated(recipe: Any) -> str:
    """A text that is stored as its recipe: [piece, times] pairs, or a name."""
    if recipe == "range_box":
        return "\\boxed{" + ",".join(map(str, range(1, 100_001))) + "}"
    if recipe == "count_boxes":
        return "".join(f"\\boxed{{{i}}}" for i in range(1, 100_001))
    if recipe == "poly2000":
        return "\\boxed{" + "+".join(f"{i}x^{{{i}}}" for i in range(2000)) + "}"
    return "".join(piece * times for piece, times in recipe)


def cases(folder: Path) -> Iterator[Case]:
    for path in sorted(folder.glob("*.jsonl")):
        for line in path.read_text().splitlines():
            row = json.loads(line)
            text = row["response_or_answer"]
            text = generated(row["gen"]) if text is None else text
            if row["kind"] == "answer":
                text = f"\\boxed{{{text}}}"
            yield Case(
                row["id"], path.stem, row["mode"], text, row["gold"], row["expected"], row.get("reward"), row["tag"]
            )


def score(rows: list[Case], column: str) -> list[tuple[Score, float]]:
    """(score, seconds) of each case, graded by the reward of its mode in the worker pool."""
    results: dict[str, tuple[Score, float]] = {}
    rewards: dict[str, Reward] = {"strict": partial(math_verify_alone), "lenient": partial(math_verify_alone, boxed=False)}
    for rule in RULES:
        if rule == column:
            rewards = {"strict": partial(strict, rule=rule), "lenient": partial(lenient, rule=rule)}
    for mode, reward in rewards.items():
        chosen = [row for row in rows if row.mode == mode]
        if chosen:
            with Grader(reward) as grader:
                pairs = ((row.text, Problem(row.id, "", row.gold)) for row in chosen)
                results |= dict(zip((row.id for row in chosen), grader.grade_timed(pairs), strict=True))
    return [results[row.id] for row in rows]


def is_right(case: Case, result: Score) -> bool:
    return result.correct == case.expected and case.reward in (None, result.reward)


def main(arguments: list[str]) -> None:
    rows = list(cases(Path(arguments[0])))
    rules = arguments[1:] or ["math_verify", "alone", "qwen", "exact"]
    if unknown := set(rules) - {*RULES, "alone"}:
        raise ConfigError(f"column {unknown.pop()} is unknown: choose among {', '.join(RULES)}, alone.")
    scored = {rule: score(rows, rule) for rule in rules}
    print(f"{'':28}" + "".join(f"{rule:>24}" for rule in rules) + "   right / rows (false positives)")
    groups: dict[str, list[int]] = {}
    for i, row in enumerate(rows):
        if row.expected is not None:
            groups.setdefault(row.file + (f" [{row.tag}]" if row.tag in CHOICES else ""), []).append(i)
    for group, members in sorted(groups.items()):
        line = f"{group:28}"
        for rule in rules:
            right = sum(is_right(rows[i], scored[rule][i][0]) for i in members)
            false = sum(scored[rule][i][0].correct and not rows[i].expected for i in members)
            line += f"{f'{right}/{len(members)} {100 * right / len(members):.1f}% ({false})':>24}"
        print(line)
    slowest = max(range(len(rows)), key=lambda i: scored[rules[0]][i][1])
    print(f"slowest under {rules[0]}: {rows[slowest].id}, {scored[rules[0]][slowest][1]:.2f} s")
    for row, (result, _) in zip(rows, scored[rules[0]], strict=True):
        if row.expected is not None and not is_right(row, result):
            shown = row.text if len(row.text) < 150 else "..." + row.text[-150:]
            verdict = f"expected {row.expected}, {result.status}: {result.extracted!s:.80}"
            print(f"{row.id} [{row.tag}] {verdict} || {row.gold!r:.100} || {shown!r}")


if __name__ == "__main__":
    main(sys.argv[1:])
