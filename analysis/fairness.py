"""Finds what makes a comparison of arms unfair: arms that differ in more than their axis, in the evaluation, data, code
or machine, unequal budgets, runs that stopped early, and checkpoints chosen by their test set.

Only what a source recorded is compared: exports of W&B hold the settings, but neither versions nor digests."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from analysis.arms import RUN, TOGETHER, Arms, differing_settings, evaluation_rule, is_missing, short_name
from analysis.budgets import UNEQUAL, UNITS, shown_budget, unequal_budgets
from analysis.folders import evaluation_folders, naming, read_json
from analysis.frames import Frames
from analysis.run_data import SourceError, parse_number
from simplerl.data.inputs import describe_input, settings_of_input
from simplerl.runs.provenance import RENDERED_PROMPTS

CHECKPOINT = re.compile(r"(.+)/checkpoints/step_(\d+)(?:/policy)?/?")
# Settings of evaluations that other checks cover, or that do not change an accuracy.
NOT_COMPARED = re.compile(r"evals\.(?:every|path|reward(\..*)?|.*\.path|.*_target_|.*_partial_)$")
MAX_NAMED = 4  # settings that one sentence lists
MAX_ARMS = 6  # arms that one sentence lists
Value = Callable[[str], str | None]  # run -> what is compared, in words; None: not recorded


@dataclass(frozen=True)
class Difference:
    """Holds one reason why a comparison may be unfair, in words, and the labels of the arms that it marks."""

    kind: str
    text: str
    marked: list[str]


def find_differences(frames: Frames, arms: Arms) -> list[Difference]:
    """Return everything that makes the comparison of the arms unfair, the most serious first."""
    return [
        *_confounded(frames, arms),
        *_split(frames, arms, "evaluation rule", lambda run: evaluation_rule(frames, [run])),
        *_evaluation_settings(frames, arms),
        *_inputs(frames, arms),
        *_environments(frames, arms),
        *_stopped_early(frames, arms),
        *_chosen_checkpoints(frames, arms),
        *_budgets(frames, arms),
        *_alarms(frames, arms),
        *_not_recorded(frames, arms),
    ]


def _split(frames: Frames, arms: Arms, kind: str, value: Value, within: Value | None = None) -> list[Difference]:
    """Return a difference if `value` is not the same for all runs; the arms without its most frequent value are marked.
    within: compare only runs for which this is equal."""
    cells: dict[str | None, dict[str, list[str]]] = {}
    for arm in arms.arms:
        for run in arm.runs:
            if (found := value(run)) is not None:
                cells.setdefault(within(run) if within else "", {}).setdefault(found, []).append(run)
    differences = []
    for values in cells.values():
        if len(values) > 1:
            usual = max(values, key=lambda one: len(values[one]))
            text = "; ".join(f"{one} in {_names(arms, runs)}" for one, runs in values.items())
            others = {run for one, runs in values.items() if one != usual for run in runs}
            differences.append(Difference(kind, f"{text}.", _labels(arms, others)))
    return differences


def _labels(arms: Arms, runs: Iterable[str]) -> list[str]:
    chosen = set(runs)
    return [arm.label for arm in arms.arms if chosen & set(arm.runs)]


def _names(arms: Arms, runs: Sequence[str]) -> str:
    """Return the labels of the arms of `runs`, with how many of an arm's runs are meant if not all."""
    names = []
    for arm in arms.arms:
        count = len(set(runs) & set(arm.runs))
        if count:
            names.append(arm.label if count == len(arm.runs) else f"{arm.label} ({count} of {len(arm.runs)} runs)")
    if len(names) > MAX_ARMS:
        names = [*names[: MAX_ARMS - 2], f"{len(names) - MAX_ARMS + 2} other arms"]
    return " and ".join(names)


def _setting(frames: Frames, run: str, key: str) -> str:
    value = frames.config.at[run, key] if key in frames.config else None
    return "not set" if is_missing(value) else str(value)


# Settings


def _confounded(frames: Frames, arms: Arms) -> list[Difference]:
    """Return a difference for each setting that changes together with an axis, and for each arm that differs from every
    other arm in at least two axes, so that no effect on it can be attributed to one of them."""
    found = []
    for key in (note.partition(" ")[0] for note in arms.notes if f" {TOGETHER} " in note):
        values = _split(frames, arms, "more than the axis", lambda run, key=key: _setting(frames, run, key))  # type: ignore[misc]
        found += [replace(one, text=f"{key} also differs: {one.text}") for one in values]
    axes = [axis for axis in arms.axes if axis != RUN]
    trained = [arm for arm in arms.arms if RUN not in arm.values or arm.values[RUN] is None]
    if len(axes) < 2 or len(trained) < 2:
        return found
    for arm in trained:
        others = [[axis for axis in axes if arm.values.get(axis) != one.values.get(axis)] for one in trained]
        nearest = min((differing for differing in others if differing), key=len, default=[])
        if len(nearest) > 1:
            names = " and ".join(map(short_name, nearest))
            text = f"{arm.label} differs from every other arm in at least {len(nearest)} settings ({names})."
            found.append(Difference("more than the axis", text, [arm.label]))
    return found


