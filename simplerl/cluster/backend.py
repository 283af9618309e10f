"""Implements `backend=ray_*`, which runs the roles, the vLLM engines and the graders as Ray actors.

See `layout` for device placement, `ranks` and `zero` for training, `engines` and `weights` for sampling and weight
sync, and `ray_session` for the Ray cluster. Run it with `python train.py backend=ray_cpu`.
"""

from __future__ import annotations

import logging
import os
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal, TypeVar

import ray
from ray.util.placement_group import placement_group, remove_placement_group
from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy
from torch import Tensor

from simplerl.backends.local import LocalBackend
from simplerl.backends.roles import POLICY, Roles, role_builder, role_specs, sft_builder
from simplerl.cluster import allocation
from simplerl.cluster.engines import EnginePool
from simplerl.cluster.graders import ray_grader
from simplerl.cluster.health import Limits
from simplerl.cluster.layout import (
    ENGINE,
    Layout,
    PlacementPlan,
    Sharding,
    Shared,
    check_layout,
    check_resources,
    plan_placement,
    processes,
)
from simplerl.cluster.ranks import ActorOptions, BuildWorker, RankGroup
from simplerl.cluster.ray_session import ray_session
from simplerl.config import Config, OptimizerConfig
from simplerl.data.task import Task
from simplerl.engine.models import load_policy, model_at
from simplerl.errors import Lost
from simplerl.rewards.pool import Grader
from simplerl.samplers import Sampler
from simplerl.samplers.vllm import vllm_sampler
from simplerl.types import Prompt, Reward, Rollout, Sampling, Stop

logger = logging.getLogger(__name__)
T = TypeVar("T")

DEAD_NODE_SECONDS = 30.0  # Ray's health checks take this long to notice a dead node, and may schedule on it until then
PLACEMENT_SECONDS = 10.0  # a cluster with enough free resources creates a placement group within this time


@dataclass(frozen=True)
class RayRoles(Roles):
    """Runs the roles in separate processes. Roles on different devices run concurrently; colocated roles run one after
    the other."""

    colocated: tuple[tuple[str, ...], ...] = ()  # groups of roles that share devices
    pool: EnginePool | None = None  # None: the sampler runs in the driver process

    def run_calls(self, calls: Mapping[str, Callable[[], T]]) -> dict[str, T]:
        def run_group(roles: Sequence[str]) -> dict[str, T]:
            return {name: calls[name]() for name in roles if name in calls}

        groups = run_concurrently([partial(run_group, roles) for roles in self.colocated])
        results = {name: result for group in groups for name, result in group.items()}
        return {name: results[name] for name in calls}

    def sync(self) -> None:
        if self.pool is None:
            super().sync()
            return
        if isinstance(self.sampler, SleepingEngines):
            self.pool.wake()
        policy = self.models[POLICY]
        assert isinstance(policy, RankGroup)
        self.pool.sync(policy.actors)

    def metrics(self) -> dict[str, float]:
        groups = {name: one.memory() for name, one in self.models.items() if isinstance(one, RankGroup)}
        memory = {f"memory/{name}_{place}_gib": gib for name, one in groups.items() for place, gib in one.items()}
        return memory | ({} if self.pool is None else self.pool.metrics)


class SleepingEngines:
    """Samples with engines that share GPUs with trainers: wakes them for the weight sync and for sampling, and puts
    them to sleep after sampling."""

    def __init__(self, pool: EnginePool) -> None:
        self.pool = pool

    def generate(
        self, prompts: Sequence[Prompt], sampling: Sampling, stop: Stop, samples: int, seed: int, step: int
    ) -> Iterator[Rollout]:
        self.pool.wake()
        try:
            yield from self.pool.generate(prompts, sampling, stop, samples, seed, step)
        finally:
            self.pool.sleep()

    def load_weights(self, weights: Iterable[tuple[str, Tensor]]) -> None:
        self.pool.wake()
        self.pool.load_weights(weights)


def run_concurrently(calls: Sequence[Callable[[], T]]) -> list[T]:
    """Run all calls concurrently in threads. Raises the first `Lost` error or, without one, the first exception."""
    with ThreadPoolExecutor(max(1, len(calls))) as threads:
        futures = [threads.submit(call) for call in calls]
    errors = [error for error in (future.exception() for future in futures) if error is not None]
    for error in sorted(errors, key=lambda error: not isinstance(error, Lost)):
        raise error
    return [future.result() for future in futures]


