"""Measures claims on runs: each function returns one number with its 95 % interval over seeds (and items, if it is an
accuracy), from the runs of the arms of a claim (`analysis/claims.yaml`)."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np
import pandas as pd

from analysis.aha import find_emergence, read_rollouts
from analysis.curves import in_percent
from analysis.differences import in_points
from analysis.estimates import mean_over_seeds
from analysis.folders import read_responses, rollout_files
from analysis.frames import Frames
from analysis.learning import reached
from analysis.run_data import SourceError
from simplerl.evals.behaviour import is_code
from simplerl.evals.noise import item_means, last_evaluation
from simplerl.evals.statistics import Array, Interval
from simplerl.evals.two_level import difference

Window = Sequence[float]  # two fractions of the training
Arms = Mapping[str, Sequence[str]]  # name of a side of the comparison -> its runs
SMOOTHED = 5  # steps of the running mean whose half rise is sought


@dataclass(frozen=True)
class Measured:
    """Holds a number with its interval (without ends if the runs do not determine it), its unit, and what else is worth
    saying about it."""

    value: Interval
    unit: str
    detail: str = ""


Measure = Callable[..., Measured]  # (frames, arms, **keywords of the claim)


# Curves


def window(curve: pd.Series, part: Window) -> pd.Series:
    """Return the part of a curve between two fractions of the training, at least its nearest step."""
    steps = curve.index.to_numpy(dtype=float)
    low, high = (fraction * (steps[-1] + 1) for fraction in part)
    inside = curve[(steps >= low) & (steps < high)]
    return inside if len(inside) else curve.iloc[[int(np.argmin(np.abs(steps - low)))]]


def _curve(frames: Frames, run: str, metric: str) -> pd.Series:
    curve = frames.curve(run, metric)
    if not len(curve):
        raise SourceError(f"{run} did not log {metric}: name runs with training metrics.")
    return curve * (100.0 if in_percent(metric) else 1.0)


def change(frames: Frames, arms: Arms, *, metric: str, first: Window, last: Window) -> Measured:
    """Return the change of a metric's mean from the window `first` to the window `last`, over the seeds of the arm.

    The windows are fixed before, so the minimum of a noisy curve cannot pass for a fall."""
    [runs] = arms.values()
    curves = [_curve(frames, run, metric) for run in runs]
    before, after = ([float(window(curve, part).mean()) for curve in curves] for part in (first, last))
    unit = "points" if in_percent(metric) else "tokens" if "length" in metric else ""
    detail = f"{fmean(before):.1f} to {fmean(after):.1f}, means over seeds"
    return Measured(mean_over_seeds([b - a for a, b in zip(before, after, strict=True)]), unit, detail)


def half_rise_earlier(frames: Frames, arms: Arms, *, metric: str, than: str) -> Measured:
    """Return by how many steps one metric reaches half of its rise after another does (negative: before)."""
    [runs] = arms.values()
    steps = [[_half_rise(_curve(frames, run, name)) for run in runs] for name in (metric, than)]
    pairs = [one - other for one, other in zip(*steps, strict=True) if math.isfinite(one) and math.isfinite(other)]
    if len(pairs) < len(runs):
        return Measured(_unknown(len(runs)), "steps", "one of the two does not rise in some run")
    detail = f"step {fmean(steps[0]):.0f} against step {fmean(steps[1]):.0f}, means over seeds"
    return Measured(mean_over_seeds(pairs), "steps", detail)


def _half_rise(curve: pd.Series) -> float:
    """Return the step at which the running mean of a curve reaches half of its rise; infinite if it does not rise."""
    smooth = curve.rolling(min(SMOOTHED, len(curve)), min_periods=1).mean()
    start, end = float(window(curve, (0, 0.05)).mean()), float(window(curve, (0.83, 1)).mean())
    return reached(smooth, (start + end) / 2) if end > start else math.inf


def _unknown(seeds: int) -> Interval:
    return Interval(math.nan, None, None, None, n_seeds=seeds)


# Responses


def reflection(frames: Frames, arms: Arms, *, first: Window, last: Window) -> Measured:
    """Return the change of the fraction of responses with reflection, and at which step it emerges in each run."""
    found = change(frames, arms, metric="rollout/reflection_share", first=first, last=last)
    [runs] = arms.values()
    folders = [folder for run in runs if (folder := _folder(frames, run)) is not None and rollout_files(folder)]
    steps = [find_emergence(read_rollouts(folder), "any").step for folder in folders]
    known = ", ".join("never" if step is None else str(step) for step in steps)
    emerged = f"; emerges at step {known}" if steps else ""
    return Measured(found.value, found.unit, f"{found.detail}{emerged}")


def fall_explained_by_code(frames: Frames, arms: Arms, *, first: Window, last: Window) -> Measured:
    """Return by how many tokens the loss of responses with code exceeds half of the fall in mean length.

    The change in mean length is the sum of two parts (Kitagawa 1955): the change in the fraction with code times the
    mean difference in length between responses with and without code, and the changes in length within both kinds."""
    [runs] = arms.values()
    parts = [_length_parts(_folder(frames, run), first, last) for run in runs]
    if any(part is None for part in parts):
        return Measured(_unknown(len(runs)), "tokens", "some run has no rollouts/ with responses")
    totals, codes = zip(*(part for part in parts if part is not None), strict=True)
    if fmean(totals) >= 0:
        return Measured(_unknown(len(runs)), "tokens", "the length did not fall")
    share = f"code explains {-fmean(codes):.1f} of the {-fmean(totals):.1f} tokens"
    return Measured(mean_over_seeds([t / 2 - c for t, c in zip(totals, codes, strict=True)]), "tokens", share)


def _folder(frames: Frames, run: str) -> Path | None:
    return Path(str(frames.runs.at[run, "where"])) if frames.runs.at[run, "source"] == "folder" else None


def _length_parts(folder: Path | None, first: Window, last: Window) -> tuple[float, float] | None:
    """Return the change in mean length between two windows, and its part by the fraction with code."""
    files = rollout_files(folder) if folder is not None else {}
    if not files:
        return None
    places = pd.Series(list(files.values()), index=list(files))
    halves = []
    for part in (first, last):
        rows = pd.concat([read_responses(file, ["response", "length"]) for file in window(places, part)])
        code = rows["response"].map(is_code).to_numpy(bool)
        lengths = rows["length"].to_numpy(float)
        halves.append((lengths.mean(), code.mean(), *(_mean(lengths[kind]) for kind in (code, ~code))))
    (before, share, *kinds), (after, later, *kinds_later) = halves
    gaps = [gap for one in (kinds, kinds_later) if math.isfinite(gap := one[0] - one[1])]
    return float(after - before), float((later - share) * fmean(gaps)) if gaps else 0.0


def _mean(values: Array) -> float:
    return float(values.mean()) if len(values) else math.nan


# Accuracies


def gain(frames: Frames, arms: Arms, *, benchmark: str = "") -> Measured:
    """Return the gain in accuracy of the only arm from its first to its last evaluation, in percentage points, on one
    benchmark ("": the mean over all). The interval covers seeds and items."""
    [runs] = arms.values()
    before, after = (_tables(frames, runs, benchmark, first=first) for first in (True, False))
    return _compared(before, after, paired=True)


def difference_of_arms(frames: Frames, arms: Arms, *, benchmark: str = "") -> Measured:
    """Return the accuracy of the second arm minus that of the first at the last evaluations, in percentage points,
    paired by seed if both arms have the same seeds. The interval covers seeds and items."""
    runs = [sorted(one, key=lambda run: str(_seed(frames, run))) for one in arms.values()]
    seeds = [[_seed(frames, run) for run in one] for one in runs]
    first, second = (_tables(frames, one, benchmark) for one in runs)
    found = _compared(first, second, paired=seeds[0] == seeds[1])
    names = list(arms)
    return Measured(found.value, found.unit, f"{found.detail} ({names[0]} to {names[1]})")


def _compared(first: Mapping[str, Array], second: Mapping[str, Array], *, paired: bool) -> Measured:
    """Return the difference of two arms, given as {benchmark with its items: [seeds, items]}."""
    if first.keys() != second.keys():
        raise SourceError("the runs of a claim have answered different items: evaluate them on the same benchmarks.")
    found = difference(list(first.values()), [second[key] for key in first], paired=paired)
    value = in_points(found.both)
    means = [100 * fmean(float(table.mean()) for table in side.values()) for side in (first, second)]
    detail = f"{means[0]:.1f} to {means[1]:.1f} %"
    if found.errors.seeds is None:  # one seed: the interval would cover other questions only
        value = Interval(value.mean, None, None, None, n_seeds=1)
    return Measured(value, "points", detail)


def _tables(frames: Frames, runs: Sequence[str], benchmark: str, *, first: bool = False) -> dict[str, Array]:
    """Return the answers [seeds, items] of the first or last evaluations, by benchmark and its items."""
    rows: dict[str, list[Array]] = {}
    for run in runs:
        folder, curve = _folder(frames, run), frames.curve(run, "eval/mean/accuracy")
        step = int(curve.index[0 if first else -1]) if len(curve) else None
        place = None if folder is None else last_evaluation(folder, step)
        if place is None:
            raise SourceError(f"{run} has no evaluation with single answers: name run folders.")
        found = item_means(place)
        for name, values in found.values.items():
            if benchmark in ("", name):
                rows.setdefault(f"{name} {hash(found.ids[name])}", []).append(values)
    if not rows or any(len(values) < len(runs) for values in rows.values()):
        raise SourceError(f"not every run of a claim was evaluated on {benchmark or 'the same items'}: evaluate it.")
    return {key: np.stack(values) for key, values in rows.items()}


def _seed(frames: Frames, run: str) -> Any:
    return frames.config.at[run, "seed"] if "seed" in frames.config else run


MEASURES: dict[str, Measure] = {
    "change": change,
    "half_rise_earlier": half_rise_earlier,
    "reflection": reflection,
    "fall_explained_by_code": fall_explained_by_code,
    "gain": gain,
    "difference": difference_of_arms,
}
