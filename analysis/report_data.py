"""Collects the curves that are embedded in the report's page."""

from __future__ import annotations

import math
from typing import Any

import pandas as pd

from analysis.arms import Arm, Arms, run_titles
from analysis.curves import DASHES, arm_styles, in_percent, metric_label, seed_band
from analysis.figures import OVERVIEW
from analysis.frames import Frames

MAX_POINTS = 400  # points of a curve; longer ones are thinned
SVG_DASHES = ("", "7 4", "2 3", "8 3 2 3", "6 3 2 3 2 3", "12 5")  # in the order of curves.DASHES
# The curves of the first screen: the first metric of each row that was logged.
FIRST = (
    ("eval/mean/accuracy", "reward/correct"),
    ("reward/mean", "warmup/loss"),
    ("rollout/response_length", "eval/mean/response_length"),
    ("rollout/entropy", "rollout/logprob_gap", "rollout/kl", "rollout/truncated_share", "policy/grad_norm"),
)


# Curves


def curve_data(frames: Frames, arms: Arms) -> dict[str, Any]:
    """Return, for page/report.js, the arms and for each metric every arm's seed band and every run's curve."""
    styles = arm_styles([arm.label for arm in arms.arms])
    shown = []
    for arm in arms.arms:
        style = styles[arm.label]
        dash = SVG_DASHES[DASHES.index(style.dash)]
        shown.append({"label": arm.label, "colour": style.colour, "dash": dash, "runs": len(arm.runs)})
    titles = run_titles(frames, arms)
    metrics: dict[str, Any] = {}
    for name in frames.metric_names():
        bands = [_band_data(frames, arm, name, titles) for arm in arms.arms]
        if any(bands):
            metrics[name] = {"label": metric_label(name), "bands": bands}
    overview = [name for name in OVERVIEW if name in metrics] or list(metrics)[:6]
    return {
        "arms": shown,
        "metrics": metrics,
        "names": list(metrics),
        "first": _first_of_each(metrics),
        "shown": overview,
    }


def _first_of_each(metrics: dict[str, Any]) -> list[str]:
    found = [next((name for name in names if name in metrics), None) for names in FIRST]
    return [name for name in found if name is not None]


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
