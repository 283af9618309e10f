"""Files and folders that are complete or absent: written beside their place, flushed to disk, and renamed."""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from safetensors import SafetensorError

from simplerl.errors import ConfigError

STATE = "state.json"  # in every complete checkpoint
CHECKPOINT = re.compile(r"[.]?step_\d{6,}")


def write_text(path: Path, text: str) -> None:
    """All of it or nothing."""
    beside = path.with_name(f".{path.name}")
    with open(beside, "w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    os.replace(beside, path)


def read_json(path: Path) -> dict[str, Any]:
    """Raises ConfigError, which names the file, where it is cut or damaged."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:  # also of bytes that are no text
        raise ConfigError(f"{path} is damaged ({str(error).splitlines()[0]}): remove it.") from error
    if not isinstance(found, dict):
        raise ConfigError(f"{path} is damaged (it holds no object): remove it.")
    return found


def write_folder(
    place: Path, step: int, write: Callable[[Path], None], state: dict[str, Any] | None = None
) -> Path:
    """`write(folder)` and state.json, so that `place` is the whole of it or does not exist. One that exists is
    kept: it holds the same, and to replace it would leave a moment without it."""
    if (place / STATE).exists():
        return place
    beside = place.with_name(f".{place.name}")
    shutil.rmtree(beside, ignore_errors=True)
    beside.mkdir(parents=True)
    write(beside)
    (beside / STATE).write_text(json.dumps({"step": step, "state": state}))
    for path in beside.rglob("*"):
        if path.is_file():
            with open(path, "rb") as file:
                os.fsync(file.fileno())
    os.replace(beside, place)
    return place


def checkpoints(folder: Path) -> list[Path]:
    """Complete checkpoints, oldest first."""
    return sorted(path for path in folder.glob("step_*") if CHECKPOINT.fullmatch(path.name) and (path / STATE).exists())


def last_checkpoint(folder: Path) -> tuple[Path | None, int]:
    """The newest complete one and its step, or nothing and 0."""
    complete = checkpoints(folder)
    if not complete:
        return None, 0
    return complete[-1], int(read_json(complete[-1] / STATE)["step"])


def saved_state(checkpoint: Path | None) -> dict[str, Any] | None:
    """Return the state of the loop that was saved with a checkpoint, or None without one."""
    return None if checkpoint is None else read_json(checkpoint / STATE).get("state")


@contextmanager
def reading(checkpoint: Path | None) -> Iterator[None]:
    """What cannot be read of a checkpoint names it, and the way out."""
    try:
        yield
    except (ConfigError, OSError, KeyError, json.JSONDecodeError, SafetensorError) as error:
        if checkpoint is None:
            raise
        reason = str(error).strip().splitlines()[0].rstrip(".")
        raise ConfigError(
            f"{checkpoint} is damaged ({reason}): remove it, and the same command goes on from the one before."
        ) from error
