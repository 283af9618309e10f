"""When does a run begin to reflect? python -m analysis.aha RUN... [--examples 3]

For each family of words: the share of responses with one, step by step, against the base model's own share at step 0
(a base model reflects, too). A family has emerged at the first step from which its share stays above the upper end of
the base's 95 % interval, and whose own interval lies above it. Then the first examples: right answers that reflect in
their middle, where the same question was also answered wrongly without."""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from analysis.folders import read_responses, rollout_steps
from analysis.sources import SourceError, run_folders
from simplerl.evals.behaviour import REFLECTION_WORDS, is_code, reflects, repetition
from simplerl.evals.statistics import wilson

# Families of words; "any" is simplerl.evals.behaviour' own list, which the training metrics count.
FAMILIES = {
    "any": REFLECTION_WORDS,
    "recheck": ("recheck", "re-check", "double-check", "let me check", "let's check", "verify", "check again"),
    "rethink": ("rethink", "think again", "reconsider", "reevaluate", "re-evaluate", "on second thought"),
    "retry": ("try again", "retry", "start over", "another approach", "alternatively"),
    "wait": ("wait", "hold on", "hmm", "actually"),
    "mistake": ("mistake", "i made an error", "that's wrong", "is wrong", "incorrect", "should be"),
    "however": ("however",),
}
COLUMNS = ["step", "problem_id", "question", "gold", "sample", "response", "finish_reason", "correct", "extracted"]
STAYS = 3  # steps after the first that must stay above the base
MIDDLE = (0.05, 0.95)  # of a response: where a convincing reflection stands
REPETITIVE = 0.2


@dataclass(frozen=True)
class Emergence:
    """One family in one run; `shares` has a row a step: step, count, responses, share, low, high."""

    family: str
    shares: pd.DataFrame
    step: int | None  # None: it never stayed above the base

    @property
    def base(self) -> tuple[float, float, float]:
        """Share at the first step, and its interval."""
        first = self.shares.iloc[0]
        return float(first["share"]), float(first["low"]), float(first["high"])


def pattern(words: Sequence[str]) -> re.Pattern[str]:
    return re.compile(r"\b(?:" + "|".join(map(re.escape, words)).replace(r"\ ", r"\s+") + r")\b", re.IGNORECASE)


def emergence(responses: pd.DataFrame, family: str) -> Emergence:
    """Of the rollouts of one run (columns step, response). Counts responses, not words."""
    found = pattern(FAMILIES[family])
    has = responses["response"].map(lambda text: found.search(text) is not None)
    rows = []
    for step, own in has.groupby(responses["step"]):
        low, high = wilson(float(own.sum()), len(own))
        rows.append((int(step), int(own.sum()), len(own), float(own.mean()), low, high))  # type: ignore[call-overload]
    shares = pd.DataFrame(rows, columns=["step", "count", "responses", "share", "low", "high"])
    return Emergence(family, shares, _emerged(shares))


def _emerged(shares: pd.DataFrame) -> int | None:
    ceiling = shares["high"].iloc[0]
    for place in range(1, len(shares)):
        after = shares.iloc[place : place + 1 + STAYS]
        if shares["low"].iloc[place] > ceiling and len(after) > 1 and bool((after["share"] > ceiling).all()):
            return int(shares["step"].iloc[place])
    return None


def examples(responses: pd.DataFrame, count: int, since: int = 0) -> pd.DataFrame:
    """The first convincing ones: right, ended by themselves, no code, little repetition, the word in the middle; those
    whose question was answered wrongly without reflection at the same step come first within a step."""
    words = pattern(FAMILIES["any"])
    rows = responses[(responses["step"] >= since) & responses["correct"] & (responses["finish_reason"] == "stop")]
    rows = rows[rows["response"].map(lambda text: _in_middle(words, text))]
    rows = rows[~rows["response"].map(is_code) & (rows["response"].map(repetition) < REPETITIVE)]
    plain_wrong = responses[~responses["correct"] & ~responses["response"].map(reflects)]
    beaten = set(zip(plain_wrong["step"], plain_wrong["problem_id"], strict=True))
    needed = [pair in beaten for pair in zip(rows["step"], rows["problem_id"], strict=True)]
    rows = rows.assign(needed=needed).sort_values(["step", "needed"], ascending=[True, False], kind="stable")
    return rows.drop_duplicates("problem_id").head(count)


def _in_middle(words: re.Pattern[str], text: str) -> bool:
    return any(MIDDLE[0] <= found.start() / max(len(text), 1) <= MIDDLE[1] for found in words.finditer(text))


def read_rollouts(folder: Path) -> pd.DataFrame:
    """Every response that a run sampled for training. Raises SourceError."""
    files = rollout_steps(folder)
    if not files:
        raise SourceError(f"{folder} holds no rollouts (rollouts/step_*.parquet).")
    return pd.concat([read_responses(file, COLUMNS) for file in files.values()], ignore_index=True)


def describe(folder: Path, count: int) -> str:
    """What was found, in Markdown."""
    responses = read_rollouts(folder)
    lines = [
        f"# {folder.name}",
        "",
        "| family | base, step 0 (95 %) | last step | emerged at step |",
        "|---|---:|---:|---:|",
    ]
    found = {family: emergence(responses, family) for family in FAMILIES}
    for family, one in found.items():
        share, low, high = one.base
        step = "never" if one.step is None else str(one.step)
        base = f"{100 * share:.1f} % ({100 * low:.1f} to {100 * high:.1f})"
        lines.append(f"| {family} | {base} | {100 * one.shares['share'].iloc[-1]:.1f} % | {step} |")
    since = found["any"].step or 0
    chosen = examples(responses, count, since)
    place = f"from step {since}" if since else "of any step: it did not emerge" if found["any"].step is None else ""
    lines += ["", f"{len(chosen)} first convincing examples {place}".rstrip() + ":", ""]
    for row in chosen.to_dict("records"):
        title = f"## Step {row['step']}, {row['problem_id']}, sample {row['sample']}, right answer {row['gold']}"
        if row["needed"]:
            title += " (without reflection it was answered wrongly at the same step)"
        body = "\n".join(f"    {line}" for line in f"{row['question']}\n\n{row['response']}".splitlines())
        lines += [title, "", body, ""]
    return "\n".join(lines)


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m analysis.aha", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("runs", nargs="+", type=Path, metavar="RUN")
    parser.add_argument("--examples", type=int, default=3)
    chosen = parser.parse_args(arguments)
    folders = [folder for path in chosen.runs for folder in run_folders(path)]
    try:
        if not folders:
            raise SourceError(f"{chosen.runs[0]} holds no run folder: reflection is counted in a run's rollouts.")
        for folder in folders:
            print(describe(folder, chosen.examples))
    except SourceError as error:
        print(error, file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
