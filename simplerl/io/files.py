"""Write files and folders atomically, and read the files of a run: JSON, JSON Lines, YAML and Parquet.

A writer fills a hidden temporary path next to the target, flushes it to disk, renames it over the target and flushes
the parent folder. After a crash, a power failure or a full disk the target is therefore either complete or unchanged; a
killed process may leave the hidden temporary path behind. If a file is missing, unreadable or damaged, or holds other
content than expected, a reader raises ConfigError with one sentence that names the file, the fault and a remedy.
"""

from __future__ import annotations

import errno
import json
import os
import re
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from simplerl.errors import ConfigError

if TYPE_CHECKING:
    import pyarrow as pa

RESTORE = "remove it, or restore it from a copy"  # the remedy for a file that this suite cannot regenerate
Kinds = Mapping[str, Any]  # key -> its type; `int | None` marks a key that may be missing
_FULL = {errno.ENOSPC: "the disk is full", errno.EDQUOT: "the quota is used up", errno.EFBIG: "a file is too large"}
_BLOCK = 1 << 16  # bytes that `read_lines_backwards` reads at a time


@contextmanager
def atomic_file(path: Path) -> Iterator[Path]:
    """Yield a temporary path to write to; it replaces `path` when the block ends without an exception.

    A symbolic link is kept and its target replaced. If `path` is a device or pipe, `path` itself is yielded.
    """
    if path.exists() and not (path.is_file() or path.is_dir()):
        yield path
        return
    path = Path(os.path.realpath(path))
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
    """Yield an empty temporary folder to fill; it becomes `path` when the block ends without an exception, and is
    removed otherwise.

    The temporary folder is `.<name>` next to `path`. One left by a killed process is emptied first, so only one
    process may write `path` at a time. An existing `path` is removed just before the rename.
    """
    temporary = path.with_name(f".{path.name}")
    shutil.rmtree(temporary, ignore_errors=True)
    _make_folder(path.parent)
    temporary.mkdir()
    try:
        yield temporary
        for folder, _, names in os.walk(temporary):
            for name in names:
                _flush(Path(folder) / name)
            _flush_folder(Path(folder))
        if path.exists():
            shutil.rmtree(path)
        os.replace(temporary, path)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    _flush_folder(path.parent)


def _make_folder(folder: Path) -> None:
    """Create a folder with its parents, and flush the name of each new one to disk."""
    if not folder.is_dir():
        _make_folder(folder.parent)
        folder.mkdir(exist_ok=True)
        _flush_folder(folder.parent)


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


def disk_full(error: BaseException | None) -> str:
    """Return why a write failed if the disk, the quota or the limit on a file's size is exhausted; otherwise "".

    safetensors and torch raise other exception types, which contain the system's error number only in their text."""
    while error is not None:
        number = error.errno if isinstance(error, OSError) else None
        named = re.search(r"os error (\d+)|\[Errno (\d+)\]", str(error))
        number = int(named[1] or named[2]) if number is None and named else number
        if number in _FULL:
            return _FULL[number]
        error = error.__cause__ or error.__context__
    return ""


# Reading


def read_json(path: Path, remedy: str = RESTORE, kinds: Kinds | None = None) -> dict[str, Any]:
    """Return the JSON object in `path`. Raises ConfigError if it cannot be read, or if a key is missing or of another
    type than in `kinds`."""
    return _read_object(path, json.loads, remedy, kinds)


def read_yaml(path: Path, remedy: str = RESTORE, kinds: Kinds | None = None) -> dict[str, Any]:
    """Return the YAML mapping in `path`. Raises ConfigError if it cannot be read, or if a key is missing or of another
    type than in `kinds`."""
    return _read_object(path, yaml.safe_load, remedy, kinds)


def read_jsonl(path: Path, remedy: str = RESTORE, kinds: Kinds | None = None) -> Iterator[dict[str, Any]]:
    """Yield the objects of a JSON Lines file, one per line; none if the file does not exist. The file is read line by
    line, because the metrics of a long run may need much memory.

    An incomplete last line is dropped, because the writing process was killed or is still writing. Raises ConfigError
    if any other line is not an object, or lacks a key of `kinds` or has another type there.
    """
    fault, line = "", 0
    with reading(path, remedy):
        if not os.path.lexists(path):
            return
        with path.open("rb") as file:
            for number, text in enumerate(file, start=1):
                if not text.strip():
                    continue
                if fault:  # it was not in the last line
                    raise ValueError(f"line {line}: {fault}")
                try:
                    found = json.loads(text)
                except (ValueError, RecursionError) as error:
                    fault, line = str(error), number
                    continue
                yield _checked(found, kinds, f"line {number}: ")


def read_lines_backwards(path: Path) -> Iterator[bytes]:
    """Yield the lines of a file from the last to the first, reading only as much of it as needed. Yields nothing if the
    file is missing or cannot be read."""
    with suppress(OSError), path.open("rb") as file:
        position, rest = file.seek(0, os.SEEK_END), b""
        while position:
            start = max(0, position - _BLOCK)
            file.seek(start)
            first, *lines = (file.read(position - start) + rest).split(b"\n")
            yield from reversed(lines)
            position, rest = start, first
        yield rest


def read_parquet(
    path: Path, remedy: str = RESTORE, *, columns: Sequence[str] | None = None, schema: Any = None
) -> pa.Table:
    """Return the table in a Parquet file, with those of `columns` that the file has (None: all), or with the columns
    and types of `schema`. Raises ConfigError if it cannot be read."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    with reading(path, remedy), path.open("rb") as file:
        try:
            wanted = None if columns is None else [name for name in pq.read_schema(file).names if name in columns]
            return pq.read_table(file, columns=wanted, schema=schema)
        except (pa.ArrowException, KeyError) as error:
            raise ValueError(str(error)) from error


@contextmanager
def reading(path: Path, remedy: str = RESTORE) -> Iterator[None]:
    """Turn the errors of reading and parsing `path` within the block into a ConfigError with the remedy."""
    try:
        yield
    except ConfigError:
        raise
    except OSError as error:
        reason = error.strerror or str(error)
        raise ConfigError(f"{path} cannot be read ({_one_line(reason)}): {remedy}.") from error
    except (ValueError, RecursionError, yaml.YAMLError) as error:  # ValueError: also invalid JSON and UTF-8
        raise ConfigError(f"{path} is damaged ({_one_line(str(error))}): {remedy}.") from error


def _read_object(path: Path, parse: Callable[[str], Any], remedy: str, kinds: Kinds | None) -> dict[str, Any]:
    with reading(path, remedy):
        text = path.read_text(encoding="utf-8")
        if not text.strip():
            raise ValueError("it is empty")
        return _checked(parse(text), kinds)


def _checked(found: Any, kinds: Kinds | None, where: str = "") -> dict[str, Any]:
    """Return `found`. Raises ValueError if it is not an object, or if a key is missing or of another type than in
    `kinds`."""
    if not isinstance(found, dict):
        raise ValueError(f"{where}it is not a mapping from names to values")
    for key, kind in (kinds or {}).items():
        if not isinstance(found.get(key), kind):
            value = " ".join(repr(found.get(key)).split())[:40]
            fault = f"{key} is {value}, which has the wrong type" if key in found else f"{key} is missing"
            raise ValueError(f"{where}{fault}")
    return found


def _one_line(text: str) -> str:
    line = " ".join(text.split()).rstrip(".")
    return f"{line[:200]} ..." if len(line) > 200 else line
