"""Write files and folders atomically, and read the JSON, JSON Lines and YAML files of a run.

A writer fills a hidden temporary path next to the target, flushes it to disk, renames it over the target and flushes
the parent folder. After a crash or a power failure the target is therefore either complete or unchanged; a killed
process may leave the hidden temporary path behind. A reader raises ConfigError, naming the file, if it is damaged.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import yaml

from simplerl.errors import ConfigError


@contextmanager
def atomic_file(path: Path) -> Iterator[Path]:
    """Yield a temporary path to write to; it replaces `path` when the block ends without an exception.

    A symbolic link is kept and its target replaced. An existing device or pipe is yielded itself.
    """
    if path.exists() and not path.is_file():
        yield path
        return
    path = path.resolve()
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        yield temporary
        _flush(temporary)
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
    _flush_folder(path.parent)


def write_text(path: Path, text: str) -> None:
    """Replace the content of `path` by `text`, in UTF-8 and atomically."""
    with atomic_file(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


@contextmanager
def atomic_folder(path: Path) -> Iterator[Path]:
    """Yield an empty temporary folder to fill; it becomes `path` when the block ends without an exception.

    The temporary folder is `.<name>` next to `path`. One left by a killed process is emptied first, so only one
    process may write `path` at a time. An existing `path` is removed just before the rename.
    """
    temporary = path.with_name(f".{path.name}")
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir(parents=True)
    yield temporary
    for folder, _, names in os.walk(temporary):
        for name in names:
            _flush(Path(folder) / name)
        _flush_folder(Path(folder))
    if path.exists():
        shutil.rmtree(path)
    os.replace(temporary, path)
    _flush_folder(path.parent)


def _flush(path: Path) -> None:
    with path.open("rb") as file:
        os.fsync(file.fileno())


def _flush_folder(folder: Path) -> None:
    """Flush the names in a folder to disk, where the file system supports it; some network file systems do not."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        with suppress(OSError):
            os.fsync(descriptor)
    finally:
        os.close(descriptor)


def read_json(path: Path) -> dict[str, Any]:
    """Return the JSON object in `path`. Raises ConfigError if the file holds anything else."""
    return _mapping(path, json.loads)


def read_yaml(path: Path) -> dict[str, Any]:
    """Return the YAML mapping in `path`. Raises ConfigError if the file holds anything else."""
    return _mapping(path, yaml.safe_load)


def read_jsonl(path: Path) -> list[dict[str, Any]]:
    """Return the objects of a JSON Lines file that is appended to, one per line; [] if the file does not exist.

    The last line is dropped if it is incomplete, which happens when the writing process is killed or still writing.
    Raises ConfigError if any other line is not a JSON object.
    """
    if not path.exists():
        return []
    lines = [(number, line) for number, line in enumerate(path.read_bytes().split(b"\n"), start=1) if line.strip()]
    rows: list[dict[str, Any]] = []
    for number, line in lines:
        try:
            row = json.loads(line)
            if not isinstance(row, dict):
                raise ValueError("not an object")
        except ValueError as error:
            if number == lines[-1][0]:
                break
            raise _damaged(path, f"line {number}: {error}") from error
        rows.append(row)
    return rows


def _mapping(path: Path, parse: Any) -> dict[str, Any]:
    try:
        found = parse(path.read_text(encoding="utf-8"))
    except (ValueError, yaml.YAMLError) as error:  # ValueError: invalid JSON or UTF-8
        raise _damaged(path, " ".join(str(error).split())) from error
    if not isinstance(found, dict):
        raise _damaged(path, "it holds no object with named values")
    return found


def _damaged(path: Path, reason: str) -> ConfigError:
    return ConfigError(f"{path} is damaged ({reason}): remove it, or restore it from a copy.")