@dataclass
class RayBackend:
    """Implements `simplerl.backends.Backend` on Ray. `sft_model`, `roles` and `sampler` first stop the processes that
    an earlier call started."""

    config: Config
    task: Task
    layout: Layout
    limits: Limits
    max_restarts: int = 3  # of engines, graders, Ray's head and the run, each with its own count
    address: str | None = None  # of a running cluster; None: start one

    def __post_init__(self) -> None:
        check_layout(self.layout, self.config, self._samples_in_driver)
        self._session, self._actors = ExitStack(), ExitStack()
        self._open = self._restarted = False
        self._on_gpus: bool | None = None  # decided once, so that a restart never falls back from GPUs to CPUs

    @property
    def _samples_in_driver(self) -> bool:
        return self.config.sampler.func is not vllm_sampler

    # Processes

    def close(self) -> None:
        self._actors.close()
        self._session.close()
        self._open, self._restarted = False, True

    def _start_ray(self) -> None:
        if not self._open:
            plan = plan_placement(self.layout, processes(self.layout, self.config), False)
            restarts = self.max_restarts if allocation.command_is_restartable else None
            self._session.enter_context(ray_session(max(os.cpu_count() or 1, plan.cpus + 1), self.address, restarts))
            self._open = True

    def _allocate(self, counts: dict[str, int]) -> tuple[dict[str, list[ActorOptions]], tuple[tuple[str, ...], ...]]:
        """Stop the processes of an earlier call and reserve devices. `counts`: number of processes by role. Returns the
        actor options of each process by role, and the groups of roles that share devices."""
        self._actors.close()
        self._start_ray()
        if self._restarted and self.address is not None:
            logger.info("waiting %g s for Ray to notice dead nodes", DEAD_NODE_SECONDS)
            time.sleep(DEAD_NODE_SECONDS)
        available = ray.cluster_resources()
        gpus = available.get("GPU", 0.0)
        if self._on_gpus is None:
            device = self.config.run.device
            self._on_gpus = device != "cpu" and (gpus > 0 or device.startswith("cuda"))
        plan = plan_placement(self.layout, counts, self._on_gpus)
        if not self._restarted:  # after a restart, a lost node may still come back
            check_resources(plan, gpus, available.get("CPU", 0.0))
        return self._reserve(plan), plan.colocated

    def _reserve(self, plan: PlacementPlan) -> dict[str, list[ActorOptions]]:
        """Create the placement group and return the actor options of each process by role. If Ray cannot place it
        within start_seconds, raises ConfigError if the cluster is too small, otherwise RuntimeError."""
        group = placement_group([dict(bundle) for bundle in plan.bundles], strategy="PACK")
        self._actors.callback(remove_placement_group, group)
        if not group.wait(min(PLACEMENT_SECONDS, self.limits.start_seconds)):
            logger.info("waiting for free resources for %s: a node may be lost", list(plan.bundles))
            if not group.wait(self.limits.start_seconds):
                available = ray.cluster_resources()
                check_resources(plan, available.get("GPU", 0.0), available.get("CPU", 0.0))
                raise RuntimeError(
                    f"Ray could not place the bundles {list(plan.bundles)} within {self.limits.start_seconds:g} s, "
                    "although the cluster as a whole has enough resources: each bundle must fit on one node (lower "
                    "backend.cpus_per_rank)."
                )

        def strategy(bundle: int) -> Any:
            return PlacementGroupSchedulingStrategy(group, placement_group_bundle_index=bundle)

        return {
            role: [ActorOptions(strategy(placement.bundle), placement.cpus, placement.gpus) for placement in placements]
            for role, placements in plan.placements.items()
        }

    @property
    def _environment(self) -> dict[str, str]:
        own = {"PYTHONPATH": os.pathsep.join(path or os.getcwd() for path in sys.path)}
        return own if self._on_gpus else {**own, "DS_ACCELERATOR": "cpu", "CUDA_VISIBLE_DEVICES": ""}

    def _start_ranks(
        self, role: str, actors: list[ActorOptions], build: BuildWorker, optimizer: Path | None
    ) -> RankGroup:
        threads = self.config.run.threads or max(1, int(self.layout.cpus_per_rank))
        group = RankGroup(role, actors, self.limits, self._environment, threads)
        self._actors.callback(group.close)
        return group.start(build, self.layout.sharding, optimizer)

    def _start_engines(self, path: str, actors: list[ActorOptions], **options: Any) -> EnginePool:
        # With rollout.ahead, engines sample with the previous weights while the policy is updated.
        options["keep_weights"] = self.config.rollout.ahead > 0
        pool = EnginePool(
            self.task.tokenizer,
            model_at(self.config.model, path),
            engines=len(actors),
            tensor_parallel=self.layout.tensor_parallel,
            cpus=actors[0].cpus,
            gpus=actors[0].gpus,
            strategies=[actor.strategy for actor in actors],
            env=self._environment,
            start_seconds=self.limits.start_seconds,
            silence_seconds=self.limits.silence_seconds,
            max_restarts=self.max_restarts,
            nccl=self.layout.weight_sync == "nccl",
            **self.config.sampler.keywords,
            **options,
        )
        self._actors.callback(pool.close)
        return pool

    # Roles

    def grader(self, reward: Reward) -> Grader:
        self._start_ray()
        return ray_grader(reward, **vars(self.config.grading), max_restarts=self.max_restarts)

    def sft_model(self, path: str, optimizer: OptimizerConfig, steps: int, checkpoint: Path | None) -> RankGroup:
        actors, _ = self._allocate({POLICY: self.layout.policy_ranks})
        build, saved = sft_builder(self.config, path, optimizer, steps, checkpoint, self.task.tokenizer)
        return self._start_ranks(POLICY, actors[POLICY], build, saved)

    def roles(self, start: str, checkpoint: Path | None) -> RayRoles:
        assert self.task.schedule is not None
        config, specs, steps = self.config, role_specs(self.config), self.task.schedule.scheduled_steps
        actors, colocated = self._allocate(processes(self.layout, config))
        pool = None
        if ENGINE in actors and self.layout.shared is Shared.all:  # first, as vLLM refuses to start on a GPU in use
            pool = self._start_engines(start, actors[ENGINE], sleeps=True)
            pool.sleep()
        starts: list[Callable[[], Any]] = []
        for role in specs:
            build, saved = role_builder(config, role, start, checkpoint, steps, self.task.tokenizer)
            starts.append(partial(self._start_ranks, role, actors[role], build, saved))
        if ENGINE in actors and pool is None:
            starts.append(partial(self._start_engines, start, actors[ENGINE]))
        started = run_concurrently(starts)
        if len(started) > len(specs):
            pool = started.pop()
        groups = dict(zip(specs, started, strict=True))
        roles = RayRoles(groups, specs, self._sampler(start, pool), colocated, pool)
        roles.sync()
        return roles

    def _sampler(self, path: str, pool: EnginePool | None) -> Sampler:
        if pool is None:
            model = model_at(self.config.model, path)
            precision = self.config.train.precision
            policy = partial(load_policy, model, precision, "cpu")
            return self.config.sampler(lambda: policy().requires_grad_(False), self.task.tokenizer, model)  # type: ignore[no-any-return]
        return SleepingEngines(pool) if self.layout.shared is Shared.all else pool

    def sampler(self, path: str) -> Sampler:
        if self._samples_in_driver:
            return LocalBackend(self.config, self.task).sampler(path)
        actors, _ = self._allocate({ENGINE: self.layout.engines})
        return self._start_engines(path, actors[ENGINE], from_path=True)


