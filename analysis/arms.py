"""Which settings differ between runs, and which runs are the same but for their seed."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from typing import Any

import pandas as pd

from analysis.frames import Frames

# Settings that say where, when and how a run was watched, not what it computes.
NOT_AXES = re.compile(
    r"^(?:seed|run\..*|tracking\..*|choices\.(?:tracking|local|experiment|debug)|wandb_version|_wandb.*|sampler\..*threads"
    r"|slurm\..*|.*(?:job_id|git_sha|commit|hostname))$"
)
RUN = "run"  # the axis of runs whose settings are not known
ENDED_BADLY = ("failed", "crashed", "killed", "preempted")


@dataclass(frozen=True)
class Arm:
    """Runs that differ in nothing but their seed."""

    label: str
    values: dict[str, Any]  # axis -> value
    runs: list[str]


@dataclass(frozen=True)
class Arms:
    axes: list[str]
    arms: list[Arm]
    notes: list[str]

    def of(self, run: str) -> Arm:
        return next(arm for arm in self.arms if run in arm.runs)


def varying(config: pd.DataFrame) -> list[str]:
    """Settings whose value is not the same in all runs, in their order."""
    return [str(key) for key in config.columns if len(set(map(repr, _shown(config[key])))) > 1]


def _shown(column: pd.Series) -> list[Any]:
    return [None if _missing(value) else value for value in column]


def _missing(value: Any) -> bool:
    return value is None or (isinstance(value, float) and math.isnan(value))


def axes_of(config: pd.DataFrame, notes: list[str]) -> list[str]:
    """The settings that tell arms apart, fewest first: choices of a group stand for what they bring with them, and of
    settings that always change together the first is named."""
    candidates = [key for key in varying(config) if not NOT_AXES.match(key)]
    candidates.sort(key=lambda key: (not key.startswith("choices."), not key.endswith(".name")))
    axes: list[str] = []
    partitions: dict[str, tuple[int, ...]] = {}
    for key in candidates:
        partition = _partition(config[key])
        group = key.split(".")[0]
        chosen = [axis for axis in axes if axis in (f"choices.{group}", f"{group}.name")]
        if any(_refines(partitions[axis], partition) for axis in chosen):
            continue
        twin = next((axis for axis in axes if partitions[axis] == partition), None)
        if twin is not None:
            notes.append(f"{key} changes together with {twin}: the two cannot be told apart.")
            continue
        axes.append(key)
        partitions[key] = partition
    return axes


def _partition(column: pd.Series) -> tuple[int, ...]:
    """Runs with the same value have the same number."""
    numbers: dict[str, int] = {}
    return tuple(numbers.setdefault(repr(value), len(numbers)) for value in _shown(column))


def _refines(fine: tuple[int, ...], coarse: tuple[int, ...]) -> bool:
    return len(set(zip(fine, coarse, strict=True))) == len(set(fine))


def short(axis: str) -> str:
    """choices.reward -> reward; reward.name -> reward; train.policy.lr stays."""
    return axis.removeprefix("choices.").removesuffix(".name")


def arms_of(frames: Frames) -> Arms:
    """Runs by what differs between them. With nothing but seeds differing there is one arm; runs whose settings are not
    known are an arm each."""
    notes: list[str] = []
    bare = settings_unknown(frames)
    axes = axes_of(frames.config.drop(index=list(bare)), notes)
    groups: dict[tuple[str, ...], list[str]] = {}
    values: dict[tuple[str, ...], dict[str, Any]] = {}
    for run in map(str, frames.config.index):
        own = {axis: None if run in bare else frames.config.at[run, axis] for axis in axes}
        own = {axis: None if _missing(value) else value for axis, value in own.items()}
        own |= {RUN: bare.get(run)} if bare else {}
        key = ("", run) if run in bare else tuple(map(repr, own.values()))
        groups.setdefault(key, []).append(run)
        values[key] = own
    arms = [Arm(_label(values[key], frames, runs), values[key], runs) for key, runs in groups.items()]
    arms.sort(key=lambda arm: tuple(_order(value) for value in arm.values.values()))
    if bare:
        notes.append(
            f"{'; '.join(bare.values())}: settings not known, so each is an arm of its own and seeds are not averaged. "
            "Give the runs table's export (with ID and the settings shown), run folders or wandb:PROJECT, too."
        )
        axes = [*axes, RUN]
    return Arms(axes, arms, notes)


def settings_unknown(frames: Frames) -> dict[str, str]:
    """Of several runs those of which no setting is known but the seed (curves of a line plot) -> what they are called:
    their name, where no other run has it."""
    if len(frames.runs) < 2:
        return {}
    settings = [key for key in frames.config.columns if not NOT_AXES.match(str(key))]
    known = frames.config[settings].notna().any(axis=1)
    names = frames.runs["name"].astype(str)
    alone = ~names.duplicated(keep=False)
    return {str(run): names[run] if alone[run] else str(run) for run in frames.runs.index if not known[run]}


def _order(value: Any) -> tuple[int, float, str]:
    if isinstance(value, int | float):
        return (0, float(value), "")
    return (1, 0.0, str(value))


def _label(values: dict[str, Any], frames: Frames, runs: list[str]) -> str:
    if values.get(RUN) is not None:
        return str(values[RUN])
    stated = {axis: value for axis, value in values.items() if axis != RUN}
    if stated:
        return ", ".join(f"{short(axis)}={'-' if value is None else value}" for axis, value in stated.items())
    choices = {key: frames.config.at[runs[0], key] for key in ("choices.reward", "reward.name") if key in frames.config}
    known = [f"{short(key)}={value}" for key, value in choices.items() if not _missing(value)]
    return known[0] if known else str(frames.runs.at[runs[0], "name"])


def titles(frames: Frames, arms: Arms) -> dict[str, str]:
    """Run -> what people call it: its arm, and its seed where the arm has several; its id where that is not unique."""
    found: dict[str, str] = {}
    for arm in arms.arms:
        for run in arm.runs:
            seed = frames.config.at[run, "seed"] if "seed" in frames.config else None
            found[run] = arm.label if len(arm.runs) == 1 or _missing(seed) else f"{arm.label}, seed {seed}"
    counts = list(found.values())
    return {run: run if counts.count(title) > 1 else title for run, title in found.items()}


def without_ended_badly(frames: Frames) -> Frames:
    """Without failed and crashed runs, where others of the same set came to an end; says which."""
    bad = [str(run) for run, state in frames.runs["state"].items() if state in ENDED_BADLY]
    kept = [str(run) for run in frames.runs.index if run not in bad]
    if not bad or not kept:
        return frames
    notes = [f"{run}: left out, it {frames.runs.at[run, 'state']} (name {frames.runs.at[run, 'name']})." for run in bad]
    return frames.only(kept, notes)


def twins(frames: Frames, arms: Arms) -> tuple[Frames, Arms]:
    """Of runs with the same settings and the same seed, the one that got furthest (then the newest) stays."""
    if "seed" not in frames.config:
        return frames, arms
    notes, kept = [], []
    for arm in arms.arms:
        seeds: dict[str, list[str]] = {}
        for run in arm.runs:
            seed = frames.config.at[run, "seed"]
            seeds.setdefault(f"only {run}" if _missing(seed) else repr(seed), []).append(run)
        for seed, runs in seeds.items():
            best = max(runs, key=lambda run: (_last_step(frames, run), str(frames.runs.at[run, "created"] or "")))
            kept.append(best)
            notes += [
                f"{run}: left out, {best} is the same run (seed {seed}) and got further or is newer."
                for run in runs
                if run != best
            ]
    if not notes:
        return frames, arms
    frames = frames.only([str(run) for run in frames.runs.index if run in kept], notes)
    return frames, arms_of(frames)


def _last_step(frames: Frames, run: str) -> int:
    steps = frames.metrics.loc[frames.metrics["run"] == run, "step"]
    return int(steps.max()) if len(steps) else -1


def prepared(frames: Frames, *, unfinished: bool = False) -> tuple[Frames, Arms]:
    """What tables and figures show: ended runs, one for each arm and seed."""
    if not unfinished:
        frames = without_ended_badly(frames)
    return twins(frames, arms_of(frames))
