"""Where the models live. `Local`: all in this process, on one device."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Protocol, TypeVar

import torch
from torch import Tensor

from simplerl.algorithms.losses import LossOutput
from simplerl.config import Config, KLPlace, ModelConfig, OptimizerConfig, TrainConfig
from simplerl.data.task import Task
from simplerl.engine.models import Critic, load_policy, placed
from simplerl.engine.worker import Ranks, UpdatePlan, Worker
from simplerl.errors import ConfigError
from simplerl.rewards.pool import Grader
from simplerl.runs.checkpoints import loading_checkpoint
from simplerl.runs.metrics import prefixed
from simplerl.samplers import Sampler
from simplerl.types import Batch, Reward

Loss = Callable[[Any, Batch], LossOutput]
T = TypeVar("T")


class Lost(RuntimeError):
    """A process that held a role has ended, or says nothing any more: the run can go on from its last checkpoint."""

    def __init__(self, role: str, reason: str) -> None:
        super().__init__(f"{role} is lost: {reason}")
        self.role = role


class Trainable(Protocol):
    """A model in any role, wherever it is; `simplerl.engine.worker.Worker` is the one on this device."""

    def infer(self, batch: Batch) -> tuple[Tensor, ...]: ...
    def update(self, batch: Batch, loss: Loss, plan: UpdatePlan, seed: Sequence[int]) -> dict[str, float]: ...
    def optimizer_step(self, minibatch: Batch, loss: Loss, entropy: bool = False) -> dict[str, float]: ...
    def named_weights(self) -> Iterator[tuple[str, Tensor]]: ...
    def save(self, folder: Path) -> None: ...


@dataclass(frozen=True)
class Models:
    """The roles of the loop."""

    policy: Trainable
    sampler: Sampler
    reference: Trainable | None
    critic: Trainable | None

    def together(self, calls: Sequence[Callable[[], T]]) -> list[T]:
        """The results of calls to different roles; here, where they share a device, one after the other."""
        return [call() for call in calls]

    def score(self, batch: Batch) -> Batch:
        """What the models say of the responses: log-probs of the policy and of the reference, values of the critic."""
        roles = [role for role in (self.policy, self.reference, self.critic) if role is not None]
        columns = iter(self.together([partial(role.infer, batch) for role in roles]))
        logprobs, entropy = next(columns)
        batch = batch.with_(logprobs=logprobs, entropy=entropy)
        if self.reference is not None:
            batch = batch.with_(ref_logprobs=next(columns)[0])
        if self.critic is not None:
            batch = batch.with_(values=next(columns)[0])
        return batch

    def update(
        self, batch: Batch, policy_loss: Loss, value_loss: Loss | None, plan: UpdatePlan, seed: Sequence[int]
    ) -> dict[str, float]:
        """The optimizer steps of critic and policy."""
        roles: dict[str, tuple[Trainable, Loss]] = {}
        if self.critic is not None:
            assert value_loss is not None
            roles["critic"] = self.critic, value_loss
        roles["policy"] = self.policy, policy_loss
        steps = [partial(role.update, batch, loss, plan, seed) for role, loss in roles.values()]
        metrics: dict[str, float] = {}
        for name, means in zip(roles, self.together(steps), strict=True):
            metrics |= prefixed(name, means)
        return metrics

    def sync(self) -> None:
        """The policy's weights into the sampler."""
        self.sampler.load_weights(self.policy.named_weights())

    def metrics(self) -> dict[str, float]:
        """What the places of the roles measured since the last call."""
        return {}

    def save(self, folder: Path) -> None:
        self.policy.save(folder / "policy")
        if self.critic is not None:
            self.critic.save(folder / "critic")


class Backend(Protocol):
    max_restarts: int  # from the last checkpoint, after a `Lost`

    def grader(self, reward: Reward) -> Grader:
        """What grades responses, as a context manager."""

    def close(self) -> None:
        """Ends all that was started; may be called more than once, and used again afterwards."""

    def student(self, path: str, optimizer: OptimizerConfig, steps: int, checkpoint: Path | None) -> Trainable:
        """A policy alone, for supervised fine-tuning from the model at `path`, or from a checkpoint of it."""

    def models(self, path: str, checkpoint: Path | None) -> Models:
        """Every role of RL from the model at `path`, or from a checkpoint; the reference is always `path`."""

    def sampler(self, path: str) -> Sampler:
        """A sampler alone, for evaluation."""


def device_of(config: Config) -> str:
    """Of a process that holds everything. Raises ConfigError where it is not there."""
    if config.run.device.startswith("cuda") and not torch.cuda.is_available():
        raise ConfigError(f"run.device={config.run.device}, but PyTorch sees no GPU here: set run.device=cpu or auto.")
    if config.run.device != "auto":
        return config.run.device
    return "cuda" if torch.cuda.is_available() else "cpu"


