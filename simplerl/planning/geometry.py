"""Computes the sizes of a model from its config.json, without weights: parameters, layers, attention heads, vocabulary.

The configuration is that of a local folder, of the Hugging Face cache, or the one recorded under `geometry` in
conf/model/*.yaml. Parameters are counted on PyTorch's meta device, so every architecture of transformers is exact.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, AutoModelForCausalLM

from simplerl.config import ModelConfig
from simplerl.engine.lora import target_names
from simplerl.engine.models import load_hf_config, model_at
from simplerl.errors import ConfigError


@dataclass(frozen=True)
class Geometry:
    """Holds the sizes of a model: numbers of elements of its parameters, and the dimensions of its layers."""

    source: str  # where the configuration was read
    parameters: int  # all parameters; tied ones count once
    active: int  # parameters that one token uses; fewer than all in a mixture of experts
    embedding: int  # elements of the input embedding
    output: int  # elements of the output layer, which a critic does not have; 0 if it is tied to the embedding
    largest: int  # elements of the largest parameter
    layers: int
    hidden: int  # size of the hidden state
    intermediate: int  # inner size of the MLP
    queries: int  # heads x head size
    keys: int  # kv heads x head size
    heads: int
    vocabulary: int
    by_name: Mapping[str, tuple[int, ...]]  # shape of each parameter

    @property
    def matmul(self) -> int:
        """Return the number of parameters by which each token is multiplied: those of the layers and the output
        layer."""
        return self.active - self.embedding + (0 if self.output else self.embedding)

    @property
    def body(self) -> int:
        """Return the number of parameters by which each token is multiplied, without those of the output layer."""
        return self.matmul - (self.output or self.embedding)


def find_geometry(model: ModelConfig, path: str | None = None, key: str = "model.path") -> Geometry:
    """Return the sizes of the model at `path` (None: the policy's own). Raises ConfigError if its config.json is
    neither in a folder, nor in the Hugging Face cache, nor recorded in conf/model/; the network is not used."""
    one = model_at(model, path or model.path)
    if (Path(one.path) / "config.json").is_file():
        return model_sizes(load_hf_config(one), f"{one.path}/config.json")
    if (cached := _cached_config(one)) is not None:
        return model_sizes(AutoConfig.from_pretrained(Path(cached).parent), "config.json in the Hugging Face cache")
    recorded = dict(model.geometry or {})
    if recorded.pop("of", None) == one.path:
        return _recorded_sizes(tuple(sorted(recorded.items())))
    raise ConfigError(
        f"{key}={one.path} has no config.json on this machine, so its size is unknown: download that file (hf download "
        f"{one.path} config.json), or set {key} to a folder that contains it."
    )


def _cached_config(model: ModelConfig) -> str | None:
    from huggingface_hub import try_to_load_from_cache
    from huggingface_hub.errors import HFValidationError

    try:
        found = try_to_load_from_cache(model.path, "config.json", revision=model.revision)
    except HFValidationError:  # a path, not a Hub id
        return None
    return found if isinstance(found, str) else None


@lru_cache(maxsize=8)
def _recorded_sizes(values: tuple[tuple[str, Any], ...]) -> Geometry:
    keywords = dict(values)
    try:
        config = AutoConfig.for_model(str(keywords.pop("model_type")), **keywords)
    except (KeyError, ValueError) as error:
        raise ConfigError(
            f"model.geometry is not a configuration of transformers ({error}): write the entries of the "
            "model's config.json below `geometry:`."
        ) from error
    return model_sizes(config, "geometry in conf/model/")


def model_sizes(config: Any, source: str = "") -> Geometry:
    """Return the sizes of the causal language model of a Hugging Face configuration, without loading weights."""
    with torch.device("meta"):
        model: Any = AutoModelForCausalLM.from_config(config)
    by_name = {name: tuple(parameter.shape) for name, parameter in model.named_parameters()}
    sizes = {name: math.prod(shape) for name, shape in by_name.items()}
    text = config.get_text_config()
    embedding, output = model.get_input_embeddings().weight, model.get_output_embeddings().weight
    heads = text.num_attention_heads
    head_size = getattr(text, "head_dim", None) or text.hidden_size // heads
    experts = sum(size for name, size in sizes.items() if ".experts." in name)
    unused = 1 - (getattr(text, "num_experts_per_tok", None) or 1) / (_experts(text) or 1)
    return Geometry(
        source=source,
        parameters=sum(sizes.values()),
        active=round(sum(sizes.values()) - experts * unused),
        embedding=embedding.numel(),
        output=0 if output is embedding else output.numel(),
        largest=max(sizes.values()),
        layers=text.num_hidden_layers,
        hidden=text.hidden_size,
        intermediate=text.intermediate_size,
        queries=heads * head_size,
        keys=(getattr(text, "num_key_value_heads", None) or heads) * head_size,
        heads=heads,
        vocabulary=text.vocab_size,
        by_name=by_name,
    )


def adapter_elements(sizes: Geometry, rank: int, targets: Sequence[str]) -> int:
    """Return the elements of LoRA matrices of this rank beside the linear layers of these names; "all-linear": all but
    the output layer. Raises ConfigError if a name is unknown."""
    inner = [(name, shape) for name, shape in sizes.by_name.items() if len(shape) == 2 and ".layers." in name]
    layers = [(name.removesuffix(".weight").rpartition(".")[2], sum(shape)) for name, shape in inner]
    chosen = target_names({name for name, _ in layers}, targets)
    return rank * sum(size for name, size in layers if name in chosen)


def _experts(text: Any) -> int | None:
    names = ("num_experts", "num_local_experts", "n_routed_experts")
    return next((count for name in names if (count := getattr(text, name, None))), None)
