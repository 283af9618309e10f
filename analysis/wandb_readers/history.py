"""Converts W&B history rows, as found in files and on a server, to metrics, and reads the runs of a server."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from analysis.run_data import RunData, SourceError, flatten_config, parse_number, temporary_id
from simplerl.errors import import_optional

PHASES = {"rl/step": "rl", "warmup/step": "warmup"}  # the suite's own step metrics (simplerl.runs.tracking)
GLOBAL_STEPS = ("train/global_step", "trainer/global_step", "global_step")  # other trainers' step metrics
EPOCHS = ("epoch", "train/epoch")  # used only if there is no _step
PLAIN_STEPS = ("step", "Step", *EPOCHS)  # used only if every row has one
RUN_COLUMNS = ("run_id", "run", "run_name", "name")  # name the run of a row in a file with several runs
SAMPLED_ROWS = 500  # default maximum number of rows of run.history()
_INTERNAL = ("_step", "_runtime", "_timestamp", "_wandb")


def is_history(columns: Sequence[str]) -> bool:
    """Return whether a table with these columns is a history of runs: at least one column of steps and one metric."""
    steps = {"_step", *PHASES, *GLOBAL_STEPS, *PLAIN_STEPS}
    others = set(columns) - steps - {*_INTERNAL, *RUN_COLUMNS, "phase", "attempt"}
    return bool(steps & set(columns)) and any(name and not name.startswith("Unnamed:") for name in others)


def read_history(path: Path, rows: Sequence[Mapping[str, Any]], notes: list[str]) -> list[RunData]:
    """Return the runs of a history that was saved to a file, such as `run.history().to_csv(...)`.

    Rows hold only the values that were logged. One of `RUN_COLUMNS` separates runs; without one, the rows are a single
    run, whose name is that of the file."""
    key = next((name for name in RUN_COLUMNS if rows and all(isinstance(row.get(name), str) for row in rows)), None)
    by_run: dict[str, list[Mapping[str, Any]]] = {}
    for row in rows:
        name = path.name.partition(".")[0] if key is None else row[key]
        by_run.setdefault(name, []).append({column: row[column] for column in row if column not in RUN_COLUMNS})
    found = []
    for name, own in by_run.items():
        if len(own) == SAMPLED_ROWS:
            notes.append(f"{name}: has {SAMPLED_ROWS} rows: run.history() may have sampled them; use scan_history().")
        metrics = rows_to_metrics(own, name, notes, step_metrics_of(own))
        last = metrics.drop(columns=["phase", "step"]).ffill().tail(1).to_dict("records")
        found.append(
            RunData(
                id=name if key == "run_id" else temporary_id(name, 0),
                name=name,
                state=None,
                source="wandb history",
                where=str(path),
                summary={metric: value for row in last for metric, value in row.items() if pd.notna(value)},
                metrics=metrics,
            )
        )
    return found


def step_metrics_of(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return the columns that hold another trainer's step number; [] if the rows have the suite's own step columns, or
    none besides `_step`."""
    if any(name in row for row in rows for name in PHASES):
        return []
    if found := [name for name in GLOBAL_STEPS if any(name in row for row in rows)]:
        return found
    plain = [name for name in PLAIN_STEPS if rows and all(name in row for row in rows)]
    has_steps = any("_step" in row for row in rows)
    return [name for name in plain if not (has_steps and name in EPOCHS)]


def as_steps(steps: pd.Series) -> pd.Series:
    """Return steps as int64, or as float64 if some are fractions, such as epochs."""
    return steps.astype("int64") if (steps == steps.round()).all() else steps.astype("float64")


