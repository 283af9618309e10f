"""Reads run folders (layout: `simplerl.runs.folder`): settings, metrics and, on request, responses and evaluations."""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.json
from omegaconf import MISSING

from analysis.run_data import RunData, SourceError, flatten_config, parse_number, parse_setting
from simplerl.config.schema import RoleConfig, all_settings
from simplerl.io import files
from simplerl.io.files import read_parquet
from simplerl.runs.alarms import ALARMS
from simplerl.runs.identity import DISTILLATION
from simplerl.runs.rollout_table import SCHEMA

MAX_STEP = 2**53
EVALUATION = "evaluation"  # `kind` of the folders of evaluate.py
# The settings that evaluate.py uses; the rest of its configuration is for training and is ignored.
EVALUATED = re.compile(r"(choices\.)?(model|prompt|evals|sampler|seed|experiment|reward@evals\.reward)(\.|$)")
RESPONSE_COLUMNS = [name for name in SCHEMA.names if name not in ("tokens", "logprobs")]  # all but per-token ones


@contextmanager
def naming(path: Path) -> Iterator[None]:
    """Turn errors raised by reading a damaged file or folder within the block into a SourceError that names it."""
    try:
        yield
    except SourceError:
        raise
    except (OSError, ValueError, LookupError, TypeError, AttributeError, RecursionError) as error:
        reason = " ".join(str(error).split()).rstrip(".")[:300]
        raise SourceError(
            f"{reason}." if str(path) in reason else f"{path} cannot be read ({reason}): restore it from a copy."
        ) from error


def read_run_folder(folder: Path, notes: list[str]) -> RunData:
    """Return the run in a folder. Unreadable status or environment files and lines of metrics are skipped, with a note.
    Raises SourceError for the folder of a distillation, and an error that `naming` converts if the settings cannot be
    read."""
    run = folder.resolve().name
    config = flatten_config(files.read_yaml(folder / "config.yaml"))
    status, environment = (_read_optional(folder / name, run, notes) for name in ("status.json", "environment.json"))
    kind = str(status.get("kind", ""))
    if kind == DISTILLATION:
        raise SourceError(f"{folder} holds a distillation, not a run: its report is in its data set cards.")
    if kind == EVALUATION:
        config = {key: value for key, value in config.items() if EVALUATED.match(key)}
    config = _with_new_settings(config, run, notes)
    attempt, state, started = parse_number(status.get("attempt")), status.get("state"), environment.get("started")
    metrics = read_metrics(folder / "metrics.jsonl", run, notes)
    return RunData(
        id=run,
        name=run,
        state=state if isinstance(state, str) else None,
        source="folder",
        where=str(folder),
        config=config,
        metrics=metrics,
        created=started if isinstance(started, str) else None,
        seconds=float(metrics["time/step"].sum()) if metrics is not None and "time/step" in metrics else None,
        attempts=1 + int(attempt or 0),
        kind=kind,
        environment=environment,
        status=status,
        alarms=_read_alarms(folder, run, notes),
    )


def _with_new_settings(config: dict[str, Any], run: str, notes: list[str]) -> dict[str, Any]:
    """Return the settings of a run of an earlier version with those that the schema has gained since, at their default
    values, so that they do not distinguish the run from later ones. A note names them. Settings of other code, which
    have no recorded choices, are returned unchanged."""
    if not config.keys() >= {"choices.algorithm", "choices.model", "choices.train"}:
        return config
    groups = {key.partition(".")[0] for key in config}
    added: dict[str, Any] = {}
    roles = {key.split(".")[2] for key in config if key.startswith("algorithm.roles.")} - {""}
    settings = dict(all_settings())
    for name in sorted(roles):
        settings |= all_settings(RoleConfig, f"algorithm.roles.{name}.")
    for key, one in settings.items():
        parent = key.rpartition(".")[0]
        default = one.default if one.default_factory is dataclasses.MISSING else one.default_factory()
        plain = default is not dataclasses.MISSING and default != MISSING and not isinstance(default, dict)
        is_inner = any(known.startswith(f"{key}.") for known in config)
        if plain and not dataclasses.is_dataclass(default) and not is_inner and parent.partition(".")[0] in groups:
            added |= {key: parse_setting(getattr(default, "value", default), key)} if key not in config else {}
    names = [key for key in added if not key.startswith(("run.", "tracking."))]
    if names:
        notes.append(f"{run}: of an earlier version, without {', '.join(names)}, which are taken at their defaults.")
    return {**config, **added}


