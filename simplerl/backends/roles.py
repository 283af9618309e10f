"""Manages the models of RL by role: the policy, and the roles in the algorithm's YAML (critic, reference, ...)."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Protocol, TypeVar

from torch import Tensor

from simplerl.algorithms.kl import kl_loss
from simplerl.algorithms.losses import Loss, correct_nll, entropy_bonus, first_pass_metrics, with_current_logprobs
from simplerl.config import (
    AlgorithmConfig,
    Config,
    HeadStart,
    KLPlace,
    ModelConfig,
    OldLogprobs,
    OptimizerConfig,
    RoleConfig,
    RoleKind,
    TrainConfig,
    UpdateTime,
)
from simplerl.engine.lora import Adapter
from simplerl.engine.models import VALUE_HEAD, Critic, load_policy, model_at
from simplerl.engine.worker import RankContext, UpdatePlan, Worker
from simplerl.errors import require
from simplerl.samplers import Sampler
from simplerl.types import Batch

POLICY, REFERENCE, CRITIC = "policy", "reference", "critic"
T = TypeVar("T")


class Trainable(Protocol):
    """Defines the interface of a model in any role: a local `simplerl.engine.worker.Worker` or a group of ranks."""

    def infer(self, batch: Batch, entropy: bool = True) -> tuple[Tensor, ...]: ...
    def update(
        self, batch: Batch, losses: Sequence[Loss], plan: UpdatePlan, seed: Sequence[int]
    ) -> dict[str, float]: ...
    def optimizer_step(self, minibatch: Batch, losses: Sequence[Loss], entropy: bool = False) -> dict[str, float]: ...
    def named_weights(self) -> Iterator[tuple[str, Tensor]]: ...
    def save(self, folder: Path) -> None: ...


@dataclass(frozen=True)
class RoleUpdate:
    """Describes how a trained role is updated on the batch of a step: with the sum of `losses`, before or after the
    advantages are computed. scored: whether its outputs are computed before the update."""

    losses: Sequence[Loss]
    plan: UpdatePlan
    time: UpdateTime = UpdateTime.after
    scored: bool = True


def role_updates(algorithm: AlgorithmConfig, plan: UpdatePlan, step: int) -> dict[str, RoleUpdate]:
    """Return the updates of `step` by role. The policy comes last, and is absent before algorithm.policy_start."""
    updates = {
        name: RoleUpdate([role.loss], replace(plan, aggregation=role.aggregation or plan.aggregation), role.update)
        for name, role in algorithm.roles.items()
        if role.loss is not None
    }
    if step < algorithm.policy_start:
        return updates
    terms: list[Loss] = [algorithm.loss]
    if algorithm.kl.place is KLPlace.loss and algorithm.kl.coef:
        terms.append(partial(kl_loss, coef=algorithm.kl.coef, estimator=algorithm.kl.estimator))
    if algorithm.entropy_coef:
        terms.append(partial(entropy_bonus, coef=algorithm.entropy_coef))
    if algorithm.nll_coef:
        terms.append(partial(correct_nll, coef=algorithm.nll_coef))
    if algorithm.old_logprobs is not OldLogprobs.skip:
        return {**updates, POLICY: RoleUpdate(terms, replace(plan, entropy=algorithm.entropy_coef != 0))}
    terms = [*(partial(with_current_logprobs, loss=term) for term in terms), first_pass_metrics]
    return {**updates, POLICY: RoleUpdate(terms, replace(plan, entropy=True), scored=False)}


@dataclass(frozen=True)
class Roles:
    """Holds all models of the training loop by role, and the sampler, which receives the policy's weights."""

    models: Mapping[str, Trainable]
    specs: Mapping[str, RoleConfig]
    sampler: Sampler

    def run_calls(self, calls: Mapping[str, Callable[[], T]]) -> dict[str, T]:
        """Call one function per role and return the results by role. In this class, roles share a device and run one
        after the other."""
        results = {}  # filled by a loop, because a comprehension would add a frame to the call stack
        for name, call in calls.items():
            results[name] = call()
        return results

    def score(
        self, batch: Batch, updates: Mapping[str, RoleUpdate], seed: Sequence[int]
    ) -> tuple[Batch, dict[str, float]]:
        """Add the models' outputs for the responses to the batch: log-probs and entropy of the policy, and one column
        per role. Roles with update=before are first updated on the batch. Returns the batch and the metrics of these
        updates. Raises ConfigError if outputs that are not `scored` would be needed."""
        early = [name for name in self.models if name in updates and updates[name].time is UpdateTime.before]
        skipped = [name for name, update in updates.items() if not update.scored]
        for name in skipped:
            _require_one_optimizer_step(len(batch), updates[name].plan)
        batch = self._add_columns(batch, [name for name in self.models if name not in (*early, *skipped)])
        if not early:
            return batch, {}
        metrics = self.update(batch, updates, seed, UpdateTime.before)
        return self._add_columns(batch, early), metrics

    def _add_columns(self, batch: Batch, names: Sequence[str]) -> Batch:
        outputs = self.run_calls({name: partial(self.models[name].infer, batch, name == POLICY) for name in names})
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
        """Take the optimizer steps of all roles that are updated at `time`. Returns metrics named <role>/<metric>;
        names that already have a slash are unchanged."""
        calls = {
            name: partial(self.models[name].update, batch, one.losses, one.plan, seed)
            for name, one in updates.items()
            if one.time is time
        }
        means = self.run_calls(calls)
        return {key if "/" in key else f"{name}/{key}": value for name in means for key, value in means[name].items()}

    def sync(self) -> None:
        """Copy the policy's weights to the sampler."""
        self.sampler.load_weights(self.models[POLICY].named_weights())

    def metrics(self) -> dict[str, float]:
        """Return metrics, by name, that the backend measured during this step; here {}."""
        return {}

    def save(self, folder: Path) -> None:
        """Save each trained role to the folder <folder>/<role>."""
        for name, spec in self.specs.items():
            if spec.loss is not None:
                self.models[name].save(folder / name)


