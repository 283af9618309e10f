"""Estimates metrics and accuracies of an arm over its seeds, with 95 % intervals."""

from __future__ import annotations

import math
from collections.abc import Sequence

from analysis.arms import Arm, Arms
from analysis.curves import in_percent
from analysis.estimates import mean_over_seeds
from analysis.frames import Frames
from simplerl.evals.statistics import Interval

FIXED_ACCURACIES = ("accuracy_strict", "accuracy_lenient")  # logged independently of `evals.reward`
OF_BATCH, LAST_STEPS = ("reward/", "rollout/"), 10


def metric_estimate(frames: Frames, arm: Arm, name: str) -> Interval | None:
    """Return a metric's last value over the arm's seeds, fractions in per cent; None if no run has it.

    Metrics of the sampled batch (`OF_BATCH`) are means over the last steps, because one batch is noisy."""
    scale = 100.0 if in_percent(name) else 1.0
    found = {run: scale * value for run in arm.runs if (value := _late_value(frames, run, name)) is not None}
    if not found:
        return None
    errors = [frames.last_value(run, f"{name}_se") if _is_accuracy(name) else None for run in found]
    return mean_over_seeds(list(found.values()), [scale * error if error else None for error in errors])


def _late_value(frames: Frames, run: str, name: str) -> float | None:
    curve = frames.curve(run, name)
    if name.startswith(OF_BATCH) and len(curve):
        return float(curve.iloc[-min(LAST_STEPS, max(len(curve) // 4, 1)) :].mean())
    return frames.last_value(run, name)


def _is_accuracy(name: str) -> bool:
    return name.rpartition("/")[2] in ("accuracy", *FIXED_ACCURACIES)


def mean_accuracy(frames: Frames, run: str, sets: Sequence[str], *, at_start: bool = False) -> float | None:
    """Return the unweighted mean accuracy over `sets` in per cent; None if the run lacks one of them.

    It is that of the last evaluation or, with `at_start`, of the one at step 0 (None if there is no later one)."""
    values = []
    for name in sets:
        value = frames.last_value(run, f"eval/{name}/accuracy")
        if at_start:
            curve = frames.curve(run, f"eval/{name}/accuracy")
            value = float(curve.iloc[0]) if len(curve) > 1 and curve.index[0] == 0 else None
        if value is None:
            return None
        values.append(100 * value)
    return math.fsum(values) / len(values) if values else None


def average_estimate(frames: Frames, arm: Arm, sets: Sequence[str]) -> Interval | None:
    """Return the mean accuracy over `sets` in per cent, over the seeds that have all of them; None if no seed has."""
    means, errors = [], []
    for run in arm.runs:
        mean = mean_accuracy(frames, run, sets)
        if mean is not None:
            means.append(mean)
            parts = [frames.last_value(run, f"eval/{name}/accuracy_se") for name in sets]
            known = [100 * part for part in parts if part]
            errors.append(math.hypot(*known) / len(sets) if len(known) == len(sets) else None)
    return mean_over_seeds(means, errors) if means else None


def gain_estimate(frames: Frames, arm: Arm, sets: Sequence[str]) -> Interval | None:
    """Return the gain in mean accuracy over `sets` since step 0 in percentage points, paired by seed, over the seeds
    evaluated at step 0; None if there are none."""
    pairs = [(mean_accuracy(frames, run, sets), mean_accuracy(frames, run, sets, at_start=True)) for run in arm.runs]
    gains = [last - first for last, first in pairs if last is not None and first is not None]
    return mean_over_seeds(gains) if gains else None


def missing_start_note(frames: Frames, arms: Arms, sets: Sequence[str]) -> list[str]:
    """Return a note on the runs that were not evaluated at step 0; [] if all were."""
    missing = []
    for arm in arms.arms:
        runs = [run for run in arm.runs if mean_accuracy(frames, run, sets) is not None]
        late = [run for run in runs if any(0 not in frames.curve(run, f"eval/{name}/accuracy").index for name in sets)]
        if late:
            missing.append(arm.label if len(late) == len(runs) else f"{len(late)} of {len(runs)} seeds of {arm.label}")
    return [f"Without a gain since step 0 (not evaluated there): {'; '.join(missing)}."] if missing else []
