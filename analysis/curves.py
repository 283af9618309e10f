"""Defines how figures, tables and the report show metrics and arms: names, units, bands over seeds, line styles."""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd

from analysis.arms import Arm
from analysis.frames import Frames

SMOOTH_FROM, WINDOW = 40, 5  # curves with more points than SMOOTH_FROM are shown as means over WINDOW points
MAX_POINTS = 1000  # approximate maximum number of points of a drawn curve

LABELS = {
    "reward/mean": "training reward",
    "reward/correct": "training accuracy (%)",
    "rollout/response_length": "response length (tokens)",
    "rollout/response_length_correct": "length of correct responses (tokens)",
    "rollout/response_length_wrong": "length of incorrect responses (tokens)",
    "rollout/truncated_share": "truncated responses (%)",
    "rollout/box_share": r"responses with a \boxed{} (%)",
    "rollout/code_share": "responses with code (%)",
    "rollout/reflection_share": "responses with reflection (%)",
    "rollout/repetition": "repetition",
    "rollout/entropy": "entropy (nats per token)",
    "rollout/kl": "KL to the reference (per token)",
    "eval/mean/accuracy": "held-out accuracy (%)",
    "eval/mean/accuracy_strict": "held-out accuracy, strict rule (%)",
    "eval/mean/accuracy_lenient": "held-out accuracy, lenient rule (%)",
}

# Metrics


def in_percent(name: str) -> bool:
    """Return whether a metric is a fraction that is shown in per cent."""
    if name == "reward/correct":
        return True
    leaf = name.rpartition("/")[2].removesuffix(".max")
    return leaf.endswith(
        ("_share", "_fraction", "accuracy", "accuracy_strict", "accuracy_lenient", "_match")
    ) or leaf.startswith(("pass@", "maj@"))


def metric_label(name: str) -> str:
    """Return a metric's name and unit as figures and tables show it."""
    if name in LABELS:
        return LABELS[name]
    head, _, leaf = name.rpartition("/")
    where = "held-out" if head == "eval/mean" else head.removeprefix("eval/")
    if head.startswith("eval/") and f"rollout/{leaf}" in LABELS:  # one name for a quantity, wherever it is measured
        return f"{where} {LABELS[f'rollout/{leaf}']}"
    unit = " (%)" if in_percent(name) else ""
    return f"{where} {leaf.replace('_', ' ')}{unit}".strip()


@dataclass(frozen=True)
class Band:
    """Holds one metric of one arm over its seeds: `table` has the columns mean, low and high by step."""

    table: pd.DataFrame
    seeds: int


def seed_band(frames: Frames, arm: Arm, name: str) -> Band | None:
    """Return mean, minimum and maximum over seeds at the steps that all seeds have (all steps if they share none); None
    without values.

    Fractions are returned in per cent."""
    curves = [curve for run in arm.runs if len(curve := frames.curve(run, name))]
    if not curves:
        return None
    table = pd.concat(curves, axis=1).sort_index()
    common = table.dropna()
    table = (common if len(common) else table) * (100.0 if in_percent(name) else 1.0)
    band = pd.DataFrame({"mean": table.mean(axis=1), "low": table.min(axis=1), "high": table.max(axis=1)})
    return Band(band, len(curves))


def smooth(table: pd.DataFrame) -> pd.DataFrame:
    """Return a long curve as centred moving averages of at most about MAX_POINTS points, a short one unchanged."""
    if len(table) <= SMOOTH_FROM:
        return table
    means = table.rolling(WINDOW, center=True, min_periods=1).mean()
    every = max(len(means) // MAX_POINTS, 1)
    return means.iloc[sorted({*range(0, len(means), every), len(means) - 1})]


# Line styles

# Okabe and Ito's palette, which readers with colour blindness can distinguish, without yellow, which is faint in print.
PALETTE = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
MARKERS = ("o", "s", "^", "D", "v", "P", "X")
DASHES: tuple[Any, ...] = ("-", (0, (5, 1.5)), (0, (1, 1)), (0, (4, 1, 1, 1)), (0, (3, 1, 1, 1, 1, 1)), (0, (8, 2)))
FIXED_COLOURS = {"reward=strict": 0, "reward=lenient": 1, "reward=binary": 2}


@dataclass(frozen=True)
class LineStyle:
    """Holds the colour, marker and dash pattern of one arm, as arguments of matplotlib."""

    colour: str
    marker: str
    dash: Any


def arm_styles(labels: Sequence[str]) -> dict[str, LineStyle]:
    """Return a style for each arm label.

    The colour is chosen by a hash of the label, so that an arm looks the same in every figure and report. If two arms
    would have the same colour, the later in the alphabet takes the next one."""
    uses = [0] * len(PALETTE)
    found: dict[str, LineStyle] = {}
    for label in sorted(set(labels), key=lambda one: (one not in FIXED_COLOURS, one)):
        index = FIXED_COLOURS.get(label, zlib.crc32(label.encode()) % len(PALETTE))
        while uses[index] > min(uses):
            index = (index + 1) % len(PALETTE)
        found[label] = LineStyle(PALETTE[index], MARKERS[index], DASHES[uses[index] % len(DASHES)])
        uses[index] += 1
    return found