def ray_backend(
    config: Config,
    task: Task,
    *,
    policy_ranks: int = 1,
    critic_ranks: int = 1,
    reference_ranks: int = 1,
    other_ranks: int = 1,
    engines: int = 1,
    tensor_parallel: int = 1,
    shared: Literal["none", "reference", "all"] = "none",
    zero_stage: int = 2,
    offload_optimizer: bool = False,
    cpus_per_rank: float = 1.0,
    max_restarts: int = 3,
    start_seconds: float = 600.0,
    silence_seconds: float = 600.0,
    deepspeed: dict[str, Any] | None = None,
    weight_sync: Literal["store", "nccl"] = "store",
    address: str | None = None,
) -> RayBackend:
    """Return the Ray backend (`backend=ray_*`). The keywords are documented in `layout.Layout`, `layout.Sharding`,
    `health.Limits` and `RayBackend`."""
    layout = Layout(
        policy_ranks=policy_ranks,
        critic_ranks=critic_ranks,
        reference_ranks=reference_ranks,
        other_ranks=other_ranks,
        engines=engines,
        tensor_parallel=tensor_parallel,
        shared=Shared(shared),
        sharding=Sharding(zero_stage, offload_optimizer, deepspeed or {}),
        cpus_per_rank=cpus_per_rank,
        weight_sync=weight_sync,
    )
    limits = Limits(start_seconds, silence_seconds)
    return RayBackend(config, task, layout, limits, max_restarts, address)
