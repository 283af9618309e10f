"""Curves over the seeds of an arm, and what the well-known metrics are called."""

from __future__ import annotations

from dataclasses import dataclass

import pandas as pd

from analysis.arms import Arm
from analysis.frames import Frames

SMOOTH_FROM, WINDOW = 40, 5  # curves of more points than the first are shown as means over the second
POINTS = 1000  # of a curve that is drawn, about: a panel has fewer dots across

LABELS = {
    "reward/mean": "training reward",
    "reward/correct": "training accuracy (%)",
    "rollout/response_length": "response length (tokens)",
    "rollout/response_length_correct": "length of right responses (tokens)",
    "rollout/response_length_wrong": "length of wrong responses (tokens)",
    "rollout/truncated_share": "cut off at the limit (%)",
    "rollout/box_share": r"responses with a \boxed{} (%)",
    "rollout/code_share": "responses with code (%)",
    "rollout/reflection_share": "responses that reflect (%)",
    "rollout/repetition": "repetition",
    "rollout/entropy": "entropy (nats a token)",
    "rollout/kl": "KL to the reference (a token)",
    "eval/mean/accuracy": "accuracy, held-out (%)",
    "eval/mean/response_length": "response length, held-out (tokens)",
}


@dataclass(frozen=True)
class Band:
    """One metric of one arm over its seeds; index step, columns mean, low, high; `seeds` curves went in."""

    table: pd.DataFrame
    seeds: int


def is_share(name: str) -> bool:
    """Shown in per cent."""
    if name == "reward/correct":
        return True
    leaf = name.rpartition("/")[2].removesuffix(".max")
    return leaf.endswith(("_share", "_fraction", "accuracy", "_match")) or leaf.startswith(("pass@", "maj@"))


def label(name: str) -> str:
    if name in LABELS:
        return LABELS[name]
    head, _, leaf = name.rpartition("/")
    unit = " (%)" if is_share(name) else ""
    return f"{head.removeprefix('eval/')} {leaf.replace('_', ' ')}{unit}".strip()


def band(frames: Frames, arm: Arm, name: str) -> Band | None:
    """The mean over seeds, and the least and the greatest of them, at the steps that all have; None without values.
    Shares come in per cent."""
    curves = [curve for run in arm.runs if len(curve := frames.curve(run, name))]
    if not curves:
        return None
    table = pd.concat(curves, axis=1).sort_index()
    common = table.dropna()
    table = (common if len(common) else table) * (100.0 if is_share(name) else 1.0)
    whole = pd.DataFrame({"mean": table.mean(axis=1), "low": table.min(axis=1), "high": table.max(axis=1)})
    return Band(whole, len(curves))


def smoothed(table: pd.DataFrame) -> pd.DataFrame:
    """Long curves as centred means over a few steps, very long ones at every few steps; short ones as they are."""
    if len(table) <= SMOOTH_FROM:
        return table
    means = table.rolling(WINDOW, center=True, min_periods=1).mean()
    every = max(len(means) // POINTS, 1)
    return means.iloc[sorted({*range(0, len(means), every), len(means) - 1})]
