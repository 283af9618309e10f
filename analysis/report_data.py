"""What the report's page holds: curves, and as many responses as fit, packed."""

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

from analysis.arms import Arms, titles
from analysis.curves import band, is_share, label
from analysis.figures import OVERVIEW
from analysis.folders import evaluation_steps, read_responses, rollout_steps
from analysis.frames import Frames
from analysis.style import looks
from simplerl.evals.behaviour import REFLECTION_WORDS, has_box, is_code, reflects
from simplerl.types import FINISH_LENGTH

POINTS = 400  # of a curve; longer ones are thinned
RESPONSES, PACKED_BYTES = 60_000, 11_000_000  # at most, of a report
TRAINING = "training"
BOX, CODE, REFLECT = 1, 2, 4  # bits, as in page/report.js
_DASHES = ("solid", "dash", "dot", "dashdot", "longdash", "longdashdot")
COLUMNS = [
    *("set", "step", "problem_id", "level", "question", "gold", "sample", "prompt", "response", "finish_reason"),
    *("length", "reward", "correct", "status", "extracted", "parts"),
]


# Curves


def curve_data(frames: Frames, arms: Arms) -> dict[str, Any]:
    """Of every metric: per arm the mean over seeds with its band, and each run."""
    styles = looks([arm.label for arm in arms.arms])
    order = list(styles)
    shown = [
        {
            "label": arm.label,
            "colour": styles[arm.label].colour,
            "dash": _DASHES[
                0 if isinstance(styles[arm.label].dash, str) else order.index(arm.label) // 7 % len(_DASHES)
            ],
            "runs": len(arm.runs),
        }
        for arm in arms.arms
    ]
    metrics: dict[str, Any] = {}
    for name in frames.names():
        bands = [_band(frames, arms, place, name) for place in range(len(arms.arms))]
        if any(bands):
            metrics[name] = {"label": label(name), "bands": bands}
    first = [name for name in OVERVIEW if name in metrics] or list(metrics)[:6]
    return {"arms": shown, "metrics": metrics, "names": list(metrics), "shown": first}


def _band(frames: Frames, arms: Arms, place: int, name: str) -> dict[str, Any] | None:
    arm = arms.arms[place]
    found = band(frames, arm, name)
    if found is None:
        return None
    table = thin(found.table)
    called = titles(frames, arms)
    packed = {column: _numbers(table[column]) for column in ("mean", "low", "high")}
    scale = 100.0 if is_share(name) else 1.0
    runs = []
    for run in arm.runs:
        curve = thin(frames.curve(run, name).mul(scale).to_frame())
        runs.append({"name": called[run], "x": curve.index.tolist(), "y": _numbers(curve[name])})
    return {"x": table.index.tolist(), "seeds": found.seeds, "runs": runs, **packed}


def thin(table: pd.DataFrame) -> pd.DataFrame:
    """At most POINTS rows: means over runs of neighbouring steps, at their first step; the last row stays."""
    every = math.ceil(len(table) / POINTS)
    if every < 2:
        return table
    groups = [place // every for place in range(len(table))]
    thinned = table.groupby(groups).mean()
    thinned.index = table.index[::every]
    return pd.concat([thinned, table.iloc[[-1]]]) if thinned.index[-1] != table.index[-1] else thinned


def _numbers(values: pd.Series) -> list[float | None]:
    return [float(f"{value:.5g}") if math.isfinite(value) else None for value in values]


# Responses


@dataclass(frozen=True)
class Responses:
    """Packed for the page, and a sentence on what of it is there."""

    packed: str  # base64 of gzip of JSON; empty: no responses
    note: str
    count: int


def response_data(runs: Sequence[tuple[str, Path]]) -> Responses:
    """Responses of run folders (name, folder): of evaluations and of training, at evenly spaced steps, the first and
    the last among them, as many as a report holds."""
    limit = RESPONSES
    while True:
        tables, total = _chosen(runs, limit)
        if not tables:
            return Responses("", "", 0)
        table = pd.concat(tables, ignore_index=True)
        packed = _pack(table, [name for name, _ in runs])
        if len(packed) <= PACKED_BYTES or limit < 50:
            break
        limit = int(min(len(table), limit) * 0.9 * PACKED_BYTES / len(packed))
    note = f"All {total:,} responses." if len(table) == total else f"{len(table):,} of {total:,} responses: {_SPACED}"
    return Responses(packed, note, len(table))


_SPACED = "evenly spaced steps, the first and the last among them, and within a step the first problems."


def _chosen(runs: Sequence[tuple[str, Path]], limit: int) -> tuple[list[pd.DataFrame], int]:
    """The tables, and how many responses there are in all."""
    share = max(limit // max(len(runs), 1), 2)
    tables, total = [], 0
    for place, (_, folder) in enumerate(runs):
        evaluations = {step: path / "samples.parquet" for step, path in evaluation_steps(folder).items()}
        training = rollout_steps(folder)
        # What one kind does not use of its half, the other may.
        sizes = [_rows(files) for files in (evaluations, training)]
        total += sum(sizes)
        half = share // 2
        budgets = [max(half, share - sizes[1]), max(half, share - sizes[0])]
        for files, budget in zip((evaluations, training), budgets, strict=True):
            tables += [one.assign(run=place) for one in _spaced(files, budget)]
    return tables, total


def _rows(files: dict[int, Path]) -> int:
    import pyarrow.parquet as pq

    return sum(pq.read_metadata(path).num_rows for path in files.values())


def _spaced(files: dict[int, Path], budget: int) -> list[pd.DataFrame]:
    steps = sorted(files)
    if not steps or budget < 1:
        return []
    whole = max(_rows(files) / len(steps), 1.0)
    count = min(len(steps), max(2, int(budget / whole)))
    places = {round(i * (len(steps) - 1) / max(count - 1, 1)) for i in range(count)}
    chosen = [steps[place] for place in sorted(places)]
    most = max(1, budget // len(chosen))
    return [read_responses(files[step], COLUMNS).head(most) for step in chosen]


def _pack(table: pd.DataFrame, names: list[str]) -> str:
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
        "runs": names,
        "kinds": [str(name) for name in kind_names],
        "statuses": list(statuses),
        "partsets": list(partsets),
        "reflection": list(REFLECTION_WORDS),
        "problems": {
            "id": unique["problem_id"].astype(str).tolist(),
            "kind": [int(kind_codes[place]) for place in unique.index],
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
        "cut": (table["finish_reason"] == FINISH_LENGTH).astype(int).tolist(),
        "length": table["length"].tolist(),
        "reward": [_finite(value) for value in table["reward"]],
        "correct": table["correct"].astype(int).tolist(),
        "status": status_codes.tolist(),
        "parts": part_codes.tolist(),
        "extracted": [None if pd.isna(value) else str(value) for value in table["extracted"]],
        "shows": shows.tolist(),
    }
    content = json.dumps(data, ensure_ascii=False, separators=(",", ":"), allow_nan=False).encode("utf-8", "replace")
    return base64.b64encode(gzip.compress(content, 6, mtime=0)).decode()


def _finite(value: float) -> float | None:
    return float(f"{value:.6g}") if math.isfinite(value) else None
