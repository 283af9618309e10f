"""Compares every arm with the baseline arm: intervals over seeds and items, p-values corrected for the number of arms,
and the smallest difference that the comparison could have detected."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pandas as pd
from scipy.stats import false_discovery_control

from analysis.arms import Arm, Arms, evaluation_rule
from analysis.estimates import mean_over_seeds, quantity
from analysis.frames import Frames
from analysis.run_data import SourceError
from simplerl.evals.noise import ItemMeans, item_means, last_evaluation
from simplerl.evals.power import POWER, smallest_seen
from simplerl.evals.statistics import LEVEL, Array, Interval
from simplerl.evals.two_level import (
    INDEPENDENT,
    PAIRED,
    POOLED,
    Difference,
    PooledSeeds,
    difference,
    errors_of,
    interval,
    pool_seeds,
    spread,
)
from simplerl.io.tables import Cell, Table

HOLM, BENJAMINI_HOCHBERG, NONE = "holm", "bh", "none"
CORRECTIONS = {
    HOLM: "Holm's procedure: at most 5 % of sweeps without any effect report one",
    BENJAMINI_HOCHBERG: "Benjamini and Hochberg's procedure: at most 5 % of the reported differences are expected to "
    "be false",
    NONE: "not corrected for the number of arms",
}
DESIGN_NOTES = {
    PAIRED: "Arms with the same seeds are paired by seed, others are compared as independent runs (Welch).",
    INDEPENDENT: "Runs of different arms are taken to be independent, also with equal seeds (Welch).",
    POOLED: "The noise between seeds is taken to be equal in all arms and estimated from all of them: check that no "
    "arm varies much more than the others.",
}


@dataclass(frozen=True)
class Options:
    """Holds how arms are compared: the label of the baseline arm ("": the first), the correction for the number of
    arms (a key of CORRECTIONS), the design (one of `simplerl.evals.two_level.DESIGNS`), and the accuracy to reach in
    `analysis.learning` (None: chosen there)."""

    baseline: str = ""
    correction: str = HOLM
    design: str = PAIRED
    target: float | None = None


DEFAULT = Options()


@dataclass(frozen=True)
class Compared:
    """Holds an arm, its accuracy and its difference to the baseline, as fractions.

    found: None for the baseline, or if the two cannot be compared, for the reason in `why`. p: corrected. smallest:
    difference from which the comparison would have been significant with a probability of POWER."""

    arm: Arm
    accuracy: Interval | None
    found: Difference | None = None
    p: float | None = None
    smallest: float | None = None
    why: str = ""

    @property
    def verdict(self) -> str:
        """Return "significant", "not significant", "baseline", or why there is no comparison. With one seed, only the
        two runs are compared, not the arms."""
        if self.p is None or self.found is None:
            return self.why
        word = "significant" if self.p < 1 - LEVEL else "not significant"
        return word if self.found.errors.seeds is not None else f"{word} for these runs"


def adjusted(p_values: Sequence[float], correction: str) -> list[float]:
    """Return p-values that are corrected for their number by `correction`, a key of CORRECTIONS, to be compared with
    0.05."""
    values = np.asarray(p_values, dtype=np.float64)
    if correction == NONE or not len(values):
        return list(map(float, values))
    if correction == BENJAMINI_HOCHBERG:
        return list(map(float, false_discovery_control(values)))
    order = np.argsort(values)  # Holm 1979
    stepped = np.maximum.accumulate(values[order] * np.arange(len(values), 0, -1)).clip(max=1.0)
    found = np.empty_like(stepped)
    found[order] = stepped
    return list(map(float, found))


# The accuracies of an arm


@dataclass(frozen=True)
class Answers:
    """Holds the last evaluations of an arm: `tables` [seeds, items] for each benchmark, the seeds of the rows, and the
    ids of the items. Without ids the tables have one column, the mean accuracy of each run."""

    tables: list[Array]
    seeds: tuple[str, ...]
    ids: dict[str, tuple[str, ...]]


def answers_of(frames: Frames, arm: Arm, column: str, *, at_start: bool = False) -> Answers | None:
    """Return the answers of an arm's evaluated runs, by item if all are folders that hold the same items, and otherwise
    the mean accuracies that they logged; None if no run was evaluated. column: of samples.parquet, "correct" or
    "correct_strict". at_start: at step 0 instead of at the last evaluation, for runs that were evaluated again."""
    runs = [run for run in arm.runs if not at_start or _evaluated_at_start(frames, run)]
    found = {run: _item_means(frames, run, column, at_start) for run in runs}
    known = {run: one for run, one in found.items() if one is not None}
    metric = "eval/mean/accuracy" + column.removeprefix("correct")
    curves = {run: frames.curve(run, metric) for run in runs} if at_start else {}
    logged = {
        run: curves[run].iloc[0] if at_start and len(curves[run]) else frames.last_value(run, metric) for run in runs
    }
    values = {run: float(value) for run, value in logged.items() if value is not None}
    ids = {repr(one.ids) for one in known.values()}
    if known and len(ids) == 1 and known.keys() >= values.keys():
        first = next(iter(known.values()))
        tables = [np.stack([one.values[name] for one in known.values()]) for name in first.values]
        return Answers(tables, tuple(_seed(frames, run) for run in known), first.ids)
    if not values:
        return None
    column_of_means = np.array(list(values.values()), dtype=np.float64)[:, None]
    return Answers([column_of_means], tuple(_seed(frames, run) for run in values), {})


def _seed(frames: Frames, run: str) -> str:
    """Return the run's seed as text, or its id if the seed is unknown."""
    seed = frames.config.at[run, "seed"] if "seed" in frames.config else None
    return run if pd.isna(seed) else str(seed)


