"""Named tensors on disk: one safetensors file, or one per rank that wrote them.

    model.safetensors                       optimizer.safetensors
    model-00001-of-00002.safetensors        optimizer-00001-of-00002.safetensors
    model.safetensors.index.json            optimizer.safetensors.index.json

The forms of Hugging Face, so that `from_pretrained` reads either.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

from safetensors import safe_open
from torch import Tensor


def shard_name(stem: str, number: int, of: int) -> str:
    """File of the shard `number` (from 1)."""
    return f"{stem}.safetensors" if of == 1 else f"{stem}-{number:05d}-of-{of:05d}.safetensors"


def write_index(folder: Path, stem: str, files: Mapping[str, str], size: int) -> None:
    """`files`: of each tensor; `size`: of all, in bytes."""
    index = {"metadata": {"total_size": size}, "weight_map": dict(files)}
    (folder / f"{stem}.safetensors.index.json").write_text(json.dumps(index, indent=1))


class TensorFiles:
    """Reads tensors one at a time, whichever form they were written in."""

    def __init__(self, folder: Path, stem: str) -> None:
        index = folder / f"{stem}.safetensors.index.json"
        if index.exists():
            self._files = {name: folder / file for name, file in json.loads(index.read_text())["weight_map"].items()}
        else:
            path = folder / f"{stem}.safetensors"
            with safe_open(path, "pt") as file:
                self._files = dict.fromkeys(file.keys(), path)

    @property
    def names(self) -> list[str]:
        return list(self._files)

    def __contains__(self, name: str) -> bool:
        return name in self._files

    def __getitem__(self, name: str) -> Tensor:
        with safe_open(self._files[name], "pt") as file:
            tensor: Tensor = file.get_tensor(name)
            return tensor
