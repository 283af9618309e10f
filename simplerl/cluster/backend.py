"""`backend=ray_*`: every role in Ray actors, where the layout puts it.

Not here: what the ranks do (`ranks`, `deepspeed_stepper`), engines and weight sync (`engines`, `weights`),
which device is whose (`layout`), Ray itself (`session`). To run it: `python train.py backend=ray_cpu`.
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

from simplerl.backends import Lost
from simplerl.backends.local import Local
from simplerl.backends.roles import POLICY, Roles, build_worker, role_builder, role_specs
from simplerl.cluster import allocation
from simplerl.cluster.engines import EnginePool
from simplerl.cluster.graders import ray_grader
from simplerl.cluster.health import Limits
from simplerl.cluster.layout import ENGINE, Layout, Plan, Sharding, Shared, check, check_room, plan, processes
from simplerl.cluster.ranks import Build, Place, RankGroup
from simplerl.cluster.ray_session import ray_session
from simplerl.config import Config, OptimizerConfig
from simplerl.data.task import Task
from simplerl.engine.models import load_policy, model_at
from simplerl.errors import ConfigError
from simplerl.rewards.pool import Grader
from simplerl.samplers import Sampler
from simplerl.samplers.vllm import vllm_sampler
from simplerl.types import Prompt, Reward, Rollout, Sampling, Stop

logger = logging.getLogger(__name__)
T = TypeVar("T")

DEAD_NODE_SECONDS = 30.0  # of Ray's health checks; until then it may give out places on a dead node
ROOM_SECONDS = 10.0  # in which a cluster that has room gives it


@dataclass(frozen=True)
class RayRoles(Roles):
    """Roles on their own processes: teams that share devices run side by side, the members of a team in turn."""

    teams: tuple[tuple[str, ...], ...] = ()
    pool: EnginePool | None = None  # None: the sampler is in this process

    def run(self, calls: Mapping[str, Callable[[], T]]) -> dict[str, T]:
        def in_turn(team: Sequence[str]) -> dict[str, T]:
            return {name: calls[name]() for name in team if name in calls}

        found = run_at_once([partial(in_turn, team) for team in self.teams])
        together = {name: result for results in found for name, result in results.items()}
        return {name: together[name] for name in calls}

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
        return {} if self.pool is None else dict(self.pool.metrics)


class SleepingEngines:
    """Engines that share GPUs with trainers: woken for the weight sync, and put to sleep after sampling."""

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


def run_at_once(calls: Sequence[Callable[[], T]]) -> list[T]:
    """Run all calls at once, each in a thread. Raises the first loss of a role, or else the first exception."""
    with ThreadPoolExecutor(max(1, len(calls))) as threads:
        futures = [threads.submit(call) for call in calls]
    errors = [error for error in (future.exception() for future in futures) if error is not None]
    for error in sorted(errors, key=lambda error: not isinstance(error, Lost)):
        raise error
    return [future.result() for future in futures]


@dataclass
class RayBackend:
    """See `simplerl.backends.Backend`. What one of its methods has started ends when the next is called."""

    config: Config
    task: Task
    layout: Layout
    limits: Limits
    max_restarts: int = 3
    address: str | None = None

    def __post_init__(self) -> None:
        check(self.layout, self.config, self._samples_here)
        self._session, self._stage = ExitStack(), ExitStack()
        self._open = self._restarted = False
        self._on_gpus: bool | None = None  # decided once: a cluster that has lost its GPUs gets them back or is refused

    @property
    def _samples_here(self) -> bool:
        return self.config.sampler.func is not vllm_sampler

    # Processes

    def close(self) -> None:
        self._stage.close()
        self._session.close()
        self._open, self._restarted = False, True

    def _start_ray(self) -> None:
        if not self._open:
            whole = plan(self.layout, processes(self.layout, self.config), False)
            restarts = self.max_restarts if allocation.command_is_restartable else None
            self._session.enter_context(ray_session(max(os.cpu_count() or 1, whole.cpus + 1), self.address, restarts))
            self._open = True

    def _begin(self, counts: dict[str, int]) -> tuple[dict[str, list[Place]], tuple[tuple[str, ...], ...]]:
        """End what was there. Returns a place for each process of these roles, and which roles share devices."""
        self._stage.close()
        self._start_ray()
        if self._restarted and self.address is not None:
            logger.info("waiting %g s, in which Ray notices that a node is dead", DEAD_NODE_SECONDS)
            time.sleep(DEAD_NODE_SECONDS)
        there = ray.cluster_resources()
        gpus = there.get("GPU", 0.0)
        if self._on_gpus is None:
            device = self.config.run.device
            self._on_gpus = device != "cpu" and (gpus > 0 or device.startswith("cuda"))
        wanted = plan(self.layout, counts, self._on_gpus)
        if not self._restarted:  # else a lost node may be on its way back
            check_room(wanted, gpus, there.get("CPU", 0.0))
        return self._places(wanted), wanted.teams

    def _places(self, wanted: Plan) -> dict[str, list[Place]]:
        group = placement_group([dict(bundle) for bundle in wanted.bundles], strategy="PACK")
        self._stage.callback(remove_placement_group, group)
        if not group.wait(min(ROOM_SECONDS, self.limits.start_seconds)):
            logger.info("waiting for room for %s: a node may be lost", list(wanted.bundles))
            if not group.wait(self.limits.start_seconds):
                raise self._no_room(wanted)

        def place(bundle: int) -> Any:
            return PlacementGroupSchedulingStrategy(group, placement_group_bundle_index=bundle)

        return {
            role: [Place(place(seat.bundle), seat.cpus, seat.gpus) for seat in seats]
            for role, seats in wanted.seats.items()
        }

    def _no_room(self, wanted: Plan) -> Exception:
        there = ray.cluster_resources()
        try:
            check_room(wanted, there.get("GPU", 0.0), there.get("CPU", 0.0))
        except ConfigError as lack:
            return lack
        return RuntimeError(
            f"Ray found no room for the bundles {list(wanted.bundles)} in {self.limits.start_seconds:g} s, though "
            "the cluster as a whole has enough: each must fit on one node (backend.cpus_per_rank)."
        )

    @property
    def _environment(self) -> dict[str, str]:
        own = {"PYTHONPATH": os.pathsep.join(path or os.getcwd() for path in sys.path)}
        return own if self._on_gpus else {**own, "DS_ACCELERATOR": "cpu", "CUDA_VISIBLE_DEVICES": ""}

    def _group(self, role: str, places: list[Place], build: Build, optimizer: Path | None) -> RankGroup:
        threads = self.config.run.threads or max(1, int(self.layout.cpus_per_rank))
        group = RankGroup(role, places, self.limits, self._environment, threads)
        self._stage.callback(group.close)
        return group.start(build, self.layout.sharding, optimizer)

    def _pool(self, path: str, places: list[Place], **options: Any) -> EnginePool:
        # With rollout.ahead the policy trains on while its last weights are drawn with.
        options["keep_weights"] = self.config.rollout.ahead > 0
        pool = EnginePool(
            self.task.tokenizer,
            model_at(self.config.model, path),
            engines=len(places),
            tensor_parallel=self.layout.tensor_parallel,
            cpus=places[0].cpus,
            gpus=places[0].gpus,
            strategies=[place.strategy for place in places],
            env=self._environment,
            start_seconds=self.limits.start_seconds,
            silence_seconds=self.limits.silence_seconds,
            max_restarts=self.max_restarts,
            nccl=self.layout.weight_sync == "nccl",
            **self.config.sampler.keywords,
            **options,
        )
        self._stage.callback(pool.close)
        return pool

    # Roles

    def grader(self, reward: Reward) -> Grader:
        self._start_ray()
        return ray_grader(reward, **vars(self.config.grading), max_restarts=self.max_restarts)

    def student(self, path: str, optimizer: OptimizerConfig, steps: int, checkpoint: Path | None) -> RankGroup:
        places, _ = self._begin({POLICY: self.layout.policy_ranks})
        saved = checkpoint / POLICY if checkpoint else None
        model = model_at(self.config.model, str(saved or path))
        options: dict[str, Any] = {"optimizer": optimizer, "steps": steps, "tokenizer": self.task.tokenizer}
        build = partial(build_worker, model, self.config.train, **options)
        return self._group(POLICY, places[POLICY], build, saved)

    def roles(self, start: str, checkpoint: Path | None) -> RayRoles:
        assert self.task.arithmetic is not None
        config, specs, steps = self.config, role_specs(self.config), self.task.arithmetic.optimizer_steps
        places, teams = self._begin(processes(self.layout, config))
        pool = None
        if ENGINE in places and self.layout.shared is Shared.all:  # an engine refuses to start on a GPU that is in use
            pool = self._pool(start, places[ENGINE], sleeps=True)
            pool.sleep()
        starts: list[Callable[[], Any]] = []
        for role in specs:
            build, saved = role_builder(config, role, start, checkpoint, steps, self.task.tokenizer)
            starts.append(partial(self._group, role, places[role], build, saved))
        if ENGINE in places and pool is None:
            starts.append(partial(self._pool, start, places[ENGINE]))
        started = run_at_once(starts)
        if len(started) > len(specs):
            pool = started.pop()
        groups = dict(zip(specs, started, strict=True))
        roles = RayRoles(groups, specs, self._sampler(start, pool), teams, pool)
        roles.sync()
        return roles

    def _sampler(self, path: str, pool: EnginePool | None) -> Sampler:
        if pool is None:
            model = model_at(self.config.model, path)
            policy = load_policy(model, self.config.train.precision, "cpu").requires_grad_(False)
            return self.config.sampler(policy, self.task.tokenizer, model)  # type: ignore[no-any-return]
        return SleepingEngines(pool) if self.layout.shared is Shared.all else pool

    def sampler(self, path: str) -> Sampler:
        if self._samples_here:
            return Local(self.config, self.task).sampler(path)
        places, _ = self._begin({ENGINE: self.layout.engines})
        return self._pool(path, places[ENGINE], from_path=True)


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
    """`backend=ray_*`; the keywords are those of `layout.Layout`, `watch.Limits` and `RayBackend`."""
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
