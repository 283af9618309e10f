"""CSV files that the W&B page exports: line plots and the runs table.

A line plot names runs, not ids, and a runs table only where its ID column was shown; such runs get an id that begins
with "?" and `analysis.wandb_names` finds out whose they are.
"""

from __future__ import annotations

import csv
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd

from analysis.frames import RunData
from analysis.parsing import number, plain
from analysis.wandb_rows import PHASES

# Columns of the runs table that are neither settings nor results.
FACTS = (
    *("Name", "ID", "State", "Notes", "User", "Username", "Tags", "Created", "Updated", "End Time", "Runtime", "Sweep"),
    *("Agent", "Group", "Job Type", "Project", "Entity", "Host", "Hostname", "GPU Count", "GPU Type", "CPU Count"),
    *("Description", "Relative Time (Process)", "Relative Time (Wall)"),
)
TIMES = ("relative time", "wall time", "time", "_runtime", "_timestamp")
JOINT = " - "
GROUP = "Group: "


class UnreadableCsv(ValueError):
    """A CSV file that W&B did not write like this; the message goes on from the file's name."""


def unknown_id(name: str, occurrence: int) -> str:
    """Of a run that is known by its name alone, the n-th (from 0) of that name in its file."""
    return f"?{name}#{occurrence}"


def read_csv(path: Path, notes: list[str]) -> list[RunData] | None:
    """The runs of an export; None where the file is none (it has neither a Name column nor `<run> - <metric>`).
    Raises UnreadableCsv where it is not as W&B writes it."""
    # csv, not pandas: pandas renames repeated headers and reads "none", "null" and "NA" as missing.
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            lines = list(csv.reader(file))
    except UnicodeDecodeError as error:
        raise UnreadableCsv(f"is not UTF-8 text (byte {error.start}): export it again, or convert it") from error
    except csv.Error as error:
        raise UnreadableCsv(f"is no CSV file ({error}): export it again") from error
    if not lines or not lines[0]:
        return None
    header, rows = lines[0], [row for row in lines[1:] if any(row)]
    kind = _kind(header)
    if kind is None:
        for mark, name in ((";", "semicolons"), ("\t", "tabs")):
            if _kind(next(csv.reader([mark.join(header)], delimiter=mark))) is not None:
                raise UnreadableCsv(f"has {name} between its cells: save it with commas, as W&B exports it")
        return None
    ragged = [row for row in rows if len(row) != len(header)]
    if ragged:
        notes.append(f"{path.name}: {len(ragged)} rows with another number of cells than the header left out.")
        rows = [row for row in rows if len(row) == len(header)]
    return kind(path, header, rows, notes)


def _kind(header: list[str]) -> Callable[[Path, list[str], list[list[str]], list[str]], list[RunData]] | None:
    if "Name" in header and JOINT not in header[0]:
        return _table
    return _line_plot if any(JOINT in name for name in header[1:]) else None


# Runs table


def _table(path: Path, header: list[str], rows: list[list[str]], notes: list[str]) -> list[RunData]:
    repeated = sorted({name for name in header if header.count(name) > 1})
    if repeated:
        notes.append(
            f"{path.name}: columns that appear twice (a setting and a result of one name): {', '.join(repeated)}; "
            "the first is read as the setting, the last as the result."
        )
    if hidden := [name for name in ("State", "ID") if name not in header]:
        notes.append(f"{path.name}: hides {' and '.join(hidden)}: show the columns in the table and export again.")
    if "seed" not in header:
        notes.append(f"{path.name}: has no seed column; runs that differ in nothing else count as different seeds.")
    seen: dict[str, int] = {}
    found: list[RunData] = []
    text: set[str] = set()
    for row in rows:
        cells = dict(zip(header, row, strict=True))
        name = cells["Name"]
        order = seen[name] = seen.get(name, -1) + 1
        config, summary = _split(header, row, text)
        found.append(
            RunData(
                id=cells.get("ID") or unknown_id(name, order),
                name=name,
                state=cells.get("State") or None,
                source="wandb table",
                where=path.name,
                config=config,
                summary=summary,
                created=cells.get("Created") or None,
                seconds=number(cells.get("Runtime", "")),
            )
        )
    if text:
        notes.append(f"{path.name}: results that are not numbers left out: {', '.join(sorted(text))}.")
    return found


def _split(header: list[str], row: list[str], text: set[str]) -> tuple[dict[str, Any], dict[str, float]]:
    """Settings and results: W&B writes both without a mark. A slash is a metric's, everything else a setting."""
    config: dict[str, Any] = {}
    summary: dict[str, float] = {}
    for place, (name, cell) in enumerate(zip(header, row, strict=True)):
        if name in FACTS or name.startswith("_"):
            continue
        if "/" in name or header.index(name) < place:
            value = number(cell)
            if value is not None:
                summary[name.removesuffix(".last")] = value
            elif cell.strip():
                text.add(name)
        elif cell.strip():
            config[name] = plain(cell, name)
    return config, summary


