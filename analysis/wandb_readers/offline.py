"""Reads offline W&B runs (`wandb/offline-run-*/run-*.wandb`) directly from their binary file.

Format (wandb 0.31): ":W&B", 0xBEE1, a version byte, then a LevelDB log: blocks of 32 KiB with records
[crc32, length, type] that may span blocks; each holds a protobuf `Record`. The file of a killed run may end anywhere;
the complete records before its end are used.
"""

from __future__ import annotations

import json
import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from analysis.run_data import RunData, SourceError, parse_number
from analysis.wandb_readers.history import flatten_wandb_config, rows_to_metrics

BLOCK = 32 * 1024
FILE_HEADER, RECORD_HEADER = 7, 7
MAGIC = b":W&B" + struct.pack("<H", 0xBEE1)
FULL, FIRST, MIDDLE, LAST = 1, 2, 3, 4
STATES = {0: "finished", 75: "interrupted"}  # by exit code; 75: stopped by a signal after saving (simplerl.runs.folder)


def read_records(content: bytes) -> Iterator[bytes | None]:
    """Yield the payload of each complete record of a .wandb file, and finally None if the file ends in a broken one."""
    place, joined = FILE_HEADER, b""
    while place < len(content):
        left = BLOCK - place % BLOCK
        if left < RECORD_HEADER:  # padding at the end of a block
            place += left
            continue
        if place + RECORD_HEADER > len(content):
            yield None
            return
        crc, length, kind = struct.unpack_from("<IHB", content, place)
        if not any((crc, length, kind)):  # space that was allocated but not yet written
            yield None
            return
        data = content[place + RECORD_HEADER : place + RECORD_HEADER + length]
        if len(data) < length or zlib.crc32(bytes([kind]) + data) != crc:
            yield None
            return
        place += RECORD_HEADER + length
        joined = data if kind in (FULL, FIRST) else joined + data
        if kind in (FULL, LAST):
            yield joined


@dataclass
class _Contents:
    """Collects what the records of one .wandb file contain: the RunRecord (None: not read yet), settings, last values
    of metrics, history rows, names of step metrics, and, from the exit record, status and run time in seconds.
    incomplete: the file ends in a broken record."""

    run: Any = None
    config: dict[str, Any] = field(default_factory=dict)
    summary: dict[str, float] = field(default_factory=dict)
    rows: list[dict[str, Any]] = field(default_factory=list)
    step_metrics: list[str] = field(default_factory=list)
    exit_code: int | None = None
    runtime: float | None = None
    incomplete: bool = False


def read_offline(file: Path, notes: list[str]) -> RunData:
    """Return the run of one .wandb file.

    Raises SourceError if the file is not in W&B's format, or ends before the record that describes the run."""
    seen = _read(file)
    if seen.run is None:
        raise SourceError(f"{file} contains no run (was it killed within its first seconds?): remove this file.")
    run = seen.run.run_id
    if seen.incomplete:
        notes.append(f"{run}: {file.parent.name} ends with an incomplete record (was it killed?); the rest is used.")
    state = "crashed" if seen.exit_code is None else STATES.get(seen.exit_code, "failed")
    return RunData(
        id=run,
        name=seen.run.display_name or run,
        state=state,
        source="wandb offline",
        where=str(file.parent),
        config=flatten_wandb_config(seen.config),
        summary=seen.summary,
        metrics=rows_to_metrics(seen.rows, run, notes, seen.step_metrics),
        created=datetime.fromtimestamp(seen.run.start_time.ToMicroseconds() / 1e6, UTC).isoformat(),
        seconds=seen.runtime,
    )


def _read(file: Path) -> _Contents:
    from wandb.proto.wandb_internal_pb2 import Record  # type: ignore[attr-defined]

    content = file.read_bytes()
    if content[: len(MAGIC)] != MAGIC:
        raise SourceError(f"{file} is not a .wandb file: name the file or folder that `wandb` wrote in offline mode.")
    seen = _Contents()
    for payload in read_records(content):
        if payload is None:
            seen.incomplete = True
            break
        record = Record.FromString(payload)
        kind = record.WhichOneof("record_type")
        if kind == "run":
            seen.run = record.run
            _update(seen.config, record.run.config)
        elif kind == "config":
            _update(seen.config, record.config)
        elif kind == "history":
            seen.rows.append(_row(record.history))
        elif kind == "summary":
            _update_summary(seen.summary, record.summary)
        elif kind == "metric" and record.metric.step_metric:
            if record.metric.step_metric not in seen.step_metrics:
                seen.step_metrics.append(record.metric.step_metric)
        elif kind == "exit":
            seen.exit_code, seen.runtime = record.exit.exit_code, float(record.exit.runtime)
    return seen


def _key(item: Any) -> str:
    return ".".join(item.nested_key) if item.nested_key else str(item.key)


def _update(config: dict[str, Any], record: Any) -> None:
    for item in record.update:
        config[_key(item)] = json.loads(item.value_json)
    for item in record.remove:
        config.pop(_key(item), None)


def _update_summary(summary: dict[str, float], record: Any) -> None:
    for item in record.update:
        value = parse_number(json.loads(item.value_json))
        if value is not None and not _key(item).startswith("_"):
            summary[_key(item)] = value


def _row(history: Any) -> dict[str, Any]:
    """Return one history row; values are stored typed or as JSON, which may hold bare NaN and Infinity."""
    row: dict[str, Any] = {}
    for item in history.item:
        typed = item.WhichOneof("value")
        if item.value_json or typed == "json":
            row[_key(item)] = json.loads(item.value_json or item.json)
        elif typed not in (None, "none"):
            row[_key(item)] = getattr(item, typed)
    if "_step" not in row and history.HasField("step"):
        row["_step"] = history.step.num
    return row
