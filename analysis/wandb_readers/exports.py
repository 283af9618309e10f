"""Reads files from the W&B page and its users: exported CSV, and histories that pandas saved as CSV, JSON or Parquet.

A file may be compressed (.gz, .zip), and a spreadsheet may have saved it with semicolons, tabs or as UTF-16.
"""

from __future__ import annotations

import csv
import gzip
import io
import json
import math
import re
import zipfile
import zlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from analysis.run_data import RunData, SourceError
from analysis.wandb_readers.history import is_history, read_history
from analysis.wandb_readers.line_plots import SEPARATOR, read_line_plot
from analysis.wandb_readers.runs_table import API_COLUMNS, read_api_table, read_runs_table

WANTED = "export a line plot or the runs table of the W&B page as CSV, or save run.history() with pandas"
SUFFIXES = (".csv", ".csv.gz", ".csv.zip")  # files that are read if their folder is named; others must be named
_DECIMAL_COMMA = re.compile(r"[+-]?\d+,\d+(?:[eE][+-]?\d+)?")
_DELIMITERS = {",": "commas", ";": "semicolons", "\t": "tabs"}

Parser = Callable[[Path, list[str], list[list[str]], list[str]], list[RunData]]


def read_export(path: Path, notes: list[str]) -> list[RunData]:
    """Return the runs of one file. Raises SourceError if it is empty, damaged or not an export of W&B."""
    try:
        content = path.read_bytes()
        if content.startswith(b"PK\x03\x04"):
            return _read_zip(path, content, notes)
        if content.startswith(b"\x1f\x8b"):
            content = gzip.decompress(content)
    except (OSError, EOFError, zlib.error, zipfile.BadZipFile) as error:
        raise SourceError(f"{path} cannot be read ({error}): export it again.") from error
    return _read_content(path, content, notes)


def _read_zip(path: Path, content: bytes, notes: list[str]) -> list[RunData]:
    found: list[RunData] = []
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        names = [name for name in archive.namelist() if not name.endswith("/") and "__MACOSX" not in name]
        for name in names:
            try:
                found += _read_content(path / name, archive.read(name), notes)
            except SourceError as error:
                if len(names) == 1:
                    raise
                notes.append(f"Left out: {error}")
    if not found:
        raise SourceError(f"{path} contains no export of W&B: {WANTED}.")
    return found


def _read_content(path: Path, content: bytes, notes: list[str]) -> list[RunData]:
    if content.startswith(b"PAR1"):
        return _read_rows(path, _parquet_rows(path, content), notes)
    text = _decode(path, content).strip("\ufeff")
    if not text.strip():
        raise SourceError(f"{path} is empty: {WANTED}.")
    if text.lstrip()[0] in "{[":
        return _read_rows(path, _json_rows(path, text, notes), notes)
    header, rows = _csv_rows(path, text, notes)
    parser = _parser_for(header)
    if parser is None:
        columns = ", ".join(header[:8]) + (", ..." if len(header) > 8 else "")
        raise SourceError(f"{path} is not an export of W&B, its columns are {columns}: {WANTED}.")
    if not rows:
        raise SourceError(f"{path} has no row with as many cells ({len(header)}) as the header: {WANTED}.")
    return parser(path, header, rows, notes)


def _parser_for(header: list[str]) -> Parser | None:
    if any(SEPARATOR in name for name in header[1:]) and SEPARATOR not in header[0]:
        return read_line_plot
    if "Name" in header:
        return read_runs_table
    if set(header) >= API_COLUMNS:
        return read_api_table
    return _read_history_csv if is_history(header) else None


# Text


def _decode(path: Path, content: bytes) -> str:
    """Decode UTF-8, or UTF-16 as spreadsheets write it. Raises SourceError for any other encoding."""
    if content.startswith((b"\xff\xfe", b"\xfe\xff")):
        encoding = "utf-16"
    else:
        encoding = {b"\0": "utf-16-be"}.get(content[:1], "utf-16-le" if content[1:2] == b"\0" else "utf-8-sig")
    try:
        return content.decode(encoding)
    except UnicodeDecodeError as error:
        raise SourceError(
            f"{path} is not UTF-8 text (byte {error.start}): export it again, or convert it, for instance with "
            f"`iconv -f WINDOWS-1252 -t UTF-8 {path.name} > utf8.csv`."
        ) from error


