"""Writes and verifies the checkpoints of a run, `<folder>/step_<step>`. They are written atomically, state.json last.

state.json records the step, the state of the training loop, and size and digest of every file of the checkpoint. A
checkpoint whose files differ from that record is refused, so that no run silently resumes from an edited config.json,
truncated weights, or the step of another run.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from safetensors import SafetensorError

from simplerl.errors import ConfigError
from simplerl.io.files import atomic_file, atomic_folder, read_json

STATE = "state.json"  # in every complete checkpoint
CHECKPOINT = re.compile(r"[.]?step_\d{6,}")  # with a leading dot: a checkpoint that was being written
_KINDS = {"step": int, "state": dict | None, "files": dict, "digest": str}
_HASHED_BYTES = 1 << 26  # for larger files only the size is recorded


def write_checkpoint(
    checkpoint: Path, step: int, write: Callable[[Path], None], state: dict[str, Any] | None = None
) -> Path:
    """Create the folder `checkpoint` atomically from what `write(folder)` writes, plus state.json with the step and the
    loop's `state`; return its path.

    A complete checkpoint at this path is kept and nothing is written: runs are deterministic, so its content is the
    same, and replacing it would leave a moment without a checkpoint.
    """
    if not (checkpoint / STATE).exists():
        with atomic_folder(checkpoint) as folder:
            write(folder)
            names = sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())
            record = {"step": step, "state": state, "files": {name: _fingerprint(folder / name) for name in names}}
            (folder / STATE).write_text(json.dumps({**record, "digest": _digest(record)}))
    return checkpoint


def _fingerprint(path: Path) -> list[Any]:
    """Return the size of a file in bytes, and its digest unless it is large."""
    size = path.stat().st_size
    return [size, hashlib.sha256(path.read_bytes()).hexdigest()[:16] if size <= _HASHED_BYTES else None]


def _digest(record: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(record).encode()).hexdigest()[:16]


def checkpoints(folder: Path) -> list[Path]:
    """Return the complete checkpoints in a folder, oldest first."""
    found = (path for path in folder.glob("step_*") if CHECKPOINT.fullmatch(path.name) and (path / STATE).exists())
    return sorted(found, key=lambda path: int(path.name.partition("_")[2]))


def last_checkpoint(folder: Path, steps: int | None = None) -> tuple[Path | None, int]:
    """Return the newest complete checkpoint and its step, or (None, 0) if there is none. Raises ConfigError if its
    files have changed since it was saved, or if its step exceeds the `steps` of the run."""
    complete = checkpoints(folder)
    if not complete:
        return None, 0
    last = complete[-1]
    step = verify_checkpoint(last)
    with loading_checkpoint(last):
        if int(last.name.partition("_")[2]) != step:
            raise ConfigError(f"{STATE} belongs to step {step}")
        if steps is not None and step > steps:
            raise ConfigError(f"{STATE} belongs to step {step}, but the run has {steps} steps")
    return last, step


def verify_checkpoint(checkpoint: Path) -> int:
    """Verify the files of a checkpoint and return its step. Raises ConfigError if one is missing or has changed since
    it was saved."""
    with loading_checkpoint(checkpoint):
        record = read_json(checkpoint / STATE, kinds=_KINDS)
        digest = record.pop("digest")
        if digest != _digest(record):
            raise ConfigError(f"{STATE} has changed since it was saved")
        for name, saved in record["files"].items():
            path = checkpoint / name
            if not path.is_file():
                raise ConfigError(f"{name} is missing")
            if _fingerprint(path) != saved:
                raise ConfigError(f"{name} has changed since it was saved")
    return int(record["step"])


def saved_state(checkpoint: Path | None) -> dict[str, Any] | None:
    """Return the training loop's state from a checkpoint; None if `checkpoint` is None or has no state."""
    return None if checkpoint is None else read_json(checkpoint / STATE, kinds=_KINDS)["state"]


@contextmanager
def loading_checkpoint(checkpoint: Path | None) -> Iterator[None]:
    """Turn errors raised while a checkpoint is loaded into a ConfigError that names the checkpoint and the remedy.

    If `checkpoint` is None (weights that are not from a checkpoint), errors pass unchanged.
    """
    try:
        yield
    except (ConfigError, OSError, KeyError, ValueError, SafetensorError) as error:
        if checkpoint is None:
            raise
        reason = str(error).strip().splitlines()[0].partition(": remove ")[0].partition(": choose ")[0].rstrip(".")
        raise ConfigError(
            f"{checkpoint} is damaged ({reason}): remove it, and the same command resumes from the previous checkpoint."
        ) from error


def save_nonfinite(folder: Path, what: str, tensors: dict[str, Any]) -> Path:
    """Save a batch with a non-finite loss or gradient as `folder`/nonfinite.pt and return this path. Read it with
    torch.load(..., weights_only=True). what: what is not finite."""
    import torch

    path = folder / "nonfinite.pt"
    with atomic_file(path) as temporary, temporary.open("wb") as file:
        torch.save({"what": what, **tensors}, file)
    return path