def _require_one_optimizer_step(rows: int, plan: UpdatePlan) -> None:
    """Raise ConfigError if a batch of `rows` responses takes several optimizer steps."""
    require(
        rows <= plan.minibatch_size and plan.epochs == 1,
        f"algorithm.old_logprobs=skip is exact for one optimizer step per rollout batch, but {rows} responses with "
        f"train.minibatch_size={plan.minibatch_size} and train.epochs={plan.epochs} take more: set "
        f"train.minibatch_size={rows} train.epochs=1, or algorithm.old_logprobs=trainer.",
    )


def role_specs(config: Config) -> dict[str, RoleConfig]:
    """Return the configuration of every role of a run by name, with the policy first."""
    policy = RoleConfig(column="logprobs", loss=config.algorithm.loss, optimizer=config.train.policy)
    return {POLICY: policy, **config.algorithm.roles}


def logprob_temperature(config: Config) -> float:
    """Return the temperature at which log-probs are computed in RL."""
    return 1.0 if config.algorithm.logprobs_at_temperature_1 else config.sampling.temperature


def is_initial_policy(config: Config, name: str) -> bool:
    """Return whether a role is frozen and computes the log-probs of the policy's initial weights."""
    spec = role_specs(config)[name]
    return spec.kind is RoleKind.causal_lm and spec.loss is None and spec.model is None


def trains_adapter(config: Config, name: str) -> bool:
    """Return whether a role is trained by LoRA."""
    return config.train.lora.rank > 0 and name in config.train.lora.roles


def model_and_adapter(config: Config, name: str, start: str, saved: Path | None) -> tuple[ModelConfig, Adapter | None]:
    """Return the model that a role is loaded from and its adapter. `saved`: checkpoint folder to resume from.

    With LoRA, a resumed role is loaded from its initial model `start` and the saved adapter, because the base weights
    cannot be recovered exactly from merged ones."""
    if not trains_adapter(config, name):
        return model_at(config.model, str(saved or start)), None
    return model_at(config.model, start), Adapter(config.train.lora, config.seed, saved)


def sft_builder(
    config: Config, start: str, optimizer: OptimizerConfig, steps: int, checkpoint: Path | None, tokenizer: Any
) -> tuple[Callable[..., Worker], Path | None]:
    """Return a function of `device` and `ranks` that builds the worker of a warm-up, and the policy's folder in
    `checkpoint` to resume it from (None: not resumed).

    With LoRA the warm-up trains an adapter of the same form. Its result is saved merged, so RL starts from the merged
    model with a new adapter, and the reference is the merged model.
    """
    saved = checkpoint / POLICY if checkpoint else None
    model, adapter = model_and_adapter(config, POLICY, start, saved)
    options: dict[str, Any] = {"optimizer": optimizer, "steps": steps, "tokenizer": tokenizer, "adapter": adapter}
    return partial(build_worker, model, config.train, **options), saved


def role_builder(
    config: Config, name: str, start: str, checkpoint: Path | None, steps: int, tokenizer: Any
) -> tuple[Callable[..., Worker], Path | None]:
    """Return a function of `device` and `ranks` that builds the worker of a role, and the checkpoint folder of the role
    (None: not resumed).

    start: folder or Hub id of the initial policy. steps: optimizer steps of the whole run."""
    spec = role_specs(config)[name]
    saved = checkpoint / name if checkpoint is not None and spec.loss is not None else None
    model, adapter = model_and_adapter(config, name, spec.model or start, saved)
    build = partial(
        build_worker,
        model,
        config.train,
        kind=spec.kind,
        temperature=logprob_temperature(config),
        optimizer=spec.optimizer,
        steps=steps,
        tokenizer=tokenizer if spec.kind is RoleKind.causal_lm else None,
        head_seed=None if saved and adapter is None else config.seed,
        head=spec.head,
        adapter=adapter,
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
    head: HeadStart = HeadStart.normal,
    adapter: Adapter | None = None,
    ranks: RankContext | None = None,
) -> Worker:
    """Load a model and wrap it in a worker, which is trainable if `optimizer` is given.

    temperature: at which log-probs are computed. steps: optimizer steps of the whole run. head_seed: seed of a new
    critic's value head, initialized by `head`; None: the model must be a saved critic. adapter: LoRA adapter to train
    instead of all weights. ranks: ranks that hold the model together; None: this process alone.
    """
    if kind is RoleKind.critic:
        loaded: Any = Critic.load(model, train.precision, device, head_seed, head)
        if adapter is not None and adapter.saved is not None:
            loaded.load_head(adapter.saved / VALUE_HEAD)
    else:
        loaded = load_policy(model, train.precision, device)
    return Worker(
        loaded,
        precision=train.precision,
        logits_precision=train.logits_precision,
        column_precision=train.column_precision,
        tokens_per_micro_batch=train.tokens_per_micro_batch,
        shared_prompts=train.shared_prompts,
        temperature=temperature,
        gradient_checkpointing=train.gradient_checkpointing and optimizer is not None,
        compiled=bool(train.compile),
        optimizer=optimizer,
        total_steps=steps,
        tokenizer=tokenizer,
        adapter=adapter,
        ranks=ranks,
    )
