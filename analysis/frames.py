"""Defines the tables that the rest of this package reads, the same for all sources of runs.

    runs      one row per run, index `run` (its id): name, state, source, where, created, seconds, attempts, kind
    config    one row per run, same index: a column for each dotted setting, None if the run lacks it
    metrics   one row per (run, phase, step): a column for each metric, NaN if it was not logged
    summary   one row per run: the last value of each metric, for sources that contain only this
    parts     what each source contains about a run, without metrics
    notes     what was dropped, merged or ambiguous while reading, one sentence each

Runs are identified by id, never by name, and rows by the suite's own step, never by W&B's `_step`.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import numpy as np
import pandas as pd

from analysis.run_data import RunData

KEYS = ["run", "phase", "step"]
CSV_SOURCES = ("wandb table", "wandb plot", "wandb history")


@dataclass(frozen=True)
class Frames:
    """Holds settings and metrics of a set of runs; the module's docstring describes the fields."""

    runs: pd.DataFrame
    config: pd.DataFrame
    metrics: pd.DataFrame
    summary: pd.DataFrame
    notes: list[str]
    parts: dict[str, list[RunData]] = field(default_factory=dict)  # run -> what its sources contain

    def metric_names(self) -> list[str]:
        """Return every metric that has a curve."""
        return [str(name) for name in self.metrics.columns if name not in KEYS]

    def benchmarks(self) -> list[str]:
        """Return the evaluated benchmarks in the order in which they were logged, without "mean"."""
        names = [*self.metric_names(), *map(str, self.summary.columns)]
        found = [name.split("/")[1] for name in names if _is_accuracy(name)]
        return [name for name in dict.fromkeys(found) if name != "mean"]

    def curve(self, run: str, name: str, phase: str = "rl") -> pd.Series:
        """Return one metric of one run by step, without NaN; empty if it was not logged."""
        rows = self._rows_of_run.get(run)
        if rows is None or name not in self.metrics:
            return pd.Series(dtype=float, name=name)
        values = self.metrics[name].to_numpy()[rows]
        steps, phases = self._steps_and_phases[0][rows], self._steps_and_phases[1][rows]
        chosen = ~np.isnan(values) & (phases == phase)
        steps, values = steps[chosen], values[chosen]
        order = np.argsort(steps, kind="stable")
        return pd.Series(values[order], index=steps[order], name=name)

    @cached_property
    def _rows_of_run(self) -> dict[str, slice]:
        """Return run -> its rows in `metrics`; `assemble` makes them contiguous."""
        found = self.metrics.groupby("run", observed=True).indices
        return {str(run): slice(rows[0], rows[-1] + 1) for run, rows in found.items()}

    @cached_property
    def _steps_and_phases(self) -> tuple[Any, Any]:
        return self.metrics["step"].to_numpy(), self.metrics["phase"].astype(object).to_numpy()

    def last_value(self, run: str, name: str) -> float | None:
        """Return the last value of a metric from its curve, or else from the run's summary; None if unknown."""
        curve = self.curve(run, name)
        if len(curve):
            return float(curve.iloc[-1])
        if name in self.summary and pd.notna(value := self.summary.at[run, name]):
            return float(value)
        return None

    def last_step(self, runs: Sequence[str]) -> float | None:
        """Return the last step that any of `runs` logged, as an int unless it is a fraction; None without metrics."""
        steps = self.metrics.loc[self.metrics["run"].isin(list(runs)), "step"]
        last = float(steps.max()) if len(steps) else None
        return int(last) if last is not None and last.is_integer() else last

    def select(self, runs: Sequence[str], notes: Iterable[str] = ()) -> Frames:
        """Return frames with only the runs `runs`, and with `notes` appended."""
        chosen = list(runs)
        return Frames(
            self.runs.loc[chosen],
            self.config.loc[chosen],
            self.metrics[self.metrics["run"].isin(chosen)],
            self.summary.loc[chosen],
            [*self.notes, *notes],
            {run: self.parts[run] for run in chosen if run in self.parts},
        )

    def environment(self, run: str) -> dict[str, Any]:
        """Return the environment.json of a run; empty if only W&B recorded it."""
        return next((part.environment for part in self.parts.get(run, []) if part.environment), {})

    def status(self, run: str) -> dict[str, Any]:
        """Return the status.json of a run; empty if only W&B recorded it."""
        return next((part.status for part in self.parts.get(run, []) if part.status), {})


def _is_accuracy(name: str) -> bool:
    parts = name.split("/")
    return len(parts) == 3 and parts[0] == "eval" and parts[2] == "accuracy"


