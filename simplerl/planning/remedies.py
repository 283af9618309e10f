"""Searches for the smallest change of settings with which a run fits its devices.

Candidates are settings of the configuration, cheapest first: those that cannot change results, then those that can.
Every combination of up to three of them is computed anew.
"""

from __future__ import annotations

import copy
import itertools
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from simplerl.config import Config
from simplerl.errors import ConfigError
from simplerl.planning.devices import CPU
from simplerl.planning.memory import PlaceMemory, plan_memory
from simplerl.planning.setup import Place, Setup, describe

MAX_CHANGES = 3
LORA_RANK = 32


@dataclass(frozen=True)
class Change:
    """Describes a change of a setting to `value`. cost: how much the change slows or alters the run, in arbitrary
    units; the cheapest changes are proposed."""

    key: str
    value: Any
    cost: float
    neutral: bool = True  # the numbers of the run stay the same

    def __str__(self) -> str:
        return f"{self.key}={str(self.value).lower() if isinstance(self.value, bool) else self.value}"


def needed(setup: Setup, memory: list[PlaceMemory]) -> float:
    """Return the bytes to compare with the memory of a device: the largest peak of the roles that share a device or, on
    a CPU, the sum over all processes of this machine."""
    if setup.device.name == CPU:
        return sum(one.peak()[1] * one.place.devices for one in memory)
    return max(one.peak()[1] for one in memory)


def fits(setup: Setup, memory: list[PlaceMemory] | None = None) -> bool:
    """Return whether the run fits: the roles that share a device into its memory, on a CPU all processes together into
    that of this machine. memory: of `plan_memory`, computed if it is None."""
    return needed(setup, plan_memory(setup) if memory is None else memory) <= setup.device.memory


def smallest_change(setup: Setup) -> list[Change] | None:
    """Return the cheapest combination of up to MAX_CHANGES changes with which a run that does not fit would fit; None
    if there is none."""
    groups = candidates(setup)
    combinations: list[tuple[Change, ...]] = []
    for size in range(1, MAX_CHANGES + 1):
        for chosen in itertools.combinations(groups, size):
            combinations += itertools.product(*chosen)
    for changes in sorted(combinations, key=lambda some: (sum(one.cost for one in some), len(some))):
        try:
            if fits(changed(setup, changes)):
                return list(changes)
        except ConfigError:  # a combination that the layout refuses
            continue
    return None


def changed(setup: Setup, changes: tuple[Change, ...]) -> Setup:
    """Return the setup after these changes of settings."""
    config = setup.config
    for change in changes:
        config = with_setting(config, change.key, change.value)
    limit = config.sampling.max_new_tokens
    shorter = replace(
        setup.lengths,
        longest_response=min(limit, setup.lengths.longest_response),
        mean_response=min(limit, setup.lengths.mean_response),
    )
    return describe(config, setup.device, shorter, dict(setup.geometries))


def candidates(setup: Setup) -> list[list[Change]]:
    """Return the settings that reduce this run's memory, each with the values to try."""
    train, sampler = setup.config.train, setup.config.sampler.keywords
    groups = [list(_halvings("train.tokens_per_micro_batch", train.tokens_per_micro_batch, 256, 1.0))]
    if not train.gradient_checkpointing:
        groups.append([Change("train.gradient_checkpointing", True, 1.5)])
    if sampler.get("max_rows"):
        groups.append(list(_halvings("sampler.max_rows", sampler["max_rows"], 16, 2.0)))
    if (gib := sampler.get("cache_gib")) is not None and gib > 1:
        groups.append(list(_halvings("sampler.cache_gib", gib, 1, 2.0)))
    if setup.local and not setup.on_cpu:
        groups.append([Change("backend", "ray_6gpu", 8.0)])
    if not setup.local:
        groups += _layout_changes(setup)
    limit = setup.config.sampling.max_new_tokens
    groups.append([replace(one, neutral=False) for one in _halvings("sampling.max_new_tokens", limit, 256, 12.0)])
    if train.lora.rank == 0:
        groups.append([Change("train.lora.rank", LORA_RANK, 10.0, neutral=False)])
    return [group for group in groups if group]


