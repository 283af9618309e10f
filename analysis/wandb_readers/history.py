"""W&B history rows, as offline files and the server hold them, and the runs of a server."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd

from analysis.run_data import RunData, SourceError, flatten_config, parse_number

PHASES = {"rl/step": "rl", "warmup/step": "warmup"}  # the suite's own step metrics (simplerl.runs.tracking)
_INTERNAL = ("_step", "_runtime", "_timestamp", "_wandb")


def read_project(path: str, notes: list[str]) -> list[RunData]:
    """Return every run of "ENTITY/PROJECT", or the one of "ENTITY/PROJECT/RUN", with its full history.

    `run.history()` would return only 500 sampled points. Raises SourceError if the server does not answer or does not
    have the project or run."""
    import wandb
    from wandb.errors import CommError, UsageError
    from wandb.sdk.lib.service.service_connection import WandbApiFailedError

    try:
        api = wandb.Api(timeout=30)
        runs = [api.run(path)] if path.count("/") == 2 else list(api.runs(path, per_page=100, lazy=False))
        return [_read_run(run, notes) for run in runs]
    except (CommError, UsageError, WandbApiFailedError, ValueError) as error:
        raise SourceError(
            f"wandb:{path} cannot be read: {error}. Check the name, WANDB_API_KEY and WANDB_BASE_URL."
        ) from error


def _read_run(run: Any, notes: list[str]) -> RunData:
    # scan_history(keys=...) would return only the rows that hold all keys.
    rows = list(run.scan_history(page_size=10_000))
    summary = {key: parse_number(value) for key, value in run.summary_metrics.items() if not key.startswith("_")}
    has_own_steps = any(name in row for row in rows for name in PHASES)
    return RunData(
        id=run.id,
        name=run.name,
        state=run.state,
        source="wandb api",
        where="/".join(run.path),
        config=flatten_wandb_config(run.config),
        summary={key: value for key, value in summary.items() if value is not None},
        metrics=rows_to_metrics(rows, run.id, notes, () if has_own_steps else ("train/global_step", "global_step")),
        created=run.created_at,
        seconds=parse_number(run.summary_metrics.get("_runtime")),
    )


def flatten_wandb_config(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return the settings with dotted keys, without W&B's own."""
    return {key: value for key, value in flatten_config(config).items() if not key.startswith("_wandb")}


def rows_to_metrics(
    rows: Sequence[Mapping[str, Any]], run: str, notes: list[str], step_metrics: Sequence[str] = ()
) -> pd.DataFrame:
    """Return columns phase and step and a column for each metric.

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
            if name in PHASES or name in _INTERNAL or name.startswith("_wandb"):
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
    return frame.astype({name: "int64" if name == "step" else "float64" for name in frame.columns if name != "phase"})


def _phase_and_step(row: Mapping[str, Any], known: Sequence[str], has_own_steps: bool) -> tuple[str, int] | None:
    for name in known:
        if (step := parse_number(row.get(name))) is not None:
            return PHASES.get(name, "rl"), int(step)
    step = None if has_own_steps else parse_number(row.get("_step"))
    return None if step is None else ("rl", int(step))
