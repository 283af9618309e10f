"""Summarises learning curves with intervals over seeds: the cost of reaching an accuracy, the area under the curve,
and a sigmoid fit of accuracy against compute (ScaleRL, arXiv:2510.13786)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from scipy import optimize
from scipy.stats import t

from analysis.arms import Arm, Arms
from analysis.estimates import mean_over_seeds, quantity
from analysis.frames import Frames
from simplerl.evals.statistics import LEVEL, Array, Interval
from simplerl.io.tables import Cell, Quantity, Table

ACCURACY = "eval/mean/accuracy"
TARGET_SHARE = 0.9  # the default target: this fraction of the way from the start to the best mean of the worst arm
UNITS = {"steps": "", "responses": "rollout/responses", "seconds": "time/step"}  # unit -> metric that is summed
FEWEST_POINTS = 5  # evaluations per run that a fit of three parameters needs


@dataclass(frozen=True)
class Sigmoid:
    """Holds the fit R(C) = R0 + (ceiling - R0) / (1 + (middle / C)^efficiency) of accuracy R at compute C > 0, with R0
    the accuracy at C = 0. A larger efficiency reaches the ceiling faster."""

    ceiling: float
    efficiency: float
    middle: float


def amounts(frames: Frames, run: str, unit: str) -> pd.Series | None:
    """Return accuracy by the steps, responses or seconds that a run had used when it was evaluated; None if unknown.

    Metrics at step s describe the weights after s updates, so what was used is the sum over steps before s."""
    curve = frames.curve(run, ACCURACY)
    if len(curve) < 2 or unit == "steps":
        return curve if len(curve) >= 2 else None
    used = frames.curve(run, UNITS[unit])
    if not len(used):
        return None
    total = np.concatenate([[0.0], np.cumsum(used.to_numpy())])
    return pd.Series(curve.to_numpy(), index=total[np.searchsorted(used.index.to_numpy(), curve.index.to_numpy())])


def reached(curve: pd.Series, target: float) -> float:
    """Return the steps, responses or seconds (the index of `curve`) at which the accuracy first reaches `target`,
    linearly interpolated between evaluations; infinite if never."""
    values, places = curve.to_numpy(dtype=float), curve.index.to_numpy(dtype=float)
    above = np.flatnonzero(values >= target)
    if not len(above):
        return math.inf
    i = int(above[0])
    if i == 0:
        return float(places[0])
    share = (target - values[i - 1]) / (values[i] - values[i - 1])
    return float(places[i - 1] + share * (places[i] - places[i - 1]))


def mean_height(curve: pd.Series, end: float) -> float:
    """Return the mean accuracy during training: the area under the curve from its start to `end`, divided by that
    distance."""
    places = curve.index.to_numpy(dtype=float)
    inside = np.append(places[places < end], end)
    values = np.interp(inside, places, curve.to_numpy(dtype=float))
    return float(np.trapezoid(values, inside) / (end - places[0]))


def fit_sigmoid(curve: pd.Series) -> Sigmoid | None:
    """Return the least-squares fit of a sigmoid to accuracy by steps, responses or seconds, for a curve that has a
    value at 0; None if the curve does not determine the fit.

    That is the case with fewer than `FEWEST_POINTS` points, without a rise of at least 0.01, and if the fitted ceiling
    is 1, its upper bound, although no accuracy on the curve exceeds 0.95.
    """
    places, values = curve.index.to_numpy(dtype=float), curve.to_numpy(dtype=float)
    if len(places) < FEWEST_POINTS or places[0] != 0:
        return None
    start, compute, later = values[0], places[1:], values[1:]

    def height(c: Array, ceiling: float, efficiency: float, log_middle: float) -> Array:
        found: Array = start + (ceiling - start) / (1 + np.exp(efficiency * (log_middle - np.log(c))))
        return found

    span = np.log(compute[-1]), np.log(compute[0])
    bounds = ([0.0, 0.05, span[1] - 3], [1.0, 20.0, span[0] + 3])
    first = np.clip([later.max(), 1.0, np.mean(span)], np.add(bounds[0], 1e-6), np.subtract(bounds[1], 1e-6))
    try:
        (ceiling, efficiency, log_middle), _ = optimize.curve_fit(height, compute, later, first, bounds=bounds)
    except RuntimeError:
        return None
    if ceiling - start < 0.01 or (ceiling > 0.999 and later.max() < 0.95):
        return None
    return Sigmoid(float(ceiling), float(efficiency), float(np.exp(log_middle)))


def geometric_mean(values: Sequence[float]) -> Interval:
    """Return the geometric mean over seeds with the t interval of the logarithms, for positive amounts such as times.
    If some seed never reaches the target (infinite), the mean is infinite and there is no interval; otherwise, if an
    amount is 0, the mean is 0 without an interval."""
    if not all(map(math.isfinite, values)) or min(values) <= 0:
        return Interval(math.inf if max(values) == math.inf else 0.0, None, None, None, n_seeds=len(values))
    logs = np.log(values)
    mean, count = float(logs.mean()), len(values)
    if count < 2 or np.ptp(logs) == 0:
        return Interval(math.exp(mean), None, None, None, n_seeds=count)
    se = float(logs.std(ddof=1)) / math.sqrt(count)
    width = float(t.ppf((1 + LEVEL) / 2, count - 1)) * se
    low, high = math.exp(mean - width), math.exp(mean + width)
    return Interval(math.exp(mean), math.exp(mean) * se, low, high, method="t over seeds, logarithms", n_seeds=count)


# Table


def default_target(frames: Frames, arms: Arms) -> float | None:
    """Return an accuracy that the mean of every arm that learns reaches: TARGET_SHARE of the way from the mean start to
    the lowest of their best means; None without curves. An arm learns if it gains at least half of what the best arm
    gains, so negative controls and collapsed arms do not set the target."""
    curves = [[c for run in arm.runs if len(c := frames.curve(run, ACCURACY)) > 1] for arm in arms.arms]
    tables = [pd.concat(found, axis=1).dropna() for found in curves if found]
    means = [table.mean(axis=1) for table in tables if len(table) > 1]
    if not means:
        return None
    start = float(np.mean([mean.iloc[0] for mean in means]))
    gains = [float(mean.max()) - start for mean in means]
    least = max(gains) / 2 if max(gains) > 0 else min(gains)
    return round(start + TARGET_SHARE * min(gain for gain in gains if gain >= least), 3)


def learning_table(frames: Frames, arms: Arms, target: float | None = None) -> Table | None:
    """Return one row per arm: the steps, responses and seconds to reach `target`, the mean accuracy during training,
    and the ceiling and efficiency of the sigmoid fit; None if no run was evaluated twice."""
    target = default_target(frames, arms) if target is None else target
    known = [arm for arm in arms.arms if any(len(frames.curve(run, ACCURACY)) > 1 for run in arm.runs)]
    if target is None or not known:
        return None
    end = min(
        float(frames.curve(run, ACCURACY).index[-1]) for arm in known for run in arm.runs if _evaluated(frames, run)
    )
    rows = [_row(frames, arm, target, end) for arm in known]
    columns = ["arm", *(f"{unit} to {100 * target:.1f} %" for unit in UNITS), f"mean accuracy to step {end:.0f} (%)"]
    columns += ["ceiling (%)", "efficiency", "seeds"]
    notes = [
        "Reached: geometric mean over seeds, interpolated between evaluations, with the 95 % t interval of the "
        "logarithms; k of n: seeds that reach it, if not all do. Mean accuracy: area under the curve divided by its "
        "length.",
        "Ceiling and efficiency: fit of R0 + (ceiling - R0) / (1 + (middle / steps)^efficiency) to each seed "
        "(ScaleRL, arXiv:2510.13786), ± t interval over the seeds whose curve determines it: one that still "
        "rises does not.",
    ]
    return Table("learning", "What it takes to learn, from held-out accuracy.", columns, rows, (), notes)


def _evaluated(frames: Frames, run: str) -> bool:
    return len(frames.curve(run, ACCURACY)) > 1


def _row(frames: Frames, arm: Arm, target: float, end: float) -> list[Cell]:
    runs = [run for run in arm.runs if _evaluated(frames, run)]
    cells: list[Any] = [Cell(arm.label)]
    for unit in UNITS:
        curves = [curve for run in runs if (curve := amounts(frames, run, unit)) is not None]
        cells.append(_reached_cell([reached(curve, target) for curve in curves]))
    curves = [frames.curve(run, ACCURACY) for run in runs]
    heights = mean_over_seeds([100 * mean_height(curve, end) for curve in curves])
    fits = [fit for curve in curves if (fit := fit_sigmoid(curve)) is not None]
    ceiling = mean_over_seeds([100 * fit.ceiling for fit in fits]) if fits else None
    efficiency = mean_over_seeds([fit.efficiency for fit in fits]) if fits else None
    cells += [
        Cell(quantity(heights, (0.0, 100.0))),
        Cell() if ceiling is None else Cell(quantity(ceiling, (0.0, 100.0))),
    ]
    cells.append(Cell() if efficiency is None else Cell(quantity(efficiency), digits=2))
    return [*cells, Cell(str(len(runs)))]


def _reached_cell(values: Sequence[float]) -> Cell:
    """Return the table cell of an amount with the ends of its interval over seeds or, if a seed never reached the
    target, with the number of seeds that did."""
    if not values:
        return Cell()
    finite = [value for value in values if math.isfinite(value)]
    if len(finite) < len(values):
        return Cell(f"{len(finite)} of {len(values)}")
    found = geometric_mean(values)
    if found.low is None or found.high is None:
        return Cell(Quantity(found.mean, None, len(values)), digits=0)
    return Cell(f"{found.mean:.0f} [{found.low:.0f}, {found.high:.0f}]")
