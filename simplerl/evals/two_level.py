"""Computes intervals that cover two sources of error: seeds (other training runs) and items (other questions).

The accuracy of an arm on item i with seed s is modelled as the arm's accuracy + seed effect + item effect + residual,
where the residual holds the sampling noise. The same items are answered by every run, so the mean over S seeds and N
items has the variance seed/S + item/N + residual/(S N), which is the sum of two independent parts:

    A = seed/S + residual/(S N)    estimated by the variance between seeds, with S - 1 degrees of freedom
    B = item/N                     estimated by the variance between item means minus that of the residual

The interval is the wider of two. One is Satterthwaite's t interval with the variance A + B. With two or three seeds A
is often estimated far too small, and it covers 87 to 92 % instead of 95 %; therefore the fraction A / (A + B) enters
its degrees of freedom with the power 3/2 instead of 2. The other has the half-width sqrt(t^2 A - k B), k = (t95^2 -
z95^2) / 20, with the quantile t of the degrees of freedom of A: nearly the t interval over seeds. Power and factor are
chosen such that the coverage is 94.5 to 96.7 % whatever the true A / B; `python -m simplerl.bench.coverage` measures
it.

Accuracies are multiples of a step h = 1 / (N samples), so two seeds may agree by chance, which would make A 0; like any
value rounded to multiples of h, each run adds the variance h^2 / 12.

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

from simplerl.evals.statistics import LEVEL, Array, Interval, Z, bounded_mean_of_sets

ITEMS, SEEDS, BOTH = "items", "seeds", "seeds and items"  # sources of error of an interval (`Interval.method`)
# How seeds enter a comparison with the baseline arm: seed by seed; as independent runs (Welch); or seed by seed, with
# the variance between seeds taken as equal in all arms and estimated from all of them.
DESIGNS = PAIRED, INDEPENDENT, POOLED = "paired", "independent", "pooled"
ROUNDING = 1e-20  # a smaller variance of accuracies is rounding


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
    return _half_width(errors, (1 - np.asarray(level)) / 2)


def _half_width(errors: Errors, tail: ArrayLike) -> Array:
    """Return the half-width of the interval that misses the true value on each side with probability `tail`."""
    items = np.asarray(errors.items, float)
    if errors.seeds is None:
        return np.asarray(stats.t.isf(tail, errors.items_df) * np.sqrt(items))
    seeds = np.asarray(errors.seeds, float)
    both = stats.t.isf(tail, _degrees_of_freedom(errors)) * np.sqrt(seeds + items)
    correction = (stats.t.isf((1 - LEVEL) / 2, errors.seeds_df) ** 2 - Z**2) / 20
    nearly_seeds = stats.t.isf(tail, errors.seeds_df) ** 2 * seeds - correction * items
    widest: Array = np.maximum(both, np.sqrt(np.maximum(nearly_seeds, 0.0)))
    return widest


def _degrees_of_freedom(errors: Errors, power: float = 1.5) -> Array:
    """Return the degrees of freedom of A + B: 1 / (a^power / df of A + b^2 / df of B), with the fractions a = A / (A +
    B) and b = B / (A + B). They are Satterthwaite's (1946) with power = 2. Infinite if both variances are 0."""
    seeds, items = np.asarray(errors.seeds, float), np.asarray(errors.items, float)
    with np.errstate(divide="ignore", invalid="ignore"):
        share = np.nan_to_num(seeds / (seeds + items))
        degrees: Array = 1 / (share**power / errors.seeds_df + (1 - share) ** 2 / np.asarray(errors.items_df, float))
    return degrees


def p_value(difference: float, errors: Errors) -> float:
    """Return the two-sided p-value of a difference: 1 - the level of the interval that just reaches 0."""
    if difference == 0 or float(errors.total()) == 0:
        return 1.0
    distance = abs(difference)

    def excess(log_p: float) -> float:
        return float(_half_width(errors, math.exp(log_p) / 2)) - distance

    lowest = -200.0  # p = 1e-87
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
    """Holds the mean of tables [..., seeds, items] and its variance by source: between seeds (A), between item means
    (B plus the residual's part), and that of the residual."""

    mean: Array
    seeds: Array | None
    item_means: Array
    residual: Array
    n_seeds: int
    items_df: Array


def spread(tables: Sequence[Array]) -> Spread:
    """Return the spread of the unweighted mean over the benchmarks' tables [..., S, N], which have the same seeds."""
    count, n_seeds = len(tables), tables[0].shape[-2]
    by_seed = np.mean([table.mean(-1) for table in tables], axis=0)
    item_parts = [_mean_variance(table.mean(-2)) / count**2 for table in tables]
    total = np.sum(item_parts, axis=0)
    weights = np.sum([p**2 / max(t.shape[-1] - 1, 1) for p, t in zip(item_parts, tables, strict=True)], axis=0)
    with np.errstate(divide="ignore", invalid="ignore"):
        items_df = np.where(weights > 0, total**2 / weights, np.inf)
    rounding = sum((_step(table) / table.shape[-1] / count) ** 2 for table in tables) / 12
    seeds = _mean_variance(by_seed) + rounding / n_seeds if n_seeds > 1 else None
    residual = np.sum([_residual_variance(table) for table in tables], axis=0) / count**2
    return Spread(by_seed.mean(-1), seeds, total, residual, n_seeds, items_df)


def _mean_variance(values: Array) -> Array:
    """Return the estimated variance of the mean of independent values, over the last axis."""
    count = values.shape[-1]
    return np.asarray(values.var(-1, ddof=1) / count if count > 1 else np.zeros(values.shape[:-1]))


