"""Computes intervals that carry two sources of error: seeds (other training runs) and items (other questions).

The accuracy of an arm on item i with seed s is modelled as the arm's accuracy + seed effect + item effect + residual,
where the residual holds the sampling noise. The same items are answered by every run, so the mean over S seeds and N
items has the variance seed/S + item/N + residual/(S N), which is the sum of two independent parts:

    A = seed/S + residual/(S N)    estimated by the variance between seeds, with S - 1 degrees of freedom
    B = item/N                     estimated by the variance between item means minus that of the residual

The interval is the wider of two. Satterthwaite's t interval with the variance A + B is accurate for many seeds, but
for two or three it covers 87 to 92 % instead of 95 %, because A is then often far too small. The other has the
half-width sqrt(t^2 (A - B/20) + z^2 B/20) with the quantile t of S - 1 degrees of freedom: nearly the t interval over
seeds. `python -m simplerl.bench.coverage` measures their coverage.

A table of one arm has shape [seeds, items]; with several benchmarks an arm has one table for each, and all means are
unweighted over benchmarks.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike
from scipy import optimize, stats

from simplerl.evals.statistics import LEVEL, Array, Interval, bounded_mean_of_sets

ITEMS, SEEDS, BOTH = "items", "seeds", "seeds and items"  # what an interval carries (`Interval.method`)
SMALL_SHARE = 1 / 20  # of B, in the interval that is nearly the t interval over seeds; calibrated by simulation


@dataclass(frozen=True)
class Errors:
    """Holds the variance of a mean by source, with degrees of freedom: numbers, or arrays of one shape.

    seeds: A of the module's docstring; None if there is a single seed, so that it is unknown. items: B."""

    seeds: ArrayLike | None
    seeds_df: ArrayLike
    items: ArrayLike
    items_df: ArrayLike = math.inf

    def total(self) -> Array:
        """Return the variance of the mean."""
        seeds = 0.0 if self.seeds is None else np.asarray(self.seeds, float)
        total: Array = np.asarray(self.items, float) + seeds
        return total


def half_width(errors: Errors, level: float | Array = LEVEL) -> Array:
    """Return the half-width of the interval with coverage `level` (the module's docstring has the formula)."""
    upper = (1 + np.asarray(level)) / 2
    items = np.asarray(errors.items, float)
    if errors.seeds is None:
        return np.asarray(stats.t.ppf(upper, errors.items_df) * np.sqrt(items))
    seeds = np.asarray(errors.seeds, float)
    both = stats.t.ppf(upper, _degrees_of_freedom(errors)) * np.sqrt(seeds + items)
    t, z = stats.t.ppf(upper, errors.seeds_df), stats.norm.ppf(upper)
    nearly_seeds = t**2 * (seeds - SMALL_SHARE * items) + z**2 * SMALL_SHARE * items
    widest: Array = np.maximum(both, np.sqrt(np.maximum(nearly_seeds, 0.0)))
    return widest


def _degrees_of_freedom(errors: Errors) -> Array:
    """Return Satterthwaite's degrees of freedom of A + B (Satterthwaite 1946); infinite if both are 0."""
    seeds, items = np.asarray(errors.seeds, float), np.asarray(errors.items, float)
    parts = seeds**2 / errors.seeds_df + items**2 / np.asarray(errors.items_df, float)
    with np.errstate(divide="ignore", invalid="ignore"):
        degrees: Array = np.where(parts > 0, (seeds + items) ** 2 / parts, np.inf)
    return degrees


def p_value(difference: float, errors: Errors) -> float:
    """Return the two-sided p-value of a difference: 1 - the level of the interval that just reaches 0."""
    if difference == 0 or float(errors.total()) == 0:
        return 1.0
    distance = abs(difference)

    def excess(log_p: float) -> float:
        return float(half_width(errors, -math.expm1(log_p))) - distance

    lowest = -600.0
    if excess(lowest) <= 0:
        return 0.0
    return math.exp(float(optimize.brentq(excess, lowest, -1e-12))) if excess(-1e-12) < 0 else 1.0


def interval(mean: float, errors: Errors, n_seeds: int, n_items: int, level: float = LEVEL) -> Interval:
    """Return the interval around `mean`; without any variance it has no ends."""
    variance = float(errors.total())
    method = ITEMS if errors.seeds is None else SEEDS if errors.items == 0 else BOTH
    if variance == 0:
        return Interval(mean, None, None, None, level, method, n_seeds, n_items)
    width = float(half_width(errors, level))
    return Interval(mean, math.sqrt(variance), mean - width, mean + width, level, method, n_seeds, n_items)


