"""Adds LoRA adapters (arXiv:2106.09685) to a model with peft, and merges them into its weights.

An adapted layer computes W x + (alpha / rank) B A x with a frozen W and trained A [rank, in] and B [out, rank]. B is
zero at first, so the model starts as its base. Samplers and checkpoints receive the merged weights
W + (alpha / rank) B A under their Hugging Face names, computed one matrix at a time; W itself is never changed.
"""

from __future__ import annotations

import copy
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import peft
import torch
from peft.tuners.lora import Linear as AdaptedLinear
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from simplerl.config import LoraConfig
from simplerl.engine.models import Critic
from simplerl.errors import ConfigError, require

ADAPTER = "adapter"  # folder of a checkpoint, in peft's format
ALL_LINEAR = "all-linear"
_NAME = "default"  # of the adapter, in peft
_FILE, _PREFIX = "adapter_model.safetensors", "base_model.model."

Gathered = Callable[[Sequence[nn.Parameter]], AbstractContextManager[object]]


@dataclass(frozen=True)
class Adapter:
    """Describes the adapter of one model. Its initial weights are seeded by `seed`, or read from the checkpoint folder
    `saved` of the model's role."""

    config: LoraConfig
    seed: int
    saved: Path | None = None


@dataclass(frozen=True)
class Weight:
    """Holds a weight of a model under its Hugging Face name, and the adapted layer that it belongs to, if any."""

    name: str
    base: nn.Parameter
    layer: AdaptedLinear | None = None

    @property
    def parameters(self) -> list[nn.Parameter]:
        """Return all parameters that `merged` reads."""
        return [self.base] if self.layer is None else [self.base, *_matrices(self.layer)]

    @torch.no_grad()
    def merged(self) -> Tensor:
        """Return the weight that the model computes with."""
        return self.base.detach() if self.layer is None else self.base + self.layer.get_delta_weight(_NAME)


def _matrices(layer: Any) -> list[nn.Parameter]:
    return [layer.lora_A[_NAME].weight, layer.lora_B[_NAME].weight]


def _adapted_body(model: Any) -> nn.Module:
    """Return the transformers model that holds the adapters: the body of a critic, a causal language model itself."""
    return model.body if isinstance(model, Critic) else model  # type: ignore[no-any-return]


def has_adapter(model: nn.Module) -> bool:
    return any(isinstance(module, AdaptedLinear) for module in model.modules())


def weights_of(model: nn.Module) -> list[Weight]:
    """Return the weights of a model in the order of its parameters; tied weights occur once. The matrices of an adapter
    are not listed: they belong to the weight of their layer."""
    layers = {name: module for name, module in model.named_modules() if isinstance(module, AdaptedLinear)}
    found = []
    for name, parameter in model.named_parameters():
        owner, inner, leaf = name.rpartition(".base_layer.")
        if inner:
            found.append(Weight(f"{owner}.{leaf}", parameter, layers[owner] if leaf == "weight" else None))
        elif ".lora_" not in name:
            found.append(Weight(name, parameter))
    return found


def merged_weights(model: nn.Module, gathered: Gathered) -> Iterator[tuple[str, Tensor]]:
    """Yield the full weights with their Hugging Face names, adapters merged. Each is valid until the next is requested.

    gathered: returns a context manager within which parameters are full, unsharded tensors."""
    for weight in weights_of(model):
        with gathered(weight.parameters):
            yield weight.name, weight.merged()


def adapter_parameters(model: nn.Module) -> list[tuple[str, nn.Parameter]]:
    """Return the trained matrices, by the names that they have in peft's files."""
    named = _adapted_body(model).named_parameters()
    return [(_PREFIX + name.replace(f".{_NAME}.", "."), one) for name, one in named if ".lora_" in name]


def set_trainable(model: nn.Module, trained: bool) -> None:
    """Require gradients of all parameters or of none. Of a model with an adapter, only the adapter and the value head
    of a critic are trained."""
    model.requires_grad_(trained)
    if trained and has_adapter(model):
        for weight in weights_of(_adapted_body(model)):
            weight.base.requires_grad_(False)


