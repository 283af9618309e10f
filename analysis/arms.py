"""Group runs into arms: runs whose settings are equal except for the seed."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import pandas as pd

from analysis.folders import EVALUATION
from analysis.frames import Frames

# Settings that describe where, when and how a run was executed and logged, not what it computes.
NOT_AXES = re.compile(
    r"^(?:seed|run\..*|tracking\..*|choices\.(?:tracking|local|experiment|debug)|wandb_version|_wandb.*|sampler\..*threads"
    r"|slurm\..*|.*(?:job_id|git_sha|commit|hostname))$"
)
RUN = "run"  # the axis of runs whose settings are unknown
TOGETHER = "changes together with"
RULES_DIFFER = "Runs are evaluated by different rules"
REWARDS = "simplerl.rewards"
FAILED_STATES = ("failed", "crashed", "killed", "preempted")


@dataclass(frozen=True)
class Arm:
    """Holds runs that differ only in their seed."""

    label: str  # the values in words, such as "lr=1e-6"
    values: dict[str, Any]  # axis -> value
    runs: list[str]

    def seeds(self, frames: Frames) -> int | None:
        """Return the number of runs; None if they are means over an unknown number of runs."""
        return None if "wandb group" in set(frames.runs.loc[self.runs, "source"]) else len(self.runs)


@dataclass(frozen=True)
class Arms:
    """Holds the settings that differ between arms (`axes`), the arms in order, and notes on ambiguous settings."""

    axes: list[str]
    arms: list[Arm]
    notes: list[str]


def differing_settings(config: pd.DataFrame) -> list[str]:
    """Return the settings that do not have the same value in all runs, in the order of their columns."""
    return [str(key) for key in config.columns if len(set(map(repr, _without_nan(config[key])))) > 1]


def _without_nan(column: pd.Series) -> list[Any]:
    return [None if is_missing(value) else value for value in column]


def is_missing(value: Any) -> bool:
    """Return whether a setting is None or NaN."""
    return value is None or (isinstance(value, float) and math.isnan(value))


def _find_axes(config: pd.DataFrame, notes: list[str]) -> list[str]:
    """Return the fewest settings that distinguish the arms.

    The choice of a configuration group represents the settings that it sets. Among settings that always change together
    the first is returned, and a note names the others."""
    candidates = [key for key in differing_settings(config) if not NOT_AXES.match(key)]
    candidates.sort(key=lambda key: (not key.startswith("choices."), "/" in key, not key.endswith(".name")))
    axes: list[str] = []
    partitions: dict[str, tuple[int, ...]] = {}
    for key in candidates:
        partition = _partition(config[key])
        group = key.split(".")[0]
        choices = [axis for axis in axes if axis in (f"choices.{group}", f"{group}.name") or _brings(axis, key)]
        if any(_refines(partitions[axis], partition) for axis in choices):
            continue
        same = next((axis for axis in axes if partitions[axis] == partition), None)
        if same is not None:
            notes.append(f"{key} {TOGETHER} {same}: their effects cannot be separated.")
            continue
        axes.append(key)
        partitions[key] = partition
    return axes


def _brings(axis: str, key: str) -> bool:
    """Return whether a choice sets `key`: choices.reward@evals.reward sets what its package evals.reward holds, and
    choices.algorithm the parts of an algorithm, such as choices.algorithm/kl."""
    package = axis.partition("@")[2]
    return (bool(package) and key.startswith(f"{package}.")) or key.startswith(f"{axis}/")


def _partition(column: pd.Series) -> tuple[int, ...]:
    """Return a number for each run; runs with equal values have equal numbers."""
    numbers: dict[str, int] = {}
    return tuple(numbers.setdefault(repr(value), len(numbers)) for value in _without_nan(column))


def _refines(fine: tuple[int, ...], coarse: tuple[int, ...]) -> bool:
    return len(set(zip(fine, coarse, strict=True))) == len(set(fine))


def short_name(axis: str) -> str:
    """Return an axis as labels show it: choices.reward and reward.name become reward."""
    return axis.removeprefix("choices.").removesuffix(".name")


def group_runs(frames: Frames) -> Arms:
    """Group runs by the settings that differ between them; arms have the order in which their first runs were found.
    Each run whose settings are unknown is a separate arm. Evaluations by evaluate.py are grouped separately, because
    most settings of a training run do not concern them."""
    kinds = frames.runs["kind"]
    evaluations = [str(run) for run in kinds.index if kinds[run] == EVALUATION]
    others = [str(run) for run in kinds.index if kinds[run] != EVALUATION]
    if evaluations and others:
        return _join(group_runs(frames.select(others)), group_runs(frames.select(evaluations)), frames)
    notes: list[str] = []
    unknown = _runs_without_settings(frames)
    axes = _find_axes(frames.config.drop(index=list(unknown)), notes)
    groups: dict[tuple[str, ...], list[str]] = {}
    values: dict[tuple[str, ...], dict[str, Any]] = {}
    for run in map(str, frames.config.index):
        own = {axis: None if run in unknown else frames.config.at[run, axis] for axis in axes}
        own = {axis: None if is_missing(value) else value for axis, value in own.items()}
        own |= {RUN: unknown.get(run)} if unknown else {}
        key = ("", run) if run in unknown else tuple(map(repr, own.values()))
        groups.setdefault(key, []).append(run)
        values[key] = own
    arms = [Arm(_label(values[key], frames, runs), values[key], runs) for key, runs in groups.items()]
    if unknown:
        notes.append(
            f"{'; '.join(unknown.values())}: settings unknown, so each run is a separate arm and seeds are not "
            "averaged. Add the runs table's export (with the ID and settings columns shown), run folders or "
            "wandb:ENTITY/PROJECT."
        )
        axes = [*axes, RUN]
    if groups_of_runs := [arm.label for arm in arms if arm.seeds(frames) is None]:
        notes.append(
            f"{'; '.join(groups_of_runs)}: means over runs that a grouped chart does not distinguish, so n and the "
            "interval are unknown. Export the chart without grouping, or name run folders or wandb:ENTITY/PROJECT."
        )
    return Arms(axes, arms, [*notes, *_rule_notes(frames, arms)])


def _join(trained: Arms, evaluated: Arms, frames: Frames) -> Arms:
    """Return the arms of training runs, then those of evaluations, whose value of the axis RUN is their label."""
    axes = [*(axis for axis in trained.axes if axis != RUN), RUN]
    empty = dict.fromkeys(axes)
    own = None if len(axes) > 1 else trained.arms[0].label
    arms = [replace(arm, values=empty | {RUN: own} | arm.values) for arm in trained.arms]
    arms += [replace(arm, values=empty | {RUN: arm.label}) for arm in evaluated.arms]
    seen = [note for part in (trained, evaluated) for note in part.notes if not note.startswith(RULES_DIFFER)]
    return Arms(axes, arms, [*seen, *_rule_notes(frames, arms)])


def evaluation_rule(frames: Frames, runs: Sequence[str]) -> str | None:
    """Return the rule by which the runs of an arm are evaluated, such as "strict (math_verify)"; None if unknown.

    It is `evals.reward` or, if that is null, the training reward."""
    for run in runs:
        row = frames.config.loc[run]
        key = "evals.reward"
        if is_missing(row.get(f"{key}._target_")) and key in row.index:
            key = "reward"
        if not is_missing(target := row.get(f"{key}._target_")):
            module, _, name = str(target).rpartition(".")
            rule = row.get(f"{key}.rule")
            return f"{name if module == REWARDS else target}{'' if is_missing(rule) else f' ({rule})'}"
    return None


def _rule_notes(frames: Frames, arms: Sequence[Arm]) -> list[str]:
    """Return a note if the arms are evaluated by different rules."""
    by_rule: dict[str, list[str]] = {}
    for arm in arms:
        if (rule := evaluation_rule(frames, arm.runs)) is not None:
            by_rule.setdefault(rule, []).append(arm.label)
    if len(by_rule) < 2:
        return []
    found = "; ".join(f"{' and '.join(labels)} by {rule}" for rule, labels in by_rule.items())
    return [f"{RULES_DIFFER} ({found}): compare accuracy_strict or accuracy_lenient instead of accuracy."]


def _runs_without_settings(frames: Frames) -> dict[str, str]:
    """Return run -> label for runs of which no setting but the seed is known, such as curves of a line plot.

    The label is the run's name, or its id if the name repeats. A single run is not reported."""
    if len(frames.runs) < 2:
        return {}
    settings = [key for key in frames.config.columns if not NOT_AXES.match(str(key))]
    known = frames.config[settings].notna().any(axis=1)
    names = frames.runs["name"].astype(str)
    unique = ~names.duplicated(keep=False)
    return {str(run): names[run] if unique[run] else str(run) for run in frames.runs.index if not known[run]}


