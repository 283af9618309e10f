"""Reads line plots exported from the W&B page: a column for the x axis, and columns "RUN - METRIC" with their bounds.

A line plot identifies runs by name only. Such runs get a temporary id (`temporary_id`), which
`analysis.wandb_readers.run_ids` replaces. In a grouped chart the names are "SETTING: VALUE", and each curve is a mean
over runs.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd

from analysis.run_data import RunData, SourceError, parse_number, parse_setting, temporary_id
from analysis.wandb_readers.history import PHASES, as_steps
from analysis.wandb_readers.runs_table import METADATA

TIME_AXES = ("relative time", "wall time", "time", "_runtime", "_timestamp")
SEPARATOR = " - "  # between run and metric in the header
_GROUP_KEY = re.compile(r"(?:^|,? )(Job Type|[\w./-]+): ")


@dataclass
class _Curves:
    """Holds the curves of one run in a line plot: `values` as metric -> x -> value, and `steps` as x -> W&B's `_step`,
    if exported. occurrence: number, from 0, of this run among those of the same name."""

    name: str
    occurrence: int
    values: dict[str, dict[float, float]] = field(default_factory=dict)
    steps: dict[float, float] = field(default_factory=dict)


@dataclass
class _Plot:
    """Holds the curves of a line plot in the order of their columns and, for notes, counts of bounds (__MIN, __MAX) and
    of cells that are not numbers."""

    curves: list[_Curves]
    bounds: int = 0  # number of cells that are bounds
    differing: int = 0  # number of bounds that differ from their value
    bounds_only: set[str] = field(default_factory=set)  # metrics without values
    not_numbers: list[str] = field(default_factory=list)  # cells with other text


def read_line_plot(path: Path, header: list[str], rows: list[list[str]], notes: list[str]) -> list[RunData]:
    """Return the runs of a line plot or, if it is grouped, one run per group. Raises SourceError if it contains only
    the minimum and maximum of a metric."""
    x = [parse_number(row[0]) for row in rows]
    plot = _read_curves(header, rows, x)
    if not plot.curves and plot.bounds_only:
        raise SourceError(
            f"{path} contains only the minimum and maximum of {', '.join(sorted(plot.bounds_only))}: export the chart "
            "of another metric, or name run folders or wandb:ENTITY/PROJECT."
        )
    groups = _groups(plot)
    _note_plot_problems(path, header[0], x, plot, list(groups), notes)
    found = []
    for curve in plot.curves:
        is_group = curve.name in groups
        found.append(
            RunData(
                id=curve.name if is_group else temporary_id(curve.name, curve.occurrence),
                name=curve.name,
                state=None,
                source="wandb group" if is_group else "wandb plot",
                where=path.name,
                config=groups.get(curve.name, {}),
                summary={name: list(points.values())[-1] for name, points in curve.values.items() if points},
                metrics=None if _is_time(header[0]) else _to_metrics(curve, header[0]),
            )
        )
    return found


def _is_time(axis: str) -> bool:
    return axis.strip().lower().startswith(TIME_AXES)


def _split_header(column: str) -> tuple[str, str, str]:
    """Split a column's name into run, metric, and "MIN" or "MAX" for a bound, otherwise "". The name of a run may
    contain " - ", that of a metric may not."""
    run, _, metric = column.rpartition(SEPARATOR)
    for part in ("MIN", "MAX"):
        if metric.endswith(f"__{part}"):
            return run, metric.removesuffix(f"__{part}"), part
    return run, metric, ""


def _read_curves(header: list[str], rows: list[list[str]], x: list[float | None]) -> _Plot:
    curves: dict[tuple[str, int], _Curves] = {}
    occurrences: dict[str, int] = {}
    bounds, differing, with_values, with_bounds = 0, 0, set[str](), set[str]()
    cells_of: dict[str, list[str]] = {}  # of the last column with values
    not_numbers: list[str] = []
    for index, column in enumerate(header[1:], start=1):
        run, metric, part = _split_header(column)
        cells = [row[index] for row in rows]
        if part:
            with_bounds.add(metric)
            bounds += len(cells)
            differing += sum(a != b for a, b in zip(cells, cells_of.get(metric, cells), strict=True))
            continue
        with_values.add(metric)
        cells_of = {metric: cells}
        occurrences[column] = occurrences.get(column, -1) + 1
        key = (run, occurrences[column])
        curve = curves.setdefault(key, _Curves(*key))
        read = [(place, parse_number(cell)) for place, cell in zip(x, cells, strict=True)]
        not_numbers += [cell for cell, (_, value) in zip(cells, read, strict=True) if value is None and cell.strip()]
        points = {place: value for place, value in read if place is not None and value is not None}
        if metric == "_step":
            curve.steps = points
        else:
            curve.values[metric] = points
    bounds_only = {name for name in with_bounds - with_values if not name.startswith("_")}
    return _Plot(list(curves.values()), bounds, differing, bounds_only, not_numbers)


def _groups(plot: _Plot) -> dict[str, dict[str, Any]]:
    """Return name -> settings of the curves of a grouped chart; {} if the curves are single runs.

    All names of a grouped chart are "SETTING: VALUE" with the same settings. The name of a run may have this form too;
    its bounds then equal its values, unless the chart is thinned."""
    names = list(dict.fromkeys(curve.name for curve in plot.curves))
    split = [_GROUP_KEY.split(name) for name in names]
    if not names or any(parts[0] or len(parts) < 3 for parts in split) or len({parts[1] for parts in split}) > 1:
        return {}
    key = split[0][1]
    if not (key in METADATA or "." in key or plot.differing or (len(names) > 1 and not plot.bounds)):
        return {}
    if len({tuple(parts[1::2]) for parts in split}) > 1:  # a value holds ": " itself
        split = [["", key, name.partition(": ")[2]] for name in names]
    return {
        name: {_as_setting(key): parse_setting(value, key) for key, value in zip(parts[1::2], parts[2::2], strict=True)}
        for name, parts in zip(names, split, strict=True)
    }


def _as_setting(key: str) -> str:
    return key.lower() if key in METADATA else key


def _to_metrics(curve: _Curves, axis: str) -> pd.DataFrame:
    """Return a table with the columns phase, step, `_step` (if known) and the metrics. The phase is "step" if the x
    axis is W&B's own step, otherwise that of the axis, by default "rl"."""
    columns = {name: pd.Series(points, dtype=float) for name, points in curve.values.items()}
    table = pd.DataFrame(columns)
    table.insert(0, "phase", "step" if axis in ("Step", "_step") else PHASES.get(axis, "rl"))
    table.insert(1, "step", as_steps(table.index.to_series()))
    if curve.steps:
        table["_step"] = pd.Series(curve.steps, dtype=float)
    return table.reset_index(drop=True)


def _note_plot_problems(
    path: Path, axis: str, x: list[float | None], plot: _Plot, groups: Sequence[str], notes: list[str]
) -> None:
    if _is_time(axis):
        notes.append(f"{path.name}: the x axis is {axis!r}, not a step: only last values are used.")
    elif None in x:
        notes.append(f"{path.name}: {x.count(None)} rows without a number in {axis!r} were skipped.")
    if plot.not_numbers:
        shown = f"{len(plot.not_numbers)} cells that are not numbers were skipped, such as {plot.not_numbers[0][:40]!r}"
        notes.append(f"{path.name}: {shown} (did a spreadsheet change them?).")
    if groups:
        notes.append(f"{path.name}: the chart is grouped; each curve is a mean over runs and cannot be separated.")
    elif plot.differing:
        notes.append(
            f"{path.name}: the page thinned this chart, so a value may be a mean over several steps ({plot.differing} "
            "bounds differ from their value). For every step use run folders, wandb:ENTITY/PROJECT or offline runs."
        )
    if plot.bounds_only:
        notes.append(
            f"{path.name}: metrics with only a minimum and a maximum were skipped: "
            f"{', '.join(sorted(plot.bounds_only))}."
        )