def _read_alarms(folder: Path, run: str, notes: list[str]) -> list[str]:
    rows = _read_optional(folder / ALARMS, run, notes).get("alarms", [])
    return [f"step {row.get('step')}: {row.get('text')}" for row in rows if isinstance(row, dict)]


def read_json(path: Path) -> dict[str, Any]:
    """Return the object in a JSON file; empty if there is no such file. Raises ConfigError if it is damaged."""
    return files.read_json(path) if path.is_file() else {}


def _read_optional(path: Path, run: str, notes: list[str]) -> dict[str, Any]:
    try:
        with naming(path):
            return read_json(path)
    except SourceError as error:
        notes.append(f"{run}: read without {path.name}. {error}")
        return {}


def read_metrics(path: Path, run: str, notes: list[str]) -> pd.DataFrame | None:
    """Return a metrics.jsonl as a table with the columns phase and step and a float64 column for each metric; None if
    nothing was logged. Unreadable lines are skipped with a note."""
    if not path.is_file() or not path.stat().st_size:
        return None
    content = path.read_bytes()
    # Arrow infers types per block, and "1" and "1.5" may fall into different ones, so read a single block.
    options = pyarrow.json.ReadOptions(block_size=len(content) + 1)
    try:
        table = pyarrow.json.read_json(BytesIO(content), read_options=options).to_pandas()
        usable = "step" in table and table["step"].dtype.kind == "i"
    except (pa.ArrowException, ValueError):  # an incomplete last line, or strings such as "NaN" among the numbers
        usable = False
    if not usable or ("phase" in table and not table["phase"].map(type).eq(str).all()):
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
            keys = {"step": step, "phase": str(row.get("phase", "rl"))}
            values = {name: parse_number(value) for name, value in row.items() if name not in keys}
            if abs(step) > MAX_STEP:
                raise ValueError("not a step")
        except (LookupError, TypeError, AttributeError, ValueError, OverflowError, RecursionError):
            broken += 1
            continue
        rows.append({**keys, **values})
    if broken:
        notes.append(
            f"{run}: {broken} unreadable lines of metrics.jsonl were skipped (was the run killed while writing?)."
        )
    table = pd.DataFrame(rows, columns=None if rows else ["step", "phase"])
    return table.astype({name: "float64" for name in table.columns if name not in ("step", "phase")})


# Responses and evaluations


def rollout_files(folder: Path) -> dict[int, Path]:
    """Return step -> Parquet file of the responses that the run sampled for training at this step."""
    found = {path.stem.partition("_")[2]: path for path in sorted((folder / "rollouts").glob("step_*.parquet"))}
    return {int(step): path for step, path in found.items() if step.isdecimal()}


def evaluation_folders(folder: Path) -> dict[int, Path]:
    """Return step -> folder (results.json, samples.parquet) of the finished evaluation at this step."""
    places = [path.parent for path in sorted((folder / "evals").glob("step_*/results.json"))]
    found = {place.name.partition("_")[2]: place for place in places}
    return {int(step): place for step, place in found.items() if step.isdecimal()}


def read_responses(file: Path, columns: list[str] | None = None) -> pd.DataFrame:
    """Return the responses in a rollout or samples.parquet file, with `columns` (None: all but the per-token ones)."""
    return read_parquet(file, columns=columns or ["set", *RESPONSE_COLUMNS]).to_pandas()
