"""Does a run fit, and what travels: memory of each process and traffic of one weight sync, before anything is rented.

    python -m simplerl.planning.memory experiment=simplerl_zero backend=ray_6gpu

Overrides are those of train.py. Only the model's config.json is read: shapes come from a model without weights
(PyTorch's meta device). Weights, gradients and optimizer states are exact; the line "activations, at most" is an
estimate from the micro-batch's tokens, and what CUDA, NCCL and the allocator keep for themselves (several GiB) is left
out.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from hydra import compose, initialize_config_dir
from rich.console import Console
from rich.table import Table
from transformers import AutoModelForCausalLM, PretrainedConfig, Qwen2Config

from simplerl.backends.roles import CRITIC, POLICY, REFERENCE
from simplerl.cluster.backend import RayBackend
from simplerl.cluster.layout import ENGINE, Layout, Shared, processes
from simplerl.config import Config, register
from simplerl.config.load import load
from simplerl.engine.models import LOGITS, load_hf_config
from simplerl.errors import ConfigError

CONF = Path(__file__).resolve().parents[2] / "conf"
GIB = 2**30
FLOAT32, BFLOAT16 = 4, 2  # bytes
LIVE = 1e9  # elements that ZeRO-3 gathers at most (DeepSpeed's stage3_max_live_parameters)

# So that the published run can be sized without asking the Hub.
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
class Shapes:
    """What sizes depend on of a model; numbers are elements."""

    parameters: int  # tied ones once
    largest: int  # parameter
    output: int  # of the output layer, which a critic does not have
    hidden: int
    intermediate: int
    layers: int
    by_name: Mapping[str, tuple[int, ...]]


@dataclass(frozen=True)
class Footprint:
    """Bytes of one process of a role."""

    role: str
    processes: int
    device: dict[str, float] = field(default_factory=dict)
    host: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Sync:
    """Bytes of one weight sync."""

    gathered: float  # received by each policy rank while ZeRO-3 makes parameters whole
    sent: float  # the policy once, in the engines' precision: what each engine receives
    engines: int
    held: float  # most that the sending rank holds of it at a time


def shapes_of(config: Any) -> Shapes:
    """Of the causal language model of a Hugging Face configuration, without its weights."""
    with torch.device("meta"):
        model: Any = AutoModelForCausalLM.from_config(config)
    by_name = {name: tuple(parameter.shape) for name, parameter in model.named_parameters()}
    sizes = {name: parameter.numel() for name, parameter in model.named_parameters()}
    text = config.get_text_config()
    tied = model.get_output_embeddings().weight is model.get_input_embeddings().weight
    return Shapes(
        parameters=sum(sizes.values()),
        largest=max(sizes.values()),
        output=0 if tied else model.get_output_embeddings().weight.numel(),
        hidden=text.hidden_size,
        intermediate=text.intermediate_size,
        layers=text.num_hidden_layers,
        by_name=by_name,
    )


def footprints(shapes: Shapes, layout: Layout, config: Config) -> list[Footprint]:
    """Of each role of the run."""
    counts = processes(layout, config)
    found = []
    for role, ranks in counts.items():
        if role == ENGINE:
            found.append(_engine(shapes, layout, config, ranks))
            continue
        elements = shapes.parameters if role != CRITIC else shapes.parameters - shapes.output + shapes.hidden
        device, host = _states(elements, ranks, layout, trained=role != REFERENCE)
        if layout.sharding.zero_stage == 3:
            device["gathered weights, at most"] = FLOAT32 * min(LIVE, elements)
        device["activations, at most"] = _activations(shapes, config, trained=role != REFERENCE, head=role != CRITIC)
        found.append(Footprint(role, ranks, device, host))
    return found


def _states(elements: int, ranks: int, layout: Layout, trained: bool) -> tuple[dict[str, float], dict[str, float]]:
    """Weights, gradients and optimizer states of a rank: what stage 1 (optimizer), 2 (gradients) or 3 (weights) of
    ZeRO deals out is a share, the rest is whole."""
    stage, offload = layout.sharding.zero_stage, layout.sharding.offload_optimizer
    share = elements / ranks
    device = {"weights": FLOAT32 * (share if stage == 3 else elements)}
    host: dict[str, float] = {}
    if not trained:
        return device, host
    gradients = FLOAT32 * (share if stage >= 2 else elements)
    states = {"moments": 2 * FLOAT32 * (share if stage >= 1 else elements)}
    if stage >= 1:
        states["master weights"] = FLOAT32 * share
    if offload and stage >= 2:
        host["gradients"] = gradients
    else:
        device["gradients"] = gradients
    (host if offload else device).update(states)
    return device, host


def _activations(shapes: Shapes, config: Config, trained: bool, head: bool) -> float:
    """The residual stream between layers, one layer's inside, and the logits made at once."""
    tokens = config.train.tokens_per_micro_batch
    kept = shapes.layers if trained and config.train.gradient_checkpointing else 1
    inside = tokens * (8 * shapes.hidden * FLOAT32 + 4 * shapes.intermediate * BFLOAT16)
    if trained and not config.train.gradient_checkpointing:
        inside *= shapes.layers
    logits = LOGITS * (BFLOAT16 + 2 * FLOAT32) if head else 0
    return kept * tokens * shapes.hidden * FLOAT32 + inside + logits


