"""Full histories from a W&B server through `wandb.Api` (not the 500 sampled points of `run.history()`)."""

from __future__ import annotations

from typing import Any

from analysis.frames import RunData
from analysis.parsing import flatten, number
from analysis.wandb_rows import PHASES, rows_to_metrics


def read_project(path: str, notes: list[str]) -> list[RunData]:
    """Every run of "entity/project", or the one of "entity/project/run". Raises SourceError where the server has
    none or does not answer."""
    import wandb
    from wandb.errors import CommError, UsageError
    from wandb.sdk.lib.service.service_connection import WandbApiFailedError

    from analysis.sources import SourceError

    try:
        api = wandb.Api(timeout=30)
        runs = [api.run(path)] if path.count("/") == 2 else list(api.runs(path, per_page=100, lazy=False))
        return [_run(run, notes) for run in runs]
    except (CommError, UsageError, WandbApiFailedError, ValueError) as error:
        raise SourceError(f"wandb:{path} cannot be read: {error}") from error


def _run(run: Any, notes: list[str]) -> RunData:
    # Without keys a scan gives every row with whatever it holds; with keys only rows that have them all.
    rows = list(run.scan_history(page_size=10_000))
    summary = {key: number(value) for key, value in run.summary_metrics.items() if not key.startswith("_")}
    own_steps = any(name in row for row in rows for name in PHASES)
    return RunData(
        id=run.id,
        name=run.name,
        state=run.state,
        source="wandb api",
        where="/".join(run.path),
        config={key: value for key, value in flatten(run.config).items() if not key.startswith("_wandb")},
        summary={key: value for key, value in summary.items() if value is not None},
        metrics=rows_to_metrics(rows, run.id, notes, () if own_steps else ("train/global_step", "global_step")),
        created=run.created_at,
        seconds=number(run.summary_metrics.get("_runtime")),
    )
