"""Estimates means with standard errors and 95 % intervals, pass@k and majority voting. Pure functions of arrays.

N is the number of items of a benchmark, S the number of samples per item, R the number of bootstrap resamples.
Two sources of uncertainty are resampled:
- Items (the default): the benchmark is a sample of possible questions. The variation between item means includes the
  sampling noise within items, so resampling items covers both.
- Samples within items: the same questions, answered again. Needs S > 1.
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
ITEMS, SAMPLES, WILSON = "bootstrap over items", "bootstrap within items", "Wilson bound over items"
Z = 1.959963984540054  # the 97.5 % quantile of the standard normal distribution
MANY_ITEMS = 10_000  # with more items, sums are sampled at once instead of item by item
FEW_VALUES = 64
MAX_VOTE = 400  # characters; a majority vote does not normalise longer answers
_CHUNK = 4_000_000  # random numbers generated at a time, to limit memory

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Interval:
    """Holds an estimate, its standard error, and the ends of the interval that covers it with probability `level`.

    se, low and high are None if there is too little data to estimate the spread (a single item). method: the sources of
    error that the interval covers, or the name of a statistical method. n_seeds: runs (0: a published number); n_items:
    questions (0: unknown).
    """

    mean: float
    se: float | None
    low: float | None
    high: float | None
    level: float = LEVEL
    method: str = ""
    n_seeds: int = 1
    n_items: int = 0

    @property
    def half_width(self) -> float | None:
        """Return the distance from the mean to the farther end; None if unknown."""
        return None if self.low is None or self.high is None else max(self.mean - self.low, self.high - self.mean)

    def excludes(self, value: float = 0.0) -> bool:
        """Return whether the interval is known and does not contain `value`."""
        return self.low is not None and self.high is not None and not self.low <= value <= self.high


def _as_matrix(values: ArrayLike) -> Array:
    """Return values as [N, S] float64; a vector [N] has one sample per item. Raises ValueError for other shapes."""
    array = np.asarray(values, dtype=np.float64)
    array = array[:, None] if array.ndim == 1 else array
    if array.ndim != 2 or array.size == 0:
        raise ValueError(
            f"values must have shape [items] or [items, samples] and not be empty, but their shape is {array.shape}"
        )
    return array


def _percentile_interval(mean: float, resampled: Array, items: int, method: str = ITEMS) -> Interval:
    low, high = np.quantile(resampled, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return Interval(mean, float(resampled.std(ddof=1)), float(low), float(high), method=method, n_items=items)


def _unknown(mean: float, items: int, method: str = ITEMS) -> Interval:
    """Return an interval without ends, for data that are too few."""
    return Interval(mean, None, None, None, method=method, n_items=items)


def _chunks(resamples: int, numbers: int) -> list[int]:
    """Return the numbers of resamples per chunk. They add up to `resamples`; a chunk needs at most _CHUNK random
    numbers, `numbers` per resample, but has at least one resample."""
    rows = max(1, _CHUNK // numbers)
    return [min(rows, resamples - start) for start in range(0, resamples, rows)]


def _resampled_means(items: Array, rng: np.random.Generator, resamples: int) -> Array:
    """Return [R] means of N values sampled with replacement from `items` [N].

    For many items the sums are sampled at once: exactly, as multinomial counts of the distinct values, if those are
    few; otherwise from the normal distribution to which the mean of so many values converges."""
    count = len(items)
    if count > MANY_ITEMS:
        values, counts = np.unique(items, return_counts=True)
        if len(values) <= FEW_VALUES:
            return rng.multinomial(count, counts / count, size=resamples) @ values / count
        return rng.normal(items.mean(), items.std() / math.sqrt(count), size=resamples)
    return np.concatenate(
        [items[rng.integers(0, count, size=(rows, count))].mean(1) for rows in _chunks(resamples, count)]
    )


def bootstrap_mean(values: ArrayLike, *, resamples: int = RESAMPLES, seed: int = 0) -> Interval:
    """Return the mean of [N] or [N, S] values with a percentile bootstrap interval over items."""
    return bootstrap_mean_of_sets([values], resamples=resamples, seed=seed)


def bootstrap_within_items(values: ArrayLike) -> Interval:
    """Return the mean of [N, S] values with the interval for sampling the same items again (bootstrap within items);
    without ends if S is 1."""
    array = _as_matrix(values)
    count, samples = array.shape
    if samples < 2:
        return _unknown(float(array.mean()), count, SAMPLES)
    rng = np.random.default_rng(0)
    if count > MANY_ITEMS:
        spread = math.sqrt(float(array.var(1).sum()) / samples) / count
        resampled = rng.normal(array.mean(), spread, size=RESAMPLES).clip(array.min(), array.max())
        return _percentile_interval(float(array.mean()), resampled, count, SAMPLES)
    means = []
    for rows in _chunks(RESAMPLES, array.size):
        chosen = rng.integers(0, samples, size=(rows, count, samples))
        means.append(np.take_along_axis(array[None], chosen, axis=2).mean((1, 2)))
    return _percentile_interval(float(array.mean()), np.concatenate(means), count, SAMPLES)


def bootstrap_mean_of_sets(sets: Sequence[ArrayLike], *, resamples: int = RESAMPLES, seed: int = 0) -> Interval:
    """Return the unweighted mean of the benchmark means, with a bootstrap over the items of each benchmark; without an
    interval if a benchmark has a single item."""
    rng = np.random.default_rng(seed)
    items = [_as_matrix(values).mean(1) for values in sets]
    mean, count = float(np.mean([array.mean() for array in items])), sum(map(len, items))
    if min(map(len, items)) < 2:
        return _unknown(mean, count)
    resampled = np.mean([_resampled_means(array, rng, resamples) for array in items], axis=0)
    return _percentile_interval(mean, resampled, count)


def bounded_mean(values: ArrayLike, lower: float = 0.0, upper: float = 1.0) -> Interval:
    """Return the mean of [N] or [N, S] values between `lower` and `upper`, with an interval of positive width.

    It is the interval of `bootstrap_mean` unless all items agree, where the bootstrap would claim certainty (0 of 30
    correct is not 0 +- 0). Then the fraction of differing items that N samples could have missed is bounded by the
    Wilson upper limit, and the interval assumes that those items have the extreme values. For 0 or N of N correct
    answers this is the Wilson interval. `se` is then the standard error whose normal interval reaches the farther end.
    """
    items = _as_matrix(values).mean(1)
    count, mean = len(items), float(items.mean())
    if count < 2 or float(np.ptp(items)) > 1e-12:
        return bootstrap_mean(items)
    unseen = wilson(0, count)[1]
    low, high = mean + unseen * (lower - mean), mean + unseen * (upper - mean)
    return Interval(mean, max(mean - low, high - mean) / Z, low, high, method=WILSON, n_items=count)


def bounded_mean_of_sets(sets: Sequence[ArrayLike], lower: float = 0.0, upper: float = 1.0) -> Interval:
    """Return the unweighted mean of the benchmark means of values between `lower` and `upper`.

    The interval is that of `bootstrap_mean_of_sets` unless all items of some benchmark agree. Then the distances from
    the mean to the ends of the benchmarks' `bounded_mean` intervals are added in quadrature (Zou & Donner 2008).
    """
    found = [bounded_mean(values, lower, upper) for values in sets]
    if not any(float(np.ptp(_as_matrix(values).mean(1))) <= 1e-12 for values in sets):
        return bootstrap_mean_of_sets(sets)
    mean, count = float(np.mean([one.mean for one in found])), sum(one.n_items for one in found)
    distances = []
    for one in found:
        if one.se is None or one.low is None or one.high is None:
            return _unknown(mean, count)
        distances.append((one.se, one.mean - one.low, one.high - one.mean))
    columns = zip(*distances, strict=True)
    se, below, above = (math.sqrt(math.fsum(part**2 for part in parts)) / len(found) for parts in columns)
    return Interval(mean, se, mean - below, mean + above, method=WILSON, n_items=count)


def paired_difference(first: ArrayLike, second: ArrayLike) -> Interval:
    """Return the mean of second - first over the same items, with the interval of `bounded_mean`.

    Values lie between 0 and 1, items are in the same order, and the numbers of samples may differ. The difference is
    significant at 95 % if the interval excludes 0. Raises ValueError if the numbers of items differ.
    """
    one, two = _as_matrix(first).mean(1), _as_matrix(second).mean(1)
    if len(one) != len(two):
        raise ValueError(f"paired values must have the same items, but there are {len(one)} and {len(two)}")
    return bounded_mean(two - one, -1.0, 1.0)


def wilson(successes: float, count: int) -> tuple[float, float]:
    """Return the ends of the 95 % score interval of a proportion (Wilson 1927), also for 0 or all successes."""
    proportion = successes / count
    centre = proportion + Z * Z / (2 * count)
    spread = Z * math.sqrt(proportion * (1 - proportion) / count + Z * Z / (4 * count * count))
    scale = 1 + Z * Z / count
    return max(0.0, (centre - spread) / scale), min(1.0, (centre + spread) / scale)


def pass_at_k(samples: int, correct: ArrayLike, k: int) -> Array:
    """Return [N] unbiased estimates of pass@k, the probability that at least one of k samples is correct.

    correct: [N] numbers c of correct samples among n = `samples` of each item. The estimate is
    1 - C(n - c, k) / C(n, k) (Chen et al. 2021, equation 1). Raises ValueError unless 1 <= k <= n.
    """
    if not 1 <= k <= samples:
        raise ValueError(f"k={k} must be between 1 and the number of samples, {samples}")
    total = math.comb(samples, k)
    return np.array([1 - math.comb(samples - int(c), k) / total for c in np.atleast_1d(correct)])


def majority_vote_accuracy(answers: Sequence[str | None], correct: Sequence[bool]) -> float:
    """Return the probability that the most frequent answer of one item is correct, with ties broken at random (maj@n).

    All correct answers count as one answer, however they are written. Wrong answers count as one if they are the same
    number, or the same text in normalised notation. Samples without an answer (None) do not vote.
    """
    votes: dict[tuple[bool, Hashable], int] = {}
    for answer, is_correct in zip(answers, correct, strict=True):
        if answer is not None:
            key = (True, "") if is_correct else (False, _normalised(answer))
            votes[key] = votes.get(key, 0) + 1
    if not votes:
        return 0.0
    highest = max(votes.values())
    winners = [is_correct for (is_correct, _), count in votes.items() if count == highest]
    return sum(winners) / len(winners)


def _normalised(answer: str) -> Hashable:
    """Return a key that is the same for "3", "3.0" and "3.00".

    Answers over MAX_VOTE are compared without white space only, because normalising can take time quadratic in the
    length.
    """
    if len(answer) > MAX_VOTE:
        return "".join(answer.split())
    text = normalize(answer)
    found = parse_number(text)
    return equality_key(text) if found is None else found.value
