"""Which role is on which device: pure arithmetic, checked before anything starts."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum
from typing import Any

from simplerl.backends.roles import CRITIC, POLICY, REFERENCE, role_specs
from simplerl.config import Config
from simplerl.errors import ConfigError, require

ENGINE = "vLLM engine"


class Shared(Enum):
    """Roles on the same devices."""

    none = "none"
    reference = "reference"  # policy and reference, which never work at once: the published layout
    all = "all"  # every role; vLLM sleeps while the others work


@dataclass(frozen=True)
class Sharding:
    """How a model lies on its ranks (DeepSpeed's ZeRO)."""

    zero_stage: int = 0  # what is dealt out: 1 moments, 2 and gradients, 3 and weights
    offload_optimizer: bool = False  # moments and master weights in CPU memory
    deepspeed: dict[str, Any] = field(default_factory=dict)  # further keys of zero_optimization


@dataclass(frozen=True)
class Layout:
    """How many processes hold each role. A device is a GPU, or on a machine without any `cpus_per_rank` CPUs."""

    policy_ranks: int = 1
    critic_ranks: int = 1
    reference_ranks: int = 1
    other_ranks: int = 1  # of each further role of the algorithm
    engines: int = 1  # vLLM engines; 0: the sampler is in the driver
    tensor_parallel: int = 1  # GPUs of one engine
    shared: Shared = Shared.none
    sharding: Sharding = field(default_factory=Sharding)
    cpus_per_rank: float = 1.0
    weight_sync: str = "store"  # Ray's object store, or nccl (from GPU to GPU)

    def ranks(self, role: str) -> int:
        """Return how many processes hold a role."""
        named = {POLICY: self.policy_ranks, CRITIC: self.critic_ranks, REFERENCE: self.reference_ranks}
        return named.get(role, self.other_ranks)


@dataclass(frozen=True)
class Seat:
    """Where one process of a role is."""

    bundle: int
    gpus: float  # of the bundle's, as Ray counts them
    cpus: float


@dataclass(frozen=True)
class Plan:
    """Bundles of a Ray placement group, where the processes of each role are placed in them, and which roles share
    devices."""

    bundles: tuple[Mapping[str, float], ...]
    seats: Mapping[str, tuple[Seat, ...]]
    teams: tuple[tuple[str, ...], ...]  # roles of one team share devices, so they run one after the other

    @property
    def gpus(self) -> float:
        return sum(bundle.get("GPU", 0.0) for bundle in self.bundles)

    @property
    def cpus(self) -> float:
        return sum(bundle["CPU"] for bundle in self.bundles)


def processes(layout: Layout, config: Config) -> dict[str, int]:
    """Return how many processes of each role the run has."""
    counts = {role: layout.ranks(role) for role in role_specs(config)}
    if layout.engines:
        counts[ENGINE] = layout.engines
    return counts


def check(layout: Layout, config: Config, in_driver: bool) -> None:
    """Raises ConfigError on contradictions. `in_driver`: the configured sampler is one that lives in the driver."""
    for key in ("policy_ranks", "critic_ranks", "reference_ranks", "other_ranks", "tensor_parallel", "engines"):
        least = 0 if key == "engines" else 1
        require(getattr(layout, key) >= least, f"backend.{key}={getattr(layout, key)} must be at least {least}.")
    require(layout.cpus_per_rank > 0, f"backend.cpus_per_rank={layout.cpus_per_rank} must be positive.")
    require(
        layout.sharding.zero_stage in range(4),
        f"backend.zero_stage={layout.sharding.zero_stage} is unknown: choose 0, 1, 2 or 3.",
    )
    require(
        not layout.sharding.offload_optimizer or layout.sharding.zero_stage > 0,
        "backend.offload_optimizer=true needs the optimizer of ZeRO: set backend.zero_stage to 1, 2 or 3.",
    )
    require(
        layout.engines > 0 or in_driver,
        "backend.engines=0, so no sampler is configured: set backend.engines, or sampler=local.",
    )
    require(
        layout.engines == 0 or not in_driver,
        f"The configured sampler lives in the driver, but backend.engines={layout.engines}: set sampler=vllm, or "
        "backend.engines=0.",
    )
    require(
        layout.shared is not Shared.all or layout.tensor_parallel == 1,
        f"backend.tensor_parallel={layout.tensor_parallel} spreads an engine over devices that "
        "backend.shared=all gives to ranks: set it to 1, or share less.",
    )
    require(
        layout.shared is not Shared.all or not config.rollout.ahead,
        f"rollout.ahead={config.rollout.ahead} samples while the policy trains, but backend.shared=all gives both one "
        "device: set rollout.ahead=0, or share less.",
    )
    require(
        layout.weight_sync in ("store", "nccl"), f"backend.weight_sync={layout.weight_sync} is unknown: store or nccl."
    )
    require(
        layout.weight_sync == "store" or layout.shared is not Shared.all,
        "backend.weight_sync=nccl joins different GPUs, but backend.shared=all puts ranks and engines on the same: set "
        "backend.weight_sync=store.",
    )
    _check_rows(layout, config)


def _check_rows(layout: Layout, config: Config) -> None:
    sizes = {"train.minibatch_size": config.train.minibatch_size} if config.algorithm.advantage is not None else {}
    if config.warmup.data is not None:
        sizes["warmup.minibatch_size"] = config.warmup.minibatch_size
    for key, size in sizes.items():
        for role in ("policy", "critic", "other"):
            ranks = getattr(layout, f"{role}_ranks")
            require(
                size >= ranks,
                f"backend.{role}_ranks={ranks} is more than the {key}={size} rows of an optimizer step: "
                "some ranks would have none; lower it.",
            )


def plan(layout: Layout, counts: Mapping[str, int], on_gpus: bool) -> Plan:
    """Return the bundles for those roles. A device that several processes share is a bundle of its own."""
    teams: list[list[str]] = [[role] for role in counts]
    if layout.shared is Shared.all:
        teams = [list(counts)]
    elif layout.shared is Shared.reference and REFERENCE in counts:
        teams = [[POLICY, REFERENCE], *([role] for role in counts if role not in (POLICY, REFERENCE))]
    bundles: list[Mapping[str, float]] = []
    seats: dict[str, tuple[Seat, ...]] = {}
    for team in teams:
        devices = max(counts[role] for role in team)
        size = layout.tensor_parallel if team == [ENGINE] else 1
        gpus = float(size) if on_gpus else 0.0
        for role in team:
            own = [len(bundles) + number for number in range(counts[role])]
            seats[role] = tuple(Seat(bundle, gpus / len(team), layout.cpus_per_rank) for bundle in own)
        bundle = {"CPU": layout.cpus_per_rank * len(team)} | ({"GPU": gpus} if on_gpus else {})
        bundles += [bundle] * devices
    return Plan(tuple(bundles), seats, tuple(map(tuple, teams)))


def check_room(wanted: Plan, gpus: float, cpus: float) -> None:
    """Raises ConfigError where the cluster has fewer devices than the plan needs."""
    for kind, need, there in (("GPUs", wanted.gpus, gpus), ("CPUs", wanted.cpus, cpus)):
        if need > there:
            roles = ", ".join(f"{len(seats)} x {role}" for role, seats in wanted.seats.items())
            raise ConfigError(
                f"backend: {roles} need {need:g} {kind}, but the cluster has {there:g}: lower the ranks or engines, "
                "or share devices (backend.shared)."
            )