def _evaluation_settings(frames: Frames, arms: Arms) -> list[Difference]:
    keys = [key for key in differing_settings(frames.config) if key.startswith("evals.")]
    keys = [key for key in keys if not NOT_COMPARED.match(key)]
    found = []
    for key in keys[:MAX_NAMED]:
        values = _split(frames, arms, "evaluation settings", lambda run, key=key: _setting(frames, run, key))  # type: ignore[misc]
        found += [replace(one, text=f"{key}: {one.text}") for one in values]
    if len(keys) > MAX_NAMED and found:
        found[-1] = replace(found[-1], text=f"{found[-1].text} {len(keys) - MAX_NAMED} other settings differ, too.")
    return found


# Inputs, code and machine


def _inputs(frames: Frames, arms: Arms) -> list[Difference]:
    """Return the inputs whose content differs between runs with the same settings for it."""
    digests = {run: dict(frames.environment(run).get("inputs") or {}) for arm in arms.arms for run in arm.runs}
    names = list(dict.fromkeys(name for own in digests.values() for name in own))
    differences = []
    for name in names:
        groups = settings_of_input(name)
        keys = [key for key in differing_settings(frames.config) if key.removeprefix("choices.").startswith(groups)]

        def content(run: str, name: str = name) -> str | None:
            return digests[run].get(name)

        def settings(run: str, keys: Sequence[str] = keys) -> str:
            return repr([_setting(frames, run, key) for key in keys])

        found = _split(frames, arms, "data and weights", content, settings)
        differences += [(name, replace(one, text=f"{describe_input(name)}: {one.text}")) for one in found]
    # The rendered prompts are made from the other inputs.
    others = [one for name, one in differences if name != RENDERED_PROMPTS]
    return others or [one for _, one in differences]


def _environments(frames: Frames, arms: Arms) -> list[Difference]:
    """Return the differences in grader, package versions, code and machine."""

    def recorded(*keys: str) -> Value:
        def value(run: str) -> str | None:
            found: Any = frames.environment(run)
            for key in keys:
                found = found.get(key) if isinstance(found, dict) else None
            return None if found in (None, "") else str(found)

        return value

    def code(run: str) -> str | None:
        found = frames.environment(run)
        changed = " with uncommitted changes" if found.get("modified") else ""
        if not found.get("commit"):  # an installed wheel
            return f"version {found.get('version')}, source {found['source'][:8]}" if found.get("source") else None
        return f"commit {str(found['commit'])[:8]}{changed}"

    def machine(run: str) -> str | None:
        found = frames.environment(run).get("machine")
        if not isinstance(found, dict):
            return None
        gpus = Counter(found.get("gpus") or [])
        return ", ".join([str(found.get("cpu") or "unknown CPU"), *(f"{count} x {gpu}" for gpu, count in gpus.items())])

    def rule(run: str) -> str:
        return str(evaluation_rule(frames, [run]))

    def reward(run: str) -> str:
        return _setting(frames, run, "reward._target_")

    every = [run for arm in arms.arms for run in arm.runs]
    packages = sorted({name for run in every for name in frames.environment(run).get("packages") or {}})
    versions = [("python", recorded("python")), *((one, recorded("packages", one)) for one in packages)]
    known_machines = any(machine(run) for run in every)
    digest = "source of the evaluation's grader"
    return [
        *_prefixed(digest, _split(frames, arms, "grader version", recorded("evaluation_reward"), rule)),
        *_prefixed("source of the reward", _split(frames, arms, "grader version", recorded("reward"), reward)),
        *(one for name, value in versions for one in _prefixed(name, _split(frames, arms, "versions", value))),
        *_split(frames, arms, "code version", code),
        *(
            _split(frames, arms, "machine", machine)
            if known_machines
            else _prefixed("host (its hardware is not recorded)", _split(frames, arms, "machine", recorded("host")))
        ),
    ]


def _prefixed(what: str, differences: Iterable[Difference]) -> list[Difference]:
    return [replace(one, text=f"{what}: {one.text}") for one in differences]


# Progress and budgets


def _stopped_early(frames: Frames, arms: Arms) -> list[Difference]:
    found = []
    for arm in arms.arms:
        for run in arm.runs:
            planned = _planned_steps(frames, run)
            last = frames.last_step([run])
            if planned is not None and last is not None and last < planned:
                state = frames.runs.at[run, "state"]
                which = _names(arms, [run])
                text = f"{which} ended at step {last} of {planned:.0f} (state: {state or 'unknown'})."
                found.append(Difference("stopped early", text, [arm.label]))
    return found