def policy_worker(
    model: ModelConfig,
    train: TrainConfig,
    *,
    device: str,
    temperature: float = 1.0,
    optimizer: OptimizerConfig | None = None,
    steps: int = 1,
    tokenizer: Any = None,
    ranks: Ranks | None = None,
) -> Worker:
    """A language model, to be trained where there is an optimizer."""
    return Worker(
        load_policy(model, train.precision, device),
        precision=train.precision,
        tokens_per_micro_batch=train.tokens_per_micro_batch,
        temperature=temperature,
        gradient_checkpointing=train.gradient_checkpointing and optimizer is not None,
        compiled=train.compile,
        optimizer=optimizer,
        total_steps=steps,
        tokenizer=tokenizer,
        ranks=ranks,
    )


def critic_worker(
    model: ModelConfig,
    train: TrainConfig,
    *,
    device: str,
    seed: int | None,
    steps: int,
    ranks: Ranks | None = None,
) -> Worker:
    """A saved critic, or a new one on the body of a language model, its head made from `seed`."""
    return Worker(
        Critic.load(model, train.precision, device, seed),
        precision=train.precision,
        tokens_per_micro_batch=train.tokens_per_micro_batch,
        gradient_checkpointing=train.gradient_checkpointing,
        compiled=train.compile,
        optimizer=train.critic,
        total_steps=steps,
        ranks=ranks,
    )


def score_temperature(config: Config) -> float:
    """Of the log-probs in RL."""
    return 1.0 if config.algorithm.logprobs_at_temperature_1 else config.sampling.temperature


class Local:
    max_restarts = 0

    def __init__(self, config: Config, task: Task) -> None:
        self.config, self.task = config, task
        self.device = device_of(config)
        if self.device == "cpu":  # transformers imports DeepSpeed, where it is installed, which would warn of no GPU
            os.environ.setdefault("DS_ACCELERATOR", "cpu")

    def grader(self, reward: Reward) -> Grader:
        return Grader(reward, **vars(self.config.grading))

    def close(self) -> None:
        return

    def _policy(self, path: str, **options: Any) -> Worker:
        options |= {"device": self.device, "tokenizer": self.task.tokenizer}
        return policy_worker(placed(self.config.model, path), self.config.train, **options)

    def student(self, path: str, optimizer: OptimizerConfig, steps: int, checkpoint: Path | None) -> Worker:
        start = str(checkpoint / "policy") if checkpoint else path
        with loading_checkpoint(checkpoint):
            worker = self._policy(start, optimizer=optimizer, steps=steps)
            if checkpoint:
                worker.load_optimizer(checkpoint / "policy")
        return worker

    def models(self, path: str, checkpoint: Path | None) -> Models:
        with loading_checkpoint(checkpoint):
            policy, critic = self._trained(path, checkpoint)
        reference, config = None, self.config
        if config.algorithm.kl is not KLPlace.none:
            reference = self._policy(path, temperature=score_temperature(config))
        sampler = config.sampler(policy.model, self.task.tokenizer, placed(config.model, path))
        models = Models(policy, sampler, reference, critic)
        models.sync()
        return models

    def _trained(self, path: str, checkpoint: Path | None) -> tuple[Worker, Worker | None]:
        """Policy and critic."""
        config, train = self.config, self.config.train
        assert self.task.arithmetic is not None
        steps, temperature = self.task.arithmetic.optimizer_steps, score_temperature(config)
        start = str(checkpoint / "policy") if checkpoint else path
        policy = self._policy(start, temperature=temperature, optimizer=train.policy, steps=steps)
        critic = None
        if config.algorithm.value_loss is not None:
            start = str(checkpoint / "critic") if checkpoint else path
            seed = None if checkpoint else config.seed
            options: dict[str, Any] = {"device": self.device, "seed": seed, "steps": steps}
            critic = critic_worker(placed(config.model, start), train, **options)
        if checkpoint:
            policy.load_optimizer(checkpoint / "policy")
            if critic is not None:
                critic.load_optimizer(checkpoint / "critic")
        return policy, critic

    def sampler(self, path: str) -> Sampler:
        make, model, policy = self.config.sampler, placed(self.config.model, path), None
        if not getattr(make.func, "reads_weights", False):
            policy = load_policy(model, self.config.train.precision, self.device).requires_grad_(False)
        return make(policy, self.task.tokenizer, model)  # type: ignore[no-any-return]


def local(config: Config, task: Task) -> Local:
    return Local(config, task)
