"""Read the rows of one file with their numbers: JSON, JSON Lines, CSV, TSV, Parquet and Arrow; text may be gzipped.

A reader is a function (path, encoding) -> rows. It yields a row that cannot be used as a `RowError`, and raises
ConfigError only for a file that cannot be used as a whole. `read_file` reports any other exception of a reader as a
ConfigError that names the file and the last row that was read.
"""

from __future__ import annotations

import codecs
import csv
import gzip
import io
import json
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from simplerl.data.columns import USUAL
from simplerl.data.fetch import name_of
from simplerl.data.rows import Reader, Row, RowError, file_format, is_chat, reported, setting
from simplerl.errors import ConfigError, require
from simplerl.io.places import spelled

LFS_POINTER = b"version https://git-lfs"
# First bytes of files that are no text, and their kind.
BINARY = {
    b"\x1f\x8b": "gzip", b"\x28\xb5\x2f\xfd": "Zstandard", b"PK\x03\x04": "ZIP", b"\xfd7zXZ\x00": "xz",
    b"PAR1": "Parquet", b"ARROW1": "Arrow",
}  # fmt: skip
RENAMED = {"gzip": "{}.gz", "Parquet": "{}.parquet", "Arrow": "{}.arrow"}  # kinds that are read under such a name


def read_file(file: Path, encoding: str | None = None) -> Iterator[Row]:
    """Yield the rows of one file in order, each with its number from 1.

    A row that cannot be read is yielded as a RowError. Raises ConfigError if the file itself cannot be read.

    encoding: of a text file; None means UTF-8, for callers that have no setting for it.
    """
    if file_format(file) not in READERS:
        raise ConfigError(f"{file} has an unsupported format: use {', '.join(READERS)}, a data set folder or a Hub id.")
    if file.parent.is_file():
        raise ConfigError(f"{file.parent} is a file, but {file.name} is read in a folder: name {file.parent.parent}.")
    if not file.is_file():
        if (name := name_of(file)) is not None:
            raise ConfigError(f"{file} does not exist: run {spelled('fetch')} {name}, or correct the path.")
        raise ConfigError(f"{file} does not exist: correct the path (relative paths start at {Path.cwd()}).")
    if encoding is not None:
        try:
            codecs.lookup(encoding)
        except LookupError:
            key = setting("encoding")
            raise ConfigError(
                f"{key}={encoding} is unknown: choose one such as {key}=latin-1 or {key}=utf-8."
            ) from None
    return reported(file, READERS[file_format(file)], encoding, _check_start)


