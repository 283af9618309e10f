"""Plants a difference in the answers of finished runs and compares how often it is found with the predicted power:

    python -m simplerl.bench.planted_difference runs/grpo-*                        # noise in the answers
    python -m simplerl.bench.planted_difference runs/grpo-* --noisy runs/noisy-*   # runs trained with a noisy reward

The runs are seeds of one arm; the more there are, the less the result depends on them. Each repetition samples seeds
for two arms and questions, and tests the difference as `analysis.tables` does. The power is predicted from the noise of
both arms, as by `plan.py`. Without --noisy, answers of the second arm are turned into incorrect ones at random, for a
range of differences that have a power of 20 to 95 % if they add no noise. With --noisy, the second arm are runs whose
reward had noise added (reward=noisy), and the difference is that of the two sets of runs.

Exit status 1: a power is more than 10 points from its prediction."""

from __future__ import annotations

import argparse
import math
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from simplerl.errors import ConfigError
from simplerl.evals.noise import item_means, last_evaluation, noise_of_arms
from simplerl.evals.power import Noise, detectable_difference, predicted_power
from simplerl.evals.statistics import Array
from simplerl.evals.two_level import INDEPENDENT, PAIRED, difference_errors, half_width
from simplerl.io.tables import Cell, Quantity, Table, markdown

POWERS = (0.2, 0.5, 0.8, 0.95)
TOLERANCE = 0.1
CHUNK = 200  # repetitions at a time, to limit memory


@dataclass(frozen=True)
class Planted:
    """Holds a planted difference in accuracy (a fraction), the predicted power and the fraction of repetitions in which
    it was significant."""

    design: str
    difference: float
    predicted: float
    found: float


def answers(folders: Sequence[Path]) -> Array:
    """Return the answers [runs, items] at the last evaluations. Raises ConfigError if a folder has none, or if they
    answered different items."""
    rows, ids = [], None
    for folder in folders:
        place = last_evaluation(folder)
        if place is None:
            raise ConfigError(f"{folder} has no finished evaluation: name folders of finished runs.")
        found = item_means(place)
        if ids is not None and found.ids != ids:
            raise ConfigError(f"{folder} answered other items than {folders[0]}: name runs with the same evals.")
        ids = found.ids
        rows.append(np.concatenate([found.values[name] for name in sorted(found.values)]))
    return np.stack(rows)


def noise_of(first: Array, second: Array) -> Noise:
    """Return the noise of two arms with different seeds, given as answers [runs, items]."""
    rows = [{seed: [row] for seed, row in enumerate(first)}]
    return noise_of_arms([*rows, {len(first) + seed: [row] for seed, row in enumerate(second)}])


def samples(
    first: Array, second: Array, seeds: int, items: int, repetitions: int, rng: np.random.Generator, apart: bool
) -> Iterator[tuple[Array, Array]]:
    """Yield chunks of answers [repetitions, seeds, items] of both arms. apart: both are the same runs, so that the
    seeds of the second are taken from those that the first did not take."""
    for start in range(0, repetitions, CHUNK):
        parts: tuple[list[Array], list[Array]] = ([], [])
        for _ in range(min(CHUNK, repetitions - start)):
            chosen = rng.choice(first.shape[1], items, replace=False)
            order = rng.permutation(len(first))
            others = order[seeds:] if apart else rng.permutation(len(second))
            parts[0].append(first[order[:seeds]][:, chosen])
            parts[1].append(second[others[:seeds]][:, chosen])
        yield np.stack(parts[0]), np.stack(parts[1])


def plant(values: Array, difference: float, rng: np.random.Generator) -> Array:
    """Return answers of which so many correct ones are turned into incorrect ones, at random, that the expected
    accuracy falls by `difference`."""
    return np.asarray(values * (rng.random(values.shape) >= difference / values.mean()))


def power_found(chunks: Iterator[tuple[Array, Array]], design: str) -> float:
    """Return the fraction of repetitions in which the difference is significant at 0.05."""
    found = []
    for first, second in chunks:
        mean, errors = difference_errors([first], [second], paired=design == PAIRED)
        found.append(np.abs(mean) > half_width(errors))
    return float(np.concatenate(found).mean())


def examine(
    first: Array, second: Array | None, seeds: int, items: int, repetitions: int, rng: np.random.Generator
) -> list[Planted]:
    """Return the planted differences. second: answers of runs with a noisy reward; None: noise is added to the answers.

    Raises ConfigError if there are too few runs."""
    needed = 2 * seeds if second is None else seeds
    if min(len(first), needed if second is None else len(second)) < needed:
        raise ConfigError(f"{seeds} seeds per arm need {needed} runs: name more runs, or choose a smaller --seeds.")
    noise = noise_of(first[0::2], first[1::2]) if second is None else noise_of(first, second)
    rows = []
    for design in (PAIRED, INDEPENDENT):
        if second is not None:
            known = float(first.mean() - second.mean())
            found = power_found(samples(first, second, seeds, items, repetitions, rng, False), design)
            rows.append(Planted(design, known, predicted_power(noise, abs(known), seeds, items, 2, design), found))
            continue
        for power in POWERS:
            size = detectable_difference(noise, seeds, items, power, 2, design)
            if not math.isfinite(size) or size >= first.mean():
                continue
            pairs = samples(first, first, seeds, items, repetitions, rng, True)
            found = power_found(((one, plant(two, size, rng)) for one, two in pairs), design)
            noisier = noise_of(first, plant(first, size, rng))  # incorrect answers at random add noise
            predicted = predicted_power(noisier, size, seeds, items, 2, design)
            rows.append(Planted(design, size, predicted, found))
    return rows


def table(rows: Sequence[Planted], runs: int, seeds: int, items: int, repetitions: int) -> Table:
    """Return the table of planted differences."""
    cells = [
        [
            Cell(one.design),
            *(Cell(Quantity(100 * value)) for value in (one.difference, one.predicted)),
            Cell(Quantity(100 * one.found), bold=abs(one.found - one.predicted) > TOLERANCE),
        ]
        for one in rows
    ]
    columns = ["design", "planted difference (points)", "predicted power (%)", "found (%)"]
    caption = f"Planted differences between two arms of {seeds} seeds on {items} questions"
    notes = [
        f"{runs} runs, {repetitions} repetitions. Bold: more than {100 * TOLERANCE:.0f} points from its prediction."
    ]
    return Table("planted", caption, columns, cells, (), notes)


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser("python -m simplerl.bench.planted_difference", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("runs", nargs="+", type=Path, metavar="RUN", help="folders of finished runs of one arm")
    parser.add_argument("--noisy", nargs="+", type=Path, metavar="RUN", help="runs trained with a noisy reward")
    parser.add_argument("--seeds", type=int, default=3, help="seeds per arm (default: %(default)s)")
    parser.add_argument("--items", type=int, help="questions per repetition (default: half of them)")
    parser.add_argument("--repetitions", type=int, default=2000, help="default: %(default)s")
    chosen = parser.parse_args(arguments)
    try:
        first = answers(chosen.runs)
        second = None if chosen.noisy is None else answers(chosen.noisy)
        items = min(chosen.items or first.shape[1] // 2, first.shape[1])
        rows = examine(first, second, chosen.seeds, items, chosen.repetitions, np.random.default_rng(0))
    except ConfigError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    shown = table(rows, len(first) + (0 if second is None else len(second)), chosen.seeds, items, chosen.repetitions)
    print(markdown(shown))
    return int(any(cell.bold for row in shown.rows for cell in row))


if __name__ == "__main__":
    sys.exit(main())
