"""Computes means over seeds with 95 % intervals, and tests whether two of them differ significantly."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from simplerl.data.benchmarks import BENCHMARKS
from simplerl.evals.statistics import LEVEL, Interval, Z
from simplerl.evals.two_level import Errors, interval
from simplerl.io.tables import Quantity

BINOMIAL = "binomial"  # method of the interval of a published accuracy


def quantity(found: Interval, limits: tuple[float, float] = (-math.inf, math.inf)) -> Quantity:
    """Return the value for a table cell; published numbers are shown without an interval. limits: range of possible
    values."""
    return Quantity(found.mean, found.half_width if found.n_seeds else None, found.n_seeds, limits)


def shifted(found: Interval, by: float) -> Interval:
    """Return the interval of the estimated value plus the constant `by`."""
    low, high = (None if end is None else end + by for end in (found.low, found.high))
    return replace(found, mean=found.mean + by, low=low, high=high)


def mean_over_seeds(values: Sequence[float], item_errors: Sequence[float | None] = ()) -> Interval:
    """Return the mean over seeds with an interval over seeds and items (`simplerl.evals.two_level`).

    `item_errors` are the standard errors over the benchmark's items, one per seed; they are used only if all are
    known. All seeds answer the same items, so their mean has the same error over items as one seed; the part of it that
    is sampling noise is counted although more seeds reduce it, because it is unknown here. With one seed, or seeds with
    equal values, only the interval over items is used, and without item errors there is no interval. Infinite values
    have no interval."""
    count = len(values)
    if not all(map(math.isfinite, values)):
        return Interval(sum(values) / count, None, None, None, n_seeds=count)
    mean = math.fsum(values) / count
    # A standard error of 0 (from other code, if all items are correct or all incorrect) is treated as unknown.
    known = [error for error in item_errors if error]
    items = math.fsum(error**2 for error in known) / count if len(known) == count else 0.0
    equal = math.isclose(min(values), max(values), rel_tol=1e-9, abs_tol=1e-12)
    seeds = None if equal else float(np.var(values, ddof=1)) / count
    return interval(mean, Errors(seeds, max(count - 1, 1), items), count, 0)


def published_estimate(name: str, percent: float, sets: Sequence[str] = ()) -> Interval:
    """Return a published accuracy in per cent with the binomial standard error over the benchmark's items.

    For `name` "mean" it is the error of the unweighted mean over `sets`, as if each had this accuracy."""
    names = sets if name == "mean" else (name,)
    fraction = percent / 100
    items = [BENCHMARKS[one].items for one in names]
    se = 100 * math.sqrt(sum(fraction * (1 - fraction) / count for count in items)) / len(names)
    return Interval(percent, se, percent - Z * se, percent + Z * se, LEVEL, BINOMIAL, 0, sum(items))


def differ_significantly(one: Interval, two: Interval) -> bool:
    """Return whether the 95 % interval of the difference excludes 0: its half-width is the square root of the summed
    squares of those of the two (Zou & Donner 2008).

    The items are treated as independent although both share them, so the paired comparisons of
    `analysis.differences` and `analysis.compare` are more powerful."""
    if not one.half_width or not two.half_width:
        return False
    return abs(one.mean - two.mean) > math.hypot(one.half_width, two.half_width)


def significantly_best(cells: Sequence[Interval | None], *, higher: bool = True) -> int | None:
    """Return the index of the best estimate, the largest if `higher` and otherwise the smallest, if it differs
    significantly from every other one; else None."""
    known = [(index, cell) for index, cell in enumerate(cells) if cell is not None]
    if len(known) < 2:
        return None
    best, top = (max if higher else min)(known, key=lambda pair: pair[1].mean)
    return best if all(differ_significantly(top, cell) for index, cell in known if index != best) else None