def _label(values: dict[str, Any], frames: Frames, runs: list[str]) -> str:
    if values.get(RUN) is not None:
        return str(values[RUN])
    settings = {axis: value for axis, value in values.items() if axis != RUN}
    if settings:
        kind = "evaluation, " if frames.runs.at[runs[0], "kind"] == EVALUATION else ""
        return kind + ", ".join(
            f"{short_name(axis)}={'-' if value is None else value}" for axis, value in settings.items()
        )
    if frames.runs.at[runs[0], "kind"] == EVALUATION:
        named = ("choices.experiment", "choices.model", "model.path")
        found = [frames.config.at[runs[0], key] for key in named if key in frames.config]
        return f"evaluation of {next((one for one in found if not is_missing(one) and one != 'None'), runs[0])}"
    rewards = {key: frames.config.at[runs[0], key] for key in ("choices.reward", "reward.name") if key in frames.config}
    known = [f"{short_name(key)}={value}" for key, value in rewards.items() if not is_missing(value)]
    return known[0] if known else str(frames.runs.at[runs[0], "name"])


def run_titles(frames: Frames, arms: Arms) -> dict[str, str]:
    """Return run -> title: the label of its arm, with the seed if the arm has several runs; the run's id if this title
    is not unique."""
    found: dict[str, str] = {}
    for arm in arms.arms:
        for run in arm.runs:
            seed = frames.config.at[run, "seed"] if "seed" in frames.config else None
            found[run] = arm.label if len(arm.runs) == 1 or is_missing(seed) else f"{arm.label}, seed {seed}"
    counts = list(found.values())
    return {run: run if counts.count(title) > 1 else title for run, title in found.items()}