def _planned_steps(frames: Frames, run: str) -> float | None:
    """Return the planned RL steps: as recorded, or else the setting train.steps; None if unknown or without RL."""
    if frames.status(run).get("kind"):
        return None
    planned = frames.status(run).get("steps")
    if isinstance(planned, dict):
        return parse_number(planned.get("rl"))
    return parse_number(frames.config.at[run, "train.steps"]) if "train.steps" in frames.config else None


def _chosen_checkpoints(frames: Frames, arms: Arms) -> list[Difference]:
    """Return the runs whose model is an intermediate checkpoint of a run that was evaluated on the same items."""
    found = []
    for arm in arms.arms:
        for run in arm.runs:
            match = CHECKPOINT.fullmatch(_setting(frames, run, "model.path"))
            text = _choice(frames, run, Path(match[1]), int(match[2])) if match else ""
            if text:
                found.append(Difference("chosen by its test set", f"{arm.label}: {text}", [arm.label]))
    return found


def _choice(frames: Frames, run: str, source: Path, step: int) -> str:
    """Return a sentence on a checkpoint that may have been chosen by the test set; "" if it was not or if the folder of
    the run that trained it is absent."""
    try:
        with naming(source):
            planned = read_json(source / "status.json").get("steps", {}).get("rl", step)
            mine, theirs = (
                {digest: name for name, digest in (known.get("inputs") or {}).items() if name.startswith("evals.sets.")}
                for known in (frames.environment(run), read_json(source / "environment.json"))
            )
    except SourceError:
        return ""
    shared = [describe_input(mine[digest]) for digest in mine if digest in theirs]
    evaluated = list(evaluation_folders(source))
    if step >= planned or not shared or len(evaluated) < 2:
        return ""
    return (
        f"its model is step {step} of {planned} of {source.name}, which was evaluated on the same items "
        f"({', '.join(shared)}) at {len(evaluated)} steps: if it was chosen by them, its accuracy is overstated."
    )


def _budgets(frames: Frames, arms: Arms) -> list[Difference]:
    found = []
    for unit, budgets in unequal_budgets(frames, arms.arms).items():
        shown = budgets if len(budgets) <= MAX_ARMS else {label: budgets[label] for label in _extremes(budgets)}
        spent = "; ".join(f"{shown_budget(budget)} in {label}" for label, budget in shown.items())
        spent += f"; the other {len(budgets) - 2} arms lie between" if len(shown) < len(budgets) else ""
        text = f"{UNITS[unit]} per run: {spent} (--equal={unit} compares at equal budget)."
        found.append(Difference("unequal budget", text, _unusual(budgets) if unit == "responses" else []))
    return found


def _extremes(budgets: Mapping[str, float]) -> list[str]:
    """Return the arms with the least and the largest budget."""
    return [min(budgets, key=lambda label: budgets[label]), max(budgets, key=lambda label: budgets[label])]


def _unusual(budgets: Mapping[str, float]) -> list[str]:
    """Return the arms whose budget is more than 2 % from the usual one: that of most arms or, if several are equally
    frequent, the largest of these."""

    def near(one: float) -> list[str]:
        return [
            label for label, budget in budgets.items() if max(one, budget) <= UNEQUAL["responses"] * min(one, budget)
        ]

    usual = max(budgets.values(), key=lambda one: (len(near(one)), one))
    return [label for label in budgets if label not in near(usual)]


def _alarms(frames: Frames, arms: Arms) -> list[Difference]:
    texts: dict[str, list[str]] = {}
    for arm in arms.arms:
        for run in arm.runs:
            for text in (text for part in frames.parts.get(run, []) for text in part.alarms):
                texts.setdefault(text, []).append(run)
    return [Difference("alarm", f"{_names(arms, runs)}: {text}", []) for text, runs in texts.items()]


def _not_recorded(frames: Frames, arms: Arms) -> list[Difference]:
    """Return notes that name the arms whose versions, code, machine or inputs are unknown, so that these are not
    mistaken for equal."""
    without = [run for arm in arms.arms for run in arm.runs if not frames.environment(run).get("packages")]
    older = [run for run in _all(arms) if run not in without and not frames.environment(run).get("machine")]
    found = []
    if without:
        text = f"versions, code, machine and digests of inputs of {_names(arms, without)} are unknown, so not compared."
        found.append(Difference("not recorded", text, []))
    if older:
        text = f"machine and source of the evaluation's grader of {_names(arms, older)} are unknown, so not compared."
        found.append(Difference("not recorded", text, []))
    return found if len(_all(arms)) > 1 else []


def _all(arms: Arms) -> list[str]:
    return [run for arm in arms.arms for run in arm.runs]
