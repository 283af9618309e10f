"""The models of RL: the policy, and whatever roles the algorithm's YAML declares beside it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Protocol, TypeVar

from torch import Tensor

from simplerl.algorithms.kl import kl_loss
from simplerl.algorithms.losses import Loss, entropy_bonus
from simplerl.config import (
    AlgorithmConfig,
    Config,
    KLPlace,
    ModelConfig,
    OptimizerConfig,
    RoleConfig,
    RoleKind,
    TrainConfig,
    UpdateTime,
)
from simplerl.engine.models import Critic, load_policy, model_at
from simplerl.engine.worker import RankContext, UpdatePlan, Worker
from simplerl.samplers import Sampler
from simplerl.types import Batch

POLICY, REFERENCE, CRITIC = "policy", "reference", "critic"
T = TypeVar("T")


class Trainable(Protocol):
    """A model in any role, wherever it is; `simplerl.engine.worker.Worker` is the one on this device."""

    def infer(self, batch: Batch, entropy: bool = True) -> tuple[Tensor, ...]: ...
    def update(
        self, batch: Batch, losses: Sequence[Loss], plan: UpdatePlan, seed: Sequence[int]
    ) -> dict[str, float]: ...
    def optimizer_step(self, minibatch: Batch, losses: Sequence[Loss], entropy: bool = False) -> dict[str, float]: ...
    def named_weights(self) -> Iterator[tuple[str, Tensor]]: ...
    def save(self, folder: Path) -> None: ...


@dataclass(frozen=True)
class RoleUpdate:
    """How a trained role is updated on the batch of a step: its losses are added."""

    losses: Sequence[Loss]
    plan: UpdatePlan
    time: UpdateTime = UpdateTime.after


def role_updates(algorithm: AlgorithmConfig, plan: UpdatePlan) -> dict[str, RoleUpdate]:
    """Return the updates of a step by role, the policy's last."""
    updates = {
        name: RoleUpdate([role.loss], replace(plan, aggregation=role.aggregation or plan.aggregation), role.update)
        for name, role in algorithm.roles.items()
        if role.loss is not None
    }
    terms: list[Loss] = [algorithm.loss]
    if algorithm.kl.place is KLPlace.loss and algorithm.kl.coef:
        terms.append(partial(kl_loss, coef=algorithm.kl.coef, estimator=algorithm.kl.estimator))
    if algorithm.entropy_coef:
        terms.append(partial(entropy_bonus, coef=algorithm.entropy_coef))
    return {**updates, POLICY: RoleUpdate(terms, replace(plan, entropy=algorithm.entropy_coef != 0))}


@dataclass(frozen=True)
class Roles:
    """Every model of the loop by its role, and the sampler that the policy feeds."""

    models: Mapping[str, Trainable]
    specs: Mapping[str, RoleConfig]
    sampler: Sampler

    def run(self, calls: Mapping[str, Callable[[], T]]) -> dict[str, T]:
        """Return the results of calls to different roles by role. Roles that share a device run one after the other,
        as all do here."""
        results = {}
        for name, call in calls.items():
            results[name] = call()
        return results

    def score(
        self, batch: Batch, updates: Mapping[str, RoleUpdate], seed: Sequence[int]
    ) -> tuple[Batch, dict[str, float]]:
        """Add what the models say of the responses: log-probs and entropy of the policy, and a column for each role.
        A role that is trained before the advantage is updated on the batch first. Returns the batch and the metrics of
        these updates."""
        early = [name for name in self.models if name in updates and updates[name].time is UpdateTime.before]
        batch = self._add_columns(batch, [name for name in self.models if name not in early])
        if not early:
            return batch, {}
        metrics = self.update(batch, updates, seed, UpdateTime.before)
        return self._add_columns(batch, early), metrics

    def _add_columns(self, batch: Batch, names: Sequence[str]) -> Batch:
        outputs = self.run({name: partial(self.models[name].infer, batch, name == POLICY) for name in names})
        for name, output in outputs.items():
            batch = batch.with_column(self.specs[name].column, output[0])
            if name == POLICY:
                batch = batch.with_(entropy=output[1])
        return batch

    def update(
        self,
        batch: Batch,
        updates: Mapping[str, RoleUpdate],
        seed: Sequence[int],
        time: UpdateTime = UpdateTime.after,
    ) -> dict[str, float]:
        """Take the optimizer steps of the roles that are trained at this `time`. Returns metrics named
        <role>/<metric>."""
        calls = {
            name: partial(self.models[name].update, batch, one.losses, one.plan, seed)
            for name, one in updates.items()
            if one.time is time
        }
        return {f"{name}/{key}": value for name, means in self.run(calls).items() for key, value in means.items()}

    def sync(self) -> None:
        """Load the policy's weights into the sampler."""
        self.sampler.load_weights(self.models[POLICY].named_weights())

    def metrics(self) -> dict[str, float]:
        """Return what the backend measured since the last call."""
        return {}

    def save(self, folder: Path) -> None:
        """Write a folder for each trained role."""
        for name, spec in self.specs.items():
            if spec.loss is not None:
                self.models[name].save(folder / name)


def role_specs(config: Config) -> dict[str, RoleConfig]:
    """Return the roles of a run, the policy first."""
    policy = RoleConfig(column="logprobs", loss=config.algorithm.loss, optimizer=config.train.policy)
    return {POLICY: policy, **config.algorithm.roles}


def logprob_temperature(config: Config) -> float:
    """Return the temperature of log-probs in RL."""
    return 1.0 if config.algorithm.logprobs_at_temperature_1 else config.sampling.temperature


def role_builder(
    config: Config, name: str, start: str, checkpoint: Path | None, steps: int, tokenizer: Any
) -> tuple[Callable[..., Worker], Path | None]:
    """Return what builds the worker of a role (a function of `device` and `ranks`), and the folder of the checkpoint
    from which its optimizer resumes.

    start: folder or Hub id of the model that RL starts from. steps: optimizer steps of the whole run."""
    spec = role_specs(config)[name]
    saved = checkpoint / name if checkpoint is not None and spec.loss is not None else None
    build = partial(
        build_worker,
        model_at(config.model, str(saved or spec.model or start)),
        config.train,
        kind=spec.kind,
        temperature=logprob_temperature(config),
        optimizer=spec.optimizer,
        steps=steps,
        tokenizer=tokenizer if spec.kind is RoleKind.causal_lm else None,
        head_seed=None if saved else config.seed,
    )
    return build, saved


def build_worker(
    model: ModelConfig,
    train: TrainConfig,
    *,
    device: str,
    kind: RoleKind = RoleKind.causal_lm,
    temperature: float = 1.0,
    optimizer: OptimizerConfig | None = None,
    steps: int = 1,
    tokenizer: Any = None,
    head_seed: int | None = None,
    ranks: RankContext | None = None,
) -> Worker:
    """Load a model and wrap it as a worker, to be trained where there is an optimizer.

    head_seed: of the value head of a new critic; None: the folder must hold a saved one."""
    if kind is RoleKind.critic:
        loaded: Any = Critic.load(model, train.precision, device, head_seed)
    else:
        loaded = load_policy(model, train.precision, device)
    return Worker(
        loaded,
        precision=train.precision,
        logits_precision=train.logits_precision,
        tokens_per_micro_batch=train.tokens_per_micro_batch,
        temperature=temperature,
        gradient_checkpointing=train.gradient_checkpointing and optimizer is not None,
        compiled=train.compile,
        optimizer=optimizer,
        total_steps=steps,
        tokenizer=tokenizer,
        ranks=ranks,
    )