def _engine(shapes: Shapes, layout: Layout, config: Config, engines: int) -> Footprint:
    precision = BFLOAT16 if config.sampler.keywords["precision"] == "bfloat16" else FLOAT32
    device = {"weights": precision * shapes.parameters / layout.tensor_parallel}
    if (cache := config.sampler.keywords["cache_gib"]) is not None:  # else what is left of the GPU
        device["key-value cache"] = cache * GIB
    return Footprint(ENGINE, engines, device)


def sync_of(shapes: Shapes, layout: Layout, config: Config, bucket: int = 512 * 2**20) -> Sync:
    precision = BFLOAT16 if config.sampler.keywords["precision"] == "bfloat16" else FLOAT32
    ranks = layout.policy_ranks
    gathered = FLOAT32 * shapes.parameters * (ranks - 1) / ranks if layout.sharding.zero_stage == 3 else 0.0
    held = FLOAT32 * shapes.largest + 3 * max(bucket, precision * shapes.largest)
    return Sync(gathered, precision * shapes.parameters, layout.engines, held)


def per_device(found: Iterable[Footprint], layout: Layout) -> dict[str, float]:
    """Bytes on the devices of each team of roles that shares them."""
    sums = {one.role: sum(one.device.values()) for one in found}
    if layout.shared is Shared.all:
        return {" + ".join(sums): sum(sums.values())}
    if layout.shared is Shared.reference and REFERENCE in sums:
        together = sums[POLICY] + sums.pop(REFERENCE)
        return {f"{POLICY} + {REFERENCE}": together} | {role: size for role, size in sums.items() if role != POLICY}
    return sums


def tables(found: list[Footprint], sync: Sync, layout: Layout, title: str) -> list[Table]:
    memory = Table("process", "number", "where", "what", "GiB", title=title, title_justify="left")
    for one in found:
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
    for team, size in per_device(found, layout).items():
        memory.add_row(team, "", "a device", "all of it", f"{size / GIB:.1f}")
    traffic = Table("one weight sync", "GiB", title_justify="left")
    traffic.add_row("received by each policy rank, to make parameters whole", f"{sync.gathered / GIB:.1f}")
    traffic.add_row(f"received by each of {sync.engines} engines", f"{sync.sent / GIB:.1f}")
    traffic.add_row("most that the sending rank holds at a time", f"{sync.held / GIB:.1f}")
    return [memory, traffic]


def main(overrides: list[str]) -> int:
    register()
    with initialize_config_dir(str(CONF), version_base="1.3"):
        raw = compose("config", overrides)
    try:
        config = load(raw)
        backend = config.backend(config, None)  # nothing starts before it is asked for a role
        if not isinstance(backend, RayBackend):
            raise ConfigError("this backend has one device: name a layout, such as backend=ray_6gpu.")
        layout = backend.layout
        hf_config = KNOWN.get(config.model.path) or load_hf_config(config.model)
    except ConfigError as error:
        print(f"Configuration: {error}", file=sys.stderr)
        return 2
    shapes = shapes_of(hf_config)
    title = (
        f"{config.model.path}: {shapes.parameters:,} parameters, ZeRO-{layout.sharding.zero_stage}, micro-batches of "
        f"{config.train.tokens_per_micro_batch:,} tokens"
    )
    console = Console(width=None if sys.stdout.isatty() else 120)
    for table in tables(footprints(shapes, layout, config), sync_of(shapes, layout, config), layout, title):
        console.print(table)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