def _evaluated_at_start(frames: Frames, run: str) -> bool:
    curve = frames.curve(run, "eval/mean/accuracy")
    return len(curve) > 1 and curve.index[0] == 0


def _item_means(frames: Frames, run: str, column: str, at_start: bool) -> ItemMeans | None:
    if frames.runs.at[run, "source"] != "folder":
        return None
    curve = frames.curve(run, "eval/mean/accuracy")
    # The last one, unless an equal budget cuts the run.
    step = int(curve.index[0 if at_start else -1]) if len(curve) else None
    place = last_evaluation(Path(str(frames.runs.at[run, "where"])), step)
    return None if place is None or not (place / "samples.parquet").is_file() else item_means(place, column)


def accuracy_of(answers: Answers) -> Interval:
    """Return the mean accuracy with its interval over seeds and items."""
    found, n_items = spread(answers.tables), sum(map(len, answers.ids.values()))
    return replace(interval(float(found.mean), errors_of(found), len(answers.seeds), n_items), n_items=n_items)


def gain_of(frames: Frames, arm: Arm, column: str = "correct") -> Interval | None:
    """Return the change in accuracy from step 0 to the last evaluation, paired by seed and item; None if a run was not
    evaluated at both."""
    first, last = answers_of(frames, arm, column, at_start=True), answers_of(frames, arm, column)
    if first is None or last is None or first.seeds != last.seeds:
        return None
    if first.ids and first.ids == last.ids:
        return difference(first.tables, last.tables, paired=True).both
    first, last = _run_means(first), _run_means(last)
    return mean_over_seeds([float(value) for value in (last.tables[0] - first.tables[0]).ravel()])


def _run_means(answers: Answers) -> Answers:
    """Return the answers as one mean accuracy per run."""
    return Answers([np.mean([table.mean(1) for table in answers.tables], axis=0)[:, None]], answers.seeds, {})


# Comparisons


