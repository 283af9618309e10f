"""Read the rows of JSON, JSON Lines, Parquet and Arrow files, saved data sets and Hub data sets, with their numbers."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from simplerl.errors import ConfigError


class RowError(ValueError):
    """A row that cannot be used. The message states the reason; the caller adds the location (`location_of`)."""


Row = tuple[int, "dict[str, Any] | RowError"]  # the number of a line or row, from 1, and its content


def read_rows(path: str, split: str | None = None, hub: Mapping[str, Any] | None = None) -> Iterator[Row]:
    """Yield the rows of a file, a data set folder or a Hub data set in order, each with its number from 1.

    A row that cannot be read is yielded as a RowError. Raises ConfigError if `path` itself cannot be read.

    split: the split of a folder or Hub data set; None means "train" if there are several.
    hub: further arguments of `datasets.load_dataset`.
    """
    file = Path(path).expanduser()
    if file.is_dir():
        return _saved_dataset(file, split)
    if file.exists() or file.suffix in _READERS:
        if split or hub:
            raise ConfigError(f"{path} is a single file, but split and hub apply to Hub data sets: set both to null.")
        return read_file(file)
    if re.fullmatch(r"[\w.-]+(/[\w.-]+)?", path) is None:
        raise ConfigError(
            f"{path} is neither an existing file or folder nor a Hub id: correct the path, or write owner/name."
        )
    return _hub_dataset(path, split or "train", dict(hub or {}))


def read_file(file: Path) -> Iterator[Row]:
    """Yield the rows of one JSON, JSON Lines, Parquet or Arrow file, like `read_rows`."""
    if file.suffix not in _READERS:
        raise ConfigError(
            f"{file} has an unsupported format: use {', '.join(_READERS)}, a data set folder or a Hub id."
        )
    if not file.is_file():
        raise ConfigError(f"{file} does not exist: correct the path (relative paths start at {Path.cwd()}).")
    return _READERS[file.suffix](file)


def location_of(path: str | Path, number: int) -> str:
    """Return "<path>, line <number>" for JSON Lines and "<path>, row <number>" otherwise, for error messages."""
    return f"{path}, {'line' if str(path).endswith('.jsonl') else 'row'} {number}"


def _object_or_error(row: Any) -> dict[str, Any] | RowError:
    return row if isinstance(row, dict) else RowError("it is not an object with named columns")


def _jsonl(path: Path) -> Iterator[Row]:
    with path.open("rb") as file:  # as bytes, because text may contain other line separators (U+2028) in JSON strings
        for number, line in enumerate(file, start=1):
            if not line.strip():
                continue
            try:
                yield number, _object_or_error(json.loads(line.decode("utf-8-sig" if number == 1 else "utf-8")))
            except UnicodeDecodeError:
                yield number, RowError("it is not UTF-8 text")
            except json.JSONDecodeError as error:
                yield number, RowError(f"it is not valid JSON ({error.msg} at column {error.colno})")
            except ValueError as error:  # an integer with thousands of digits
                yield number, RowError(f"it cannot be read ({str(error).partition(';')[0]})")


def _json(path: Path) -> Iterator[Row]:
    try:
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path} is not UTF-8 text: save it as UTF-8.") from error
    try:
        rows = json.loads(text)
    except json.JSONDecodeError as error:
        if text.lstrip()[:1] == "{":  # JSON Lines in a file named .json
            yield from _jsonl(path)
            return
        raise ConfigError(
            f"{path} is not valid JSON: {error.msg} at line {error.lineno}, column {error.colno}; correct it."
        ) from error
    except ValueError as error:
        raise ConfigError(
            f"{path} cannot be read: {str(error).partition(';')[0]}; write the number as text."
        ) from error
    if not isinstance(rows, list):
        found = "holds one object, not" if isinstance(rows, dict) else "does not hold"
        raise ConfigError(f"{path} {found} a list of rows: write the rows as [{{...}}, {{...}}].")
    yield from ((number, _object_or_error(row)) for number, row in enumerate(rows, start=1))


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
                except pa.ArrowInvalid:  # `datasets` also writes the stream format as .arrow
                    file.seek(0)
                    table = pyarrow.ipc.open_stream(file).read_all()
    except (pa.ArrowInvalid, OSError) as error:
        kind = path.suffix[1:].capitalize()
        raise ConfigError(
            f"{path} is not a valid {kind} file ({str(error).splitlines()[0]}): write it again."
        ) from error
    yield from enumerate(table.to_pylist(), start=1)


_READERS = {".json": _json, ".jsonl": _jsonl, ".parquet": _table, ".arrow": _table}


def _saved_dataset(path: Path, split: str | None) -> Iterator[Row]:
    if not ((path / "dataset_dict.json").is_file() or (path / "state.json").is_file()):
        raise ConfigError(f"{path} is a folder that datasets.save_to_disk did not write: name a file in it instead.")
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
