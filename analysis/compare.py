"""Compare two evaluations item by item: python -m analysis.compare A B [--step S] [--by strict]

A and B are evaluation folders (results.json, samples.parquet), their results.json, or run folders, of which the last
evaluation (or that of --step) is used. The difference B - A on each benchmark comes with a 95 % interval from a paired
bootstrap over items, in which the difficulty of the items cancels out. If all items differ equally, the interval
is the Wilson bound on what a sample of this many items could have missed.

With several seeds, A and B are patterns of run folders in quotes, such as "runs/ppo-*"; then the interval also carries
the noise between seeds (docs/analysis.md, Statistics)."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from glob import glob
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from analysis.commands import make_parser, reports_source_errors
from analysis.differences import p_text
from analysis.folders import evaluation_folders, naming, read_json, read_responses
from analysis.run_data import SourceError
from simplerl.evals.noise import item_means
from simplerl.evals.power import smallest_seen
from simplerl.evals.statistics import Array, Interval, bounded_mean_of_sets, paired_difference
from simplerl.evals.two_level import difference
from simplerl.io.files import read_yaml
from simplerl.io.tables import Table, markdown, text_cells
from simplerl.rewards import FIXED_RULES

SETTINGS = ("prompt", "sampling", "stop", "reward_keywords")  # a note names those that differ
COLUMNS = ["set", "problem_id", "question", "gold", "sample", "correct"]


@dataclass(frozen=True)
class SetComparison:
    """Holds the result on one benchmark: accuracies as fractions, their difference B - A, and the number of items that
    B answers better (`wins`) and worse (`losses`)."""

    items: int
    first: float  # accuracy of A
    second: float  # accuracy of B
    difference: Interval
    wins: int
    losses: int


@dataclass(frozen=True)
class Comparison:
    """Holds the results on all shared benchmarks, the unweighted mean of their differences, and notes on what was
    skipped."""

    sets: dict[str, SetComparison]
    mean: Interval
    notes: list[str]


def find_evaluation(path: Path, step: int | None = None) -> Path:
    """Return the evaluation folder at `path` or, in a run folder, that of the evaluation at `step` (None: the last).

    Raises SourceError if there is none."""
    if path.name == "results.json":
        path = path.parent
    if (path / "samples.parquet").is_file():
        return path
    folders = evaluation_folders(path)
    if not folders:
        raise SourceError(
            f"{path} contains no finished evaluation: name an evaluation folder (with samples.parquet), or the folder "
            "of a run that has one."
        )
    if step is not None and step not in folders:
        raise SourceError(f"{path} has no evaluation at step {step}: choose from {', '.join(map(str, folders))}.")
    return folders[max(folders) if step is None else step]


def compare(first: Path, second: Path, by: str | None = None) -> Comparison:
    """Compare two evaluation folders on the items that both have; a note counts the others. by: one of FIXED_RULES,
    whose verdicts are compared; None: those of each evaluation's own rule.

    Raises SourceError if, without `by`, the two are graded by different rules, if they share no item, or if an item has
    different questions or answers in them."""
    settings = [read_json(folder / "results.json") for folder in (first, second)]
    if by is None:
        _require_equal_rules(settings)
    one, two = (_read_correct(folder, by) for folder in (first, second))
    notes = [f"{key} differs between A and B." for key in SETTINGS if settings[0].get(key) != settings[1].get(key)]
    sets: dict[str, SetComparison] = {}
    differences: list[Array] = []
    for name in dict.fromkeys([*one["set"], *two["set"]]):
        mine, other = one[one["set"] == name], two[two["set"] == name]
        # The fraction of correct samples of each item.
        means = [rows.groupby("problem_id", sort=False)["correct"].mean() for rows in (mine, other)]
        a, b = pd.concat(means, axis=1, join="inner").to_numpy(np.float64).T.copy()
        if skipped := sum(map(len, means)) - 2 * len(a):
            notes.append(f"{name}: {skipped} items that only one of the two has were skipped.")
        if len(a):
            _require_equal_questions(name, mine, other)
            sets[name] = _compare_set(a, b)
            differences.append(b - a)
    if not sets:
        raise SourceError(f"{first} and {second} share no item: compare evaluations of the same benchmarks.")
    return Comparison(sets, bounded_mean_of_sets(differences, -1.0, 1.0), notes)


def _read_correct(folder: Path, by: str | None) -> pd.DataFrame:
    """Return the responses of an evaluation; `correct` is the verdict of the rule `by` (None: of the evaluation's own
    rule). Raises SourceError if the file lacks a column or the evaluation was not graded by that rule."""
    file, columns = folder / "samples.parquet", COLUMNS if by is None else [*COLUMNS, f"correct_{by}"]
    with naming(file):
        rows = read_responses(file, columns)
        if absent := set(COLUMNS) - set(rows):
            raise ValueError(f"it has no column {min(absent)}")
    if by is None:
        return rows
    if f"correct_{by}" not in rows or rows[f"correct_{by}"].isna().any():
        raise SourceError(f"{folder} has no verdicts by the rule {by}: evaluate the model again, or omit --by.")
    return rows.assign(correct=rows[f"correct_{by}"].astype(bool))


def _require_equal_rules(settings: Sequence[dict[str, Any]]) -> None:
    """Raise SourceError if the evaluations were graded by different rules, which makes accuracies incomparable."""
    rules = [(one.get("reward"), (one.get("reward_keywords") or {}).get("rule")) for one in settings]
    if rules[0] != rules[1]:
        names = [" by rule ".join(str(part) for part in rule if part) for rule in rules]
        raise SourceError(
            f"A is graded by {names[0]} and B by {names[1]}: compare both by one rule with --by strict or --by lenient."
        )


def _require_equal_questions(name: str, mine: pd.DataFrame, other: pd.DataFrame) -> None:
    both = mine.merge(other, on="problem_id", suffixes=("", "_other"))
    for column in ("question", "gold"):
        different = both[both[column].fillna("") != both[f"{column}_other"].fillna("")]
        if len(different):
            item = different["problem_id"].iloc[0]
            raise SourceError(
                f"{name}: item {item} has a different {column} in A and B, so they cannot be paired: evaluate both "
                "with the same benchmark files."
            )


def _compare_set(one: Array, two: Array) -> SetComparison:
    wins, losses = int((two > one).sum()), int((two < one).sum())
    return SetComparison(len(one), float(one.mean()), float(two.mean()), paired_difference(one, two), wins, losses)


def comparison_table(found: Comparison, first: str, second: str) -> Table:
    """Return one row per benchmark and, for several, their mean; `first` and `second` name A and B in the caption."""
    rows: list[list[str]] = []
    for name, one in found.sets.items():
        accuracies = [f"{100 * one.first:.1f}", f"{100 * one.second:.1f}"]
        rows.append([name, str(one.items), *accuracies, *_difference(one.difference), f"{one.wins} : {one.losses}"])
    if len(found.sets) > 1:
        means = [float(np.mean([getattr(one, part) for one in found.sets.values()])) for part in ("first", "second")]
        rows.append(["mean", "", *(f"{100 * mean:.1f}" for mean in means), *_difference(found.mean), ""])
    columns = ["benchmark", "items", "A (%)", "B (%)", "B - A", "95 % interval", "significant", "B better : A better"]
    caption = f"A: {first}; B: {second}; paired over items."
    return Table("compare", caption, columns, [text_cells(row) for row in rows], (), found.notes)


def _difference(interval: Interval) -> list[str]:
    """Return the table cells of the columns "B - A", "95 % interval" and "significant", in percentage points; "-" if
    there is no interval."""
    if interval.low is None or interval.high is None:
        return [f"{100 * interval.mean:+.1f}", "-", "-"]
    return [
        f"{100 * interval.mean:+.1f}",
        f"{100 * interval.low:+.1f} to {100 * interval.high:+.1f}",
        "yes" if interval.low > 0 or interval.high < 0 else "no",
    ]


# Arms with several seeds


def find_runs(pattern: str) -> list[Path]:
    """Return the folders that a path or pattern names. Raises SourceError if there is none."""
    found = [Path(place) for place in sorted(glob(pattern))] or [Path(pattern)]
    if not found[0].exists():
        raise SourceError(f"no folder is named {pattern!r}: name run folders, or a pattern of them in quotes.")
    return found


def arm_table(first: Sequence[Path], second: Sequence[Path], by: str | None, step: int | None) -> Table:
    """Return the comparison of two arms, given by the run folders of their seeds: one row per benchmark and, for
    several, their mean. Raises SourceError if the runs answered different items or, without `by`, were graded by
    different rules.

    by: rule whose verdicts are compared, strict or lenient; None: that of each evaluation. step: of the evaluations
    that are compared; None: the last of each run."""
    places = [[find_evaluation(run, step) for run in runs] for runs in (first, second)]
    if by is None:
        for place in [*places[0], *places[1]][1:]:
            _require_equal_rules([read_json(one / "results.json") for one in (places[0][0], place)])
    column = "correct" if by is None else f"correct_{by}"
    answers = [[item_means(place, column) for place in one] for one in places]
    ids = answers[0][0].ids
    if any(one.ids != ids for arm in answers for one in arm):
        raise SourceError("A and B have answered different items: compare evaluations of the same benchmarks.")
    seeds = [[read_yaml(run / "config.yaml").get("seed") for run in runs] for runs in (first, second)]
    paired = sorted(map(str, seeds[0])) == sorted(map(str, seeds[1]))
    order = sorted(range(len(second)), key=lambda i: str(seeds[1][i])) if paired else range(len(second))
    base = sorted(range(len(first)), key=lambda i: str(seeds[0][i])) if paired else range(len(first))
    rows = []
    for names in [*([name] for name in ids), *([list(ids)] if len(ids) > 1 else [])]:
        one = [np.stack([answers[0][i].values[name] for i in base]) for name in names]
        two = [np.stack([answers[1][i].values[name] for i in order]) for name in names]
        found = difference(one, two, paired=paired)
        means = [f"{100 * float(np.mean([table.mean() for table in tables])):.1f}" for tables in (one, two)]
        seen = smallest_seen(found.errors)
        alone = "-" if found.seeds is None else _difference(found.seeds)[1]
        cells = [names[0] if len(names) == 1 else "mean", str(sum(len(ids[name]) for name in names)), *means]
        cells += [f"{100 * found.both.mean:+.1f}", _difference(found.both)[1], alone, p_text(found.p)]
        rows.append([*cells, "yes" if found.p < 0.05 else "no", "none" if np.isinf(seen) else f"{100 * seen:.1f}"])
    columns = ["benchmark", "items", "A (%)", "B (%)", "B - A", "95 %: seeds and items", "95 %: seeds alone", "p"]
    columns += ["significant", "80 % power from"]
    kind = "paired by seed and item" if paired else "independent seeds, paired by item"
    caption = f"A: {len(first)} runs; B: {len(second)} runs; {kind}."
    return Table("compare", caption, columns, [text_cells(row) for row in rows])


@reports_source_errors
def main(arguments: Sequence[str] | None = None) -> int:
    parser = make_parser("compare", __doc__)
    parser.add_argument("first", metavar="A", help="run or evaluation folder, its results.json, or a pattern of runs")
    parser.add_argument("second", metavar="B", help="what to compare with A")
    parser.add_argument("--step", type=int, help="in run folders, use the evaluation at this step (default: the last)")
    parser.add_argument("--by", choices=FIXED_RULES, help="the rule that grades both (default: the rule of A and B)")
    chosen = parser.parse_args(arguments)
    runs = [find_runs(pattern) for pattern in (chosen.first, chosen.second)]
    if max(map(len, runs)) > 1:
        print(markdown(arm_table(runs[0], runs[1], chosen.by, chosen.step)))
        return 0
    first, second = (find_evaluation(found[0], chosen.step) for found in runs)
    print(markdown(comparison_table(compare(first, second, chosen.by), str(first), str(second))))
    return 0


if __name__ == "__main__":
    sys.exit(main())
