"""Collects the data embedded in the report's page: curves, and as many responses as fit, compressed."""

from __future__ import annotations

import base64
import gzip
import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow.parquet as pq

from analysis.arms import Arm, Arms, run_titles
from analysis.curves import DASHES, arm_styles, in_percent, metric_label, seed_band
from analysis.figures import OVERVIEW
from analysis.folders import evaluation_folders, naming, read_responses, rollout_files
from analysis.frames import Frames
from analysis.run_data import SourceError
from simplerl.evals.behaviour import REFLECTION_WORDS, has_box, is_code, reflects
from simplerl.types import FINISH_LENGTH

MAX_POINTS = 400  # points of a curve; longer ones are thinned
MAX_RESPONSES, MAX_PACKED_BYTES = 60_000, 11_000_000  # limits for a report
TRAINING = "training"
BOX, CODE, REFLECT = 1, 2, 4  # bits, as in page/report.js
PLOTLY_DASHES = ("solid", "dash", "dot", "dashdot", "longdash", "longdashdot")  # in the order of curves.DASHES
COLUMNS = [
    *("set", "step", "problem_id", "level", "question", "gold", "sample", "prompt", "response", "finish_reason"),
    *("length", "reward", "correct", "status", "extracted", "parts"),
]


# Curves


def curve_data(frames: Frames, arms: Arms) -> dict[str, Any]:
    """Return, for page/report.js, the arms and for each metric every arm's seed band and every run's curve."""
    styles = arm_styles([arm.label for arm in arms.arms])
    shown = []
    for arm in arms.arms:
        style = styles[arm.label]
        dash = PLOTLY_DASHES[DASHES.index(style.dash)]
        shown.append({"label": arm.label, "colour": style.colour, "dash": dash, "runs": len(arm.runs)})
    titles = run_titles(frames, arms)
    metrics: dict[str, Any] = {}
    for name in frames.metric_names():
        bands = [_band_data(frames, arm, name, titles) for arm in arms.arms]
        if any(bands):
            metrics[name] = {"label": metric_label(name), "bands": bands}
    first = [name for name in OVERVIEW if name in metrics] or list(metrics)[:6]
    return {"arms": shown, "metrics": metrics, "names": list(metrics), "shown": first}


def _band_data(frames: Frames, arm: Arm, name: str, titles: dict[str, str]) -> dict[str, Any] | None:
    band = seed_band(frames, arm, name)
    if band is None:
        return None
    table = thin_curve(band.table)
    columns = {column: _rounded(table[column]) for column in ("mean", "low", "high")}
    scale = 100.0 if in_percent(name) else 1.0
    runs = []
    for run in arm.runs:
        curve = thin_curve(frames.curve(run, name).mul(scale).to_frame())
        runs.append({"name": titles[run], "x": curve.index.tolist(), "y": _rounded(curve[name])})
    return {"x": table.index.tolist(), "seeds": band.seeds, "runs": runs, **columns}


