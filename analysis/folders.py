"""Run folders (see `simplerl.runs.folder`) -> frames; their responses and evaluations are read on demand."""

from __future__ import annotations

import json
from io import BytesIO
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.json
import pyarrow.parquet as pq
import yaml

from analysis.frames import RunData
from analysis.parsing import flatten, number
from simplerl.runs.rollout_table import SCHEMA

# Every column of simplerl.runs.rollout_table but the per-token ones.
RESPONSES = [name for name in SCHEMA.names if name not in ("tokens", "logprobs")]


def read_folder(folder: Path, notes: list[str]) -> RunData:
    """One run folder; broken lines are left out and counted in `notes`."""
    config = flatten(yaml.safe_load((folder / "config.yaml").read_text(encoding="utf-8")))
    status = _json(folder / "status.json")
    run = folder.resolve().name
    metrics = read_metrics(folder / "metrics.jsonl", run, notes)
    attempts = 1 + int(status.get("attempt", 0))
    return RunData(
        id=run,
        name=run,
        state=status.get("state"),
        source="folder",
        where=str(folder),
        config=config,
        metrics=metrics,
        created=_json(folder / "environment.json").get("started"),
        seconds=float(metrics["time/step"].sum()) if metrics is not None and "time/step" in metrics else None,
        attempts=attempts,
    )


def _json(path: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    return found


def read_metrics(path: Path, run: str, notes: list[str]) -> pd.DataFrame | None:
    """phase, step and a float64 column for each metric; None where nothing was logged."""
    if not path.is_file() or not path.stat().st_size:
        return None
    content = path.read_bytes()
    # One block: Arrow infers the types of each block alone, and "1" and "1.5" may stand in different ones.
    options = pyarrow.json.ReadOptions(block_size=len(content) + 1)
    try:
        table = pyarrow.json.read_json(BytesIO(content), read_options=options).to_pandas()
    except pa.ArrowInvalid:  # a line cut by a kill, or strings such as "NaN" among the numbers
        table = _read_slowly(content.decode("utf-8", errors="replace"), run, notes)
    table = table.drop(columns="attempt", errors="ignore")
    table["phase"] = table.get("phase", "rl")
    values = {
        name: pd.to_numeric(table[name]).astype("float64")
        for name in table.columns
        if name not in ("phase", "step") and table[name].dtype.kind in "biuf"
    }
    return pd.DataFrame({"phase": table["phase"], "step": table["step"].astype("int64"), **values})


def _read_slowly(text: str, run: str, notes: list[str]) -> pd.DataFrame:
    rows, broken = [], 0
    for line in text.splitlines():
        try:
            row = json.loads(line)
            step = int(row["step"])
        except (json.JSONDecodeError, KeyError, TypeError, ValueError):
            broken += 1
            continue
        named = {"step": step, "phase": row.get("phase", "rl")}
        rows.append({**named, **{k: number(v) for k, v in row.items() if k not in named}})
    if broken:
        notes.append(f"{run}: {broken} broken lines of metrics.jsonl left out (cut by a kill?).")
    table = pd.DataFrame(rows, columns=None if rows else ["step", "phase"])
    return table.astype({name: "float64" for name in table.columns if name not in ("step", "phase")})


# Responses


def rollout_steps(folder: Path) -> dict[int, Path]:
    """Step -> file of the responses sampled for training."""
    return {int(path.stem.partition("_")[2]): path for path in sorted((folder / "rollouts").glob("step_*.parquet"))}


def evaluation_steps(folder: Path) -> dict[int, Path]:
    """Step -> folder of a finished evaluation (results.json and samples.parquet)."""
    return {
        int(path.parent.name.partition("_")[2]): path.parent
        for path in sorted((folder / "evals").glob("step_*/results.json"))
    }


def read_responses(file: Path, columns: list[str] | None = None) -> pd.DataFrame:
    """Rows of rollouts/step_*.parquet or of an evaluation's samples.parquet, without the per-token columns."""
    present = pq.read_schema(file).names
    wanted = columns or ["set", *RESPONSES]
    return pq.read_table(file, columns=[name for name in wanted if name in present]).to_pandas()


def read_results(folder: Path) -> dict[str, Any]:
    """results.json of an evaluation."""
    return _json(folder / "results.json")
