"""Implements `backend=local`, which runs all models in this process, on one device."""

from __future__ import annotations

import os
from pathlib import Path

import torch
from transformers import PreTrainedModel

from simplerl.backends.roles import (
    POLICY,
    Roles,
    is_initial_policy,
    role_builder,
    role_specs,
    sft_builder,
    trains_adapter,
)
from simplerl.config import Config, OptimizerConfig
from simplerl.data.task import Task
from simplerl.engine.models import load_policy, model_at
from simplerl.engine.worker import InitialPolicy, Worker
from simplerl.errors import ConfigError
from simplerl.rewards.pool import Grader
from simplerl.runs.checkpoints import loading_checkpoint
from simplerl.samplers import Sampler
from simplerl.types import Reward


def local_device(config: Config) -> str:
    """Return the PyTorch device of `run.device`. Raises ConfigError if it is not available."""
    if config.run.device.startswith("cuda") and not torch.cuda.is_available():
        raise ConfigError(f"run.device={config.run.device}, but PyTorch finds no GPU: set run.device=cpu or auto.")
    if config.run.device != "auto":
        return config.run.device
    return "cuda" if torch.cuda.is_available() else "cpu"


class LocalBackend:
    """Implements `simplerl.backends.Backend` by running the roles in this process, one after the other."""

    max_restarts = 0

    def __init__(self, config: Config, task: Task) -> None:
        self.config, self.task = config, task
        self.device = local_device(config)
        if self.device == "cpu":  # transformers imports DeepSpeed if installed, which would warn about a missing GPU
            os.environ.setdefault("DS_ACCELERATOR", "cpu")

    def grader(self, reward: Reward) -> Grader:
        return Grader(reward, **vars(self.config.grading))

    def close(self) -> None:
        return

    def sft_model(self, path: str, optimizer: OptimizerConfig, steps: int, checkpoint: Path | None) -> Worker:
        build, saved = sft_builder(self.config, path, optimizer, steps, checkpoint, self.task.tokenizer)
        with loading_checkpoint(checkpoint):
            worker = build(device=self.device)
            if saved:
                worker.load_optimizer(saved)
        return worker

    def roles(self, start: str, checkpoint: Path | None) -> Roles:
        assert self.task.schedule is not None
        config, specs, models = self.config, role_specs(self.config), dict[str, Worker]()
        with_lora = trains_adapter(config, POLICY)
        for name in specs:
            if with_lora and is_initial_policy(config, name):
                models[name] = InitialPolicy(models[POLICY])
                continue
            build, saved = role_builder(
                config, name, start, checkpoint, self.task.schedule.scheduled_steps, self.task.tokenizer
            )
            with loading_checkpoint(saved and checkpoint):
                models[name] = build(device=self.device)
                if saved:
                    models[name].load_optimizer(saved)
        if with_lora:  # samplers take plain weights
            sampler = self.sampler(start)
        else:
            sampler = config.sampler(lambda: models[POLICY].model, self.task.tokenizer, model_at(config.model, start))
        roles = Roles(models, specs, sampler)
        roles.sync()
        return roles

    def sampler(self, path: str) -> Sampler:
        model = model_at(self.config.model, path)

        def policy() -> PreTrainedModel:
            return load_policy(model, self.config.train.precision, self.device).requires_grad_(False)

        return self.config.sampler(policy, self.task.tokenizer, model)  # type: ignore[no-any-return]


def local(config: Config, task: Task) -> LocalBackend:
    """Return the single-process backend (`backend=local`)."""
    return LocalBackend(config, task)