def thin_curve(table: pd.DataFrame) -> pd.DataFrame:
    """Thin a curve to about MAX_POINTS rows: means over neighbouring steps, at the first of these, and the last row."""
    every = math.ceil(len(table) / MAX_POINTS)
    if every < 2:
        return table
    groups = [row // every for row in range(len(table))]
    thinned = table.groupby(groups).mean()
    thinned.index = table.index[::every]
    return pd.concat([thinned, table.iloc[[-1]]]) if thinned.index[-1] != table.index[-1] else thinned


def _rounded(values: pd.Series, digits: int = 5) -> list[float | None]:
    return [float(f"{value:.{digits}g}") if math.isfinite(value) else None for value in values]


# Responses


@dataclass(frozen=True)
class Responses:
    """Holds responses packed for the page, and a sentence on how many of all responses they are."""

    packed: str  # base64 of gzip of JSON; empty without responses
    note: str


def response_data(runs: Sequence[tuple[str, Path]]) -> Responses:
    """Return the responses of run folders, given as (title, folder), within the report's size limits.

    If not all fit, training and evaluation responses are taken at evenly spaced steps including the first and last."""
    limit = MAX_RESPONSES
    damaged: dict[Path, str] = {}
    while True:
        tables, total = _sample_responses(runs, limit, damaged)
        left_out = "".join(f" Left out: {fault}" for fault in damaged.values())
        if not tables:
            return Responses("", left_out.strip())
        table = pd.concat(tables, ignore_index=True)
        packed = _pack(table, [title for title, _ in runs])
        if len(packed) <= MAX_PACKED_BYTES or limit < 50:
            break
        limit = int(min(len(table), limit) * 0.9 * MAX_PACKED_BYTES / len(packed))
    count = len(table)
    rule = "evenly spaced steps including the first and the last, and the first problems of each step."
    note = f"All {total:,} responses." if count == total else f"{count:,} of {total:,} responses: {rule}"
    return Responses(packed, note + left_out)


def _sample_responses(
    runs: Sequence[tuple[str, Path]], limit: int, damaged: dict[Path, str]
) -> tuple[list[pd.DataFrame], int]:
    """Return tables of at most about `limit` responses, and the number of all responses. Files that cannot be read are
    left out and added to `damaged`."""
    per_run = max(limit // max(len(runs), 1), 2)
    tables, total = [], 0
    for index, (_, folder) in enumerate(runs):
        evaluations = {step: path / "samples.parquet" for step, path in evaluation_folders(folder).items()}
        evaluations, training = _readable(evaluations, damaged), _readable(rollout_files(folder), damaged)
        # Evaluations and training get half of the budget each; what one does not need is added to the other.
        sizes = [_count_rows(files) for files in (evaluations, training)]
        total += sum(sizes)
        half = per_run // 2
        budgets = [max(half, per_run - sizes[1]), max(half, per_run - sizes[0])]
        for files, budget in zip((evaluations, training), budgets, strict=True):
            tables += [table.assign(run=index) for table in _read_spaced(files, budget, damaged)]
    return tables, total


def _readable(files: dict[int, Path], damaged: dict[Path, str]) -> dict[int, Path]:
    """Return the files that have the columns of responses; others are added to `damaged`."""
    for path in files.values():
        try:
            with naming(path):
                if absent := {*COLUMNS} - {"set", *pq.read_schema(path).names}:
                    raise ValueError(f"it has no column {min(absent)}")
        except SourceError as error:
            damaged[path] = str(error)
    return {step: path for step, path in files.items() if path not in damaged}


def _count_rows(files: dict[int, Path]) -> int:
    return sum(pq.read_metadata(path).num_rows for path in files.values())


def _read_spaced(files: dict[int, Path], budget: int, damaged: dict[Path, str]) -> list[pd.DataFrame]:
    """Read about `budget` responses at evenly spaced steps, including the first and the last. Files that cannot be read
    are left out and added to `damaged`."""
    steps = sorted(files)
    if not steps or budget < 1:
        return []
    per_step = max(_count_rows(files) / len(steps), 1.0)
    count = min(len(steps), max(2, int(budget / per_step)))
    indices = {round(i * (len(steps) - 1) / max(count - 1, 1)) for i in range(count)}
    chosen = [steps[index] for index in sorted(indices)]
    most = max(1, budget // len(chosen))
    tables = []
    for step in chosen:
        try:
            with naming(files[step]):
                tables.append(read_responses(files[step], COLUMNS).head(most))
        except SourceError as error:
            damaged[files[step]] = str(error)
    return tables


def _pack(table: pd.DataFrame, titles: list[str]) -> str:
    """Return the responses as columns of equal length in base64 of gzip of JSON; report.js reads them."""
    if "set" not in table:
        table["set"] = None
    kinds = table["set"].astype(object).where(table["set"].notna(), TRAINING)
    kind_codes, kind_names = pd.factorize(kinds)
    keys = pd.Series(list(zip(kind_codes, table["problem_id"], table["prompt"], strict=True)))
    problem_codes, _ = pd.factorize(keys)
    unique = table.loc[~pd.Series(problem_codes).duplicated()]
    text = table["response"].fillna("")
    shows = text.map(lambda one: BOX * has_box(one) + CODE * is_code(one) + REFLECT * reflects(one))
    status_codes, statuses = pd.factorize(table["status"].fillna(""))
    part_codes, partsets = pd.factorize(table["parts"].fillna("{}"))
    data = {
        "runs": titles,
        "kinds": [str(name) for name in kind_names],
        "statuses": list(statuses),
        "partsets": list(partsets),
        "reflection": list(REFLECTION_WORDS),
        "problems": {
            "id": unique["problem_id"].astype(str).tolist(),
            "kind": [int(kind_codes[row]) for row in unique.index],
            "question": unique["question"].fillna("").tolist(),
            "gold": unique["gold"].fillna("").tolist(),
            "level": unique["level"].fillna("").tolist(),
            "prompt": unique["prompt"].fillna("").tolist(),
        },
        "run": table["run"].tolist(),
        "kind": kind_codes.tolist(),
        "step": table["step"].tolist(),
        "problem": problem_codes.tolist(),
        "sample": table["sample"].tolist(),
        "response": text.tolist(),
        "truncated": (table["finish_reason"] == FINISH_LENGTH).astype(int).tolist(),
        "length": table["length"].tolist(),
        "reward": _rounded(table["reward"], 6),
        "correct": table["correct"].astype(int).tolist(),
        "status": status_codes.tolist(),
        "parts": part_codes.tolist(),
        "extracted": [None if pd.isna(value) else str(value) for value in table["extracted"]],
        "shows": shows.tolist(),
    }
    content = json.dumps(data, ensure_ascii=False, separators=(",", ":"), allow_nan=False).encode("utf-8", "replace")
    return base64.b64encode(gzip.compress(content, 6, mtime=0)).decode()
