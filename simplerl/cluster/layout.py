"""Computes and checks the placement of roles on devices, before any process starts."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from enum import Enum
from typing import Any

from simplerl.backends.roles import CRITIC, POLICY, REFERENCE, role_specs
from simplerl.config import Config
from simplerl.errors import ConfigError, require

ENGINE = "vLLM engine"


class Shared(Enum):
    """Selects which roles share devices."""

    none = "none"
    reference = "reference"  # policy and reference, which never run concurrently: the published layout
    all = "all"  # all roles; vLLM sleeps while the others run


@dataclass(frozen=True)
class Sharding:
    """Describes how DeepSpeed shards a model over its ranks."""

    zero_stage: int = 0  # ZeRO stage: 1 shards optimizer state, 2 also gradients, 3 also weights; 0: replicated
    offload_optimizer: bool = False  # keep Adam's moments and master weights in CPU memory
    deepspeed: dict[str, Any] = field(default_factory=dict)  # further keys of DeepSpeed's zero_optimization


@dataclass(frozen=True)
class Layout:
    """Sets the number of processes of each role, and which of them share a device. A device is a GPU or, without GPUs,
    `cpus_per_rank` CPUs."""

    policy_ranks: int = 1
    critic_ranks: int = 1
    reference_ranks: int = 1
    other_ranks: int = 1  # for each other role of the algorithm
    engines: int = 1  # vLLM engines; 0: the sampler runs in the driver process
    tensor_parallel: int = 1  # GPUs per engine
    shared: Shared = Shared.none
    sharding: Sharding = field(default_factory=Sharding)
    cpus_per_rank: float = 1.0
    weight_sync: str = "store"  # store: through Ray's object store; nccl: from GPU to GPU

    def ranks(self, role: str) -> int:
        """Return the number of ranks of a role."""
        named = {POLICY: self.policy_ranks, CRITIC: self.critic_ranks, REFERENCE: self.reference_ranks}
        return named.get(role, self.other_ranks)


def layout_from(keywords: Mapping[str, Any]) -> Layout:
    """Return the layout that the keywords of the Ray backend describe; other keywords are ignored."""
    own = {one.name: keywords[one.name] for one in fields(Layout) if one.name in keywords}
    zero = Sharding(
        keywords.get("zero_stage", 2), keywords.get("offload_optimizer", False), keywords.get("deepspeed") or {}
    )
    return Layout(**own | {"shared": Shared(keywords.get("shared", "none")), "sharding": zero})


@dataclass(frozen=True)
class Placement:
    """Holds the resources of one process: a bundle of the placement group and the part of it that the process uses."""

    bundle: int  # index
    gpus: float  # fractional if processes share a GPU
    cpus: float


@dataclass(frozen=True)
class PlacementPlan:
    """Holds the bundles of a Ray placement group, and the placement of each process in them."""

    bundles: tuple[Mapping[str, float], ...]  # one per device; resources by name: CPU, GPU
    placements: Mapping[str, tuple[Placement, ...]]  # by role, one per process
    colocated: tuple[tuple[str, ...], ...]  # groups of roles that share devices and so run one after the other

    @property
    def gpus(self) -> float:
        return sum(bundle.get("GPU", 0.0) for bundle in self.bundles)

    @property
    def cpus(self) -> float:
        return sum(bundle["CPU"] for bundle in self.bundles)


def processes(layout: Layout, config: Config) -> dict[str, int]:
    """Return role -> number of its processes, with the vLLM engines as the role ENGINE."""
    counts = {role: layout.ranks(role) for role in role_specs(config)}
    if layout.engines:
        counts[ENGINE] = layout.engines
    return counts


def check_layout(layout: Layout, config: Config, in_driver: bool) -> None:
    """Raise ConfigError if settings are invalid or contradict each other. `in_driver`: the configured sampler runs in
    the driver process."""
    for key in ("policy_ranks", "critic_ranks", "reference_ranks", "other_ranks", "tensor_parallel", "engines"):
        minimum = 0 if key == "engines" else 1
        require(getattr(layout, key) >= minimum, f"backend.{key}={getattr(layout, key)} must be at least {minimum}.")
    require(layout.cpus_per_rank > 0, f"backend.cpus_per_rank={layout.cpus_per_rank} must be positive.")
    require(
        layout.sharding.zero_stage in range(4),
        f"backend.zero_stage={layout.sharding.zero_stage} is unknown: choose 0, 1, 2 or 3.",
    )
    require(
        not layout.sharding.offload_optimizer or layout.sharding.zero_stage > 0,
        "backend.offload_optimizer=true needs ZeRO: set backend.zero_stage to 1, 2 or 3.",
    )
    require(
        layout.engines > 0 or in_driver,
        "backend.engines=0, so no sampler is configured: set backend.engines, or sampler=local.",
    )
    require(
        layout.engines == 0 or not in_driver,
        f"The configured sampler runs in the driver process, but backend.engines={layout.engines}: set sampler=vllm, "
        "or backend.engines=0.",
    )
    require(
        layout.shared is not Shared.all or layout.tensor_parallel == 1,
        f"backend.tensor_parallel={layout.tensor_parallel} is not supported with backend.shared=all: set it to 1, or "
        "set backend.shared=none or reference.",
    )
    require(
        layout.shared is not Shared.all or not config.rollout.ahead,
        f"rollout.ahead={config.rollout.ahead} samples while the policy trains, but backend.shared=all puts both on "
        "one device: set rollout.ahead=0, or backend.shared=none or reference.",
    )
    require(
        layout.weight_sync in ("store", "nccl"),
        f"backend.weight_sync={layout.weight_sync} is unknown: choose store or nccl.",
    )
    require(
        layout.weight_sync == "store" or layout.shared is not Shared.all,
        "backend.weight_sync=nccl needs ranks and engines on different GPUs, but backend.shared=all puts them on the "
        "same: set backend.weight_sync=store.",
    )
    _check_rows(layout, config)


def _check_rows(layout: Layout, config: Config) -> None:
    """Raise ConfigError if a role has more ranks than a minibatch has rows."""
    sizes = {"train.minibatch_size": config.train.minibatch_size} if config.algorithm.advantage is not None else {}
    if config.warmup.data is not None:
        sizes["warmup.minibatch_size"] = config.warmup.minibatch_size
    for key, size in sizes.items():
        for role in ("policy", "critic", "other"):
            ranks = getattr(layout, f"{role}_ranks")
            require(
                size >= ranks,
                f"backend.{role}_ranks={ranks} exceeds {key}={size}, so some ranks would have no rows: lower "
                f"backend.{role}_ranks.",
            )


def plan_placement(layout: Layout, counts: Mapping[str, int], on_gpus: bool) -> PlacementPlan:
    """Place `counts` processes of each role. Processes that share a device share a bundle. on_gpus: each bundle has
    GPUs, and not only CPUs."""
    colocated: list[list[str]] = [[role] for role in counts]
    if layout.shared is Shared.all:
        colocated = [list(counts)]
    elif layout.shared is Shared.reference and REFERENCE in counts:
        colocated = [[POLICY, REFERENCE], *([role] for role in counts if role not in (POLICY, REFERENCE))]
    bundles: list[Mapping[str, float]] = []
    placements: dict[str, tuple[Placement, ...]] = {}
    for roles in colocated:
        devices = max(counts[role] for role in roles)
        size = layout.tensor_parallel if roles == [ENGINE] else 1
        gpus = float(size) if on_gpus else 0.0
        for role in roles:
            own = [len(bundles) + number for number in range(counts[role])]
            placements[role] = tuple(Placement(bundle, gpus / len(roles), layout.cpus_per_rank) for bundle in own)
        bundle = {"CPU": layout.cpus_per_rank * len(roles)} | ({"GPU": gpus} if on_gpus else {})
        bundles += [bundle] * devices
    return PlacementPlan(tuple(bundles), placements, tuple(map(tuple, colocated)))


def check_resources(plan: PlacementPlan, gpus: float, cpus: float) -> None:
    """Raise ConfigError if the cluster, with `gpus` GPUs and `cpus` CPUs, is too small for the plan."""
    for kind, needed, available in (("GPUs", plan.gpus, gpus), ("CPUs", plan.cpus, cpus)):
        if needed > available:
            roles = ", ".join(f"{len(placements)} x {role}" for role, placements in plan.placements.items())
            raise ConfigError(
                f"backend: {roles} need {needed:g} {kind}, but the cluster has {available:g}: lower the number of "
                "ranks or engines, or share devices (backend.shared)."
            )
