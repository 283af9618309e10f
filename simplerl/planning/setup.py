"""Describes a run for planning: its models' sizes, processes and devices, and the lengths of its sequences.

Nothing is started: Ray is not imported, and no weights, data or tokenizer are read here.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from simplerl.backends.roles import POLICY, is_initial_policy, role_specs, trains_adapter
from simplerl.cluster.layout import ENGINE, Layout, Shared, check_layout, layout_from, plan_placement
from simplerl.config import Config, RoleKind
from simplerl.errors import ConfigError
from simplerl.planning.devices import CPU, Device
from simplerl.planning.geometry import Geometry, adapter_elements, find_geometry

SAMPLER = "sampler"  # in the driver process, with sampler=local or, with backend=local, sampler=vllm
LOCAL_BACKEND, RAY_BACKEND = "simplerl.backends.local.local", "simplerl.cluster.backend.ray_backend"
PLANNED_BACKEND = "simplerl.planning.setup.planned_ray"
GUESSED_FRACTION, GUESSED_TOKENS = 0.4, 600  # mean response: this fraction of max_new_tokens, at most so many tokens


@dataclass(frozen=True)
class Lengths:
    """Holds the longest and the mean length of prompts and responses in tokens. source: what they are based on, as a
    phrase."""

    longest_prompt: int
    mean_prompt: float
    longest_response: int
    mean_response: float
    source: str

    @property
    def longest(self) -> int:
        return self.longest_prompt + self.longest_response

    @property
    def mean(self) -> float:
        return self.mean_prompt + self.mean_response


@dataclass(frozen=True)
class Place:
    """Describes devices that hold the same roles. Roles that share a device run one after the other."""

    roles: tuple[str, ...]
    devices: int  # how many devices hold these roles
    size: int = 1  # devices of one process: the tensor parallelism of engines

    @property
    def name(self) -> str:
        return " + ".join(self.roles)


@dataclass(frozen=True)
class Setup:
    """Holds everything from which memory and time are computed."""

    config: Config
    device: Device
    layout: Layout
    counts: Mapping[str, int]  # processes of each role, of engines, and of the sampler in the driver process
    places: tuple[Place, ...]
    geometries: Mapping[str, Geometry]  # by role
    kinds: Mapping[str, RoleKind]  # by role; without RL only the policy
    trained: frozenset[str]  # roles that RL trains
    lengths: Lengths
    local: bool  # all roles are in one process

    @property
    def on_cpu(self) -> bool:
        return self.device.name == CPU

    @property
    def devices(self) -> int:
        return sum(place.devices * place.size for place in self.places)

    @property
    def uses_rl(self) -> bool:
        return self.config.algorithm.advantage is not None

    def has_adapter(self, role: str) -> bool:
        """Return whether a role is trained by LoRA."""
        return trains_adapter(self.config, role)

    def trainable(self, role: str) -> int:
        """Return the number of trained parameters of a role; 0 if it is frozen. Without RL, the policy counts as
        trained, by the warm-up."""
        sizes = self.geometries[role]
        if self.uses_rl and role not in self.trained:
            return 0
        critic = self.kinds[role] is RoleKind.critic
        if self.has_adapter(role):
            lora = self.config.train.lora
            return adapter_elements(sizes, lora.rank, lora.targets) + (sizes.hidden if critic else 0)
        return sizes.parameters - sizes.output + sizes.hidden if critic else sizes.parameters

    def is_shared(self, role: str) -> bool:
        """Return whether a role computes with the policy's base weights, without its adapter."""
        return self.local and role != POLICY and self.has_adapter(POLICY) and is_initial_policy(self.config, role)

    @property
    def responses(self) -> int:
        """Return the number of responses of one rollout step."""
        return self.config.train.prompts_per_step * self.config.train.samples_per_prompt


