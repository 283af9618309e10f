"""Decides whether two runs are the same, from the settings that can change their numbers and the inputs they read."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from simplerl.config.schema import result_neutral_keys
from simplerl.errors import ConfigError
from simplerl.runs.provenance import changed_inputs

logger = logging.getLogger(__name__)

NOT_HASHED = ("run", "tracking", "choices")  # groups of settings that do not change what a run computes
DISTILLATION = "distillation"  # the kind of distill.py's folders
# Kind of folder -> its name in messages, and further groups that it does not depend on.
KINDS: dict[str, tuple[str, tuple[str, ...]]] = {
    "": ("a training run", ("teacher",)),
    "evaluation": ("an evaluation", ("teacher",)),
    DISTILLATION: ("a distillation", ("algorithm", "warmup", "evals", "rollout")),
}
CHANGEABLE = ("backend", "sampler")  # groups that may differ when a run is resumed by run.dir


def result_settings(resolved: dict[str, Any], kind: str = "") -> dict[str, Any]:
    """Return the settings that can change the numbers of a run of this kind. The stages in algorithm.shape become a
    list, because their order matters."""
    unused = (*NOT_HASHED, *KINDS[kind][1])
    kept = {key: value for key, value in resolved.items() if key not in unused}
    settings = _drop_keys(kept, result_neutral_keys())
    if "algorithm" in settings:
        algorithm = settings["algorithm"]
        settings["algorithm"] = {**algorithm, "shape": [list(stage) for stage in algorithm.get("shape", {}).items()]}
    return settings


def _drop_keys(node: dict[str, Any], keys: set[str], prefix: str = "") -> dict[str, Any]:
    return {
        name: _drop_keys(value, keys, f"{prefix}{name}.") if isinstance(value, dict) else value
        for name, value in node.items()
        if f"{prefix}{name}" not in keys
    }


def check_same_kind(known: str, kind: str, folder: Path) -> None:
    """Raise ConfigError if a folder would be used for another kind of run, such as an evaluation for training."""
    if known != kind:
        names = {key: name for key, (name, _) in KINDS.items()}
        raise ConfigError(f"run.dir={folder} holds {names[known]}, not {names[kind]}: choose another folder.")


def check_same_inputs(
    known: Mapping[str, str], now: Mapping[str, str], folder: Path, *, finished: bool, allowed: bool
) -> None:
    """Raise ConfigError if inputs of a run (`simplerl.data.inputs`) have changed since it began, or if none are known;
    only warn if that is `allowed`. finished: whether the run in the folder is finished, for the message."""
    kind, outcome = ("a finished", "keep its results") if finished else ("an unfinished", "resume with the change")
    if not known:
        if not allowed:
            raise ConfigError(
                f"{folder} holds {kind} run whose environment.json is absent or names no inputs, so a change of its "
                "data, weights or code would go unseen: restore that file, remove the folder to start again, or set "
                f"run.allow_changed=true to {outcome.replace('the change', 'the present ones')}."
            )
        logger.warning("%s: the inputs of the run are not recorded (run.allow_changed=true).", folder)
        return
    changed = " and ".join(changed_inputs(known, now))
    if changed and not allowed:
        raise ConfigError(
            f"{folder} holds {kind} run, but since then {changed} changed: restore what changed, remove the folder to "
            f"start again, or set run.allow_changed=true to {outcome}."
        )
    if changed:
        logger.warning("%s: %s changed since the run began (run.allow_changed=true).", folder, changed)


def check_same_settings(known: dict[str, Any], resolved: dict[str, Any], folder: Path, kind: str = "") -> None:
    """Raise ConfigError if a run would be resumed with other result-changing settings. For the groups of CHANGEABLE,
    only warn."""
    known, resolved = result_settings(known, kind), result_settings(resolved, kind)
    changed = {key for key in known.keys() | resolved.keys() if known.get(key) != resolved.get(key)}
    for key in sorted(changed.difference(CHANGEABLE)):
        setting, before, now = _first_difference(key, known.get(key), resolved.get(key))
        raise ConfigError(
            f"run.dir={folder} holds a run with {setting}={before}, not {now}: choose another folder, or remove this "
            "one."
        )
    for key in sorted(changed.intersection(CHANGEABLE)):
        logger.warning("%s is resumed with another %s than before.", folder, key)


def _first_difference(key: str, before: Any, now: Any) -> tuple[str, Any, Any]:
    """Return the first setting at or below `key` that differs, and its two values."""
    if isinstance(before, dict) and isinstance(now, dict):
        for name in sorted(before.keys() | now.keys()):
            if before.get(name) != now.get(name):
                return _first_difference(f"{key}.{name}", before.get(name), now.get(name))
    return key, before, now
