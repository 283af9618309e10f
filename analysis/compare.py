"""Two evaluations item by item: python -m analysis.compare A B [--step S]

A and B are evaluation folders (results.json, samples.parquet) or their results.json, or run folders, of which the last
evaluation counts (or that of --step). The difference B - A of each benchmark comes with the 95 % interval of a paired
bootstrap over its items: the items are the same, so their difficulty cancels out. Where all differences are equal,
it is what the items that were not asked may change."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from analysis.folders import evaluation_steps, read_responses, read_results
from analysis.render import Cell, Table, markdown
from analysis.sources import SourceError
from simplerl.evals.statistics import Array, Interval, bounded_mean_of_sets, paired_difference

SETTINGS = ("prompt", "sampling", "stop", "reward", "reward_keywords")  # whose difference is worth a word
COLUMNS = ["set", "problem_id", "question", "gold", "sample", "correct"]


@dataclass(frozen=True)
class SetComparison:
    """One benchmark; accuracies as shares, difference is B - A; wins: items that B answers better than A."""

    items: int
    first: float
    second: float
    difference: Interval
    wins: int
    losses: int


@dataclass(frozen=True)
class Comparison:
    sets: dict[str, SetComparison]
    mean: Interval  # of the differences, unweighted over the sets
    notes: list[str]


def evaluation_of(path: Path, step: int | None = None) -> Path:
    """The folder of samples.parquet that `path` means. Raises SourceError."""
    if path.name == "results.json":
        path = path.parent
    if (path / "samples.parquet").is_file():
        return path
    steps = evaluation_steps(path)
    if not steps:
        raise SourceError(f"{path} holds no finished evaluation (results.json and samples.parquet).")
    if step is not None and step not in steps:
        raise SourceError(f"{path} has no evaluation of step {step}: there are {', '.join(map(str, steps))}.")
    return steps[max(steps) if step is None else step]


def compare(first: Path, second: Path) -> Comparison:
    """Of two evaluation folders. Items that only one has are left out and said. Raises SourceError where nothing is
    shared, or an item of one name is another question."""
    one, two = (read_responses(folder / "samples.parquet", COLUMNS) for folder in (first, second))
    notes = _settings(read_results(first), read_results(second))
    sets: dict[str, SetComparison] = {}
    differences: list[Array] = []
    for name in dict.fromkeys([*one["set"], *two["set"]]):
        mine, other = one[one["set"] == name], two[two["set"] == name]
        shared = [item for item in dict.fromkeys(mine["problem_id"]) if item in set(other["problem_id"])]
        left_out = mine["problem_id"].nunique() + other["problem_id"].nunique() - 2 * len(shared)
        if left_out:
            notes.append(f"{name}: {left_out} items that only one of the two has are left out.")
        if shared:
            _refuse_other_questions(name, mine, other)
            sets[name], difference = _one_set(_by_item(mine, shared), _by_item(other, shared))
            differences.append(difference)
    if not sets:
        raise SourceError(f"{first} and {second} share no item: compare evaluations of the same benchmarks.")
    return Comparison(sets, bounded_mean_of_sets(differences, -1.0, 1.0), notes)


def _settings(one: dict[str, Any], two: dict[str, Any]) -> list[str]:
    return [f"{key} is not the same in the two." for key in SETTINGS if one.get(key) != two.get(key)]


def _refuse_other_questions(name: str, mine: pd.DataFrame, other: pd.DataFrame) -> None:
    both = mine.merge(other, on="problem_id", suffixes=("", "_other"))
    for column in ("question", "gold"):
        wrong = both[both[column].fillna("") != both[f"{column}_other"].fillna("")]
        if len(wrong):
            item = wrong["problem_id"].iloc[0]
            raise SourceError(f"{name}: item {item} has another {column} in the two: they cannot be paired.")


def _by_item(rows: pd.DataFrame, items: Sequence[str]) -> Array:
    """[N] shares of right samples."""
    means = rows.groupby("problem_id")["correct"].mean()
    return np.array([means[item] for item in items], dtype=np.float64)


def _one_set(one: Array, two: Array) -> tuple[SetComparison, Array]:
    difference = two - one
    found = SetComparison(
        len(one),
        float(one.mean()),
        float(two.mean()),
        paired_difference(one, two),
        int((difference > 0).sum()),
        int((difference < 0).sum()),
    )
    return found, difference


def table(found: Comparison, first: str, second: str) -> Table:
    rows = []
    for name, one in found.sets.items():
        numbers = [f"{100 * one.first:.1f}", f"{100 * one.second:.1f}"]
        rows.append([name, str(one.items), *numbers, *_difference(one.difference), f"{one.wins} : {one.losses}"])
    if len(found.sets) > 1:
        means = [float(np.mean([getattr(one, part) for one in found.sets.values()])) for part in ("first", "second")]
        rows.append(["mean", "", *(f"{100 * mean:.1f}" for mean in means), *_difference(found.mean), ""])
    columns = ["benchmark", "items", "A (%)", "B (%)", "B - A", "95 % interval", "told apart", "B better : A better"]
    cells = [[Cell(text) for text in row] for row in rows]
    return Table("compare", f"A: {first}; B: {second}; paired over items.", columns, cells, (), found.notes)


def _difference(interval: Interval) -> list[str]:
    if interval.low is None or interval.high is None:
        return [f"{100 * interval.mean:+.1f}", "-", "-"]
    apart = interval.low > 0 or interval.high < 0
    return [
        f"{100 * interval.mean:+.1f}",
        f"{100 * interval.low:+.1f} to {100 * interval.high:+.1f}",
        "yes" if apart else "no",
    ]


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m analysis.compare", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("first", type=Path, metavar="A")
    parser.add_argument("second", type=Path, metavar="B")
    parser.add_argument("--step", type=int, help="of run folders: this evaluation instead of the last")
    chosen = parser.parse_args(arguments)
    try:
        folders = [evaluation_of(path, chosen.step) for path in (chosen.first, chosen.second)]
        print(markdown(table(compare(*folders), str(folders[0]), str(folders[1]))))
    except SourceError as error:
        print(error, file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
