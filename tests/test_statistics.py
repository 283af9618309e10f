"""Intervals, pass@k and majority voting against numbers computed by hand or by another formula."""

from __future__ import annotations

import math

import numpy as np
import pytest

from simplerl.evals.statistics import (
    bootstrap_mean,
    bootstrap_mean_of_sets,
    bootstrap_within_items,
    bounded_mean,
    bounded_mean_of_sets,
    majority_vote_accuracy,
    paired_difference,
    pass_at_k,
    wilson,
)


def test_bootstrap_agrees_with_the_normal_approximation() -> None:
    # 60 of 100 correct: s.e. = sqrt(0.6 * 0.4 / 100) = 0.04899, normal interval 0.504 .. 0.696
    found = bootstrap_mean([1.0] * 60 + [0.0] * 40)
    assert found.mean == pytest.approx(0.6)
    assert found.se == pytest.approx(0.04899, rel=0.03)
    assert found.low == pytest.approx(0.504, abs=0.011)
    assert found.high == pytest.approx(0.696, abs=0.011)


def test_the_seed_determines_the_result() -> None:
    values = np.arange(50.0)
    assert bootstrap_mean(values, seed=1) == bootstrap_mean(values, seed=1)
    assert bootstrap_mean(values, seed=1) != bootstrap_mean(values, seed=2)


def test_chunks_do_not_change_the_count(monkeypatch: pytest.MonkeyPatch) -> None:
    values = np.arange(10.0)
    whole = bootstrap_mean(values, resamples=1000)
    monkeypatch.setattr("simplerl.evals.statistics._CHUNK", 70)  # 7 resamples at a time, fewer in the last chunk
    assert bootstrap_mean(values, resamples=1000) == whole


def test_samples_of_an_item_are_averaged_first() -> None:
    # Items 0.5 and 1.0: resampled means are 0.5, 0.75 (twice), 1.0, so the s.e. is sqrt(1/32) = 0.1768
    found = bootstrap_mean([[0, 1], [1, 1]])
    assert found.mean == 0.75
    assert found.se == pytest.approx(math.sqrt(1 / 32), rel=0.03)
    assert (found.low, found.high) == (0.5, 1.0)


def test_bootstrap_within_items() -> None:
    # All samples of an item agree, so sampling again changes nothing, although the items differ.
    found = bootstrap_within_items([[0, 0], [1, 1]])
    assert (found.mean, found.se, found.low, found.high) == (0.5, 0.0, 0.5, 0.5)
    # One item of 4 samples, half correct: binomial(4, 0.5) / 4 has s.e. 0.25
    assert bootstrap_within_items([[0, 1, 0, 1]]).se == pytest.approx(0.25, rel=0.03)
    assert bootstrap_within_items([0, 1]).se is None


