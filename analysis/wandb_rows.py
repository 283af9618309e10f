"""History rows of W&B (offline files and the API) -> the metrics of a run, keyed by the run's own step."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd

from analysis.parsing import number

PHASES = {"rl/step": "rl", "warmup/step": "warmup"}  # how this suite logs its own step (see simplerl.runs.tracking)
_OWN = "_step _runtime _timestamp _wandb".split()  # noqa: SIM905


def rows_to_metrics(
    rows: Sequence[Mapping[str, Any]], run: str, notes: list[str], step_metrics: Sequence[str] = ()
) -> pd.DataFrame:
    """phase, step and a column for each metric. Rows without any known step metric are placed by W&B's `_step` only
    where the run has none at all. Values that are not numbers (tables, media, text) are left out; both are said."""
    known = [*PHASES, *(name for name in step_metrics if name not in PHASES)]
    has_own = any(name in row for row in rows for name in known)
    table: list[dict[str, Any]] = []
    unplaced, dropped = 0, set()
    for row in rows:
        placed = _place(row, known, has_own)
        if placed is None:
            unplaced += 1
            continue
        values = {"phase": placed[0], "step": placed[1]}
        for name, value in row.items():
            if name in PHASES or name in _OWN or name.startswith("_wandb"):
                continue
            found = number(value)
            if found is None:
                dropped.add(name)
            else:
                values[name] = found
        table.append(values)
    if rows and not has_own:
        notes.append(f"{run}: logs no step of its own; W&B's _step is taken, which a resumed run does not redo.")
    if unplaced:
        notes.append(f"{run}: {unplaced} rows without a step of their own left out.")
    if dropped:
        notes.append(f"{run}: not numbers, left out: {', '.join(sorted(dropped))}.")
    frame = pd.DataFrame(table, columns=None if table else ["phase", "step"])
    return frame.astype({name: "int64" if name == "step" else "float64" for name in frame.columns if name != "phase"})


def _place(row: Mapping[str, Any], known: Sequence[str], has_own: bool) -> tuple[str, int] | None:
    for name in known:
        if (step := number(row.get(name))) is not None:
            return PHASES.get(name, "rl"), int(step)
    step = None if has_own else number(row.get("_step"))
    return None if step is None else ("rl", int(step))