def _csv_rows(path: Path, text: str, notes: list[str]) -> tuple[list[str], list[list[str]]]:
    """Return the header and the rows that have as many cells as the header; `notes` gains a sentence about the others.
    The delimiter is the one that gives the most such rows; unless it is a comma, decimal commas become points. Raises
    SourceError if the text is not CSV."""
    # Not pandas, which renames repeated headers and reads "none", "null" and "NA" as missing.
    tables: dict[str, list[list[str]]] = {}
    text = re.sub(r'\A"?sep=.*\r?\n', "", text)  # a line for spreadsheets
    try:
        for delimiter in _DELIMITERS:
            lines = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter)
            tables[delimiter] = [row for row in lines if any(cell.strip() for cell in row)]
    except csv.Error as error:
        raise SourceError(f"{path} is not a CSV file ({error}): export it again.") from error
    even = {one: [row for row in table[1:] if len(row) == len(table[0])] for one, table in tables.items()}
    usable = [one for one, table in tables.items() if len(table[0]) > 1 and _parser_for(_clean(table[0]))] or [","]
    delimiter = max(usable, key=lambda one: len(even[one]))
    header, rows = _clean(tables[delimiter][0]), even[delimiter]
    if ragged := len(tables[delimiter]) - 1 - len(rows):
        notes.append(f"{path.name}: {ragged} rows with more or fewer cells than the header were skipped.")
    if delimiter != ",":
        decimal = any(_DECIMAL_COMMA.fullmatch(cell.strip()) for row in rows for cell in row)
        commas = ", and decimal commas as points" if decimal else ""
        notes.append(f"{path.name}: read as separated by {_DELIMITERS[delimiter]}{commas} (saved by a spreadsheet?).")
        rows = [
            [cell.replace(",", ".") if _DECIMAL_COMMA.fullmatch(cell.strip()) else cell for cell in row] for row in rows
        ]
    return header, rows


def _clean(header: list[str]) -> list[str]:
    return [name.strip() for name in header]


# Histories


def _read_history_csv(path: Path, header: list[str], rows: list[list[str]], notes: list[str]) -> list[RunData]:
    index = [place for place, name in enumerate(header) if name and not name.startswith("Unnamed:")]  # pandas' own
    return read_history(path, [{header[i]: row[i] for i in index if row[i].strip()} for row in rows], notes)


def _read_rows(path: Path, rows: list[dict[str, Any]], notes: list[str]) -> list[RunData]:
    columns = list(dict.fromkeys(name for row in rows for name in row))
    if not is_history(columns):
        shown = ", ".join(map(str, columns[:8])) or "none"
        raise SourceError(f"{path} is not the history of a run, its columns are {shown}: {WANTED}.")
    present = [{key: value for key, value in row.items() if not _is_missing(value)} for row in rows]
    return read_history(path, present, notes)


def _is_missing(value: Any) -> bool:
    return value is None or (isinstance(value, float) and math.isnan(value))


def _json_rows(path: Path, text: str, notes: list[str]) -> list[dict[str, Any]]:
    """Return the rows of a JSON list, of JSON Lines, or of an object of columns as pandas writes it. Raises SourceError
    for other text."""
    try:
        found = json.loads(text)
    except (ValueError, RecursionError):
        found, broken = [], 0
        for line in filter(str.strip, text.split("\n")):
            try:
                found.append(json.loads(line))
            except (ValueError, RecursionError):
                broken += 1
        if not found:
            raise SourceError(f"{path} is neither JSON nor JSON Lines: {WANTED}.") from None
        if broken:
            notes.append(f"{path.name}: {broken} lines that are not JSON were skipped.")
    if isinstance(found, dict) and found and all(isinstance(column, dict) for column in found.values()):
        places = list(dict.fromkeys(place for column in found.values() for place in column))
        found = [{name: column.get(place) for name, column in found.items()} for place in places]
    rows = found if isinstance(found, list) else [found]
    if not all(isinstance(row, Mapping) for row in rows):
        raise SourceError(f"{path} does not hold rows with named columns: {WANTED}.")
    return [dict(row) for row in rows]


def _parquet_rows(path: Path, content: bytes) -> list[dict[str, Any]]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        rows: list[dict[str, Any]] = pq.read_table(io.BytesIO(content)).to_pylist()
    except (pa.ArrowException, OSError, ValueError) as error:
        raise SourceError(
            f"{path} is not a valid Parquet file ({str(error).splitlines()[0]}): save it again."
        ) from error
    return rows