def _step(table: Array) -> float:
    """Return the step h of a table, whose values are assumed to be multiples of it: the smallest positive absolute
    value. Returns 0 for a single column, which may hold means."""
    if table.shape[-1] < 2:
        return 0.0
    sizes = np.abs(table)
    return float(np.min(sizes, initial=math.inf, where=sizes > 1e-9)) if sizes.any() else 0.0


def _residual_variance(table: Array) -> Array:
    """Return the part of the residual in the variance of the mean of a table [..., S, N]; 0 with one seed."""
    n_seeds, n_items = table.shape[-2:]
    if n_seeds < 2 or n_items < 2:
        return np.zeros(table.shape[:-2])
    rest = table - table.mean(-1, keepdims=True)
    rest = rest - rest.mean(-2, keepdims=True)
    return np.asarray((rest**2).mean((-2, -1)) / ((n_seeds - 1) * (n_items - 1)))


def errors_of(found: Spread) -> Errors:
    """Return the two parts A and B of the variance of a mean."""
    items = np.maximum(found.item_means - found.residual, 0.0)
    return Errors(found.seeds, max(found.n_seeds - 1, 1), items, found.items_df)


@dataclass(frozen=True)
class PooledSeeds:
    """Holds the variance of a run's accuracy between seeds, pooled over arms, and its degrees of freedom."""

    variance: ArrayLike
    df: int


def pool_seeds(arms: Sequence[Sequence[Array]], *, paired: bool) -> PooledSeeds | None:
    """Return the variance between seeds, which is assumed to be the same in all arms; None if no arm has two.

    Each arm has tables [..., S, N]. paired: all arms have the same seeds, whose common effect is removed."""
    means = [np.mean([table.mean(-1) for table in tables], axis=0) for tables in arms]
    squares = [one.var(-1) * one.shape[-1] for one in means]
    degrees = sum(one.shape[-1] - 1 for one in means)
    rounding = np.mean([sum((_step(t) / t.shape[-1] / len(arm)) ** 2 for t in arm) / 12 for arm in arms])
    total = np.sum(squares, axis=0)
    if paired and len(arms) > 1:
        total = total - np.mean(means, axis=0).var(-1) * means[0].shape[-1] * len(arms)
        degrees -= means[0].shape[-1] - 1
    return PooledSeeds(total / degrees + rounding, degrees) if degrees else None


def difference_errors(
    first: Sequence[Array], second: Sequence[Array], *, paired: bool, pooled: PooledSeeds | None = None
) -> tuple[Array, Errors]:
    """Return the difference of two arms, second - first, and its errors. Each arm is given as one table [..., S, N] per
    benchmark, with the same items in the same order.

    paired: row s of both arms has the same seed, so that the effect of a seed on both arms cancels out; otherwise A is
    that of Welch's test. pooled: replaces the estimate of A. With one seed in an arm, only B is known, from item means.
    """
    one, two = spread(first), spread(second)
    if paired:
        found = spread([b - a for a, b in zip(first, second, strict=True)])
        mean, errors = found.mean, errors_of(found)
    else:
        means = [b.mean(-2, keepdims=True) - a.mean(-2, keepdims=True) for a, b in zip(first, second, strict=True)]
        by_item = spread(means)
        mean, errors = by_item.mean, Errors(None, 1, by_item.item_means, by_item.items_df)
        if one.seeds is not None and two.seeds is not None:
            with np.errstate(divide="ignore", invalid="ignore"):
                parts = one.seeds**2 / (one.n_seeds - 1) + two.seeds**2 / (two.n_seeds - 1)
                total = one.seeds + two.seeds
                degrees = np.where(parts > 0, total**2 / parts, one.n_seeds + two.n_seeds - 2)
            items = np.maximum(by_item.item_means - one.residual - two.residual, 0.0)
            errors = Errors(total, degrees, items, by_item.items_df)
    if pooled is not None and errors.seeds is not None:
        seeds = np.asarray(pooled.variance) * (1 / one.n_seeds + 1 / two.n_seeds)
        errors = Errors(seeds, pooled.df, errors.items, errors.items_df)
    return mean, errors


@dataclass(frozen=True)
class Difference:
    """Holds the difference of two arms: the interval over seeds and items, the t interval over seeds alone (for these
    items; None with one seed), the p-value of the first, and its errors."""

    both: Interval
    seeds: Interval | None
    p: float
    errors: Errors
    paired: bool


def difference(
    first: Sequence[Array],
    second: Sequence[Array],
    *,
    paired: bool,
    pooled: PooledSeeds | None = None,
    level: float = LEVEL,
) -> Difference:
    """Return the difference in mean accuracy between two arms, second - first, with its intervals. Each arm is given as
    one table [seeds, items] of accuracies per benchmark. paired, pooled: see `difference_errors`.

    If all items have the same difference, the variance between items is taken from the interval of `bounded_mean`,
    which allows for items with another difference that a sample of this many could have missed.
    """
    value, errors = difference_errors(first, second, paired=paired, pooled=pooled)
    mean, n_items = float(value), sum(table.shape[1] for table in first)
    n_seeds = min(len(first[0]), len(second[0]))
    alone = None
    if float(errors.total()) < ROUNDING:
        bounded = bounded_mean_of_sets([b.mean(0) - a.mean(0) for a, b in zip(first, second, strict=True)], -1.0, 1.0)
        errors = Errors(errors.seeds, errors.seeds_df, (bounded.se or 0.0) ** 2)
    elif errors.seeds is not None:
        alone = interval(mean, Errors(errors.seeds, errors.seeds_df, 0.0), n_seeds, n_items, level)
    return Difference(interval(mean, errors, n_seeds, n_items, level), alone, p_value(mean, errors), errors, paired)
