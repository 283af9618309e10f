"""The tidy frames that everything in this package reads, whatever the numbers came from.

    runs      one row a run, index `run` (its id): name, state, source, where, created, seconds, attempts
    config    one row a run, the same index: a column for each dotted setting (None where a run lacks it)
    metrics   one row for each (run, phase, step): a column for each metric, NaN where it was not logged
    summary   one row a run: the last value of each metric, where only a summary is known
    notes     what reading dropped, merged or could not tell, one sentence each

A run is known by its id and a row by the suite's own step; names and W&B's `_step` decide nothing.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
import pandas as pd

KEYS = ["run", "phase", "step"]
CSV_SOURCES = ("wandb table", "wandb plot")


@dataclass(frozen=True)
class RunData:
    """One run as one source knows it."""

    id: str
    name: str
    state: str | None  # finished, running, failed, crashed, interrupted, killed; None: the source does not say
    source: str  # folder, wandb table, wandb plot, wandb api, wandb offline, group
    where: str
    config: dict[str, Any] = field(default_factory=dict)
    summary: dict[str, float] = field(default_factory=dict)
    metrics: pd.DataFrame | None = None  # phase, step, and a column for each metric
    created: str | None = None
    seconds: float | None = None
    attempts: int = 1


@dataclass(frozen=True)
class Frames:
    runs: pd.DataFrame
    config: pd.DataFrame
    metrics: pd.DataFrame
    summary: pd.DataFrame
    notes: list[str]

    def names(self) -> list[str]:
        """Every metric."""
        return [str(name) for name in self.metrics.columns if name not in KEYS]

    def eval_sets(self) -> list[str]:
        """Benchmarks, in the order in which they were logged, without the mean over them."""
        found = [name.split("/")[1] for name in [*self.names(), *map(str, self.summary.columns)] if _is_accuracy(name)]
        return [name for name in dict.fromkeys(found) if name != "mean"]

    def curve(self, run: str, name: str, phase: str = "rl") -> pd.Series:
        """One metric of one run, index step, without its gaps."""
        place = self._blocks.get(run)
        if place is None or name not in self.metrics:
            return pd.Series(dtype=float)
        values = self.metrics[name].to_numpy()[place]
        steps, phases = self._steps[0][place], self._steps[1][place]
        chosen = ~np.isnan(values) & (phases == phase)
        steps, values = steps[chosen], values[chosen]
        order = np.argsort(steps, kind="stable")
        return pd.Series(values[order], index=steps[order], name=name)

    @cached_property
    def _blocks(self) -> dict[str, slice]:
        """Where each run's rows stand: `assemble` puts them together."""
        codes = self.metrics["run"].cat.codes.to_numpy()
        starts: list[int] = np.flatnonzero(np.diff(codes, prepend=-1)).tolist() if len(codes) else []
        ends = [*starts[1:], len(codes)]
        names = self.metrics["run"].cat.categories
        return {str(names[codes[a]]): slice(a, b) for a, b in zip(starts, ends, strict=False)}

    @cached_property
    def _steps(self) -> tuple[Any, Any]:
        return self.metrics["step"].to_numpy(), self.metrics["phase"].astype(object).to_numpy()

    def last(self, run: str, name: str) -> float | None:
        """The last value of a metric: of its curve, else of the run's summary."""
        curve = self.curve(run, name)
        if len(curve):
            return float(curve.iloc[-1])
        if name in self.summary and pd.notna(value := self.summary.at[run, name]):
            return float(value)
        return None

    def only(self, runs: Sequence[str], notes: Iterable[str] = ()) -> Frames:
        """Some of the runs."""
        metrics = self.metrics[self.metrics["run"].isin(list(runs))]
        chosen = list(runs)
        return Frames(
            self.runs.loc[chosen], self.config.loc[chosen], metrics, self.summary.loc[chosen], [*self.notes, *notes]
        )


def _is_accuracy(name: str) -> bool:
    parts = name.split("/")
    return len(parts) == 3 and parts[0] == "eval" and parts[2] == "accuracy"


