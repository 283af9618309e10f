"""Computes means over seeds with 95 % intervals, and tests whether two of them differ significantly."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from scipy.stats import t

from simplerl.data.benchmarks import BENCHMARKS
from simplerl.evals.statistics import Z
from simplerl.io.tables import Quantity


def t_quantile(df: float) -> float:
    """Return the 97.5 % quantile of Student's t with `df` degrees of freedom, which may be infinite."""
    return float(t.ppf(0.975, df))


@dataclass(frozen=True)
class Estimate:
    """Holds a mean over `n` seeds (0: a published number) with its standard error `se` (None: unknown).

    `df` are the degrees of freedom of `se`. `item_se` is the standard error due to the choice of the benchmark's items;
    the interval is never narrower than it implies."""

    mean: float
    se: float | None = None
    df: float = math.inf
    n: int = 1
    item_se: float = 0.0

    @property
    def half_width(self) -> float | None:
        """Return the half-width of the 95 % interval; None if unknown."""
        return None if self.se is None else max(t_quantile(self.df) * self.se, Z * self.item_se)

    def quantity(self, limits: tuple[float, float] = (-math.inf, math.inf)) -> Quantity:
        """Return the value for a table cell; published numbers are shown without an interval. limits: range of possible
        values."""
        return Quantity(self.mean, self.half_width if self.n else None, self.n, limits)


def mean_over_seeds(values: Sequence[float], item_errors: Sequence[float | None] = ()) -> Estimate:
    """Return the mean over seeds with the wider of two intervals: the t interval over seeds and that over items.

    `item_errors` are the standard errors over the benchmark's items, one per seed; they are used only if all are
    known. With one seed, or seeds with equal values, only the interval over items is used, and without item errors
    there is no interval. Infinite values have no interval."""
    count = len(values)
    if not all(map(math.isfinite, values)):
        return Estimate(sum(values) / count, n=count)
    mean = math.fsum(values) / count
    # A standard error of 0 (from other code, if all items are correct or all incorrect) is treated as unknown.
    known = [error for error in item_errors if error]
    item_se = math.hypot(*known) / count if len(known) == count else None
    if math.isclose(min(values), max(values), rel_tol=1e-9, abs_tol=1e-12):
        return Estimate(mean, item_se, n=count)
    spread = math.sqrt(math.fsum((value - mean) ** 2 for value in values) / (count - 1))
    return Estimate(mean, spread / math.sqrt(count), count - 1, count, item_se or 0.0)


def published_estimate(name: str, percent: float, sets: Sequence[str] = ()) -> Estimate:
    """Return a published accuracy in per cent with the binomial standard error over the benchmark's items.

    For `name` "mean" it is the error of the unweighted mean over `sets`, as if each had this accuracy."""
    names = sets if name == "mean" else (name,)
    fraction = percent / 100
    variance = sum(fraction * (1 - fraction) / BENCHMARKS[one].items for one in names) / len(names) ** 2
    return Estimate(percent, 100 * math.sqrt(variance), n=0)


def differ_significantly(one: Estimate, two: Estimate) -> bool:
    """Return whether the 95 % interval of the difference excludes 0 (Welch, never narrower than the error over items).

    The items are treated as independent although both share them, so the paired `python -m analysis.compare` is more
    powerful."""
    if not one.se or not two.se:
        return False
    variance = one.se**2 + two.se**2
    parts = sum(e.se**4 / e.df for e in (one, two) if e.se is not None and not math.isinf(e.df))
    df = variance**2 / parts if parts else math.inf
    over_items = Z * math.hypot(max(one.se, one.item_se), max(two.se, two.item_se))
    return abs(one.mean - two.mean) > max(t_quantile(df) * math.sqrt(variance), over_items)


def significantly_best(cells: Sequence[Estimate | None], *, higher: bool = True) -> int | None:
    """Return the index of the best estimate if it differs significantly from every other one, else None."""
    known = [(index, cell) for index, cell in enumerate(cells) if cell is not None]
    if len(known) < 2:
        return None
    best, top = (max if higher else min)(known, key=lambda pair: pair[1].mean)
    return best if all(differ_significantly(top, cell) for index, cell in known if index != best) else None
