"""CSV files exported from the W&B page: line plots and the runs table.

A line plot identifies runs by name only, and so does a runs table whose ID column was hidden. Such runs get a temporary
id that begins with "?" (`temporary_id`); `analysis.wandb_readers.run_ids` replaces it.
"""

from __future__ import annotations

import csv
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd

from analysis.run_data import RunData, SourceError, parse_number, parse_setting
from analysis.wandb_readers.history import PHASES

# Columns of the runs table that are neither settings nor results.
METADATA = (
    *("Name", "ID", "State", "Notes", "User", "Username", "Tags", "Created", "Updated", "End Time", "Runtime", "Sweep"),
    *("Agent", "Group", "Job Type", "Project", "Entity", "Host", "Hostname", "GPU Count", "GPU Type", "CPU Count"),
    *("Description", "Relative Time (Process)", "Relative Time (Wall)"),
)
TIME_AXES = ("relative time", "wall time", "time", "_runtime", "_timestamp")
SEPARATOR = " - "  # between run and metric in the header of a line plot
GROUP = "Group: "  # begins the name of a curve that is a mean over runs

Parser = Callable[[Path, list[str], list[list[str]], list[str]], list[RunData]]


def temporary_id(name: str, occurrence: int) -> str:
    """Return the id of a run known by name only: the n-th (from 0) run of that name in its file."""
    return f"?{name}#{occurrence}"


def read_csv(path: Path, notes: list[str]) -> list[RunData] | None:
    """Return the runs of an exported file; None if it is some other CSV file.

    An export has a Name column (runs table) or columns "RUN - METRIC" (line plot). Raises SourceError if the file is
    not UTF-8, not CSV, or separated by other characters than commas."""
    # Not pandas, which renames repeated headers and reads "none", "null" and "NA" as missing.
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            lines = list(csv.reader(file))
    except UnicodeDecodeError as error:
        raise SourceError(
            f"{path} is not UTF-8 text (byte {error.start}): export it again, or convert it to UTF-8."
        ) from error
    except csv.Error as error:
        raise SourceError(f"{path} is not a CSV file ({error}): export it again.") from error
    if not lines or not lines[0]:
        return None
    header, rows = lines[0], [row for row in lines[1:] if any(row)]
    parser = _parser_for(header)
    if parser is None:
        for separator, name in ((";", "semicolons"), ("\t", "tabs")):
            if _parser_for(next(csv.reader([separator.join(header)], delimiter=separator))) is not None:
                raise SourceError(f"{path} is separated by {name}: save it with commas, as W&B exports it.")
        return None
    ragged = [row for row in rows if len(row) != len(header)]
    if ragged:
        notes.append(f"{path.name}: {len(ragged)} rows with more or fewer cells than the header were skipped.")
        rows = [row for row in rows if len(row) == len(header)]
    return parser(path, header, rows, notes)


def _parser_for(header: list[str]) -> Parser | None:
    if "Name" in header and SEPARATOR not in header[0]:
        return _read_runs_table
    return _read_line_plot if any(SEPARATOR in name for name in header[1:]) else None


# Runs table


def _read_runs_table(path: Path, header: list[str], rows: list[list[str]], notes: list[str]) -> list[RunData]:
    _note_table_problems(path, header, notes)
    occurrences: dict[str, int] = {}
    found: list[RunData] = []
    not_numbers: set[str] = set()
    for row in rows:
        cells = dict(zip(header, row, strict=True))
        name = cells["Name"]
        occurrence = occurrences[name] = occurrences.get(name, -1) + 1
        config, summary = _settings_and_results(header, row, not_numbers)
        found.append(
            RunData(
                id=cells.get("ID") or temporary_id(name, occurrence),
                name=name,
                state=cells.get("State") or None,
                source="wandb table",
                where=path.name,
                config=config,
                summary=summary,
                created=cells.get("Created") or None,
                seconds=parse_number(cells.get("Runtime", "")),
            )
        )
    if not_numbers:
        notes.append(f"{path.name}: results that are not numbers were skipped: {', '.join(sorted(not_numbers))}.")
    return found


def _note_table_problems(path: Path, header: list[str], notes: list[str]) -> None:
    repeated = sorted({name for name in header if header.count(name) > 1})
    if repeated:
        notes.append(
            f"{path.name}: columns that appear twice (a setting and a result with one name): {', '.join(repeated)}; "
            "the first is read as the setting, the last as the result."
        )
    if hidden := [name for name in ("State", "ID") if name not in header]:
        notes.append(f"{path.name}: {' and '.join(hidden)} hidden: show these columns in the table and export again.")
    if "seed" not in header:
        notes.append(f"{path.name}: has no seed column; runs with equal settings are treated as different seeds.")


def _settings_and_results(
    header: list[str], row: list[str], not_numbers: set[str]
) -> tuple[dict[str, Any], dict[str, float]]:
    """Split a row into settings and results, which W&B does not mark: names with a slash, and the second of two equal
    names, are results."""
    config: dict[str, Any] = {}
    summary: dict[str, float] = {}
    for index, (name, cell) in enumerate(zip(header, row, strict=True)):
        if name in METADATA or name.startswith("_"):
            continue
        if "/" in name or header.index(name) < index:
            value = parse_number(cell)
            if value is not None:
                summary[name.removesuffix(".last")] = value
            elif cell.strip():
                not_numbers.add(name)
        elif cell.strip():
            config[name] = parse_setting(cell, name)
    return config, summary