def assemble(found: Sequence[RunData], notes: Iterable[str] = ()) -> Frames:
    """One set of frames of the runs that any number of sources gave. A run that several sources know is one run."""
    notes = list(notes)
    by_id: dict[str, list[RunData]] = {}
    for one in found:
        by_id.setdefault(one.id, []).append(one)
    ids = list(by_id)
    for run, parts in by_id.items():
        if len(parts) > 1 and not all(
            part.source in CSV_SOURCES for part in parts
        ):  # charts and tables complete each other
            sources = " and ".join(dict.fromkeys(f"{part.source} {part.where}" for part in parts))
            notes.append(f"{run}: put together from {len(parts)} parts ({sources}).")
    facts = [_facts(run, parts) for run, parts in by_id.items()]
    runs = pd.DataFrame(facts, columns=["run", "name", "state", "source", "where", "created", "seconds", "attempts"])
    config = pd.DataFrame([_later_wins(part.config for part in by_id[run]) for run in ids], index=ids, dtype=object)
    summary = pd.DataFrame([_later_wins(part.summary for part in by_id[run]) for run in ids], index=ids, dtype=float)
    index = pd.Index(ids, name="run")
    metrics = _metrics(by_id, notes)
    _say_infinite(metrics, summary.set_axis(index), notes)
    return Frames(runs.set_index("run"), config.set_axis(index), metrics, summary.set_axis(index), notes)


def _facts(run: str, parts: list[RunData]) -> dict[str, Any]:
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
    }


def _later_wins(parts: Iterable[dict[str, Any]]) -> dict[str, Any]:
    merged: dict[str, Any] = {}
    for part in parts:
        merged |= part
    return merged


def _metrics(by_id: dict[str, list[RunData]], notes: list[str]) -> pd.DataFrame:
    tables, owners = [], []
    for run, parts in by_id.items():
        own = [part.metrics for part in parts if part.metrics is not None and len(part.metrics)]
        if own:
            rows = own[0] if len(own) == 1 else pd.concat(own, ignore_index=True)
            tables.append(one_row_a_step(rows, run, notes))
            owners.append(run)
    if not tables:
        return pd.DataFrame({"run": pd.Categorical([]), "phase": pd.Categorical([]), "step": pd.Series(dtype="int64")})
    # float32 steps of thousands of rows would be exact, too; int64 keeps arithmetic simple.
    table = pd.concat(tables, ignore_index=True)
    lengths = [len(one) for one in tables]
    codes = [code for code, length in enumerate(lengths) for _ in range(length)]
    table.insert(0, "run", pd.Categorical.from_codes(codes, categories=pd.Index(owners)))
    table["phase"] = table["phase"].astype("category")
    return table


def _say_infinite(metrics: pd.DataFrame, summary: pd.DataFrame, notes: list[str]) -> None:
    """A loss that diverged is kept as it is: means over seeds become infinite, too."""
    where: dict[str, list[str]] = {}
    for name in metrics.columns.difference(KEYS, sort=False):
        for run in metrics.loc[np.isinf(metrics[name].to_numpy(dtype=float)), "run"].unique():
            where.setdefault(str(run), []).append(str(name))
    for run, names in summary.T.items():
        where.setdefault(str(run), []).extend(map(str, names.index[np.isinf(names.to_numpy(dtype=float))]))
    for run, found in where.items():
        if found:
            notes.append(f"{run}: infinite values are shown as inf: {', '.join(dict.fromkeys(found))}.")


def one_row_a_step(rows: pd.DataFrame, run: str, notes: list[str]) -> pd.DataFrame:
    """Rows that repeat a (phase, step) become one: for each metric the last that was written wins."""
    double = rows.duplicated(["phase", "step"], keep=False)
    if not double.any():
        return rows
    merged = rows.groupby(["phase", "step"], sort=False, observed=True, as_index=False).last()
    written = rows[double].groupby(["phase", "step"], sort=False, observed=True).count()
    steps = sorted({step for _, step in written.index[(written > 1).any(axis=1)]})
    if steps:
        notes.append(f"{run}: {_span(steps)} written more than once; the last written value of each metric counts.")
    return merged.sort_values(["phase", "step"], ignore_index=True)


def _span(steps: list[int]) -> str:
    return f"step {steps[0]} was" if len(steps) == 1 else f"{len(steps)} steps ({steps[0]} to {steps[-1]}) were"
