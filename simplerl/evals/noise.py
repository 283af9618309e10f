"""Estimates the noise of comparisons between arms (`simplerl.evals.power`) from the evaluations of earlier runs."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path

import numpy as np

from simplerl.errors import ConfigError
from simplerl.evals.power import Noise
from simplerl.evals.statistics import Array
from simplerl.evals.two_level import spread
from simplerl.io.files import read_parquet, read_yaml
from simplerl.runs.identity import result_settings

COMMON_SHARE = 0.8  # of the variance between items, assumed to be common to two arms if there is only one arm
FEW_PAIRS = 10  # with fewer degrees of freedom, the correlation between arms with the same seed is taken as 0


@dataclass(frozen=True)
class ItemMeans:
    """Holds the fraction of correct samples of each item, by benchmark: ids in order, and [N] values."""

    ids: dict[str, tuple[str, ...]]
    values: dict[str, Array]


def last_evaluation(run: Path, step: int | None = None) -> Path | None:
    """Return the folder of a run's evaluation at `step` (None: the last finished one); None if there is none."""
    found = {int(path.parent.name[5:]): path.parent for path in run.glob("evals/step_[0-9]*/results.json")}
    if not found or (step is not None and step not in found):
        return None
    return found[max(found) if step is None else step]


def item_means(evaluation: Path, column: str = "correct") -> ItemMeans:
    """Return the mean of a column of samples.parquet over the samples of each item. Items are ordered by id, so that
    runs are paired whatever the order in which they answered."""
    rows = read_parquet(evaluation / "samples.parquet", columns=["set", "problem_id", column]).to_pandas()
    means = rows.assign(value=rows[column].astype(float)).groupby(["set", "problem_id"], sort=True)["value"].mean()
    ids, values = {}, {}
    for name in dict.fromkeys(rows["set"]):
        one = means.loc[name]
        ids[str(name)], values[str(name)] = tuple(map(str, one.index)), one.to_numpy(dtype=np.float64)
    return ItemMeans(ids, values)


def noise_of_runs(folders: Sequence[Path]) -> Noise:
    """Return the noise of the last evaluations of run folders, grouped into arms by all settings but the seed. Folders
    without an evaluation are ignored.

    If the runs answered different items, those runs are used whose items most runs answered. Raises ConfigError if no
    two runs with the same items differ only in their seed."""
    groups: dict[str, dict[str, dict[int, list[Array]]]] = {}
    for folder in folders:
        place = last_evaluation(folder)
        if place is None or not (folder / "config.yaml").is_file():
            continue
        settings = result_settings(read_yaml(folder / "config.yaml"))
        seed = int(settings.pop("seed", 0))
        found = item_means(place)
        arms = groups.setdefault(repr(sorted(found.ids.items())), {})
        arm = arms.setdefault(json.dumps(settings, sort_keys=True, default=str), {})
        arm[seed] = [found.values[name] for name in sorted(found.values)]
    most = max(groups.values(), key=lambda arms: sum(map(len, arms.values())), default={})
    if not any(len(arm) > 1 for arm in most.values()):
        raise ConfigError(
            f"the noise between seeds cannot be estimated, because no two of {len(folders)} run folders have evaluated "
            "the same items and differ only in their seed: name runs with several seeds, or state the noise."
        )
    return noise_of_arms(list(most.values()))


def noise_of_arms(arms: Sequence[Mapping[int, Sequence[Array]]]) -> Noise:
    """Return the noise of arms, each given as {seed: [N] values of the items of each benchmark}, by the method of
    moments; estimated variances below 0 become 0. At least one arm must have two seeds."""
    several = [arm for arm in arms if len(arm) > 1]
    weights = np.array([len(arm) - 1.0 for arm in several])
    items = sum(map(len, next(iter(several[0].values()))))
    parts: list[list[float]] = []
    for arm in several:
        found = spread([np.stack(rows) for rows in zip(*arm.values(), strict=True)])
        assert found.seeds is not None
        seed = (found.seeds - found.residual) * len(arm)
        item = (found.item_means - found.residual) * items
        parts.append([float(seed), float(item), float(found.residual) * len(arm) * items])
    seed, item, residual = np.maximum(np.average(parts, axis=0, weights=weights), 0.0)
    seed_correlation, pairs = _seed_correlation(arms, float(seed))
    item_correlation = _item_correlation(arms, items, float(item))
    runs = sum(map(len, arms))
    source = f"{runs} runs in {len(arms)} arm{'s' * (len(arms) > 1)}"
    if item_correlation is None:
        source += f", correlation of items between arms assumed to be {COMMON_SHARE}"
    return Noise(
        float(np.sqrt(seed)),
        float(np.sqrt(item)),
        float(np.sqrt(residual)),
        seed_correlation if pairs >= FEW_PAIRS else 0.0,
        COMMON_SHARE if item_correlation is None else item_correlation,
        int(weights.sum()),
        source,
    )


def _seed_correlation(arms: Sequence[Mapping[int, Sequence[Array]]], variance: float) -> tuple[float, int]:
    """Return the correlation of the accuracies of two arms with the same seed, between 0 and 0.95, and its degrees of
    freedom: one less than the common seeds, summed over pairs of arms. variance: of an arm's accuracy between seeds."""
    covariance, degrees = 0.0, 0
    for one, two in combinations(arms, 2):
        seeds = sorted(one.keys() & two.keys())
        if len(seeds) > 1:
            first, second = ([float(np.mean([x.mean() for x in arm[s]])) for s in seeds] for arm in (one, two))
            covariance += float(np.cov(first, second)[0, 1]) * (len(seeds) - 1)
            degrees += len(seeds) - 1
    if not degrees or not variance:
        return 0.0, degrees
    return float(np.clip(covariance / degrees / variance, 0.0, 0.95)), degrees


def _item_correlation(arms: Sequence[Mapping[int, Sequence[Array]]], items: int, variance: float) -> float | None:
    """Return the correlation of two arms' expected accuracies of an item, between 0 and 1; None with a single arm or if
    `variance`, that between items, is 0."""
    means = [[np.mean(rows, axis=0) for rows in zip(*arm.values(), strict=True)] for arm in arms]
    if len(arms) < 2 or not variance:
        return None
    found = []
    for one, two in combinations(means, 2):
        parts = [np.cov(a, b)[0, 1] / len(a) for a, b in zip(one, two, strict=True)]
        found.append(items * sum(parts) / len(parts) ** 2)
    return float(np.clip(np.mean(found) / variance, 0.0, 1.0))
