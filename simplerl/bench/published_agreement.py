"""Measures how often our published rules agree with recorded verdicts of the published code:

    python -m simplerl.bench.published_agreement FILE [--environment training|evaluation]

FILE has JSON lines with response, gold, published_reward (of the training reward, compared with rule=qwen_train of the
strict reward) and published_verdict (of the evaluation, compared with rule=qwen of the lenient reward). Prints the
agreement of both, and every disagreement once.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, get_args

from simplerl.rewards import lenient, strict
from simplerl.rewards.pool import Grader
from simplerl.rewards.rules import Environment
from simplerl.types import Problem, Reward


@dataclass(frozen=True)
class Disagreement:
    """Holds a verdict of our rules that differs from the recorded one."""

    answer: str | None  # as extracted by our rules
    gold: str
    ours: float
    published: float


def disagreements(
    rows: Sequence[dict[str, Any]], environment: Environment
) -> tuple[list[Disagreement], list[Disagreement]]:
    """Return the disagreements with the published training rewards, and those with the published evaluation."""
    training = partial(strict, rule="qwen_train", environment=environment)
    return (
        _disagreements(rows, training, "published_reward"),
        _disagreements(rows, partial(lenient, rule="qwen"), "published_verdict"),
    )


def _disagreements(rows: Sequence[dict[str, Any]], reward: Reward, column: str) -> list[Disagreement]:
    with Grader(reward) as grader:
        scores = grader.grade_pairs((row["response"], Problem(str(i), "", row["gold"])) for i, row in enumerate(rows))
    return [
        Disagreement(score.extracted, row["gold"], score.reward, float(row[column]))
        for row, score in zip(rows, scores, strict=True)
        if score.reward != float(row[column])
    ]


def read_verdicts(path: Path) -> list[dict[str, Any]]:
    """Return the rows of a file of recorded verdicts."""
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def print_agreement(name: str, rows: int, found: Iterable[Disagreement]) -> None:
    """Print the agreement of one rule and its distinct disagreements, most frequent first."""
    counts: dict[Disagreement, int] = {}
    for one in found:
        counts[one] = counts.get(one, 0) + 1
    differing = sum(counts.values())
    print(f"{name}: {100 * (rows - differing) / max(rows, 1):.2f} % of {rows} verdicts agree")
    for one, count in sorted(counts.items(), key=lambda item: -item[1]):
        print(f"  {count} x ours {one.ours:g}, published {one.published:g}: {one.answer!r} for gold {one.gold!r}")


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        prog="python -m simplerl.bench.published_agreement",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("file", metavar="FILE", type=Path, help="recorded verdicts, as JSON lines")
    parser.add_argument(
        "--environment",
        choices=get_args(Environment),
        default="training",
        help="packages with which the verdicts were recorded (default: training)",
    )
    options = parser.parse_args(arguments)
    if not options.file.is_file():
        parser.error(f"{options.file} is not a file: give the file of recorded verdicts")
    rows = read_verdicts(options.file)
    training, evaluation = disagreements(rows, options.environment)
    print_agreement("qwen_train", len(rows), training)
    print_agreement("qwen", len(rows), evaluation)


if __name__ == "__main__":
    main()
