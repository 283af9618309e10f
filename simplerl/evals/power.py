"""Predicts, before a sweep, which difference between arms it can detect, from the noise of earlier runs or a guess.

The test is the interval of `simplerl.evals.two_level`, on accuracies as fractions. The difference of two arms with S
seeds each, on N items, has the variance A + B:

    A = 2 (1 - seed_correlation) seed_sd^2 / S + 2 residual_sd^2 / (S N)
    B = 2 (1 - item_correlation) item_sd^2 / N

Power is exact for this model: A is estimated with S - 1 degrees of freedom (independent seeds: Welch; pooled over the
arms: (S - 1) (arms - 1)), and its chi-squared distribution is integrated at equally probable quantiles. `arms` counts
all arms with the baseline; a difference must be significant at 0.05 / (arms - 1), the first step of Holm's procedure,
so the power holds whatever the other arms do.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
from scipy import optimize, stats

from simplerl.evals.statistics import LEVEL, Array
from simplerl.evals.two_level import INDEPENDENT, PAIRED, POOLED, Errors, half_width

POWER = 0.8
NODES = 400  # quantiles of one chi-squared distribution; of two, the square root of 9 times as many each
MAX_SEEDS, MAX_ITEMS = 1000, 1_000_000


@dataclass(frozen=True)
class Noise:
    """Holds standard deviations of accuracy, as fractions, and correlations between arms.

    seed_sd: of an arm's accuracy between seeds, beyond what the finite items explain. item_sd: between items of their
    expected accuracy. residual_sd: of one item's accuracy in one run around these, with the sampling noise of as many
    samples per item as the evaluation takes. seed_correlation: between arms with the same seed. item_correlation:
    between the arms' expected accuracies of an item. seeds_df: degrees of freedom of seed_sd (0: a guess, or not
    measured)."""

    seed_sd: float
    item_sd: float
    residual_sd: float
    seed_correlation: float = 0.0
    item_correlation: float = 0.0
    seeds_df: int = 0
    source: str = "stated"  # where the numbers are from, in words

    def errors(self, seeds: int, items: int) -> Errors:
        """Return the expected variance of the difference of two arms by source."""
        seed = 2 * (1 - self.seed_correlation) * self.seed_sd**2 / seeds + 2 * self.residual_sd**2 / (seeds * items)
        item = 2 * (1 - self.item_correlation) * self.item_sd**2 / items
        return Errors(seed, max(seeds - 1, 1), item, max(items - 1, 1))


def guessed_noise(seed_sd: float = 0.02, accuracy: float = 0.5, samples: int = 1) -> Noise:
    """Return stated noise: the standard deviation between seeds, and an accuracy from which that of items follows.

    Half of the variance p (1 - p) of a single answer is assumed to lie between items, as in the micro world, and four
    fifths of it to be common to two arms: then single answers of two arms correlate by 0.4 (Miller 2024,
    arXiv:2411.00640, finds 0.3 to 0.7)."""
    half = accuracy * (1 - accuracy) / 2
    return Noise(seed_sd, math.sqrt(half), math.sqrt(half / samples), item_correlation=0.8)


def predicted_power(
    noise: Noise, difference: float, seeds: int, items: int, arms: int = 2, design: str = PAIRED
) -> float:
    """Return the probability that a true difference between an arm and the baseline is significant.

    design: how seeds enter, one of `simplerl.evals.two_level.DESIGNS`. With one seed it is 0: the noise between
    seeds is then not measured, and no difference between arms, as opposed to two runs, can be shown."""
    return _power(noise, seeds, items, arms, design)(difference)


def detectable_difference(
    noise: Noise, seeds: int, items: int, power: float = POWER, arms: int = 2, design: str = PAIRED
) -> float:
    """Return the smallest difference, as a fraction, that is significant with probability `power`; infinite if not
    even a difference of 1 is, as with one seed."""
    return _smallest(_power(noise, seeds, items, arms, design), power)


def seeds_needed(
    noise: Noise, difference: float, items: int, power: float = POWER, arms: int = 2, design: str = PAIRED
) -> int | None:
    """Return the fewest seeds per arm with which `difference` is significant with probability `power`; None if more
    than `MAX_SEEDS` would be needed, which means that the benchmark has too few items."""

    def enough(seeds: int) -> bool:
        return predicted_power(noise, difference, seeds, items, arms, design) >= power

    return _first(enough, 2, MAX_SEEDS)


def items_needed(
    noise: Noise, difference: float, seeds: int, power: float = POWER, arms: int = 2, design: str = PAIRED
) -> int | None:
    """Return the fewest items with which `difference` is significant with probability `power`; None if more than
    `MAX_ITEMS` would be needed, which means that there are too few seeds."""

    def enough(items: int) -> bool:
        return predicted_power(noise, difference, seeds, items, arms, design) >= power

    return _first(enough, 2, MAX_ITEMS)


def smallest_seen(errors: Errors, power: float = POWER, arms: int = 2) -> float:
    """Return the smallest difference that a finished comparison with these estimated errors could have detected.

    It depends on the errors only, not on the difference that was found."""
    return _smallest(_power_of(errors, np.ones(1), np.asarray(errors.seeds_df), arms), power)


def _power(noise: Noise, seeds: int, items: int, arms: int, design: str) -> Callable[[float], float]:
    """Return the function from a difference to its power."""
    if seeds < 2:
        return lambda difference: 0.0
    errors = noise.errors(seeds, items)
    if design != INDEPENDENT:
        degrees = (seeds - 1) * (arms - 1 if design == POOLED else 1)
        return _power_of(errors, _quantiles(degrees, NODES), np.asarray(degrees), arms)
    # Welch's test does not know the correlation of the seeds, so it expects a larger variance than there is.
    expected = np.asarray(replace(noise, seed_correlation=0.0).errors(seeds, items).seeds)
    one = _quantiles(seeds - 1, 3 * math.isqrt(NODES))
    first, second = (part.ravel() for part in np.meshgrid(one, one))
    welch = (seeds - 1) * (first + second) ** 2 / (first**2 + second**2)
    ratios = np.asarray((first + second) / 2 * expected / errors.seeds if errors.seeds else first)
    return _power_of(errors, ratios, welch, arms)


def _quantiles(degrees: int, count: int) -> Array:
    """Return `count` equally probable values of an estimated variance with true value 1."""
    return np.asarray(stats.chi2.ppf((np.arange(count) + 0.5) / count, degrees) / degrees)


def _power_of(errors: Errors, ratios: Array, degrees: Array, arms: int) -> Callable[[float], float]:
    """Return the function from a difference to its power, averaged over `ratios` of estimated to true A."""
    level = 1 - (1 - LEVEL) / max(arms - 1, 1)
    seeds = None if errors.seeds is None else np.asarray(errors.seeds) * ratios
    widths = half_width(Errors(seeds, degrees, errors.items, errors.items_df), level)
    deviation = math.sqrt(float(errors.total()))

    def power(difference: float) -> float:
        if deviation == 0:
            return float(difference != 0)
        above = stats.norm.sf((widths - difference) / deviation)
        return float(np.mean(above + stats.norm.cdf((-widths - difference) / deviation)))

    return power


def _smallest(power_of: Callable[[float], float], power: float) -> float:
    """Return the smallest difference with this power; infinite if not even the largest possible, 1, has it."""
    if power_of(1.0) < power:
        return math.inf
    return float(optimize.brentq(lambda difference: power_of(difference) - power, 0.0, 1.0, xtol=1e-7))


def _first(enough: Callable[[int], bool], low: int, high: int) -> int | None:
    """Return the smallest integer from `low` to `high` for which `enough` is true, by bisection; None if there is none.
    `enough` must stay true for all larger integers."""
    if not enough(high):
        return None
    while low < high:
        middle = (low + high) // 2
        low, high = (low, middle) if enough(middle) else (middle + 1, high)
    return low