def compare_arms(frames: Frames, arms: Arms, options: Options) -> list[Compared]:
    """Return the comparison of every arm with the baseline, in the order of the arms; [] if fewer than two arms were
    evaluated. Arms graded by different rules are compared by the strict rule.

    Raises SourceError if no arm has the label `options.baseline`."""
    rules = {evaluation_rule(frames, arm.runs) for arm in arms.arms}
    column = "correct" if len(rules) < 2 else "correct_strict"
    found = {arm.label: answers_of(frames, arm, column) for arm in arms.arms if arm.seeds(frames) is not None}
    evaluated = [arm for arm in arms.arms if found.get(arm.label) is not None]
    baseline = find_baseline(arms.arms, evaluated, options.baseline)
    if baseline is None or len(evaluated) < 2:
        return []
    base = found[baseline.label]
    assert base is not None
    pooled = _pooled([one for one in found.values() if one is not None]) if options.design == POOLED else None
    rows = [_compare_with(base, arm, found.get(arm.label), baseline, options.design, pooled) for arm in arms.arms]
    tests = [row for row in rows if row.found is not None]
    corrected = adjusted([row.found.p for row in tests if row.found is not None], options.correction)
    p_of = {row.arm.label: p for row, p in zip(tests, corrected, strict=True)}
    count = 2 if options.correction == NONE else len(tests) + 1
    return [
        row
        if row.found is None
        else replace(row, p=p_of[row.arm.label], smallest=smallest_seen(row.found.errors, POWER, count))
        for row in rows
    ]


def find_baseline(arms: Sequence[Arm], evaluated: Sequence[Arm], label: str) -> Arm | None:
    """Return the evaluated arm with this label or, without one, the arm whose label contains it. Raises SourceError
    unless exactly one fits. An empty label selects the first evaluated arm, or None if there is none."""
    if not label:
        return next(iter(evaluated), None)
    exact = [arm for arm in evaluated if arm.label == label]
    near = exact or [arm for arm in evaluated if label in arm.label]
    if len(near) != 1:
        names = "; ".join(arm.label for arm in (near or evaluated or arms))
        raise SourceError(f"--baseline {label!r} names {len(near)} evaluated arms, not one: choose from {names}.")
    return near[0]


def _pooled(answers: Sequence[Answers]) -> PooledSeeds | None:
    """Return the noise between seeds, pooled over all arms; None if no arm has two seeds. If all arms have the same
    seeds, the effect that a seed has on all arms is removed."""
    same = len({tuple(sorted(one.seeds)) for one in answers}) == 1
    order = [np.argsort(np.array(one.seeds)) for one in answers]
    tables = [[table[rows] for table in one.tables] for one, rows in zip(answers, order, strict=True)]
    return pool_seeds(tables, paired=same)


def _compare_with(
    base: Answers, arm: Arm, own: Answers | None, baseline: Arm, design: str, pooled: PooledSeeds | None
) -> Compared:
    if own is None:
        return Compared(arm, None, why="not evaluated")
    accuracy = accuracy_of(own)
    if arm is baseline:
        return Compared(arm, accuracy, why="baseline")
    if own.ids and base.ids and own.ids != base.ids:
        return Compared(arm, accuracy, why="evaluated on other items")
    if not own.ids or not base.ids:
        base, own = _run_means(base), _run_means(own)
        if min(len(base.seeds), len(own.seeds)) < 2:
            return Compared(arm, accuracy, why="items unknown and only one seed")
    first, second, paired = _paired_rows(base, own, design)
    result = difference(first, second, paired=paired, pooled=pooled)
    return Compared(arm, accuracy, result)


def _paired_rows(base: Answers, own: Answers, design: str) -> tuple[list[Array], list[Array], bool]:
    """Return the tables of both arms, and whether they are paired. If they are, row s of both has the same seed; they
    are not if `design` is INDEPENDENT, the seeds differ, or a seed occurs twice."""
    if design == INDEPENDENT or sorted(base.seeds) != sorted(own.seeds) or len(set(base.seeds)) < len(base.seeds):
        return base.tables, own.tables, False
    order = [own.seeds.index(seed) for seed in base.seeds]
    return base.tables, [table[order] for table in own.tables], True


