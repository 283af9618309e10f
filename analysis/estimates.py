"""Means over seeds with their intervals, and whether two numbers can be told apart."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from simplerl.data.benchmarks import BENCHMARKS
from simplerl.evals.statistics import Z

# 97.5 % quantiles of Student's t for 1 to 30 degrees of freedom.
_T = (
    *(12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228, 2.201, 2.179, 2.160, 2.145, 2.131),
    *(2.120, 2.110, 2.101, 2.093, 2.086, 2.080, 2.074, 2.069, 2.064, 2.060, 2.056, 2.052, 2.048, 2.045, 2.042),
)


def t_quantile(df: float) -> float:
    """Between the table's entries the wider one, so that an interval is never too short."""
    if math.isinf(df):
        return Z
    return _T[min(max(int(df), 1), len(_T)) - 1]


@dataclass(frozen=True)
class Estimate:
    """A number, its standard error (None: unknown), the error's degrees of freedom, how many seeds stand behind it (0:
    published), and the error that the choice of items makes, below which that of few seeds does not count."""

    mean: float
    se: float | None = None
    df: float = math.inf
    n: int = 1
    floor: float = 0.0

    @property
    def half_width(self) -> float | None:
        """Of the 95 % interval."""
        return None if self.se is None else max(t_quantile(self.df) * self.se, Z * self.floor)


def over_seeds(values: Sequence[float], item_errors: Sequence[float | None] = ()) -> Estimate:
    """The mean of several seeds with the t interval of their spread, or with that of the items (`item_errors`, one a
    seed, where all are known) if it is wider. Of one seed, or of seeds that agree, the items' alone: without it there
    is no interval. Infinite values have none."""
    count = len(values)
    if not all(map(math.isfinite, values)):
        return Estimate(sum(values) / count, n=count)
    mean = math.fsum(values) / count
    # An error of 0 (other code's, of all right or all wrong) is no certainty.
    known = [error for error in item_errors if error]
    by_items = math.hypot(*known) / count if len(known) == count else None
    if math.isclose(min(values), max(values), rel_tol=1e-9, abs_tol=1e-12):
        return Estimate(mean, by_items, n=count)
    spread = math.sqrt(math.fsum((value - mean) ** 2 for value in values) / (count - 1))
    return Estimate(mean, spread / math.sqrt(count), count - 1, count, by_items or 0.0)


def published_estimate(name: str, percent: float, sets: Sequence[str] = ()) -> Estimate:
    """A published accuracy (per cent) with the error that the benchmark's number of items makes (binomial); for
    `name` "mean", that of the mean over `sets` with every one at the mean."""
    names = sets if name == "mean" else (name,)
    share = percent / 100
    variance = sum(share * (1 - share) / BENCHMARKS[one].items for one in names) / len(names) ** 2
    return Estimate(percent, 100 * math.sqrt(variance), n=0)


def distinguishable(one: Estimate, two: Estimate) -> bool:
    """The 95 % interval of the difference (Welch, and never shorter than what the items make of it) excludes 0. Items
    that both share are counted as independent, so a paired comparison (`python -m analysis.compare`) may tell more
    apart."""
    if not one.se or not two.se:
        return False
    variance = one.se**2 + two.se**2
    parts = sum(e.se**4 / e.df for e in (one, two) if e.se is not None and not math.isinf(e.df))
    df = variance**2 / parts if parts else math.inf
    least = Z * math.hypot(max(one.se, one.floor), max(two.se, two.floor))
    return abs(one.mean - two.mean) > max(t_quantile(df) * math.sqrt(variance), least)


def best(cells: Sequence[Estimate | None], *, higher: bool = True) -> int | None:
    """The place of the best cell, if it can be told apart from every other; else None."""
    known = [(place, cell) for place, cell in enumerate(cells) if cell is not None]
    if len(known) < 2:
        return None
    place, top = (max if higher else min)(known, key=lambda pair: pair[1].mean)
    return place if all(distinguishable(top, cell) for other, cell in known if other != place) else None