# From tables of seeds and items


@dataclass(frozen=True)
class Spread:
    """Holds the mean of tables [seeds, items] and its variance by source: between seeds (A), between item means (B plus
    the residual's part), and that of the residual."""

    mean: float
    seeds: float | None
    item_means: float
    residual: float
    n_seeds: int
    items_df: float


def spread(tables: Sequence[Array]) -> Spread:
    """Return the spread of the unweighted mean over the benchmarks' tables, each [S, N] with the same seeds."""
    count, n_seeds = len(tables), len(tables[0])
    by_seed = np.mean([table.mean(1) for table in tables], axis=0)
    item_parts = [_mean_variance(table.mean(0)) / count**2 for table in tables]
    residual = 0.0
    if n_seeds > 1:
        for table in tables:
            rest = table - table.mean(1, keepdims=True) - table.mean(0, keepdims=True) + table.mean()
            degrees = (n_seeds - 1) * (table.shape[1] - 1)
            residual += float((rest**2).sum()) / max(degrees, 1) / table.size / count**2
    weights = sum(part**2 / max(table.shape[1] - 1, 1) for part, table in zip(item_parts, tables, strict=True))
    items_df = sum(item_parts) ** 2 / weights if weights > 0 else math.inf
    seeds = _mean_variance(by_seed) if n_seeds > 1 else None
    return Spread(float(by_seed.mean()), seeds, sum(item_parts), residual, n_seeds, items_df)


def _mean_variance(values: Array) -> float:
    """Return the estimated variance of the mean of independent values."""
    return float(values.var(ddof=1)) / len(values) if len(values) > 1 else 0.0


def errors_of(found: Spread) -> Errors:
    """Return the two parts A and B of the variance of a mean."""
    items = max(found.item_means - found.residual, 0.0)
    return Errors(found.seeds, max(found.n_seeds - 1, 1), items, found.items_df)


@dataclass(frozen=True)
class Difference:
    """Holds the difference of two arms: the interval over seeds and items, the t interval over seeds alone (for these
    items; None with one seed), the p-value of the first, and its errors."""

    both: Interval
    seeds: Interval | None
    p: float
    errors: Errors
    paired: bool


def difference(first: Sequence[Array], second: Sequence[Array], *, paired: bool, level: float = LEVEL) -> Difference:
    """Return second - first, of tables [seeds, items] for each benchmark, with the same items in the same order.

    paired: row s of both arms has the same seed, so that what a seed does to both cancels out."""
    n_items = sum(table.shape[1] for table in first)
    if paired:
        found = spread([two - one for one, two in zip(first, second, strict=True)])
        mean, errors, n_seeds = found.mean, errors_of(found), found.n_seeds
    else:
        mean, errors = _unpaired(first, second)
        n_seeds = min(len(first[0]), len(second[0]))
    alone = None
    if float(errors.total()) == 0:  # all items agree: bound what this many items could have missed
        bounded = bounded_mean_of_sets([b.mean(0) - a.mean(0) for a, b in zip(first, second, strict=True)], -1.0, 1.0)
        errors = Errors(errors.seeds, errors.seeds_df, (bounded.se or 0.0) ** 2)
    elif errors.seeds is not None:
        alone = interval(mean, Errors(errors.seeds, errors.seeds_df, 0.0), n_seeds, n_items, level)
    return Difference(interval(mean, errors, n_seeds, n_items, level), alone, p_value(mean, errors), errors, paired)


def _unpaired(first: Sequence[Array], second: Sequence[Array]) -> tuple[float, Errors]:
    """Return the difference of arms with independent seeds but the same items: A is Welch's, B is paired by item."""
    one, two = spread(first), spread(second)
    means = [b.mean(0, keepdims=True) - a.mean(0, keepdims=True) for a, b in zip(first, second, strict=True)]
    by_item = spread(means)
    if one.seeds is None or two.seeds is None:
        return by_item.mean, Errors(None, 1, by_item.item_means, by_item.items_df)
    parts = one.seeds**2 / (one.n_seeds - 1) + two.seeds**2 / (two.n_seeds - 1)
    total = one.seeds + two.seeds
    degrees = total**2 / parts if parts > 0 else one.n_seeds + two.n_seeds - 2
    items = max(by_item.item_means - one.residual - two.residual, 0.0)
    return by_item.mean, Errors(total, degrees, items, by_item.items_df)
