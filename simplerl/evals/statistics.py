"""How sure a number is: estimates with standard errors and 95 % intervals. Pure functions of arrays.

Letters: N items, S samples of each, R resamples. What is resampled is what could have been otherwise:
- items (the default): the benchmark is a draw from possible questions. An item's mean over its samples
  already carries the noise of sampling, so resampling items alone covers both.
- samples: these very questions, answered again. Only with S > 1.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from simplerl.rewards.normalize import equality_key, normalize
from simplerl.rewards.numeric import parse_number

RESAMPLES = 10_000
LEVEL = 0.95
Z = 1.959963984540054  # half the width of that of a normal distribution, in standard errors
_CHUNK = 4_000_000  # numbers drawn at a time

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Interval:
    """An estimate, its standard error, and its interval; all but the estimate are None where one item says nothing
    of the spread."""

    mean: float
    se: float | None
    low: float | None
    high: float | None


def _items(values: ArrayLike) -> Array:
    """[N, S] float64; a vector is one sample of each item."""
    array = np.asarray(values, dtype=np.float64)
    array = array[:, None] if array.ndim == 1 else array
    if array.ndim != 2 or array.size == 0:
        raise ValueError(f"expected [items] or [items, samples] with at least one of each, not shape {array.shape}")
    return array


def _interval(mean: float, resampled: Array) -> Interval:
    low, high = np.quantile(resampled, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return Interval(mean, float(resampled.std(ddof=1)), float(low), float(high))


def _resampled_means(items: Array, rng: np.random.Generator, resamples: int) -> Array:
    """[R] means of N draws with replacement from `items` [N]."""
    count = len(items)
    rows = max(1, _CHUNK // count)
    means = [
        items[rng.integers(0, count, size=(min(rows, resamples - start), count))].mean(1)
        for start in range(0, resamples, rows)
    ]
    return np.concatenate(means)


def bootstrap_mean(values: ArrayLike, *, resamples: int = RESAMPLES, seed: int = 0) -> Interval:
    """Mean over items of [N] or [N, S] values, by percentile bootstrap over items."""
    items = _items(values).mean(1)
    if len(items) < 2:
        return Interval(float(items.mean()), None, None, None)
    return _interval(float(items.mean()), _resampled_means(items, np.random.default_rng(seed), resamples))


def bootstrap_samples(values: ArrayLike, *, resamples: int = RESAMPLES, seed: int = 0) -> Interval:
    """Mean of [N, S] values over the same items sampled again, by bootstrap within each item."""
    array = _items(values)
    count, samples = array.shape
    if samples < 2:
        return Interval(float(array.mean()), None, None, None)
    rng = np.random.default_rng(seed)
    rows = max(1, _CHUNK // array.size)
    means = [
        np.take_along_axis(
            array[None], rng.integers(0, samples, (min(rows, resamples - start), count, samples)), axis=2
        )
        for start in range(0, resamples, rows)
    ]
    return _interval(float(array.mean()), np.concatenate([chunk.mean((1, 2)) for chunk in means]))


def bootstrap_mean_of_sets(sets: Sequence[ArrayLike], *, resamples: int = RESAMPLES, seed: int = 0) -> Interval:
    """Unweighted mean over benchmarks of their means, by bootstrap over the items within each."""
    rng = np.random.default_rng(seed)
    items = [_items(values).mean(1) for values in sets]
    mean = float(np.mean([array.mean() for array in items]))
    if min(map(len, items)) < 2:
        return Interval(mean, None, None, None)
    return _interval(mean, np.mean([_resampled_means(array, rng, resamples) for array in items], axis=0))


def bounded_mean(
    values: ArrayLike, least: float = 0.0, most: float = 1.0, *, resamples: int = RESAMPLES, seed: int = 0
) -> Interval:
    """Mean over items of [N] or [N, S] values that lie between `least` and `most`: the bootstrap over items or, where
    every item agrees (0 of 30 is not 0 +- 0), what a share of unlike items that N draws may miss could make of it. For
    0 or N of N right answers that is Wilson's interval; `se` is then the one whose interval reaches the farther end."""
    items = _items(values).mean(1)
    count, mean = len(items), float(items.mean())
    if count < 2 or float(np.ptp(items)) > 1e-12:
        return bootstrap_mean(items, resamples=resamples, seed=seed)
    unseen = wilson(0, count)[1]
    low, high = mean + unseen * (least - mean), mean + unseen * (most - mean)
    return Interval(mean, max(mean - low, high - mean) / Z, low, high)


