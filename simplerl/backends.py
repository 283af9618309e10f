"""Where the models live. `Local`: all in this process, on one device."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor

from simplerl.config import Config, KLPlace, OptimizerConfig
from simplerl.losses import LossOutput
from simplerl.models import Critic, load_policy
from simplerl.samplers import Sampler
from simplerl.task import Task
from simplerl.types import Batch
from simplerl.worker import UpdatePlan, Worker


class Trainable(Protocol):
    """A model in any role, wherever it is; `simplerl.worker.Worker` is the one on this device."""

    def infer(self, batch: Batch) -> tuple[Tensor, ...]: ...
    def update(
        self, batch: Batch, loss: Callable[[Any, Batch], LossOutput], plan: UpdatePlan, seed: Sequence[int]
    ) -> dict[str, float]: ...
    def optimizer_step(
        self, minibatch: Batch, loss: Callable[[Any, Batch], LossOutput], entropy: bool = False
    ) -> dict[str, float]: ...
    def named_weights(self) -> Iterator[tuple[str, Tensor]]: ...
    def save(self, folder: Path) -> None: ...


@dataclass(frozen=True)
class Models:
    """The roles of the loop."""

    policy: Trainable
    sampler: Sampler
    reference: Trainable | None
    critic: Trainable | None

    def sync(self) -> None:
        """The policy's weights into the sampler."""
        self.sampler.load_weights(self.policy.named_weights())

    def save(self, folder: Path) -> None:
        self.policy.save(folder / "policy")
        if self.critic is not None:
            self.critic.save(folder / "critic")


class Backend(Protocol):
    def student(self, path: str, optimizer: OptimizerConfig, steps: int, checkpoint: Path | None) -> Trainable:
        """A policy alone, for supervised fine-tuning from the model at `path`, or from a checkpoint of it."""

    def models(self, path: str, checkpoint: Path | None) -> Models:
        """Every role of RL from the model at `path`, or from a checkpoint; the reference is always `path`."""

    def sampler(self, path: str) -> Sampler:
        """A sampler alone, for evaluation."""


def device_of(config: Config) -> str:
    if config.run.device != "auto":
        return config.run.device
    return "cuda" if torch.cuda.is_available() else "cpu"


class Local:
    def __init__(self, config: Config, task: Task) -> None:
        self.config, self.task = config, task
        self.device = device_of(config)

    def _policy(self, path: str, optimizer: OptimizerConfig | None = None, steps: int = 1) -> Worker:
        train, algorithm = self.config.train, self.config.algorithm
        model = load_policy(self.config.model, train.precision, self.device, path)
        temperature = 1.0 if algorithm.logprobs_at_temperature_1 else self.task.sampling.temperature
        return Worker(
            model,
            precision=train.precision,
            tokens_per_micro_batch=train.tokens_per_micro_batch,
            temperature=temperature,
            gradient_checkpointing=train.gradient_checkpointing and optimizer is not None,
            optimizer=optimizer,
            total_steps=steps,
            tokenizer=self.task.tokenizer,
        )

    def student(self, path: str, optimizer: OptimizerConfig, steps: int, checkpoint: Path | None) -> Worker:
        worker = self._policy(str(checkpoint / "policy") if checkpoint else path, optimizer, steps)
        worker.temperature = 1.0
        if checkpoint:
            worker.load_optimizer(checkpoint / "policy")
        return worker

    def models(self, path: str, checkpoint: Path | None) -> Models:
        config, train = self.config, self.config.train
        assert self.task.arithmetic is not None
        steps = self.task.arithmetic.optimizer_steps
        policy = self._policy(str(checkpoint / "policy") if checkpoint else path, train.policy, steps)
        critic = None
        if config.algorithm.value_loss is not None:
            critic_path = str(checkpoint / "critic") if checkpoint else path
            critic = Worker(
                Critic.load(config.model, train.precision, self.device, critic_path, config.seed),
                precision=train.precision,
                tokens_per_micro_batch=train.tokens_per_micro_batch,
                gradient_checkpointing=train.gradient_checkpointing,
                optimizer=train.critic,
                total_steps=steps,
            )
        if checkpoint:
            policy.load_optimizer(checkpoint / "policy")
            if critic is not None:
                critic.load_optimizer(checkpoint / "critic")
        reference = self._policy(path) if config.algorithm.kl is not KLPlace.none else None
        models = Models(policy, config.sampler(policy.model, self.task.tokenizer, path), reference, critic)
        models.sync()
        return models

    def sampler(self, path: str) -> Sampler:
        model = load_policy(self.config.model, self.config.train.precision, self.device, path).requires_grad_(False)
        return self.config.sampler(model, self.task.tokenizer, path)  # type: ignore[no-any-return]


def local(config: Config, task: Task) -> Local:
    return Local(config, task)
