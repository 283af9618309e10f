"""Provides AdamW with a learning-rate schedule, and saves its state by parameter name."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Protocol

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from simplerl.config import OptimizerConfig, Schedule
from simplerl.engine.tensors import TensorFiles
from simplerl.errors import ConfigError
from simplerl.io.files import read_json

OPTIMIZER, STEP_FILE = "optimizer", "optimizer.json"  # optimizer*.safetensors has tensors <moment>.<parameter name>
MOMENTS = ("exp_avg", "exp_avg_sq")


def learning_rate(config: OptimizerConfig, step: int, total_steps: int) -> float:
    """Return the learning rate of optimizer step `step` (0-based) of `total_steps`: linear warm-up over the fraction
    warmup_fraction of all steps, then the schedule down to min_lr_ratio * lr."""
    warmup = math.ceil(config.warmup_fraction * total_steps - 1e-9)  # in floating point, 0.07 * 100 exceeds 7
    if step < warmup:
        return config.lr * (step + 1) / warmup
    if config.schedule is Schedule.constant:
        return config.lr
    progress = min(1.0, (step - warmup) / max(1, total_steps - warmup))
    left = 1 - progress if config.schedule is Schedule.linear else (1 + math.cos(math.pi * progress)) / 2
    return config.lr * (config.min_lr_ratio + (1 - config.min_lr_ratio) * left)


class Stepper(Protocol):
    """Defines the interface of an optimizer with its model, which accumulates gradients and takes optimizer steps."""

    step_count: int

    def backward(self, loss: Tensor, last: bool = True) -> None:
        """Add the gradient of `loss`; `last` marks the last micro-batch of the optimizer step."""
        ...

    def step(self) -> dict[str, float]: ...
    def save(self, folder: Path) -> None: ...
    def load(self, folder: Path) -> None: ...


def adamw(parameters: Iterable[nn.Parameter], config: OptimizerConfig) -> torch.optim.AdamW:
    return torch.optim.AdamW(
        list(parameters),
        lr=config.lr,
        betas=(config.betas[0], config.betas[1]),
        eps=config.eps,
        weight_decay=config.weight_decay,
        fused=True,
    )


class TorchStepper:
    """Optimizes a module on one device with AdamW."""

    def __init__(self, module: nn.Module, config: OptimizerConfig, total_steps: int) -> None:
        self.module, self.config, self.total_steps = module, config, total_steps
        self.step_count = 0
        self.names = {name: p for name, p in module.named_parameters() if p.requires_grad}
        self.optimizer = adamw(self.names.values(), config)

    def backward(self, loss: Tensor, last: bool = True) -> None:
        loss.backward()

    def step(self) -> dict[str, float]:
        """Clip the accumulated gradients and take one optimizer step. If their norm is not finite, leave the weights
        unchanged. Returns their norm before clipping ("grad_norm") and the learning rate ("lr")."""
        norm = nn.utils.clip_grad_norm_(self.names.values(), self.config.grad_clip, foreach=True)
        lr = learning_rate(self.config, self.step_count, self.total_steps)
        if torch.isfinite(norm):
            for group in self.optimizer.param_groups:
                group["lr"] = lr
            self.optimizer.step()
            self.step_count += 1
        self.optimizer.zero_grad(set_to_none=True)
        return {"grad_norm": float(norm), "lr": lr}

    def save(self, folder: Path) -> None:
        tensors = {}
        for name, parameter in self.names.items() if self.step_count else ():
            state = self.optimizer.state.get(parameter)  # None: this parameter never had a gradient
            for key in MOMENTS:
                tensors[f"{key}.{name}"] = (torch.zeros_like(parameter) if state is None else state[key]).detach().cpu()
        save_file(tensors, folder / f"{OPTIMIZER}.safetensors")
        write_step(folder, self.step_count)

    def load(self, folder: Path) -> None:
        shapes = {name: parameter.shape for name, parameter in self.names.items()}
        self.step_count, tensors = read_moments(folder, shapes)
        if self.step_count:
            for name, parameter in self.names.items():
                self.optimizer.state[parameter] = {
                    "step": torch.tensor(float(self.step_count), device=parameter.device),  # required by fused AdamW
                    **{key: tensors[f"{key}.{name}"].to(parameter.device) for key in MOMENTS},
                }


def write_step(folder: Path, step: int) -> None:
    (folder / STEP_FILE).write_text(json.dumps({"optimizer_step": step}))


def read_moments(folder: Path, shapes: Mapping[str, Sequence[int]]) -> tuple[int, TensorFiles]:
    """Return the number of optimizer steps taken, and the saved moments. Raises ConfigError if their names and shapes
    are not those of the parameters, because fused AdamW would write past the end of a smaller tensor. folder: that of a
    role in a checkpoint. shapes: of the parameters, by name."""
    step: int = read_json(folder / STEP_FILE, kinds={"optimizer_step": int})["optimizer_step"]
    tensors = TensorFiles(folder, OPTIMIZER)
    expected = {f"{key}.{name}": tuple(shapes[name]) for name in shapes for key in MOMENTS} if step else {}
    found = {name: tensors.shape(name) for name in tensors.names}
    for name in sorted(expected.keys() | found.keys()):
        if expected.get(name) != found.get(name):
            wanted, shape = (str(x.get(name, "absent")) for x in (expected, found))
            raise ConfigError(
                f"{folder}/{OPTIMIZER}.safetensors: {name} is {shape}, not {wanted} as in the model: "
                "remove this checkpoint."
            )
    return step, tensors
