"""Checkpoints of a run: `<folder>/step_<step>`, complete if it holds state.json. A checkpoint is written atomically."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from safetensors import SafetensorError

from simplerl.errors import ConfigError
from simplerl.io.files import atomic_folder, read_json

STATE = "state.json"  # in every complete checkpoint
CHECKPOINT = re.compile(r"[.]?step_\d{6,}")  # with a leading dot: a checkpoint that was being written


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
            (folder / STATE).write_text(json.dumps({"step": step, "state": state}))
    return checkpoint


def checkpoints(folder: Path) -> list[Path]:
    """Return the complete checkpoints in a folder, oldest first."""
    return sorted(path for path in folder.glob("step_*") if CHECKPOINT.fullmatch(path.name) and (path / STATE).exists())


def last_checkpoint(folder: Path) -> tuple[Path | None, int]:
    """Return the newest complete checkpoint and its step, or (None, 0) if there is none."""
    complete = checkpoints(folder)
    if not complete:
        return None, 0
    return complete[-1], int(read_json(complete[-1] / STATE)["step"])


def saved_state(checkpoint: Path | None) -> dict[str, Any] | None:
    """Return the state of the loop that was saved with a checkpoint, or None without one."""
    return None if checkpoint is None else read_json(checkpoint / STATE).get("state")


@contextmanager
def loading_checkpoint(checkpoint: Path | None) -> Iterator[None]:
    """Turn errors raised while a checkpoint is loaded into a ConfigError that names the checkpoint and the remedy.

    With None (weights that are not from a checkpoint) errors pass unchanged.
    """
    try:
        yield
    except (ConfigError, OSError, KeyError, json.JSONDecodeError, SafetensorError) as error:
        if checkpoint is None:
            raise
        reason = str(error).strip().splitlines()[0].rstrip(".")
        raise ConfigError(
            f"{checkpoint} is damaged ({reason}): remove it, and the same command resumes from the previous checkpoint."
        ) from error
