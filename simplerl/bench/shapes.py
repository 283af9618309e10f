"""Creates models with random weights of a known shape, so that benchmarks need no download.

Time and memory do not depend on the values of the weights. The shape of SmolLM2-135M is that recorded in
conf/model/smollm2_135m.yaml.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from omegaconf import OmegaConf

ROOT = Path(__file__).resolve().parents[2]
MICRO = ROOT / "assets/micro_base"
SMOLLM2 = ROOT / "conf/model/smollm2_135m.yaml"
POSITIONS = 8192  # context length of SmolLM2
TOKENIZER = ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json")


def smollm2_shape(layers: int | None = None, vocabulary: int = 1) -> dict[str, Any]:
    """Return the keys of SmolLM2-135M's config.json that determine its size.

    layers: other number of layers. vocabulary: factor of the vocabulary's size."""
    shape: dict[str, Any] = dict(OmegaConf.to_container(OmegaConf.load(SMOLLM2).geometry, resolve=False))  # type: ignore[arg-type]
    shape.pop("of")
    shape["vocab_size"] *= vocabulary
    return shape | ({"num_hidden_layers": layers} if layers else {})


def random_model(folder: Path, layers: int | None = None, vocabulary: int = 1) -> str:
    """Write a model of SmolLM2's shape with random float32 weights and the micro model's tokenizer, whose tokens are
    fewer than its embeddings, and return the folder."""
    from transformers import AutoConfig, AutoModelForCausalLM

    shape = smollm2_shape(layers, vocabulary)
    kind = str(shape.pop("model_type"))
    torch.manual_seed(0)
    config = AutoConfig.for_model(kind, **shape, max_position_embeddings=POSITIONS, rope_theta=1e5)
    AutoModelForCausalLM.from_config(config).save_pretrained(folder)
    for name in TOKENIZER:
        if (MICRO / name).exists():
            shutil.copy(MICRO / name, folder / name)
    return str(folder)


def sync(device: str) -> None:
    """Wait until a GPU has finished what was started on it."""
    if device != "cpu":
        torch.cuda.synchronize()


def best_seconds(run: Callable[[], object], repeats: int, device: str = "cpu") -> float:
    """Return the shortest time of `repeats` runs after a warm-up run; other load on the machine can only add time."""
    run()
    seconds = []
    for _ in range(repeats):
        sync(device)
        start = time.perf_counter()
        run()
        sync(device)
        seconds.append(time.perf_counter() - start)
    return min(seconds)


def matmul_peak(dtype: torch.dtype, device: str) -> float:
    """Return the measured rate of square matrix products in FLOP/s: of side 2048 on a CPU, 8192 on a GPU."""
    side = 2048 if device == "cpu" else 8192
    square = torch.randn(side, side, device=device).to(dtype)
    return 2 * side**3 / best_seconds(lambda: square @ square, 10, device)
