"""Compute the memory of each process and the traffic of one weight sync of a run, without starting it.

    python -m simplerl.planning.memory experiment=simplerl_zero backend=ray_6gpu

Overrides are those of train.py. Only the model's config.json is read; sizes come from a model on PyTorch's meta device.
Weights, gradients and optimizer states are exact. Activations are an upper estimate from the tokens of a micro-batch.
The overhead of CUDA, NCCL and the allocator (several GiB) is not included.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from hydra import compose, initialize_config_dir
from rich.console import Console
from rich.table import Table
from transformers import AutoModelForCausalLM, PretrainedConfig, Qwen2Config

from simplerl.backends.roles import CRITIC, REFERENCE, trains_adapter
from simplerl.cluster.backend import RayBackend
from simplerl.cluster.layout import ENGINE, Layout, plan_placement, processes
from simplerl.config import Config, LoraConfig, register
from simplerl.config.load import load
from simplerl.engine.lora import linear_layers, target_names
from simplerl.engine.models import MAX_LOGITS, load_hf_config
from simplerl.errors import ConfigError

CONF = Path(__file__).resolve().parents[2] / "conf"
GIB = 2**30
FLOAT32, BFLOAT16 = 4, 2  # bytes
ZERO3_LIVE_ELEMENTS = 1e9  # ZeRO-3 gathers at most this many (DeepSpeed's stage3_max_live_parameters)

# Configurations of common models, so that they need no network.
KNOWN: dict[str, PretrainedConfig] = {
    "Qwen/Qwen2.5-Math-7B": Qwen2Config(
        vocab_size=152064,
        hidden_size=3584,
        intermediate_size=18944,
        num_hidden_layers=28,
        num_attention_heads=28,
        num_key_value_heads=4,
        max_position_embeddings=4096,
        tie_word_embeddings=False,
    )
}


@dataclass(frozen=True)
class ModelSizes:
    """Holds the numbers of elements of a model's parameters and activations."""

    parameters: int  # all parameters; tied ones count once
    largest: int  # the largest parameter
    output: int  # elements of the output layer, which a critic does not have; 0 if tied
    hidden: int
    intermediate: int
    layers: int
    by_name: Mapping[str, tuple[int, ...]]
    linear: Mapping[str, int] = field(default_factory=dict)  # parameters of a rank-1 adapter, by name of its layers


@dataclass(frozen=True)
class RoleMemory:
    """Holds the memory of one process of a role in bytes, by purpose, on the device and on the host."""

    role: str
    processes: int
    device: dict[str, float] = field(default_factory=dict)
    host: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class SyncTraffic:
    """Holds the traffic and memory of one weight sync, in bytes."""

    gathered: float  # received by each policy rank when ZeRO-3 gathers parameters
    sent: float  # received by each engine: the policy in the engine's precision
    engines: int
    sender_peak: float  # peak memory of the sending rank


def model_sizes(config: Any) -> ModelSizes:
    """Return the sizes of the causal language model of a Hugging Face configuration, without loading weights."""
    with torch.device("meta"):
        model: Any = AutoModelForCausalLM.from_config(config)
    by_name = {name: tuple(parameter.shape) for name, parameter in model.named_parameters()}
    sizes = {name: parameter.numel() for name, parameter in model.named_parameters()}
    linear: dict[str, int] = {}
    for name, _ in linear_layers(model):
        leaf = name.rpartition(".")[2]
        linear[leaf] = linear.get(leaf, 0) + sum(by_name[f"{name}.weight"])
    text = config.get_text_config()
    tied = model.get_output_embeddings().weight is model.get_input_embeddings().weight
    return ModelSizes(
        parameters=sum(sizes.values()),
        largest=max(sizes.values()),
        output=0 if tied else model.get_output_embeddings().weight.numel(),
        hidden=text.hidden_size,
        intermediate=text.intermediate_size,
        layers=text.num_hidden_layers,
        by_name=by_name,
        linear=linear,
    )


def memory_by_role(sizes: ModelSizes, layout: Layout, config: Config) -> list[RoleMemory]:
    """Return the memory of each role of the run."""
    counts = processes(layout, config)
    found = []
    for role, ranks in counts.items():
        if role == ENGINE:
            found.append(_engine(sizes, layout, config, ranks))
            continue
        elements = sizes.parameters if role != CRITIC else sizes.parameters - sizes.output + sizes.hidden
        trained = elements if role != REFERENCE else 0
        if trains_adapter(config, role):
            trained = adapter_elements(sizes, config.train.lora)
            elements, trained = elements + trained, trained + (sizes.hidden if role == CRITIC else 0)
        device, host = _states(elements, trained, ranks, layout)
        if layout.sharding.zero_stage == 3:
            device["gathered weights, at most"] = FLOAT32 * min(ZERO3_LIVE_ELEMENTS, elements)
        device["activations, at most"] = _activations(sizes, config, trained=role != REFERENCE, head=role != CRITIC)
        found.append(RoleMemory(role, ranks, device, host))
    return found


def adapter_elements(sizes: ModelSizes, lora: LoraConfig) -> int:
    """Return the number of parameters of a LoRA adapter. Raises ConfigError if a target is unknown."""
    return lora.rank * sum(sizes.linear[name] for name in target_names(sizes.linear, lora.targets))