def bounded_mean_of_sets(
    sets: Sequence[ArrayLike], least: float = 0.0, most: float = 1.0, *, resamples: int = RESAMPLES, seed: int = 0
) -> Interval:
    """Unweighted mean over benchmarks of their means, values as of `bounded_mean`: the bootstrap within each; where
    the items of one of them all agree, each end is as far away as those of the sets' own intervals, summed in
    quadrature (Zou & Donner 2008)."""
    found = [bounded_mean(values, least, most, resamples=resamples, seed=seed) for values in sets]
    if not any(float(np.ptp(_items(values).mean(1))) <= 1e-12 for values in sets):
        return bootstrap_mean_of_sets(sets, resamples=resamples, seed=seed)
    mean = float(np.mean([one.mean for one in found]))
    known = [(one.mean, one.se, one.low, one.high) for one in found]
    ends = [(m, se, low, high) for m, se, low, high in known if se is not None and low is not None and high is not None]
    if len(ends) < len(found):
        return Interval(mean, None, None, None)
    se, below, above = (
        math.sqrt(math.fsum(part**2 for part in parts)) / len(found)
        for parts in zip(*((se, m - low, high - m) for m, se, low, high in ends), strict=True)
    )
    return Interval(mean, se, mean - below, mean + above)


def paired_difference(first: ArrayLike, second: ArrayLike, *, resamples: int = RESAMPLES, seed: int = 0) -> Interval:
    """Mean of second - first over the same items in the same order, of values between 0 and 1, as `bounded_mean`; the
    numbers of samples may differ. Where the interval excludes 0 the two can be told apart."""
    one, two = _items(first).mean(1), _items(second).mean(1)
    if len(one) != len(two):
        raise ValueError(f"the two do not have the same items: {len(one)} and {len(two)}")
    return bounded_mean(two - one, -1.0, 1.0, resamples=resamples, seed=seed)


def wilson(successes: float, count: int) -> tuple[float, float]:
    """95 % score interval of a share (Wilson 1927); it keeps a width where all or none of the items succeed."""
    share = successes / count
    centre = share + Z * Z / (2 * count)
    spread = Z * math.sqrt(share * (1 - share) / count + Z * Z / (4 * count * count))
    scale = 1 + Z * Z / count
    return max(0.0, (centre - spread) / scale), min(1.0, (centre + spread) / scale)


def pass_at_k(samples: int, right: ArrayLike, k: int) -> Array:
    """[N] unbiased chances that one of k samples is right, given `right` [N] of `samples` were
    (Chen et al. 2021, equation 1): 1 - C(n - c, k) / C(n, k)."""
    if not 1 <= k <= samples:
        raise ValueError(f"k={k} needs between 1 and {samples} samples")
    total = math.comb(samples, k)
    return np.array([1 - math.comb(samples - int(c), k) / total for c in np.atleast_1d(right)])


def majority(answers: Sequence[str | None], correct: Sequence[bool]) -> float:
    """Chance that the most frequent answer of one item is right, a tie being broken at random. Right answers count as
    one answer however they are written, wrong ones where they are one number or one text in plain notation; samples
    without an answer have no vote."""
    votes: dict[tuple[bool, Hashable], int] = {}
    for answer, right in zip(answers, correct, strict=True):
        if answer is not None:
            key = (True, "") if right else (False, _notation(answer))
            votes[key] = votes.get(key, 0) + 1
    if not votes:
        return 0.0
    most = max(votes.values())
    winners = [right for (right, _), count in votes.items() if count == most]
    return sum(winners) / len(winners)


def _notation(answer: str) -> Hashable:
    """What "3", "3.0" and "3.00" have in common."""
    text = normalize(answer)
    found = parse_number(text)
    return equality_key(text) if found is None else found.value
