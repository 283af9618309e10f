"""Find when a run begins to reflect on its own answers: python -m analysis.aha RUN... [--examples 3]

Prints, for each family of reflection words, the fraction of responses that contain one at step 0 (the base model
reflects too) and at the last step, and the step at which the family emerges. That is the first step whose 95 % interval
lies above that of step 0, and after which the fraction stays above step 0's interval for three more steps (near the end
of the run fewer, but at least one). Then prints the first convincing examples: correct answers with reflection in the
middle, preferably to questions that were answered incorrectly without it."""

from __future__ import annotations

import re
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from analysis.commands import make_parser, print_notes, reports_source_errors
from analysis.folders import naming, read_responses, rollout_files
from analysis.run_data import SourceError
from analysis.sources import find_run_folders
from simplerl.evals.behaviour import REFLECTION_WORDS, is_code, reflects, repetition
from simplerl.evals.statistics import wilson
from simplerl.io.tables import Table, markdown, text_cells

# Words of each family; "any" is the list that the training metric reflection_share uses.
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
STEPS_ABOVE = 3  # number of following steps that must stay above step 0, too
MIDDLE = (0.05, 0.95)  # relative positions in a response between which a reflection is convincing
MAX_REPETITION = 0.2


@dataclass(frozen=True)
class Emergence:
    """Holds one family of words in one run; `shares` has columns step, share (a fraction), low and high."""

    family: str
    shares: pd.DataFrame
    step: int | None  # None: it did not emerge

    @property
    def base(self) -> tuple[float, float, float]:
        """Return the fraction of responses at the first step and its 95 % interval."""
        first = self.shares.iloc[0]
        return float(first["share"]), float(first["low"]), float(first["high"])


def word_pattern(words: Sequence[str]) -> re.Pattern[str]:
    """Return a pattern that matches any of `words` as whole words, in any case and with any spacing."""
    return re.compile(r"\b(?:" + "|".join(map(re.escape, words)).replace(r"\ ", r"\s+") + r")\b", re.IGNORECASE)


def find_emergence(responses: pd.DataFrame, family: str) -> Emergence:
    """Return the fractions and the step of emergence of a family in one run's rollouts (columns step and response). A
    response counts once, however many of the words it contains."""
    pattern = word_pattern(FAMILIES[family])
    matches = responses["response"].map(lambda text: pattern.search(text) is not None)
    by_step = matches.groupby(responses["step"])
    rows = [(step, own.mean(), *wilson(float(own.sum()), len(own))) for step, own in by_step]
    shares = pd.DataFrame(rows, columns=["step", "share", "low", "high"])
    return Emergence(family, shares, _first_step_above(shares))


def _first_step_above(shares: pd.DataFrame) -> int | None:
    ceiling = shares["high"].iloc[0]
    for index in range(1, len(shares)):
        after = shares.iloc[index : index + 1 + STEPS_ABOVE]
        if shares["low"].iloc[index] > ceiling and len(after) > 1 and bool((after["share"] > ceiling).all()):
            return int(shares["step"].iloc[index])
    return None


def convincing_examples(responses: pd.DataFrame, count: int, since: int = 0) -> pd.DataFrame:
    """Return the first `count` convincing responses from step `since`, at most one per problem.

    They are correct, not truncated, without code and with little repetition, and have a reflection word in the middle.
    Within a step, those whose problem was answered incorrectly without reflection come first (column `needed`)."""
    pattern = word_pattern(FAMILIES["any"])
    rows = responses[(responses["step"] >= since) & responses["correct"] & (responses["finish_reason"] == "stop")]
    rows = rows[rows["response"].map(lambda text: _matches_in_middle(pattern, text))]
    rows = rows[~rows["response"].map(is_code) & (rows["response"].map(repetition) < MAX_REPETITION)]
    incorrect = responses[~responses["correct"] & ~responses["response"].map(reflects)]
    failed = set(zip(incorrect["step"], incorrect["problem_id"], strict=True))
    needed = [key in failed for key in zip(rows["step"], rows["problem_id"], strict=True)]
    rows = rows.assign(needed=needed).sort_values(["step", "needed"], ascending=[True, False], kind="stable")
    return rows.drop_duplicates("problem_id").head(count)


def _matches_in_middle(pattern: re.Pattern[str], text: str) -> bool:
    return any(MIDDLE[0] <= found.start() / max(len(text), 1) <= MIDDLE[1] for found in pattern.finditer(text))


def read_rollouts(folder: Path) -> pd.DataFrame:
    """Return every response that a run sampled for training. Raises SourceError if none can be read."""
    files = rollout_files(folder)
    if not files:
        raise SourceError(
            f"{folder} has no rollouts/step_*.parquet: name the folder of a run with at least one RL step (evaluation "
            "and SFT runs sample none)."
        )
    tables = []
    for file in files.values():
        with naming(file):
            tables.append(read_responses(file, COLUMNS)[COLUMNS])
    return pd.concat(tables, ignore_index=True)


def describe(folder: Path, count: int) -> str:
    """Return one run's emergence table and up to `count` examples in Markdown."""
    responses = read_rollouts(folder)
    found = {family: find_emergence(responses, family) for family in FAMILIES}
    since = found["any"].step
    chosen = convincing_examples(responses, count, since or 0)
    when = f"from step {since}" if since else "at any step (reflection did not emerge)"
    table = markdown(_emergence_table(found)).rstrip()
    lines = [f"# {folder.name}", "", table, "", f"First convincing examples {when}:", ""]
    for row in chosen.to_dict("records"):
        title = f"## Step {row['step']}, {row['problem_id']}, sample {row['sample']}, correct answer {row['gold']}"
        if row["needed"]:
            title += " (answered incorrectly without reflection at the same step)"
        body = "\n".join(f"    {line}" for line in f"{row['question']}\n\n{row['response']}".splitlines())
        lines += [title, "", body, ""]
    return "\n".join(lines if len(chosen) else [*lines[:-2], "No convincing example was found.", ""])


def _emergence_table(found: dict[str, Emergence]) -> Table:
    rows = []
    for family, one in found.items():
        share, low, high = one.base
        base = f"{100 * share:.1f} % ({100 * low:.1f} to {100 * high:.1f})"
        last = f"{100 * one.shares['share'].iloc[-1]:.1f} %"
        rows.append(text_cells([family, base, last, "never" if one.step is None else one.step]))
    return Table("emergence", "", ["family", "base, step 0 (95 %)", "last step", "emerged at step"], rows)


@reports_source_errors
def main(arguments: Sequence[str] | None = None) -> int:
    parser = make_parser("aha", __doc__)
    parser.add_argument("runs", nargs="+", type=Path, metavar="RUN", help="run folder, or folder of run folders")
    parser.add_argument("--examples", type=int, default=3, help="number of examples (default: %(default)s)")
    chosen = parser.parse_args(arguments)
    folders = [folder for path in chosen.runs for folder in find_run_folders(path)]
    if not folders:
        raise SourceError(
            f"{chosen.runs[0]} contains no run folder: name a run folder with rollouts/, or a folder of run folders."
        )
    faults = []
    for folder in folders:
        try:
            print(describe(folder, chosen.examples))
        except SourceError as error:
            faults.append(error)
    if len(faults) == len(folders):
        raise faults[0]
    print_notes([f"Left out: {fault}" for fault in faults])
    return 0


if __name__ == "__main__":
    sys.exit(main())