# Line plots


@dataclass
class _Curves:
    """The curves of one run in a line plot: for each metric x -> value, and x -> W&B's `_step` if exported."""

    name: str
    occurrence: int
    values: dict[str, dict[float, float]] = field(default_factory=dict)
    steps: dict[float, float] = field(default_factory=dict)


def _split_header(column: str) -> tuple[str, str, str]:
    """Return run, metric and "", "MIN" or "MAX". A run's name may contain " - ", a metric's may not."""
    run, _, metric = column.rpartition(SEPARATOR)
    for part in ("MIN", "MAX"):
        if metric.endswith(f"__{part}"):
            return run, metric.removesuffix(f"__{part}"), part
    return run, metric, ""


def _read_line_plot(path: Path, header: list[str], rows: list[list[str]], notes: list[str]) -> list[RunData]:
    x = [parse_number(row[0]) for row in rows]
    curves, thinned, bounds_only = _read_curves(header, rows, x)
    _note_plot_problems(path, header, x, thinned, bounds_only, notes)
    found = []
    for curve in curves:
        is_group = curve.name.startswith(GROUP)
        found.append(
            RunData(
                id=curve.name if is_group else temporary_id(curve.name, curve.occurrence),
                name=curve.name,
                state=None,
                source="wandb group" if is_group else "wandb plot",
                where=path.name,
                config={"group": curve.name.removeprefix(GROUP)} if is_group else {},
                summary={name: list(points.values())[-1] for name, points in curve.values.items() if points},
                metrics=None if _is_time(header[0]) else _to_metrics(curve, header[0]),
            )
        )
    return found


def _is_time(axis: str) -> bool:
    return axis.strip().lower().startswith(TIME_AXES)


def _read_curves(
    header: list[str], rows: list[list[str]], x: list[float | None]
) -> tuple[list[_Curves], int, set[str]]:
    """Return the curves in the order of their columns, the number of bounds (__MIN, __MAX) that differ from their
    value, and the metrics of which the file holds bounds only."""
    curves: dict[tuple[str, int], _Curves] = {}
    occurrences: dict[str, int] = {}
    thinned, with_values, with_bounds = 0, set[str](), set[str]()
    cells_of: dict[str, list[str]] = {}  # of the last column with values
    for index, column in enumerate(header[1:], start=1):
        run, metric, part = _split_header(column)
        cells = [row[index] for row in rows]
        if part:
            with_bounds.add(metric)
            thinned += sum(a != b for a, b in zip(cells, cells_of.get(metric, cells), strict=True))
            continue
        with_values.add(metric)
        cells_of = {metric: cells}
        occurrences[column] = occurrences.get(column, -1) + 1
        key = (run, occurrences[column])
        curve = curves.setdefault(key, _Curves(*key))
        read = [(place, parse_number(cell)) for place, cell in zip(x, cells, strict=True)]
        points = {place: value for place, value in read if place is not None and value is not None}
        if metric == "_step":
            curve.steps = points
        else:
            curve.values[metric] = points
    bounds_only = {name for name in with_bounds - with_values if not name.startswith("_")}
    return list(curves.values()), thinned, bounds_only


def _to_metrics(curve: _Curves, axis: str) -> pd.DataFrame:
    """Return columns phase, step, `_step` if known, and the metrics; phase is "step" if x is W&B's own step."""
    columns = {name: pd.Series(points, dtype=float) for name, points in curve.values.items()}
    table = pd.DataFrame(columns)
    table.insert(0, "phase", "step" if axis in ("Step", "_step") else PHASES.get(axis, "rl"))
    table.insert(1, "step", table.index.astype("int64"))
    if curve.steps:
        table["_step"] = pd.Series(curve.steps, dtype=float)
    return table.reset_index(drop=True)


def _note_plot_problems(
    path: Path, header: list[str], x: list[float | None], thinned: int, bounds_only: set[str], notes: list[str]
) -> None:
    if _is_time(header[0]):
        notes.append(f"{path.name}: the x axis is {header[0]!r}, not a step: only last values are used.")
    elif None in x:
        notes.append(f"{path.name}: {x.count(None)} rows without a number in {header[0]!r} were skipped.")
    if any(column.startswith(GROUP) for column in header[1:]):
        notes.append(f"{path.name}: the chart is grouped; each curve is a mean over runs and cannot be separated.")
    elif thinned:
        notes.append(
            f"{path.name}: the page thinned this chart, so a value may be a mean over several steps ({thinned} bounds "
            "differ from their value). For every step use run folders, wandb:ENTITY/PROJECT or offline runs."
        )
    if bounds_only:
        notes.append(
            f"{path.name}: metrics with only a minimum and a maximum were skipped: {', '.join(sorted(bounds_only))}."
        )