def assemble(found: Sequence[RunData], notes: Iterable[str] = ()) -> Frames:
    """Return the frames of all runs in `found`; parts with the same id are merged into one run."""
    notes = list(notes)
    by_id: dict[str, list[RunData]] = {}
    for one in found:
        by_id.setdefault(one.id, []).append(one)
    ids = list(by_id)
    for run, parts in by_id.items():
        # CSV charts and tables are meant to complete each other, so merging them needs no note.
        if len(parts) > 1 and not all(part.source in CSV_SOURCES for part in parts):
            sources = " and ".join(dict.fromkeys(f"{part.source} {part.where}" for part in parts))
            notes.append(f"{run}: merged from {len(parts)} parts ({sources}).")
    facts = [_facts(run, parts) for run, parts in by_id.items()]
    runs = pd.DataFrame(
        facts, columns=["run", "name", "state", "source", "where", "created", "seconds", "attempts", "kind"]
    )
    # Later parts take precedence.
    configs = [{key: value for part in parts for key, value in part.config.items()} for parts in by_id.values()]
    summaries = [{key: value for part in parts for key, value in part.summary.items()} for parts in by_id.values()]
    config = pd.DataFrame(configs, index=ids, dtype=object)
    summary = pd.DataFrame(summaries, index=ids, dtype=float)
    index = pd.Index(ids, name="run")
    metrics = _join_metrics(by_id, notes)
    _note_infinite_values(metrics, summary.set_axis(index), notes)
    frames = (runs.set_index("run"), config.set_axis(index), metrics, summary.set_axis(index), notes)
    return Frames(*frames, {run: [replace(part, metrics=None) for part in parts] for run, parts in by_id.items()})


def _facts(run: str, parts: list[RunData]) -> dict[str, Any]:
    """Return the run's row of `Frames.runs`; later parts take precedence."""
    last = parts[-1]
    known = [part for part in parts if part.state is not None]
    seconds = [part.seconds for part in parts if part.seconds is not None]
    return {
        "run": run,
        "name": last.name,
        "state": known[-1].state if known else None,
        "source": " + ".join(dict.fromkeys(part.source for part in parts)),
        "where": last.where,
        "created": next((part.created for part in parts if part.created), None),
        "seconds": max(seconds) if seconds else None,
        "attempts": max(part.attempts for part in parts),
        "kind": next((part.kind for part in parts if part.kind), ""),
    }


def _join_metrics(by_id: dict[str, list[RunData]], notes: list[str]) -> pd.DataFrame:
    tables, owners = [], []
    for run, parts in by_id.items():
        own = [part.metrics for part in parts if part.metrics is not None and len(part.metrics)]
        if own:
            rows = own[0] if len(own) == 1 else pd.concat(own, ignore_index=True)
            tables.append(_merge_repeated_steps(rows, run, notes))
            owners.append(run)
    if not tables:
        return pd.DataFrame({"run": pd.Categorical([]), "phase": pd.Categorical([]), "step": pd.Series(dtype="int64")})
    table = pd.concat(tables, ignore_index=True)
    codes = np.repeat(np.arange(len(tables)), [len(one) for one in tables])
    with warnings.catch_warnings():  # runs with different metrics: a copy only to please pandas costs memory
        warnings.simplefilter("ignore", pd.errors.PerformanceWarning)
        table.insert(0, "run", pd.Categorical.from_codes(codes, categories=pd.Index(owners)))
    table["phase"] = table["phase"].astype("category")
    return table


def _note_infinite_values(metrics: pd.DataFrame, summary: pd.DataFrame, notes: list[str]) -> None:
    """Add a note on metrics with infinite values, which are kept and make means over seeds infinite too."""
    where: dict[str, list[str]] = {}
    for name in metrics.columns.difference(KEYS, sort=False):
        for run in metrics.loc[np.isinf(metrics[name].to_numpy(dtype=float)), "run"].unique():
            where.setdefault(str(run), []).append(str(name))
    for run, names in summary.T.items():
        where.setdefault(str(run), []).extend(map(str, names.index[np.isinf(names.to_numpy(dtype=float))]))
    for run, found in where.items():
        if found:
            notes.append(f"{run}: infinite values are shown as inf: {', '.join(dict.fromkeys(found))}.")


def _merge_repeated_steps(rows: pd.DataFrame, run: str, notes: list[str]) -> pd.DataFrame:
    """Merge rows with the same (phase, step); for each metric the last written value counts."""
    repeated = rows.duplicated(["phase", "step"], keep=False)
    if not repeated.any():
        return rows
    merged = rows.groupby(["phase", "step"], sort=False, observed=True, as_index=False).last()
    written = rows[repeated].groupby(["phase", "step"], sort=False, observed=True).count()
    steps = sorted({step for _, step in written.index[(written > 1).any(axis=1)]})
    if steps:
        which = f"step {steps[0]} was" if len(steps) == 1 else f"{len(steps)} steps ({steps[0]} to {steps[-1]}) were"
        notes.append(f"{run}: {which} written more than once; the last written value of each metric counts.")
    return merged.sort_values(["phase", "step"], ignore_index=True)
