"""Expands a sweep into its runs, and says what it costs and which difference between its arms it can detect."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from hydra import compose
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.errors import HydraException

from simplerl.errors import ConfigError
from simplerl.evals.noise import item_means, last_evaluation, noise_of_runs
from simplerl.evals.power import Noise, detectable_difference, guessed_noise, items_needed, seeds_needed
from simplerl.io.files import read_yaml

SEED = "seed"
MAX_ARMS = 64


@dataclass(frozen=True)
class SweepDesign:
    """Holds the arms of a sweep, each as the overrides that distinguish it, and the seeds with which every arm is
    run."""

    arms: tuple[tuple[str, ...], ...]
    seeds: tuple[str, ...]
    fixed: tuple[str, ...]  # overrides of all runs

    @property
    def runs(self) -> int:
        return len(self.arms) * len(self.seeds)


@dataclass(frozen=True)
class Power:
    """Holds which difference between two arms a design detects (`detectable`), and how many seeds or items it needs to
    detect `difference` (None: too many). Differences are in accuracy as a fraction."""

    noise: Noise
    seeds: int
    items: int
    arms: int
    detectable: float
    difference: float  # the one that is asked for
    seeds_needed: int | None
    items_needed: int | None


def expand(overrides: Sequence[str]) -> SweepDesign:
    """Return the design of a sweep: the choices of `sweep=NAME`, and of overrides with several values (a=x,y). Those of
    the command line replace those of the file. Raises ConfigError for more than MAX_ARMS arms."""
    raw = compose("config", [one for one in overrides if not _is_choice(one)], return_hydra_config=True)
    params = raw.hydra.sweeper.params if "params" in raw.hydra.sweeper else None
    written = [f"{key}={value}" for key, value in (params or {}).items()]
    parsed = OverridesParser.create().parse_overrides([*written, *filter(_is_choice, overrides)])
    axes: dict[str, list[str]] = {one.key_or_group: _values(one) for one in parsed}
    seeds = axes.pop(SEED, [f"{SEED}={raw.seed}"])
    fixed = tuple(one for one in overrides if not _is_choice(one) and not one.startswith("sweep="))
    arms: list[tuple[str, ...]] = [()]
    for values in axes.values():
        arms = [(*arm, value) for arm in arms for value in values]
    if len(arms) > MAX_ARMS:
        raise ConfigError(f"The sweep has {len(arms)} arms, more than {MAX_ARMS}: plan a part of it.")
    return SweepDesign(tuple(arms), tuple(seeds), fixed)


def _is_choice(text: str) -> bool:
    """Return whether an override gives several values."""
    try:
        return bool(OverridesParser.create().parse_override(text).is_sweep_override())
    except HydraException:
        return False


def _values(override: Override) -> list[str]:
    if not override.is_sweep_override():
        return [f"{override.key_or_group}={override.value()}"]
    return [f"{override.get_key_element()}={value}" for value in override.sweep_string_iterator()]


def sweep_noise(runs: Sequence[Path], seed_sd: float, accuracy: float, samples: int) -> Noise:
    """Return the noise estimated from run folders or, without `runs`, that of `guessed_noise`."""
    return noise_of_runs(runs) if runs else guessed_noise(seed_sd, accuracy, samples)


def power_of(design: SweepDesign, noise: Noise, items: int, difference: float) -> Power:
    """Return what the design can detect between an arm and the first at 80 % power, correcting for the number of arms,
    and the seeds or items that `difference` needs."""
    seeds, arms = len(design.seeds), max(2, len(design.arms))
    return Power(
        noise,
        seeds,
        items,
        arms,
        detectable_difference(noise, seeds, items, arms=arms),
        difference,
        seeds_needed(noise, difference, items, arms=arms),
        items_needed(noise, difference, seeds, arms=arms),
    )


def describe_power(power: Power) -> list[str]:
    """Return the power of a design as lines to print."""
    noise = power.noise
    lines = [
        f"noise {noise.source}: SD {noise.seed_sd:.1%} between seeds, {noise.item_sd:.0%} between items",
        f"{power.seeds} seeds x {power.items} items, {power.arms} arms: "
        + (
            f"a difference of {100 * power.detectable:.1f} points is found with 80 % power"
            if math.isfinite(power.detectable)
            else "no difference can be shown with one seed: add seed=0,1,2"
        ),
    ]
    seeds = f"{power.seeds_needed} seeds are" if power.seeds_needed else "no number of seeds is"
    items = f"{power.items_needed:,} items are" if power.items_needed else "no number of items is"
    lines.append(
        f"for a difference of {100 * power.difference:.1f} points, {seeds} enough with {power.items} items, and "
        f"{items} enough with {power.seeds} seeds"
    )
    return lines


def outcome_lines(folders: Sequence[Path]) -> list[str]:
    """Return a line on the difference that the finished runs of a sweep can detect, given the noise measured from them,
    and on the one that plan.py predicts from its default guess; [] if fewer than two seeds were evaluated."""
    done = [folder for folder in folders if last_evaluation(folder) is not None]
    seeds = {int(read_yaml(folder / "config.yaml")["seed"]) for folder in done}
    if len(seeds) < 2:
        return []
    try:
        noise = noise_of_runs(done)
    except ConfigError:
        return []
    place = last_evaluation(done[0])
    assert place is not None
    items = sum(map(len, item_means(place).values.values()))
    arms = max(2, round(len(done) / len(seeds)))
    planned, came = (
        detectable_difference(one, len(seeds), items, arms=arms) for one in (guessed_noise(samples=1), noise)
    )
    return [
        f"80 % power to find a difference of {100 * came:.1f} points with the noise of {noise.source} "
        f"(SD {noise.seed_sd:.1%} between seeds); plan.py's default guess gives {100 * planned:.1f} points"
    ]


def items_of(sets: Mapping[str, int], limit: int | None) -> int:
    """Return the number of evaluation items, at most `limit` of each set."""
    return sum(min(count, limit) if limit else count for count in sets.values())