def select_runs(frames: Frames, *, unfinished: bool = False) -> tuple[Frames, Arms]:
    """Return the runs that tables and figures show, and their arms.

    Failed and crashed runs are dropped unless `unfinished` or there are no others; of runs with equal settings and
    seed the one with the most steps is kept. Notes name what was dropped."""
    if not unfinished:
        frames = _drop_failed_runs(frames)
    return _drop_repeated_runs(frames, group_runs(frames))


def _drop_failed_runs(frames: Frames) -> Frames:
    failed = [str(run) for run, state in frames.runs["state"].items() if state in FAILED_STATES]
    kept = [str(run) for run in frames.runs.index if run not in failed]
    if not failed or not kept:
        return frames
    facts = frames.runs
    notes = [f"{run} (name {facts.at[run, 'name']}): skipped, its state is {facts.at[run, 'state']}." for run in failed]
    return frames.select(kept, notes)


def _drop_repeated_runs(frames: Frames, arms: Arms) -> tuple[Frames, Arms]:
    """Keep, of runs with equal settings and seed, the one with the most steps or, of several, the newest."""
    if "seed" not in frames.config:
        return frames, arms

    def progress(run: str) -> tuple[float, str]:
        step = frames.last_step([run])
        return (-1 if step is None else step, str(frames.runs.at[run, "created"] or ""))

    notes, kept = [], []
    for arm in arms.arms:
        by_seed: dict[str, list[str]] = {}
        for run in arm.runs:
            seed = frames.config.at[run, "seed"]
            by_seed.setdefault(f"only {run}" if is_missing(seed) else repr(seed), []).append(run)
        for seed, runs in by_seed.items():
            best = max(runs, key=progress)
            kept.append(best)
            notes += [
                f"{run}: skipped, {best} has the same settings and seed ({seed}) and more steps, or is newer."
                for run in runs
                if run != best
            ]
    if not notes:
        return frames, arms
    frames = frames.select([str(run) for run in frames.runs.index if run in kept], notes)
    return frames, group_runs(frames)
