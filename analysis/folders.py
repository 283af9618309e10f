"""Read run folders (layout: `simplerl.runs.folder`): settings and metrics, and on demand responses and evaluations."""

from __future__ import annotations

import json
import re
from io import BytesIO
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.json
import pyarrow.parquet as pq
import yaml

from analysis.run_data import RunData, flatten_config, parse_number
from simplerl.runs.rollout_table import SCHEMA

EVALUATION = "evaluation"  # `kind` of the folders of evaluate.py
# The settings that evaluate.py uses; the rest of its configuration is that of a training run which is not run.
_EVALUATED = re.compile(r"(choices\.)?(model|prompt|evals|sampler|seed|experiment|reward@evals\.reward)(\.|$)")
RESPONSE_COLUMNS = [name for name in SCHEMA.names if name not in ("tokens", "logprobs")]  # all but per-token ones


def read_run_folder(folder: Path, notes: list[str]) -> RunData:
    """Return one run; unreadable lines of metrics.jsonl are skipped and counted in `notes`."""
    config = flatten_config(yaml.safe_load((folder / "config.yaml").read_text(encoding="utf-8")))
    status = read_json(folder / "status.json")
    kind = str(status.get("kind", ""))
    if kind == EVALUATION:
        config = {key: value for key, value in config.items() if _EVALUATED.match(key)}
    run = folder.resolve().name
    metrics = read_metrics(folder / "metrics.jsonl", run, notes)
    return RunData(
        id=run,
        name=run,
        state=status.get("state"),
        source="folder",
        where=str(folder),
        config=config,
        metrics=metrics,
        created=read_json(folder / "environment.json").get("started"),
        seconds=float(metrics["time/step"].sum()) if metrics is not None and "time/step" in metrics else None,
        attempts=1 + int(status.get("attempt", 0)),
        kind=kind,
    )


def read_json(path: Path) -> dict[str, Any]:
    """Return the object in a JSON file; empty if there is no such file."""
    found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    return found


def read_metrics(path: Path, run: str, notes: list[str]) -> pd.DataFrame | None:
    """Return columns phase and step and a float64 column for each metric; None if nothing was logged."""
    if not path.is_file() or not path.stat().st_size:
        return None
    content = path.read_bytes()
    # Arrow infers types per block, and "1" and "1.5" may fall into different ones, so read a single block.
    options = pyarrow.json.ReadOptions(block_size=len(content) + 1)
    try:
        table = pyarrow.json.read_json(BytesIO(content), read_options=options).to_pandas()
    except pa.ArrowInvalid:  # an incomplete last line, or strings such as "NaN" among the numbers
        table = _read_line_by_line(content.decode("utf-8", errors="replace"), run, notes)
    table = table.drop(columns="attempt", errors="ignore")
    table["phase"] = table.get("phase", "rl")
    values = {
        name: pd.to_numeric(table[name]).astype("float64")
        for name in table.columns
        if name not in ("phase", "step") and table[name].dtype.kind in "biuf"
    }
    return pd.DataFrame({"phase": table["phase"], "step": table["step"].astype("int64"), **values})


def _read_line_by_line(text: str, run: str, notes: list[str]) -> pd.DataFrame:
    rows, broken = [], 0
    for line in text.splitlines():
        try:
            row = json.loads(line)
            step = int(row["step"])
        except (json.JSONDecodeError, KeyError, TypeError, ValueError):
            broken += 1
            continue
        keys = {"step": step, "phase": row.get("phase", "rl")}
        rows.append({**keys, **{name: parse_number(value) for name, value in row.items() if name not in keys}})
    if broken:
        notes.append(
            f"{run}: {broken} unreadable lines of metrics.jsonl were skipped (was the run killed while writing?)."
        )
    table = pd.DataFrame(rows, columns=None if rows else ["step", "phase"])
    return table.astype({name: "float64" for name in table.columns if name not in ("step", "phase")})


# Responses and evaluations


def rollout_files(folder: Path) -> dict[int, Path]:
    """Return the Parquet file of the responses sampled for training at each step."""
    return {int(path.stem.partition("_")[2]): path for path in sorted((folder / "rollouts").glob("step_*.parquet"))}


def evaluation_folders(folder: Path) -> dict[int, Path]:
    """Return the folder (results.json, samples.parquet) of the finished evaluation at each step."""
    return {
        int(path.parent.name.partition("_")[2]): path.parent
        for path in sorted((folder / "evals").glob("step_*/results.json"))
    }


def read_responses(file: Path, columns: list[str] | None = None) -> pd.DataFrame:
    """Return the responses in a rollout or samples.parquet file: `columns`, or all but the per-token ones."""
    present = pq.read_schema(file).names
    wanted = columns or ["set", *RESPONSE_COLUMNS]
    return pq.read_table(file, columns=[name for name in wanted if name in present]).to_pandas()
