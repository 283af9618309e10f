"""Rows of the file formats that problems come in, each with its number in the file."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from simplerl.errors import ConfigError


class RowError(ValueError):
    """Why one row cannot become a problem; completed with file and row by the caller."""


Row = tuple[int, "dict[str, Any] | RowError"]  # line or row, counted from 1


def read_rows(path: str, split: str | None, hub: Mapping[str, Any] | None) -> Iterator[Row]:
    """Rows in file order, counted from 1. Raises ConfigError where the file itself cannot be read."""
    place = Path(path).expanduser()
    readers = {".json": _json, ".jsonl": _jsonl, ".parquet": _table, ".arrow": _table}
    if place.is_dir():
        return _saved_dataset(place, split)
    if place.suffix in readers:
        if not place.is_file():
            raise ConfigError(f"{path} does not exist: relative paths start at {Path.cwd()}.")
        if split or hub:
            raise ConfigError(f"{path} is one file: split and hub are for Hub data sets, set them to null.")
        return readers[place.suffix](place)
    if place.exists():
        raise ConfigError(f"{path} has an unknown format: use {', '.join(readers)}, a data set folder or a Hub id.")
    if re.fullmatch(r"[\w.-]+(/[\w.-]+)?", path) is None:
        raise ConfigError(f"{path} is neither a file or folder here nor a Hub id (owner/name).")
    return _hub_dataset(path, split or "train", dict(hub or {}))


def _checked(row: Any) -> dict[str, Any] | RowError:
    return row if isinstance(row, dict) else RowError("it is not an object with named columns")


def _jsonl(path: Path) -> Iterator[Row]:
    with path.open("rb") as file:  # bytes: text mode also ends lines at U+2028, which JSON strings may hold
        for number, line in enumerate(file, start=1):
            if not line.strip():
                continue
            try:
                yield number, _checked(json.loads(line.decode("utf-8-sig" if number == 1 else "utf-8")))
            except UnicodeDecodeError:
                yield number, RowError("it is not UTF-8 text")
            except json.JSONDecodeError as error:
                yield number, RowError(f"it is not valid JSON ({error.msg} at column {error.colno})")
            except ValueError as error:  # an integer of thousands of digits
                yield number, RowError(f"it cannot be read ({str(error).partition(';')[0]})")


def _json(path: Path) -> Iterator[Row]:
    try:
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path} is not UTF-8 text: save it as UTF-8.") from error
    if text.lstrip()[:1] == "{":
        try:
            json.loads(text)
        except json.JSONDecodeError:  # one object a line: JSONL under another name
            yield from _jsonl(path)
            return
        raise ConfigError(f"{path} holds one object, not a list of rows: write [ ... ] around the rows.")
    try:
        rows = json.loads(text)
    except json.JSONDecodeError as error:
        raise ConfigError(
            f"{path} is not valid JSON: {error.msg} at line {error.lineno}, column {error.colno}."
        ) from error
    except ValueError as error:
        raise ConfigError(f"{path} cannot be read: {str(error).partition(';')[0]}.") from error
    if not isinstance(rows, list):
        raise ConfigError(f"{path} holds {type(rows).__name__}, not a list of rows.")
    yield from ((number, _checked(row)) for number, row in enumerate(rows, start=1))


def _table(path: Path) -> Iterator[Row]:
    import pyarrow as pa
    import pyarrow.ipc
    import pyarrow.parquet

    try:
        if path.suffix == ".parquet":
            table = pyarrow.parquet.read_table(path)
        else:
            with pa.memory_map(str(path)) as file:
                try:
                    table = pyarrow.ipc.open_file(file).read_all()
                except pa.ArrowInvalid:  # `datasets` writes the stream format into the same suffix
                    file.seek(0)
                    table = pyarrow.ipc.open_stream(file).read_all()
    except (pa.ArrowInvalid, OSError) as error:
        kind = path.suffix[1:].capitalize()
        raise ConfigError(f"{path} is not a readable {kind} file ({str(error).splitlines()[0]}).") from error
    yield from enumerate(table.to_pylist(), start=1)


def _saved_dataset(path: Path, split: str | None) -> Iterator[Row]:
    if not ((path / "dataset_dict.json").is_file() or (path / "state.json").is_file()):
        raise ConfigError(f"{path} is a folder, but not one that datasets.save_to_disk wrote: name a file in it.")
    import datasets

    data = datasets.load_from_disk(str(path))
    if isinstance(data, datasets.DatasetDict):
        name = split or "train"
        if name not in data:
            raise ConfigError(f"{path} has no split {name!r}: choose one of {', '.join(map(str, data))}.")
        data = data[name]
    elif split:
        raise ConfigError(f"{path} has no splits: set split to null.")
    yield from enumerate(data, start=1)


def _hub_dataset(name: str, split: str, arguments: dict[str, Any]) -> Iterator[Row]:
    import datasets

    try:
        data = datasets.load_dataset(name, split=split, **arguments)
    except (OSError, ValueError, TypeError) as error:
        reason = str(error).splitlines()[0]
        raise ConfigError(f"The Hub data set {name} (split {split}) cannot be loaded: {reason}") from error
    yield from enumerate(data, start=1)