def assumed_lengths(config: Config, prompts: tuple[int, float] | None = None, response: float | None = None) -> Lengths:
    """Return the lengths of prompts and responses in tokens. prompts: (longest, mean) of the real data, None if
    unknown. response: mean response, None if unknown. An unknown maximum is the configured limit, and an unknown mean
    is a guess, which `source` states."""
    limit = config.sampling.max_new_tokens
    if response is None:
        mean = min(GUESSED_FRACTION * limit, GUESSED_TOKENS)
        source = f"mean response of {mean:.0f} tokens guessed: length=N sets it"
    else:
        mean, source = min(response, limit), f"mean response of {response:.0f} tokens given"
    if prompts is None:
        guess = config.prompt.max_tokens
        return Lengths(
            guess,
            min(guess, 200),
            limit,
            mean,
            f"prompts of at most {guess} tokens, {min(guess, 200)} in the mean, assumed; {source}",
        )
    return Lengths(*prompts, limit, mean, f"prompts from the data; {source}")


def describe(
    config: Config, device: Device, lengths: Lengths, geometries: Mapping[str, Geometry] | None = None
) -> Setup:
    """Return the setup of a configuration. geometries: sizes by role, if they are known already. Raises ConfigError if
    the backend is unknown, its layout is contradictory, or the size of a model is unknown."""
    specs = role_specs(config) if config.algorithm.advantage is not None else {}
    roles = list(specs) or [POLICY]
    layout, counts, places = _placed(config, roles)
    kinds = {name: one.kind for name, one in specs.items()} or {POLICY: RoleKind.causal_lm}
    trained = frozenset(name for name, one in specs.items() if one.loss is not None)
    known = geometries or _geometries(config, {name: specs[name].model if specs else None for name in roles})
    return Setup(
        config, device, layout, counts, places, known, kinds, trained, lengths, backend_name(config) == LOCAL_BACKEND
    )


def backend_name(config: Config) -> str:
    """Return the dotted name of the function that builds the backend."""
    return f"{config.backend.func.__module__}.{config.backend.func.__qualname__}"


def _geometries(config: Config, models: Mapping[str, str | None]) -> dict[str, Geometry]:
    policy = find_geometry(config.model)
    return {
        name: policy if path is None else find_geometry(config.model, path, f"algorithm.roles.{name}.model")
        for name, path in models.items()
    }


def _placed(config: Config, roles: list[str]) -> tuple[Layout, dict[str, int], tuple[Place, ...]]:
    """Return the layout of a backend, the processes of each role, sampler and engines included, and the roles that
    share devices. Raises ConfigError for a backend whose layout is unknown."""
    in_driver = config.sampler.func.__qualname__ != "vllm_sampler"
    if backend_name(config) == LOCAL_BACKEND:
        counts = {**dict.fromkeys(roles, 1), SAMPLER: 1}
        return Layout(engines=0, shared=Shared.all), counts, (Place(tuple(counts), 1),)
    if backend_name(config) not in (RAY_BACKEND, PLANNED_BACKEND):
        raise ConfigError(
            f"backend._target_={backend_name(config)} has no layout that plan.py knows: plan with backend=local or one "
            "of backend=ray_..., or set run.plan=false to train without a plan."
        )
    layout = layout_from(config.backend.keywords)
    check_layout(layout, config, in_driver)
    counts = {role: layout.ranks(role) for role in roles} | ({ENGINE: layout.engines} if layout.engines else {})
    plan = plan_placement(layout, counts, on_gpus=True)
    places = tuple(
        Place(group, max(counts[role] for role in group), layout.tensor_parallel if group == (ENGINE,) else 1)
        for group in plan.colocated
    )
    if in_driver:
        counts |= {SAMPLER: 1}
        places += (Place((SAMPLER,), 1),)
    return layout, counts, places


def planned_ray(config: Config, task: Any, **keywords: Any) -> Layout:
    """Stand in for `simplerl.cluster.backend.ray_backend`, whose module needs Ray, in a plan's configuration."""
    return layout_from(keywords)


def without_ray(raw: Any) -> Any:
    """Replace the Ray backend of a composed configuration by `planned_ray`, in place, and return the configuration."""
    if raw.backend.get("_target_") == RAY_BACKEND:
        raw.backend._target_ = PLANNED_BACKEND
    return raw