def add_adapter(model: nn.Module, adapter: Adapter, path: str) -> None:
    """Add an adapter to a loaded model in place. `path`: folder or Hub id of the model, recorded with the adapter.
    Raises ConfigError if the model has no layers of these names, or if the saved adapter does not fit."""
    body, lora = _adapted_body(model), adapter.config
    config = peft.LoraConfig(
        r=lora.rank,
        lora_alpha=lora.alpha,  # type: ignore[arg-type]  # any number works
        lora_dropout=lora.dropout,
        target_modules=target_names({name.rpartition(".")[2] for name, _ in linear_layers(body)}, lora.targets),
        task_type="FEATURE_EXTRACTION" if isinstance(model, Critic) else "CAUSAL_LM",
        base_model_name_or_path=path,
    )
    with torch.random.fork_rng(devices=[]):  # peft initializes the matrices on the CPU
        torch.manual_seed(_seed("LoRA", [adapter.seed]))
        peft.inject_adapter_in_model(config, body)
    body.eval()  # new modules are in training mode
    if adapter.saved is not None:
        _load(model, adapter.saved / ADAPTER)


def linear_layers(body: Any) -> list[tuple[str, nn.Module]]:
    """Return the layers that can be adapted: the linear layers but the output layer, whose weight alone is used to
    compute log-probs."""
    output = body.get_output_embeddings()
    found = ((name, module) for name, module in body.named_modules() if isinstance(module, nn.Linear | Conv1D))
    return [(name, module) for name, module in found if module is not output]


def target_names(names: Iterable[str], targets: Sequence[str]) -> list[str]:
    """Return which of a model's linear layers, by `names` such as q_proj, are adapted. Raises ConfigError if a target
    is none of them."""
    linear = sorted(names)
    if list(targets) == [ALL_LINEAR]:
        return linear
    unknown = sorted(set(targets).difference(linear))
    require(
        not unknown and len(targets) > 0,
        f"train.lora.targets={','.join(targets)}: {unknown[0] if unknown else 'an empty list'} names no linear layer "
        f"inside the model: choose from {', '.join(linear)}, or [{ALL_LINEAR}].",
    )
    return sorted(set(targets))


@torch.no_grad()
def _load(model: nn.Module, folder: Path) -> None:
    saved, own = load_file(folder / _FILE), dict(adapter_parameters(model))
    for name in sorted(saved.keys() | own.keys()):
        found, wanted = (str(list(x[name].shape)) if name in x else "absent" for x in (saved, own))
        if found != wanted:
            raise ConfigError(
                f"{folder}: {name} is {found}, not {wanted}: train.lora must be as it was when the adapter was saved."
            )
        own[name].copy_(saved[name])


def write_adapter(model: Any, tensors: Mapping[str, Tensor], folder: Path) -> None:
    """Write an adapter, given its full tensors by the names of `adapter_parameters`, so that `peft.PeftModel` loads it
    on the base model."""
    folder.mkdir()
    save_file(dict(tensors), folder / _FILE, metadata={"format": "pt"})
    body: Any = _adapted_body(model)
    config = copy.copy(body.peft_config[_NAME])
    config.target_modules = sorted(config.target_modules)  # peft holds a set, whose order differs between processes
    config.save_pretrained(str(folder))


@contextmanager
def adapters_off(model: nn.Module) -> Iterator[None]:
    """Switch off the adapters of a model inside the block, so that it computes with its base weights."""
    layers = [module for module in model.modules() if isinstance(module, AdaptedLinear)]
    for layer in layers:
        layer.enable_adapters(False)
    try:
        yield
    finally:
        for layer in layers:
            layer.enable_adapters(True)


@contextmanager
def adapter_dropout(model: nn.Module, adapter: Adapter | None, numbers: Sequence[int]) -> Iterator[None]:
    """Apply the adapters' dropout inside the block, with masks seeded by the adapter's seed and `numbers`. Without
    dropout, do nothing. Dropout of the base model stays off."""
    if adapter is None or not adapter.config.dropout:
        yield
        return
    layers = [module.lora_dropout[_NAME] for module in model.modules() if isinstance(module, AdaptedLinear)]
    device = next(model.parameters()).device
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        torch.manual_seed(_seed("LoRA dropout", [adapter.seed, *numbers]))
        for layer in layers:
            layer.train()
        try:
            yield
        finally:
            for layer in layers:
                layer.eval()


def _seed(stream: str, numbers: Sequence[int]) -> int:
    return int(np.random.default_rng([zlib.crc32(stream.encode()), *numbers]).integers(2**63))
