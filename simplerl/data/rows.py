"""Defines the rows of a data file, how messages name them and their settings, and reports the errors of readers."""

from __future__ import annotations

import inspect
import re
import shlex
import traceback
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path
from typing import Any

from simplerl.errors import ConfigError

LINES = (".jsonl", ".ndjson")  # formats whose rows are lines


class RowError(ValueError):
    """Yielded or raised for a row that cannot be used. The message states the reason; the caller adds the location
    (`location_of`). remedy: what helps if all rows have this fault."""

    def __init__(self, reason: str, remedy: str = "correct the file") -> None:
        super().__init__(reason)
        self.remedy = remedy


Row = tuple[int, "dict[str, Any] | RowError"]  # the number of a line or row, from 1, and its content
Reader = Callable[[Path, "str | None"], Iterator[Row]]

_key: ContextVar[str] = ContextVar("key of the data's settings", default="data")


@contextmanager
def settings_under(key: str) -> Iterator[None]:
    """Make error messages within the block name settings under `key`, such as `warmup.data`, instead of `data`."""
    token = _key.set(key)
    try:
        yield
    finally:
        _key.reset(token)


def setting(name: str) -> str:
    """Return the full key of a setting of the data that is being loaded, as it is written on the command line."""
    return f"{_key.get()}.{name}"


def override(name: str, value: str) -> str:
    """Return the override `<key>=<value>` of a setting of the data, quoted for the shell and Hydra if it has spaces or
    signs."""
    if re.fullmatch(r"[\w.\-/]+", value):
        return f"{setting(name)}={value}"
    escaped = value.replace("\\", "\\\\").replace('"', '\\"')
    return shlex.quote(f'{setting(name)}="{escaped}"')


def prompt_option(key: str, name: str) -> str:
    """Return the override that chooses a prompt for `key`, which is prompt, evals.prompt or warmup.prompt."""
    return f"prompt={name}" if key == "prompt" else f"prompt@{key}={name}"


def file_format(file: Path) -> str:
    """Return the suffix that decides how a file is read, such as ".jsonl" for "train.jsonl.gz"."""
    suffixes = [suffix.lower() for suffix in file.suffixes]
    if suffixes[-1:] == [".gz"] and suffixes[-2:-1] not in ([".parquet"], [".arrow"]):
        suffixes.pop()
    return suffixes[-1] if suffixes else ""


def location_of(path: str | Path, number: int) -> str:
    """Return "<path>, line <number>" for JSON Lines and "<path>, row <number>" otherwise, for error messages."""
    return f"{path}, {'line' if file_format(Path(path)) in LINES else 'row'} {number}"


def is_chat(value: Any) -> bool:
    """Return whether a value is a list of chat messages: {role, content}, or {from, value} as in ShareGPT."""
    return (
        isinstance(value, list)
        and bool(value)
        and all(isinstance(one, Mapping) and ("role" in one or ("from" in one and "value" in one)) for one in value)
    )


def reported(
    file: Path, reader: Reader, encoding: str | None, check: Callable[[Path], None] = lambda _: None
) -> Iterator[Row]:
    """Yield the rows of `reader(file, encoding)`, after `check(file)`. Its exceptions become a ConfigError that names
    the file and the last row read, or the reader if it yields something else than rows or if its own file raises a
    TypeError, NameError, AttributeError or ImportError."""
    number = 0
    try:
        check(file)
        for item in reader(file, encoding):
            if not (isinstance(item, tuple) and len(item) == 2 and all(map(isinstance, item, (int, dict | RowError)))):
                raise ConfigError(
                    f"the reader {_name_of(reader)} yields {item!r:.80}: let it yield a row number and a dictionary."
                )
            number, row = item
            yield number, row
    except ConfigError:
        raise
    except (TypeError, NameError, AttributeError, ImportError) as error:
        place = traceback.extract_tb(error.__traceback__)[-1]
        if place.filename not in (__file__, inspect.getsourcefile(inspect.unwrap(reader))):
            raise _damaged(file, number, error) from error
        raise ConfigError(
            f"the reader {_name_of(reader)} fails at {place.filename}:{place.lineno} ({type(error).__name__}: "
            f"{error}): correct it; it is called with the path of the file and its encoding."
        ) from error
    except PermissionError as error:
        raise ConfigError(f"{file} cannot be read: you lack the permission; run chmod u+r {file}.") from error
    except Exception as error:
        raise _damaged(file, number, error) from error


def _name_of(reader: Reader) -> str:
    return str(getattr(reader, "__name__", reader))


def _damaged(file: Path, number: int, error: Exception) -> ConfigError:
    """Return the error for a file whose reader fails after row `number`, or 0 if it has read none."""
    reason = (str(error).strip() or type(error).__name__).splitlines()[0].partition(";")[0]
    if number:
        return ConfigError(
            f"{location_of(file, number)} is the last row that can be read ({reason}): the file is damaged after it, "
            "so copy or write the file again."
        )
    kind = file_format(file)[1:].capitalize()
    return ConfigError(f"{file} is not a valid {kind} file ({reason}): copy or write it again.")
