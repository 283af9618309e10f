"""Computes what runs have spent (responses, tokens, seconds, GPU-hours), and cuts them at equal budgets."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from statistics import fmean

import numpy as np
import pandas as pd

from analysis.arms import Arm, Arms
from analysis.frames import KEYS, Frames
from analysis.run_data import SourceError

# unit -> its name in captions. Tokens are those of sampled responses, seconds those of steps without evaluating and
# saving, warm-up included.
UNITS = {"responses": "responses", "tokens": "sampled tokens", "seconds": "seconds", "gpu_hours": "GPU-hours"}
# Ratio of the largest to the smallest budget from which they are called unequal. Responses are set by the design of a
# comparison; the other units depend on the lengths of the responses and on the load of the machine.
UNEQUAL = {"responses": 1.02, "tokens": 1.1, "seconds": 1.1, "gpu_hours": 1.1}


@dataclass(frozen=True)
class Spending:
    """Holds what a run has spent, in one of UNITS."""

    before: pd.Series  # step -> spent before this step, for each logged step
    total: float


def shown_budget(budget: float) -> str:
    """Return a budget as text."""
    return f"{budget:,.0f}" if budget >= 1000 else f"{budget:.4g}"


def spending(frames: Frames, run: str, unit: str) -> Spending | None:
    """Return what a run has spent in responses, tokens, seconds or GPU-hours (`unit`, a key of UNITS) before each
    logged step and in total; None if that is not recorded."""
    seconds = frames.curve(run, "time/step")
    steps = {"responses": _responses(frames, run), "tokens": _tokens(frames, run)}.get(unit, seconds)
    start = float(frames.curve(run, "time/step", "warmup").sum()) if unit in ("seconds", "gpu_hours") else 0.0
    if not len(steps):
        return None
    logged = frames.metrics.loc[(frames.metrics["run"] == run) & (frames.metrics["phase"] == "rl"), "step"]
    each = steps.reindex(sorted(set(logged)), fill_value=0.0)
    before, total = start + each.cumsum() - each, start + float(each.sum())
    if unit != "gpu_hours":
        return Spending(before, total)
    hours = float(frames.status(run).get("gpu_hours") or 0.0)  # of all attempts, in proportion to the seconds of steps
    return Spending(before * hours / total, hours) if hours and total else None


def _responses(frames: Frames, run: str) -> pd.Series:
    """Return the sampled responses of each step, including those that a rollouts function discarded."""
    sampled = frames.curve(run, "rollout/sampled")
    return sampled if len(sampled) else frames.curve(run, "rollout/responses")


def _tokens(frames: Frames, run: str) -> pd.Series:
    """Return the sampled tokens of each step; discarded responses count with the mean length of the others."""
    tokens, kept = frames.curve(run, "rollout/tokens"), frames.curve(run, "rollout/responses")
    sampled = _responses(frames, run)
    return tokens * sampled / kept if len(tokens) and len(kept) == len(tokens) == len(sampled) else tokens


def budget_of_arm(frames: Frames, arm: Arm, unit: str) -> float | None:
    """Return the mean over seeds of what the runs of an arm have spent; None if that is not recorded for all."""
    found = [spending(frames, run, unit) for run in arm.runs]
    known = [one.total for one in found if one is not None]
    return fmean(known) if len(known) == len(found) else None


def unequal_budgets(frames: Frames, arms: Sequence[Arm]) -> dict[str, dict[str, float]]:
    """Return unit -> label -> budget per run, for the units in which the budgets of the arms are unequal."""
    unequal = {}
    for unit, ratio in UNEQUAL.items():
        found = {arm.label: budget_of_arm(frames, arm, unit) for arm in arms}
        known = {label: budget for label, budget in found.items() if budget is not None}
        if len(known) > 1 and max(known.values()) > ratio * min(known.values()):
            unequal[unit] = known
    return unequal


def at_equal_budget(frames: Frames, arms: Arms, unit: str | None) -> tuple[Frames, str]:
    """Return frames that end, for each run, with its last evaluation at or below the smallest budget of all runs, and
    a sentence about it for captions. Without `unit` the frames are returned unchanged, with "".

    Raises SourceError if a run does not record the unit, or was not evaluated within the budget."""
    if unit is None or not arms.arms:
        return frames, ""
    spent = {run: spending(frames, run, unit) for arm in arms.arms for run in arm.runs}
    missing = [run for run, one in spent.items() if one is None]
    if missing:
        others = " or ".join(f"--equal={one}" for one in UNITS if one != unit)
        raise SourceError(f"{missing[0]} does not record its {UNITS[unit]}: use {others}, or leave out this run.")
    known = {run: one for run, one in spent.items() if one is not None}
    least = min(known, key=lambda run: known[run].total)
    budget = known[least].total
    last = {run: _last_evaluation(frames, run, one, budget, unit) for run, one in known.items()}
    kept = [_rows_until(frames.metrics[frames.metrics["run"] == run], step) for run, step in last.items()]
    by_arm = {arm.label: sorted({last[run] for run in arm.runs}) for arm in arms.arms}
    steps = "; ".join(f"step {' and '.join(map(str, found))} of {label}" for label, found in by_arm.items())
    [owner] = [arm.label for arm in arms.arms if least in arm.runs]
    cut = replace(frames, metrics=pd.concat(kept), summary=frames.summary.iloc[:, :0])
    return cut, (
        f"At equal budget: at most {shown_budget(budget)} {UNITS[unit]} per run, the least of all runs ({owner}). "
        f"Values are of the last evaluation at or below it: {steps}."
    )


def _last_evaluation(frames: Frames, run: str, spent: Spending, budget: float, unit: str) -> int:
    """Return the last step that was evaluated after spending at most `budget`. Raises SourceError if there is none."""
    rows = frames.metrics[(frames.metrics["run"] == run) & (frames.metrics["phase"] == "rl")]
    evaluated = rows.loc[rows[_evaluation_columns(rows)].notna().any(axis=1), "step"]
    within = [int(step) for step in evaluated if spent.before[step] <= budget * (1 + 1e-9)]
    if not within:
        raise SourceError(
            f"{run} was not evaluated within {shown_budget(budget)} {UNITS[unit]}, the smallest budget of the runs: "
            "leave out the run with this budget, or this one."
        )
    return max(within)


def _evaluation_columns(rows: pd.DataFrame) -> list[str]:
    return [name for name in rows.columns if str(name).startswith("eval/")]


def _rows_until(rows: pd.DataFrame, step: int) -> pd.DataFrame:
    """Return the rows before `step`, and of `step` itself the evaluation, which precedes its update."""
    kept = rows[(rows["phase"] != "rl") | (rows["step"] <= step)].copy()
    training = [name for name in kept.columns if name not in (*KEYS, *_evaluation_columns(rows))]
    kept.loc[(kept["phase"] == "rl") & (kept["step"] == step), training] = np.nan
    return kept