def _check_start(path: Path) -> None:
    """Raise ConfigError for a file whose first bytes are not those of its format."""
    with path.open("rb") as file:
        head = file.read(len(LFS_POINTER))
    if head == LFS_POINTER:
        raise ConfigError(f"{path} is a pointer of Git LFS without the data: run `git lfs pull` in its repository.")
    kind = next((kind for mark, kind in BINARY.items() if head.startswith(mark)), None)
    if kind is not None and path.suffix.lower() not in (".gz", ".parquet", ".arrow"):
        name = RENAMED.get(kind, "").format(path.name)
        raise ConfigError(f"{path} is a {kind} file, not text: {f'rename it to {name}' if name else 'unpack it'}.")


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Return an object of JSON. Raises RowError if a name occurs twice, of which `json` would keep only the last."""
    found = dict(pairs)
    if len(found) < len(pairs):
        name, count = Counter(name for name, _ in pairs).most_common(1)[0]
        raise RowError(f"an object has {count} fields that are named {name!r}")
    return found


def _object_or_error(row: Any) -> dict[str, Any] | RowError:
    """Return a row that is an object, or a list of objects as an object with the columns "0", "1", ...; otherwise a
    RowError."""
    if isinstance(row, list) and row and all(isinstance(one, dict) for one in row):
        return {str(index): one for index, one in enumerate(row)}
    return row if isinstance(row, dict) else RowError("it is not an object with named columns")


# Text files


def _open(path: Path) -> io.BufferedIOBase:
    return gzip.open(path, "rb") if path.suffix.lower() == ".gz" else path.open("rb")  # type: ignore[return-value]


def _is_utf8(path: Path, encoding: str | None) -> bool:
    """Return whether to read a text file as UTF-8: not if it has the byte-order mark of UTF-16 or `encoding` is not
    UTF-8."""
    with _open(path) as file:
        marked = file.read(2) in (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)
    return not marked and codecs.lookup(encoding or "utf-8").name in ("utf-8", "utf-8-sig")


def _encoding_remedy(data: bytes, encoding: str | None) -> str:
    """Return the remedy for bytes that are not UTF-8: the encoding to set, or to save the file as UTF-8."""
    if encoding is None:
        return "save it as UTF-8"
    windows = any(0x80 <= byte <= 0x9F for byte in data)  # printable in cp1252, control characters in Latin-1
    return f"set {setting('encoding')}={'cp1252' if windows and _decodes(data, 'cp1252') else 'latin-1'}"


def _decodes(data: bytes, encoding: str) -> bool:
    try:
        data.decode(encoding)
    except UnicodeDecodeError:
        return False
    return True


def _text(path: Path, encoding: str | None) -> str:
    """Return the content of a text file. Raises ConfigError, with line and remedy, if the encoding does not fit."""
    with _open(path) as file:
        data = file.read()
    name = "utf-8-sig" if _is_utf8(path, encoding) else _other_encoding(encoding)
    try:
        return data.decode(name)
    except UnicodeDecodeError as error:
        line, byte = data.count(b"\n", 0, error.start) + 1, data[error.start]
        remedy = _encoding_remedy(data, encoding)
        shown = "UTF-8" if name == "utf-8-sig" else name
        raise ConfigError(f"{path}, line {line} is not {shown} text (byte 0x{byte:02x}): {remedy}.") from error


def _other_encoding(encoding: str | None) -> str:
    named = codecs.lookup(encoding or "utf-8").name
    return "utf-16" if named in ("utf-8", "utf-8-sig") else named


def _jsonl(path: Path, encoding: str | None) -> Iterator[Row]:
    utf8 = _is_utf8(path, encoding)
    # As bytes, because text may contain other line separators (U+2028) in JSON strings.
    with _open(path) if utf8 else io.BytesIO(_text(path, encoding).encode("utf-8", "surrogatepass")) as file:
        for number, line in enumerate(file, start=1):
            if not line.strip():
                continue
            try:
                text = line.decode("utf-8-sig" if number == 1 else "utf-8")
                yield number, _object_or_error(json.loads(text, object_pairs_hook=_once))
            except RowError as error:
                yield number, error
            except UnicodeDecodeError:
                yield number, RowError(f"it is not UTF-8 text ({_encoding_remedy(line, encoding)})")
            except json.JSONDecodeError as error:
                yield number, RowError(f"it is not valid JSON ({error.msg} at column {error.colno})")
            except ValueError as error:  # an integer with thousands of digits
                yield number, RowError(f"it cannot be read ({str(error).partition(';')[0]})")


def _json(path: Path, encoding: str | None) -> Iterator[Row]:
    text = _text(path, encoding)
    try:
        content = json.loads(text, object_pairs_hook=_once)
    except RowError as error:
        raise ConfigError(f"{path}: {error}; rename or remove all but one.") from error
    except json.JSONDecodeError as error:
        if text.lstrip()[:1] == "{":  # JSON Lines in a file named .json
            yield from _jsonl(path, encoding)
            return
        raise ConfigError(
            f"{path} is not valid JSON after row {_complete_rows(text)}: {error.msg} at line {error.lineno}, column "
            f"{error.colno}; correct it."
        ) from error
    except ValueError as error:
        raise ConfigError(
            f"{path} cannot be read: {str(error).partition(';')[0]}; write the number as text."
        ) from error
    rows = _rows_in_object(path, content) if isinstance(content, dict) else content
    require(isinstance(rows, list), f"{path} does not hold a list of rows: write the rows as [{{...}}, {{...}}].")
    yield from ((number, _object_or_error(row)) for number, row in enumerate(rows, start=1))


def _complete_rows(text: str) -> int:
    """Return the number of complete rows at the beginning of a broken JSON list."""
    decoder, position, count = json.JSONDecoder(), text.find("[") + 1, 0
    while position:
        rest = len(text) - len(text[position:].lstrip(" \t\r\n,"))
        try:
            _, position = decoder.raw_decode(text, rest)
        except json.JSONDecodeError:
            break
        count += 1
    return count


def _rows_in_object(path: Path, content: dict[str, Any]) -> list[Any]:
    """Return the rows of a JSON object: its columns ({"question": [...], ...}), its only list of objects, or itself.
    Raises ConfigError if it holds several lists of objects."""
    if _maps_to_rows(content):
        raise ConfigError(
            f"{path} maps names to rows ({{{min(content)!r}: {{...}}}}): write the rows as a list, [{{...}}, {{...}}]."
        )
    columns = {key: list(value.values()) if isinstance(value, dict) else value for key, value in content.items()}
    nested = all(isinstance(value, dict) for value in content.values())
    flat = all(isinstance(value, list) for value in content.values()) and not any(map(is_chat, content.values()))
    if len(content) > 1 and (nested or flat) and len({len(value) for value in columns.values()}) == 1:
        rows = [dict(zip(columns, values, strict=True)) for values in zip(*columns.values(), strict=True)]
        if not all(isinstance(value, dict) for row in rows for value in row.values()):
            return rows
    lists = {
        key: value
        for key, value in content.items()
        if isinstance(value, list) and value and all(isinstance(one, dict) for one in value) and not is_chat(value)
    }
    if len(lists) > 1:
        raise ConfigError(
            f"{path} holds several lists of rows ({', '.join(lists)}): save the list that you need as a separate file."
        )
    if lists:
        return next(iter(lists.values()))
    return [content]


def _maps_to_rows(content: dict[str, Any]) -> bool:
    """Return whether an object holds one row per name: numbers name its rows, or the rows have usual columns."""
    if not content or not all(isinstance(value, dict) and value for value in content.values()):
        return False
    inner = {name.lower() for row in content.values() for name in row}
    outer = {name.lower() for name in content}
    usual = {name for key in ("question", "answer") for group in USUAL[key] for name in group}
    numbered = all(map(str.isdigit, outer)) and not all(map(str.isdigit, inner))
    return numbered or (len(inner & usual) > 1 and not outer & usual)


def _csv(path: Path, encoding: str | None) -> Iterator[Row]:
    csv.field_size_limit(sys.maxsize)
    text = _text(path, encoding)
    header = text.partition("\n")[0]
    delimiter = "," if file_format(path) == ".csv" and "," in header else "\t" if "\t" in header else ";"
    rows = csv.DictReader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
    _check_header(path, rows.fieldnames or ())
    for number, row in enumerate(rows, start=1):
        complete = None not in row and None not in row.values()
        yield number, row if complete else RowError("it does not have as many fields as the header")


def _check_header(path: Path, names: Sequence[str]) -> None:
    """Raise ConfigError for a table with several columns of one name, of which a row would keep only the last; nameless
    ones are ignored."""
    for name, count in Counter(names).items():
        if name and count > 1:
            raise ConfigError(f"{path} has {count} columns that are named {name!r}: rename all but one of them.")


# Tables


def _parquet(path: Path, _: str | None) -> Iterator[Row]:
    import pyarrow.parquet

    with pyarrow.parquet.ParquetFile(path) as file:
        _check_header(path, file.schema_arrow.names)
        yield from _numbered(file.iter_batches(1024))


def _arrow(path: Path, _: str | None) -> Iterator[Row]:
    import pyarrow as pa
    import pyarrow.ipc

    with pa.memory_map(str(path)) as file:
        try:
            opened = pyarrow.ipc.open_file(file)
            schema, batches = opened.schema, (opened.get_batch(i) for i in range(opened.num_record_batches))
        except pa.ArrowInvalid:  # `datasets` also writes the stream format as .arrow
            file.seek(0)
            stream = pyarrow.ipc.open_stream(file)
            schema, batches = stream.schema, iter(stream)
        _check_header(path, schema.names)
        yield from _numbered(batches)


def _numbered(batches: Iterator[Any]) -> Iterator[Row]:
    """Yield the rows of record batches; one that Python cannot represent is a RowError."""
    number = 0
    for batch in batches:
        try:
            rows: list[Any] = batch.to_pylist()
        except (ValueError, OverflowError):  # such as text that is not UTF-8
            rows = [_row_or_error(batch.slice(index, 1)) for index in range(len(batch))]
        yield from enumerate(rows, start=number + 1)
        number += len(batch)


def _row_or_error(batch: Any) -> dict[str, Any] | RowError:
    try:
        return dict(batch.to_pylist()[0])
    except (ValueError, OverflowError) as error:
        return RowError(f"it has a value that cannot be read ({str(error).splitlines()[0]})")


READERS: dict[str, Reader] = {
    ".json": _json,
    ".jsonl": _jsonl,
    ".ndjson": _jsonl,
    ".csv": _csv,
    ".tsv": _csv,
    ".parquet": _parquet,
    ".arrow": _arrow,
}