def read_project(path: str, notes: list[str]) -> list[RunData]:
    """Return all runs of "ENTITY/PROJECT", or the single run "ENTITY/PROJECT/RUN", with full history.

    `run.history()` would return only 500 sampled points. Raises SourceError if the server does not answer or does not
    have the project or run."""
    wandb = import_optional("wandb", f"wandb:{path}")
    from wandb.errors import CommError, UsageError
    from wandb.sdk.lib.service.service_connection import WandbApiFailedError

    failures = (CommError, UsageError, WandbApiFailedError, ValueError)
    try:
        api = wandb.Api(timeout=30)
        runs = [api.run(path)] if path.count("/") == 2 else list(api.runs(path, per_page=100, lazy=False))
    except failures as error:
        raise SourceError(
            f"wandb:{path} cannot be read: {error}. Check the name, WANDB_API_KEY and WANDB_BASE_URL."
        ) from error
    found, faults = [], []
    for run in runs:
        try:
            found.append(_read_run(run, notes))
        except failures as error:
            faults.append(f"wandb:{path}/{run.id} cannot be read ({error}): try again, or name other runs.")
    if not found:
        raise SourceError(faults[0] if faults else f"wandb:{path} has no runs: check the name of the project.")
    notes += [f"Left out: {fault}" for fault in faults]
    return found


def _read_run(run: Any, notes: list[str]) -> RunData:
    # scan_history(keys=...) would return only the rows that hold all keys.
    rows = list(run.scan_history(page_size=10_000))
    summary = {key: parse_number(value) for key, value in run.summary_metrics.items() if not key.startswith("_")}
    return RunData(
        id=run.id,
        name=run.name,
        state=run.state,
        source="wandb api",
        where="/".join(run.path),
        config=flatten_wandb_config(run.config),
        summary={key: value for key, value in summary.items() if value is not None},
        metrics=rows_to_metrics(rows, run.id, notes, step_metrics_of(rows)),
        created=run.created_at,
        seconds=parse_number(run.summary_metrics.get("_runtime")),
    )


def flatten_wandb_config(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return the settings with dotted keys, without W&B's internal ones."""
    return {key: value for key, value in flatten_config(config).items() if not key.startswith("_wandb")}


def rows_to_metrics(
    rows: Sequence[Mapping[str, Any]], run: str, notes: list[str], step_metrics: Sequence[str] = ()
) -> pd.DataFrame:
    """Return a table with the columns phase and step and a column for each metric.

    The step is the first of `PHASES` and then `step_metrics` that a row holds. W&B's `_step` is used only if no row of
    the run has any of them; otherwise rows without one are skipped. Values that are not numbers (tables, media, text)
    are skipped. `notes` says what was skipped."""
    known = [*PHASES, *(name for name in step_metrics if name not in PHASES)]
    has_own_steps = any(name in row for row in rows for name in known)
    table: list[dict[str, Any]] = []
    without_step, dropped = 0, set()
    for row in rows:
        found = _phase_and_step(row, known, has_own_steps)
        if found is None:
            without_step += 1
            continue
        values = {"phase": found[0], "step": found[1]}
        for name, value in row.items():
            if name in PHASES or name in _INTERNAL or name == "phase" or name.startswith("_wandb"):
                continue
            number = parse_number(value)
            if number is None:
                dropped.add(name)
            else:
                values[name] = number
        table.append(values)
    if rows and not has_own_steps:
        notes.append(
            f"{run}: logs no step metric; W&B's _step is used, which keeps counting when a resumed run repeats steps."
        )
    if without_step:
        notes.append(f"{run}: {without_step} rows without a step metric were skipped.")
    if dropped:
        notes.append(f"{run}: values that are not numbers were skipped: {', '.join(sorted(dropped))}.")
    frame = pd.DataFrame(table, columns=None if table else ["phase", "step"])
    frame = frame.astype({name: "float64" for name in frame.columns if name not in ("phase", "step")})
    return frame.assign(step=as_steps(frame["step"]))


def _phase_and_step(row: Mapping[str, Any], known: Sequence[str], has_own_steps: bool) -> tuple[str, float] | None:
    for name in known:
        if (step := parse_number(row.get(name))) is not None and math.isfinite(step):
            written = str(row.get("phase"))
            return PHASES.get(name, written if written in PHASES.values() else "rl"), step
    step = None if has_own_steps else parse_number(row.get("_step"))
    return None if step is None or not math.isfinite(step) else ("rl", step)