# Table


def difference_table(frames: Frames, arms: Arms, options: Options) -> Table | None:
    """Return one row per arm with its difference to the baseline in percentage points; None without two arms."""
    found = compare_arms(frames, arms, options)
    if not found:
        return None
    columns = [
        *("arm", "accuracy (%)", "Δ (seeds and items)", "Δ (seeds alone)", "p", "corrected p"),
        *("at 0.05", "80 % power from", "seeds", "items"),
    ]
    name = next(row.arm.label for row in found if row.why == "baseline")
    caption = f"Difference to the baseline {name} in accuracy at the last evaluation, in percentage points"
    rows = [_row(one) for one in found]
    return Table("differences", f"{caption}.", columns, rows, (), _notes(frames, arms, found, options))


def _row(one: Compared) -> list[Cell]:
    percent = Cell() if one.accuracy is None else Cell(quantity(in_points(one.accuracy), (0.0, 100.0)))
    runs = "-" if one.accuracy is None else str(one.accuracy.n_seeds)
    items = "-" if one.accuracy is None or not one.accuracy.n_items else str(one.accuracy.n_items)
    if one.found is None or one.p is None:
        return [Cell(one.arm.label), percent, *[Cell()] * 4, Cell(one.verdict), Cell(), Cell(runs), Cell(items)]
    seen = "none" if one.smallest is None or math.isinf(one.smallest) else f"{100 * one.smallest:.1f}"
    alone = Cell() if one.found.seeds is None else Cell(quantity(in_points(one.found.seeds)), signed=True)
    return [
        *(Cell(one.arm.label), percent, Cell(quantity(in_points(one.found.both)), signed=True), alone),
        *(Cell(p_text(one.found.p)), Cell(p_text(one.p)), Cell(one.verdict, bold=one.verdict == "significant")),
        *(Cell(seen), Cell(f"{runs}, paired" if one.found.paired else runs), Cell(items)),
    ]


def in_points(found: Interval) -> Interval:
    """Return an interval of fractions in per cent."""
    ends = [None if end is None else 100 * end for end in (found.se, found.low, found.high)]
    return replace(found, mean=100 * found.mean, se=ends[0], low=ends[1], high=ends[2])


def p_text(p: float) -> str:
    """Return p with three decimals, or "< 0.001"."""
    return "< 0.001" if p < 0.001 else f"{p:.3f}"


def _notes(frames: Frames, arms: Arms, found: Sequence[Compared], options: Options) -> list[str]:
    compared = [one.found for one in found if one.found is not None]
    notes = [
        "±: half-width of the 95 % interval. Seeds and items: for other seeds and other questions. Seeds alone: t "
        "interval, for these questions.",
        f"Corrected p: {CORRECTIONS[options.correction]}. {DESIGN_NOTES[options.design]}",
        "Not significant does not mean equal: the column 80 % power from is the smallest difference that this "
        "comparison, with its seeds, items and correction, would have found with probability 0.8.",
    ]
    if any(one.errors.seeds is None for one in compared):
        notes.append("With one seed the interval covers other questions only; another run may differ by more.")
    few = any(one.errors.seeds is not None and np.max(one.errors.seeds_df) < 3 for one in compared)
    if few and options.design != POOLED:
        notes.append("With two or three seeds, --seeds pooled detects smaller differences if all arms vary equally.")
    if any(one.both.n_items == 1 for one in compared):
        notes.append("Where items are -, verdicts of single items are unknown: name run folders to carry their error.")
    if len({evaluation_rule(frames, arm.runs) for arm in arms.arms}) > 1:
        notes.append("Arms are graded by different rules, so all are compared by the strict rule.")
    return notes