@pytest.mark.parametrize("kind", ["binary", "few values", "lengths", "rare"])
def test_many_items_have_the_bootstrap_interval_without_resampling_each(
    kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    rng = np.random.default_rng(0)
    values = {
        "binary": rng.random(11_000) < 0.4,
        "few values": rng.binomial(8, 0.3, 11_000) / 8,
        "lengths": rng.lognormal(5, 1, 11_000),
        "rare": np.arange(11_000) < 2,  # a normal interval would reach below 0
    }[kind]
    fast = bootstrap_mean(values)
    monkeypatch.setattr("simplerl.evals.statistics.MANY_ITEMS", 10**9)
    slow = bootstrap_mean(values, resamples=2000)
    assert slow.se is not None and slow.low is not None and slow.high is not None
    assert fast.mean == slow.mean and fast.se == pytest.approx(slow.se, rel=0.08)
    assert (fast.low, fast.high) == pytest.approx((slow.low, slow.high), abs=0.2 * slow.se)
    assert fast.low is not None and fast.low >= 0


def test_many_items_sampled_again() -> None:
    values = (np.random.default_rng(0).random((11_000, 4)) < 0.5).astype(float)
    # Half of the answers are correct: the variance of the mean is at most 0.25 / 44,000, and 3/4 of it within items.
    assert bootstrap_within_items(values).se == pytest.approx(math.sqrt(0.75 * 0.25 / 44_000), rel=0.03)


def test_one_item_has_no_standard_error() -> None:
    found = bootstrap_mean([1.0])
    assert (found.mean, found.se, found.low, found.high) == (1.0, None, None, None)


def test_mean_over_sets_is_unweighted() -> None:
    small, large = [1.0] * 5 + [0.0] * 5, [0.0] * 300 + [1.0] * 100
    found = bootstrap_mean_of_sets([small, large])
    assert found.mean == pytest.approx((0.5 + 0.25) / 2)
    # Var = (0.25/10 + 0.1875/400) / 4
    assert found.se == pytest.approx(math.sqrt((0.025 + 0.00046875) / 4), rel=0.03)


def test_a_paired_difference_removes_the_variation_between_items() -> None:
    rng = np.random.default_rng(0)
    easy = rng.random(200)
    found = paired_difference(easy, easy + 0.1 + 0.01 * rng.standard_normal(200))
    assert found.mean == pytest.approx(0.1, abs=0.003)
    assert found.se == pytest.approx(0.01 / math.sqrt(200), rel=0.15)
    assert found.low is not None and found.low > 0
    with pytest.raises(ValueError, match="200 and 3"):
        paired_difference(easy, [1, 2, 3])


def test_wilson_by_hand() -> None:
    # 0 of 30: the upper end is z^2 / (n + z^2) = 3.8415 / 33.8415
    low, high = wilson(0, 30)
    assert low == 0.0
    assert high == pytest.approx(0.11351, abs=1e-5)
    assert wilson(5, 10) == pytest.approx((0.23659, 0.76341), abs=1e-5)


MISSED = 3.841458820694124  # z squared: if N sampled items agree, up to z^2 / (N + z^2) of all items may differ


def test_equal_differences_have_an_interval_of_positive_width() -> None:
    # All of three items flipped: a sign test gives 0.25. Ends: 1 - 2 z^2 / (3 + z^2) and 1.
    found = paired_difference([0, 0, 0], [1, 1, 1])
    assert (found.mean, found.high) == (1.0, 1.0)
    assert found.low == pytest.approx(1 - 2 * MISSED / (3 + MISSED)) and found.low < 0
    # None of 500 flipped: in either direction by the fraction that 500 samples could have missed.
    found = paired_difference([1, 0] * 250, [1, 0] * 250)
    assert (found.low, found.high) == pytest.approx((-MISSED / (500 + MISSED), MISSED / (500 + MISSED)))


def test_all_wrong_has_an_interval_of_positive_width() -> None:
    found = bounded_mean([0] * 30)
    assert (found.mean, found.low) == (0.0, 0.0)
    assert found.high == pytest.approx(0.11351, abs=1e-5)
    assert found.se == pytest.approx(0.11351 / 1.95996, abs=1e-5)
    found = bounded_mean([[1.0, 1.0]] * 30)
    assert (found.low, found.high) == pytest.approx((1 - 0.11351, 1.0), abs=1e-5)
    assert bounded_mean([1, 0, 1, 0]) == bootstrap_mean([1, 0, 1, 0])
    assert bounded_mean([1.0]) == bootstrap_mean([1.0])


def test_all_wrong_in_one_set_has_an_interval_of_positive_width() -> None:
    found = bounded_mean_of_sets([[0] * 30, [1] * 30])
    assert found.mean == 0.5
    assert found.low == pytest.approx((0 + 1 - 0.11351) / 2, abs=1e-5)
    assert found.high == pytest.approx((0.11351 + 1) / 2, abs=1e-5)
    # 250 of 500: 0.5 +- 1.96 * sqrt(0.25 / 500) = 0.0438; upwards, 0.11351 is added in quadrature.
    found = bounded_mean_of_sets([[0] * 30, [0, 1] * 250])
    assert found.mean == 0.25
    assert found.low == pytest.approx(0.25 - 0.0438 / 2, abs=0.002)
    assert found.high == pytest.approx(0.25 + math.hypot(0.11351, 0.0438) / 2, abs=0.002)
    varied = [[0, 1, 1, 0], [0, 1, 1]]
    assert bounded_mean_of_sets(varied) == bootstrap_mean_of_sets(varied)
    assert bounded_mean_of_sets([[0] * 30, [1]]).se is None


def test_pass_at_k_by_hand() -> None:
    # n = 4, c = 1: k = 2 misses with C(3,2)/C(4,2) = 3/6
    assert pass_at_k(4, [0, 1, 2, 4], 2) == pytest.approx([0, 0.5, 1 - 1 / 6, 1])
    assert pass_at_k(4, [1, 3], 1) == pytest.approx([0.25, 0.75])
    assert pass_at_k(4, [0, 1], 4) == pytest.approx([0, 1])
    with pytest.raises(ValueError, match="k=5"):
        pass_at_k(4, [1], 5)


def test_pass_at_k_is_unbiased() -> None:
    share, n, k = 0.3, 8, 4
    binomial = [math.comb(n, c) * share**c * (1 - share) ** (n - c) for c in range(n + 1)]
    assert np.dot(binomial, pass_at_k(n, range(n + 1), k)) == pytest.approx(1 - (1 - share) ** k)


@pytest.mark.parametrize(
    ("answers", "correct", "chance"),
    [
        (["3", "3", "4"], [True, True, False], 1.0),
        (["3", "4", "4"], [True, False, False], 0.0),
        (["1/2", "0.5", "4", "4", "4"], [True, True, False, False, False], 0.0),
        (["1/2", "0.5", "4", "4"], [True, True, False, False], 0.5),  # one correct answer in two notations: a tie
        (["3", "3.0", "3.00", "4", "4"], [False, False, False, True, True], 0.0),  # one wrong answer in three notations
        (["x + 1", "$x+1$", "4"], [False, False, True], 0.0),
        (["0", "0.0", "4"], [False, False, True], 0.0),
        ([None, None, "3"], [False, False, True], 1.0),
        ([None, None], [False, False], 0.0),
    ],
)
def test_majority_vote_accuracy(answers: list[str | None], correct: list[bool], chance: float) -> None:
    assert majority_vote_accuracy(answers, correct) == chance