def _states(elements: int, trained: int, ranks: int, layout: Layout) -> tuple[dict[str, float], dict[str, float]]:
    """Return the bytes of weights, gradients and optimizer states of one rank, on device and host. `trained` of the
    `elements` have gradients. ZeRO shards optimizer states from stage 1, gradients from stage 2 and weights in stage
    3."""
    stage, offload = layout.sharding.zero_stage, layout.sharding.offload_optimizer
    device = {"weights": FLOAT32 * (elements / ranks if stage == 3 else elements)}
    host: dict[str, float] = {}
    if not trained:
        return device, host
    share = trained / ranks
    gradients = FLOAT32 * (share if stage >= 2 else trained)
    states = {"moments": 2 * FLOAT32 * (share if stage >= 1 else trained)}
    if stage >= 1:
        states["master weights"] = FLOAT32 * share
    if offload and stage >= 2:
        host["gradients"] = gradients
    else:
        device["gradients"] = gradients
    (host if offload else device).update(states)
    return device, host


def _activations(sizes: ModelSizes, config: Config, trained: bool, head: bool) -> float:
    """Estimate the bytes of activations: residual stream, inner activations of the layers, and logits."""
    tokens = config.train.tokens_per_micro_batch
    saved_layers = sizes.layers if trained and config.train.gradient_checkpointing else 1
    inner = tokens * (8 * sizes.hidden * FLOAT32 + 4 * sizes.intermediate * BFLOAT16)
    if trained and not config.train.gradient_checkpointing:
        inner *= sizes.layers
    logits = MAX_LOGITS * (BFLOAT16 + 2 * FLOAT32) if head else 0
    return saved_layers * tokens * sizes.hidden * FLOAT32 + inner + logits


def _engine_precision(config: Config) -> int:
    return BFLOAT16 if config.sampler.keywords["precision"] == "bfloat16" else FLOAT32


def _engine(sizes: ModelSizes, layout: Layout, config: Config, engines: int) -> RoleMemory:
    device = {"weights": _engine_precision(config) * sizes.parameters / layout.tensor_parallel}
    if (cache := config.sampler.keywords["cache_gib"]) is not None:  # None: the remaining memory of the GPU
        device["key-value cache"] = cache * GIB
    return RoleMemory(ENGINE, engines, device)


def sync_traffic(sizes: ModelSizes, layout: Layout, config: Config, bucket: int = 512 * 2**20) -> SyncTraffic:
    """Return the traffic of one weight sync in buckets of `bucket` bytes."""
    precision = _engine_precision(config)
    ranks = layout.policy_ranks
    gathered = FLOAT32 * sizes.parameters * (ranks - 1) / ranks if layout.sharding.zero_stage == 3 else 0.0
    sender_peak = FLOAT32 * sizes.largest + 3 * max(bucket, precision * sizes.largest)
    return SyncTraffic(gathered, precision * sizes.parameters, layout.engines, sender_peak)


def memory_per_device(roles: list[RoleMemory], layout: Layout) -> dict[str, float]:
    """Return the bytes on one device for each group of roles that share devices."""
    totals = {one.role: sum(one.device.values()) for one in roles}
    plan = plan_placement(layout, {one.role: one.processes for one in roles}, on_gpus=True)
    return {" + ".join(group): sum(totals[role] for role in group) for group in plan.colocated}


def tables(roles: list[RoleMemory], sync: SyncTraffic, layout: Layout, title: str) -> list[Table]:
    """Return the tables of memory and of weight-sync traffic."""
    memory = Table("role", "processes", "where", "what", "GiB", title=title, title_justify="left")
    for one in roles:
        for place, parts in (("device", one.device), ("host", one.host)):
            for number, (what, size) in enumerate(parts.items()):
                first = not number and place == "device"
                memory.add_row(
                    one.role if first else "",
                    str(one.processes) if first else "",
                    "" if number else place,
                    what,
                    f"{size / GIB:.1f}",
                )
        memory.add_section()
    for group, size in memory_per_device(roles, layout).items():
        memory.add_row(group, "", "device", "total", f"{size / GIB:.1f}")
    traffic = Table("one weight sync", "GiB", title_justify="left")
    traffic.add_row("received by each policy rank to gather parameters", f"{sync.gathered / GIB:.1f}")
    traffic.add_row(f"received by each of {sync.engines} engines", f"{sync.sent / GIB:.1f}")
    traffic.add_row("peak memory of the sending rank", f"{sync.sender_peak / GIB:.1f}")
    return [memory, traffic]


def main(overrides: list[str]) -> int:
    """Print the tables for the configuration that the overrides compose. Returns the exit status."""
    register()
    with initialize_config_dir(str(CONF), version_base="1.3"):
        raw = compose("config", overrides)
    try:
        config = load(raw)
        backend = config.backend(config, None)  # starts no processes
        if not isinstance(backend, RayBackend):
            raise ConfigError("backend=local has no layout of devices: choose a Ray backend, such as backend=ray_6gpu.")
        layout = backend.layout
        hf_config = KNOWN.get(config.model.path) or load_hf_config(config.model)
    except ConfigError as error:
        print(f"Configuration: {error}", file=sys.stderr)
        return 2
    sizes = model_sizes(hf_config)
    title = (
        f"{config.model.path}: {sizes.parameters:,} parameters, ZeRO-{layout.sharding.zero_stage}, micro-batches of "
        f"{config.train.tokens_per_micro_batch:,} tokens"
    )
    console = Console(width=None if sys.stdout.isatty() else 120)
    for table in tables(memory_by_role(sizes, layout, config), sync_traffic(sizes, layout, config), layout, title):
        console.print(table)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