# Line plots


@dataclass
class _Curve:
    """One run of a line plot: x -> value for each metric, and x -> W&B's `_step` where the file has it."""

    name: str
    occurrence: int
    values: dict[str, dict[float, float]] = field(default_factory=dict)
    steps: dict[float, float] = field(default_factory=dict)


def split_column(column: str) -> tuple[str, str, str]:
    """run, metric, "" | "MIN" | "MAX"; names of runs may contain " - ", those of metrics do not."""
    run, _, metric = column.rpartition(JOINT)
    for part in ("MIN", "MAX"):
        if metric.endswith(f"__{part}"):
            return run, metric.removesuffix(f"__{part}"), part
    return run, metric, ""


def _line_plot(path: Path, header: list[str], rows: list[list[str]], notes: list[str]) -> list[RunData]:
    axis = [number(row[0]) for row in rows]
    curves, thinned, no_value = _curves(header, rows, axis)
    _say(path, header, axis, thinned, no_value, notes)
    found = []
    for curve in curves:
        group = curve.name.startswith(GROUP)
        metrics = None if header[0].strip().lower().startswith(TIMES) else _frame(curve, header[0])
        found.append(
            RunData(
                id=curve.name if group else unknown_id(curve.name, curve.occurrence),
                name=curve.name,
                state=None,
                source="wandb group" if group else "wandb plot",
                where=path.name,
                config={"group": curve.name.removeprefix(GROUP)} if group else {},
                summary={name: list(points.values())[-1] for name, points in curve.values.items() if points},
                metrics=metrics,
            )
        )
    return found


def _curves(header: list[str], rows: list[list[str]], axis: list[float | None]) -> tuple[list[_Curve], int, set[str]]:
    """The curves in the order of their columns; how many values are means of several steps; metrics whose export has
    only a least and a greatest value."""
    curves: dict[tuple[str, int], _Curve] = {}
    seen: dict[str, int] = {}
    current: tuple[str, int] | None = None
    thinned, values, bounds = 0, set[str](), set[str]()
    cells_of: dict[str, list[str]] = {}
    for place, column in enumerate(header[1:], start=1):
        run, metric, part = split_column(column)
        cells = [row[place] for row in rows]
        if part:
            bounds.add(metric)
            thinned += sum(a != b for a, b in zip(cells, cells_of.get(metric, cells), strict=True))
            continue
        values.add(metric)
        cells_of = {metric: cells}
        seen[column] = seen.get(column, -1) + 1
        current = (run, seen[column])
        curve = curves.setdefault(current, _Curve(*current))
        read = [(x, number(cell)) for x, cell in zip(axis, cells, strict=True)]
        points = {x: value for x, value in read if x is not None and value is not None}
        if metric == "_step":
            curve.steps = points
        else:
            curve.values[metric] = points
    return list(curves.values()), thinned, {name for name in bounds - values if not name.startswith("_")}


def _frame(curve: _Curve, axis: str) -> pd.DataFrame:
    """Columns phase, step, `_step` where known, and the metrics."""
    columns = {name: pd.Series(points, dtype=float) for name, points in curve.values.items()}
    table = pd.DataFrame(columns)
    table.insert(0, "phase", "step" if axis in ("Step", "_step") else PHASES.get(axis, "rl"))
    table.insert(1, "step", table.index.astype("int64"))
    if curve.steps:
        table["_step"] = pd.Series(curve.steps, dtype=float)
    return table.reset_index(drop=True)


def _say(
    path: Path, header: list[str], axis: list[float | None], thinned: int, no_value: set[str], notes: list[str]
) -> None:
    if header[0].strip().lower().startswith(TIMES):
        notes.append(f"{path.name}: its x axis is {header[0]!r}, not a step: only last values are read.")
    elif None in axis:
        notes.append(f"{path.name}: {axis.count(None)} rows without a number in {header[0]!r} left out.")
    if any(column.startswith(GROUP) for column in header[1:]):
        notes.append(f"{path.name}: is a grouped chart; each curve is a mean over runs that cannot be told apart.")
    elif thinned:
        notes.append(
            f"{path.name}: {thinned} bounds differ from their value: the page thinned the chart, and a value stands "
            "for several steps. Run folders, wandb:PROJECT or offline runs have them all."
        )
    if no_value:
        notes.append(f"{path.name}: only a least and a greatest value, left out: {', '.join(sorted(no_value))}.")
