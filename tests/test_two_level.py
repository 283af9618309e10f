"""Intervals over seeds and items, and power before a sweep, against formulas, simulation and numbers by hand."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from scipy import stats

from simplerl.bench.coverage import WORLDS, World, compared, measured_noise, simulate, simulated_power
from simplerl.errors import ConfigError
from simplerl.evals.noise import noise_of_arms, noise_of_runs
from simplerl.evals.power import (
    Noise,
    detectable_difference,
    guessed_noise,
    items_needed,
    predicted_power,
    seeds_needed,
    smallest_seen,
)
from simplerl.evals.two_level import BOTH, DESIGNS, PAIRED, Errors, difference, half_width, p_value, pool_seeds, spread

NOISE = Noise(0.02, 0.3, 0.3, item_correlation=0.8)


def simulated(noise: Noise, arms: int, seeds: int, items: int, seed: int) -> np.ndarray:
    """Return [arms, seeds, items] normal values with this noise and equal expectations."""
    rng = np.random.default_rng(seed)

    def part(deviation: float, correlation: float, count: int) -> np.ndarray:
        common, own = rng.standard_normal((1, count)), rng.standard_normal((arms, count))
        return deviation * (math.sqrt(correlation) * common + math.sqrt(1 - correlation) * own)

    by_seed = part(noise.seed_sd, noise.seed_correlation, seeds)[:, :, None]
    by_item = part(noise.item_sd, noise.item_correlation, items)[:, None, :]
    return by_seed + by_item + noise.residual_sd * rng.standard_normal((arms, seeds, items))


def test_the_limits_are_the_t_interval_over_seeds_and_the_interval_over_items() -> None:
    only_seeds = half_width(Errors(4.0, 2, 0.0))
    assert only_seeds == pytest.approx(2 * stats.t.ppf(0.975, 2))
    assert half_width(Errors(0.0, 2, 4.0)) == pytest.approx(2 * stats.norm.ppf(0.975))
    assert half_width(Errors(None, 1, 4.0, 9)) == pytest.approx(2 * stats.t.ppf(0.975, 9))


def test_the_p_value_is_that_of_the_interval_that_just_reaches_0() -> None:
    errors = Errors(0.7, 2, 0.5, 99)
    for level in (0.5, 0.95, 0.999):
        assert p_value(float(half_width(errors, level)), errors) == pytest.approx(1 - level)
    assert p_value(0.0, errors) == 1.0


def test_a_common_seed_or_item_effect_cancels_out_if_paired() -> None:
    rng = np.random.default_rng(0)
    base = rng.random((1, 40)) + 5 * rng.random((3, 1))
    noise = 0.01 * rng.standard_normal((2, 3, 40))
    paired = difference([base + noise[0]], [base + 0.1 + noise[1]], paired=True)
    independent = difference([base + noise[0]], [base + 0.1 + noise[1]], paired=False)
    assert paired.both.se is not None and paired.both.se < 0.01
    assert independent.both.se is not None and independent.both.se > 0.5
    assert (paired.both.method, paired.both.n_seeds, paired.both.n_items) == (BOTH, 3, 40)
    assert paired.seeds is not None and paired.seeds.low is not None and paired.both.low is not None
    values = (base + 0.1 + noise[1] - base - noise[0]).mean(1)
    expected = stats.ttest_1samp(values, 0).confidence_interval(0.95)
    assert (paired.seeds.low, paired.seeds.high) == pytest.approx((expected.low, expected.high), rel=2e-3)
    assert independent.seeds is not None
    welch = stats.ttest_ind((base + 0.1 + noise[1]).mean(1), (base + noise[0]).mean(1), equal_var=False)
    low, high = welch.confidence_interval(0.95)
    assert (independent.seeds.low, independent.seeds.high) == pytest.approx((low, high), rel=1e-3)


def test_the_variance_has_both_parts() -> None:
    """Over many simulated benchmarks, the estimated A + B is the variance of the mean."""
    noise = Noise(0.05, 0.3, 0.2)
    found = [spread([simulated(noise, 1, 4, 50, seed)[0]]) for seed in range(400)]
    estimated = np.mean([(one.seeds or 0) + one.item_means - one.residual for one in found])
    true = 0.05**2 / 4 + 0.3**2 / 50 + 0.2**2 / 200
    assert estimated == pytest.approx(true, rel=0.05)
    assert np.var([one.mean for one in found]) == pytest.approx(true, rel=0.2)


def test_one_seed_is_compared_over_items_and_equal_answers_have_a_width() -> None:
    found = difference([np.zeros((1, 100))], [np.eye(1, 100)], paired=True)
    assert found.seeds is None and found.both.method == "items" and found.both.low is not None
    same = difference([np.zeros((2, 100))], [np.zeros((2, 100))], paired=True)
    assert same.p == 1.0 and same.both.high == pytest.approx(3.8415 / 103.8415, abs=1e-4)


def test_pooled_noise_is_the_residual_of_the_two_way_analysis_of_variance() -> None:
    """Seeds 0 and 1 of three arms: (a, b) = (1, 3), (2, 4), (6, 8) have a common effect only."""
    arms = [[np.full((2, 5), [[low], [low + 2.0]])] for low in (1.0, 2.0, 6.0)]
    rounding = (1 + 2**2 + 6**2) / 3 / 5**2 / 12  # the values are taken to be multiples of 1, 2 and 6
    common = pool_seeds(arms, paired=True)
    assert common is not None and common.df == 2 and common.variance == pytest.approx(rounding)
    own = pool_seeds(arms, paired=False)
    assert own is not None and own.df == 3 and own.variance == pytest.approx(2.0 + rounding)
    found = difference(arms[0], arms[2], paired=False, pooled=own)
    assert found.seeds is not None
    assert found.seeds.high == pytest.approx(5 + stats.t.ppf(0.975, 3) * math.sqrt(2 + rounding))
    assert pool_seeds([[np.ones((1, 5))]], paired=False) is None


def test_seeds_that_agree_by_chance_do_not_make_the_noise_0() -> None:
    """Two seeds with 55 of 100 correct each: the variance of a run is that of rounding to multiples of 0.01."""
    rows = np.zeros((2, 100))
    rows[0, :55] = rows[1, 45:] = 1
    found = spread([rows])
    assert found.seeds == pytest.approx(0.01**2 / 12 / 2)


def test_predicted_power_is_that_of_the_t_test_if_items_carry_no_noise() -> None:
    noise = Noise(0.02, 0.0, 0.0)
    shift = 0.05 / (math.sqrt(2) * 0.02 / math.sqrt(5))
    quantile = stats.t.ppf(0.975, 4)
    expected = stats.nct.sf(quantile, 4, shift) + stats.nct.cdf(-quantile, 4, shift)
    assert predicted_power(noise, 0.05, 5, 100) == pytest.approx(expected, abs=0.003)


def test_detectable_differences_and_needs_agree_with_the_power() -> None:
    for design in DESIGNS:
        seen = detectable_difference(NOISE, 4, 300, 0.8, 3, design)
        assert predicted_power(NOISE, seen, 4, 300, 3, design) == pytest.approx(0.8, abs=1e-4)
        seeds = seeds_needed(NOISE, 0.06, 500, 0.8, 5, design)
        assert seeds is not None
        assert predicted_power(NOISE, 0.06, seeds, 500, 5, design) >= 0.8
        assert predicted_power(NOISE, 0.06, seeds - 1, 500, 5, design) < 0.8
    items = items_needed(NOISE, 0.06, 8)
    assert items is not None
    assert predicted_power(NOISE, 0.06, 8, items) >= 0.8 > predicted_power(NOISE, 0.06, 8, items - 1)


def test_what_cannot_be_seen_is_said() -> None:
    assert detectable_difference(NOISE, 1, 500) == math.inf and predicted_power(NOISE, 0.5, 1, 500) == 0
    assert seeds_needed(NOISE, 0.005, 100) is None  # the items alone carry more noise
    assert items_needed(NOISE, 0.005, 3) is None  # the seeds alone do
    assert smallest_seen(Errors(None, 1, 1e-4)) == pytest.approx(0.01 * (1.96 + 0.8416), rel=1e-3)
    assert guessed_noise(0.02, 0.5, samples=4).residual_sd == pytest.approx(math.sqrt(0.125 / 4))


def test_noise_is_recovered_from_simulated_arms() -> None:
    true = Noise(0.05, 0.3, 0.2, 0.5, 0.7)
    values = simulated(true, 12, 10, 400, 1)
    found = noise_of_arms([{seed: [row] for seed, row in enumerate(arm)} for arm in values])
    assert (found.item_sd, found.residual_sd) == pytest.approx((0.3, 0.2), rel=0.1)
    assert found.seed_sd == pytest.approx(0.05, rel=0.3) and found.item_correlation == pytest.approx(0.7, abs=0.1)
    assert found.seed_correlation == pytest.approx(0.5, abs=0.3) and found.seeds_df == 108
    alone = noise_of_arms([{seed: [row] for seed, row in enumerate(values[0])}])
    assert "assumed" in alone.source and alone.seed_correlation == 0


def test_noise_is_read_from_run_folders(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    for lr in (1, 2):
        for seed in (0, 1):
            place = tmp_path / f"{lr}-{seed}" / "evals" / "step_000004"
            place.mkdir(parents=True)
            (tmp_path / f"{lr}-{seed}" / "config.yaml").write_text(f"seed: {seed}\nlr: {lr}\nrun: {{root: x{seed}}}\n")
            (place / "results.json").write_text(json.dumps({}))
            order = rng.permutation(30)
            columns = {"set": ["s"] * 30, "problem_id": [str(i) for i in order], "correct": list(order < 12 + lr)}
            pq.write_table(pa.table(columns), place / "samples.parquet")
    found = noise_of_runs(sorted(tmp_path.iterdir()))
    assert found.source == "4 runs in 2 arms" and found.seeds_df == 2
    assert found.residual_sd == 0 and found.item_sd == pytest.approx(0.5, abs=0.02)  # items are paired by id
    with pytest.raises(ConfigError, match="differ only in their seed"):
        noise_of_runs([tmp_path / "1-0", tmp_path / "2-0"])


@pytest.mark.slow
@pytest.mark.parametrize("world", [WORLDS[0], WORLDS[1], WORLDS[4]], ids=lambda world: world.name)
@pytest.mark.parametrize("seeds", [2, 3, 5])
def test_intervals_cover_95_percent_and_sweeps_report_no_effect(world: World, seeds: int) -> None:
    rng, level = np.random.default_rng(0), 1 - 0.05 / 8
    misses, reported = [], []
    for values in simulate(world, [0.0] * 9, seeds, 2000, rng):
        pairs = list(compared(values, PAIRED))
        misses.append(np.abs(pairs[0][0]) > half_width(pairs[0][1]))
        reported.append(np.any([np.abs(mean) > half_width(errors, level) for mean, errors in pairs], axis=0))
    assert 0.03 <= np.concatenate(misses).mean() <= 0.07
    assert np.concatenate(reported).mean() <= 0.065  # 6 %, and a standard error of 0.5 %


@pytest.mark.slow
@pytest.mark.parametrize("design", DESIGNS)
def test_predicted_power_is_simulated(design: str) -> None:
    world, rng = WORLDS[1], np.random.default_rng(0)
    noise = measured_noise(world, rng)
    seen = detectable_difference(noise, 5, world.items, 0.6, 5, design)
    assert simulated_power(world, seen, 5, 5, design, 2000, rng) == pytest.approx(0.6, abs=0.06)