def _layout_changes(setup: Setup) -> list[list[Change]]:
    layout = setup.layout
    stage, ranks = layout.sharding.zero_stage, layout.policy_ranks
    groups = [[Change("backend.zero_stage", new, 1.0 + new / 10) for new in range(stage + 1, 4)]]
    if not layout.sharding.offload_optimizer and not setup.on_cpu:
        groups.append([Change("backend.offload_optimizer", True, 3.0)])
    for role in ("policy", "critic", "reference"):
        if role in setup.counts and not setup.on_cpu:
            key, count = f"backend.{role}_ranks", layout.ranks(role)
            groups.append([Change(key, count * factor, 3.0 + factor) for factor in (2, 4, 8)])
    if layout.engines and not setup.on_cpu:
        groups.append(
            [Change("backend.tensor_parallel", size, 4.0 + size) for size in (2, 4, 8) if size > layout.tensor_parallel]
        )
    return groups if ranks else []


def _halvings(key: str, value: float, least: float, cost: float) -> Iterator[Change]:
    number = 1
    while value / 2 >= least:
        value = value / 2 if isinstance(value, float) else value // 2
        yield Change(key, value, cost + number / 10)
        number += 1


def with_setting(config: Config, key: str, value: Any) -> Config:
    """Return a copy of the configuration with one setting changed. A key below `backend` or `sampler` is a keyword of
    that function."""
    if key == "backend":
        return replace(config, backend=ray_from_group(value))
    config = copy.copy(config)
    owner: Any = config
    *path, last = key.split(".")
    if path[0] in ("backend", "sampler"):
        function = getattr(config, path[0])
        setattr(config, path[0], partial(function.func, **{**function.keywords, last: value}))
        return config
    for name in path:
        inner = copy.copy(getattr(owner, name))
        setattr(owner, name, inner)
        owner = inner
    setattr(owner, last, value)
    return config


def ray_from_group(option: str) -> Any:
    """Return the backend of conf/backend/<option>.yaml for planning, with the keywords of the file."""
    from omegaconf import OmegaConf

    from simplerl.io.places import CONF
    from simplerl.planning.setup import planned_ray

    keywords: dict[str, Any] = {}
    for name in ("ray_32gpu", option):
        node: Any = OmegaConf.to_container(OmegaConf.load(CONF / "backend" / f"{name}.yaml"))
        keywords |= node["backend"]
    return partial(planned_ray, **{key: value for key, value in keywords.items() if not key.startswith("_")})


def worst_place(memory: list[PlaceMemory]) -> tuple[Place, str, float]:
    """Return the place (devices that hold the same roles) with the highest peak, the phase of this peak and its
    bytes."""
    one = max(memory, key=lambda place: place.peak()[1])
    return one.place, *one.peak()


def sentence(setup: Setup, memory: list[PlaceMemory]) -> str:
    """Return a sentence for a run that does not fit: which device lacks memory, and the smallest change of settings
    with which the run fits. If none is enough, it recommends a smaller model or more devices."""
    place, phase, peak = worst_place(memory)
    gib, total = 2**30, needed(setup, memory)
    parts = next(one for one in memory if one.place == place).phases[phase]
    largest = sorted(parts, key=lambda part: -parts[part])[:2]
    named = " and ".join(f"{' '.join(filter(None, part))} {parts[part] / gib:.3g}" for part in largest)
    what = f"{place.name} needs {peak / gib:.3g} GiB during {phase}"
    if setup.device.name == CPU and total > peak:
        what = f"all processes need {total / gib:.3g} GiB, of which {what}"
    change = smallest_change(setup)
    if change is None:
        remedy = "no change of memory settings is enough: choose a smaller model or more devices (backend=ray_...)"
    else:
        remedy = f"set {' '.join(map(str, change))}"
        remedy += "" if all(one.neutral for one in change) else " (which changes results)"
    title = setup.device.title
    return f"{what} (mostly {named}), but {title} has {setup.device.memory / gib:.3g} GiB: {remedy}"
