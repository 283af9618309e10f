"""Call the functions of an algorithm on a small made-up batch before any model is loaded.

Otherwise a mistake in a user's function (a column that no role provides, a wrong shape, a forgotten return value) would
appear only after the first sampling, as a traceback.
"""

from __future__ import annotations

import json
import sysconfig
import traceback
from collections.abc import Callable, Sequence
from dataclasses import FrozenInstanceError, fields, replace
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from simplerl.algorithms.kl import token_rewards
from simplerl.algorithms.losses import TokenOutput, with_current_logprobs
from simplerl.backends.roles import POLICY, role_specs, role_updates
from simplerl.config import Config, OldLogprobs, RoleKind, UpdateTime
from simplerl.config.hints import option_file, role_that_gives, rollouts_that_give
from simplerl.engine.batching import collate_rollouts
from simplerl.engine.worker import UpdatePlan
from simplerl.errors import ConfigError, require
from simplerl.types import FINISH_LENGTH, FINISH_STOP, Batch, Problem, Prompt, Rollout, Score

PROMPTS, PROMPT_LENGTH = 2, 3
COLUMNS = {field.name for field in fields(Batch)} - {"tokens", "attention", "mask", "group", "extra"}


def rehearse(config: Config) -> None:
    """Call group stages, advantage function, correction and losses once on made-up rollouts. Raises ConfigError if one
    of them fails or returns an invalid result. The random state of PyTorch is not changed."""
    if config.algorithm.advantage is None:
        return
    early = [name for name, role in config.algorithm.roles.items() if role.update is UpdateTime.before]
    with torch.random.fork_rng(devices=[]):
        batch = collate_rollouts(_stages(_rollouts(config), config))
        skipped = [POLICY] if config.algorithm.old_logprobs is OldLogprobs.skip else []
        batch = _scored(batch, [name for name in role_specs(config) if name not in (*early, *skipped)], config)
        _losses(batch, UpdateTime.before, config)
        batch = token_rewards(_scored(batch, early, config), config.algorithm.kl)
        _losses(_advantages(batch, config), UpdateTime.after, config)


def _rollouts(config: Config) -> list[Rollout]:
    """Return made-up graded responses of 1 to 4 tokens; responses to the same prompt differ in length and reward."""
    made, parts = [], config.reward.keywords.get("functions", {})
    for number in range(PROMPTS):
        prompt = Prompt(Problem(f"made-up {number}", "1 + 1?", "2"), "1 + 1?", (1,) * PROMPT_LENGTH)
        for sample in range(config.train.samples_per_prompt):
            correct, length = sample % 2 == 0, 1 + (sample + number) % 4
            status = "equal" if correct else "different"
            score = Score(1.0 if correct else -0.5, correct, status, "2", dict.fromkeys(parts, float(correct)))
            reason = FINISH_STOP if correct else FINISH_LENGTH
            one = Rollout(prompt, sample, "2", (1,) * length, (-0.5,) * length, reason, score)
            made.append(replace(one, extra=dict.fromkeys(config.algorithm.rollout_columns, 0.5)))
    return made


def _stages(rollouts: list[Rollout], config: Config) -> list[Rollout]:
    for name, stage in config.algorithm.shape.items():
        key, given = f"algorithm.shape.{name}", [(one.prompt.problem.id, one.sample) for one in rollouts]
        rollouts = _call(key, stage, (rollouts,), "", config)
        valid = isinstance(rollouts, list) and all(isinstance(one, Rollout) and one.score for one in rollouts)
        require(valid, f"{_named(key, stage)} must return a list of rollouts that have scores.")
        require(
            [(one.prompt.problem.id, one.sample) for one in rollouts] == given,
            f"{_named(key, stage)} must return all rollouts in their order: replace(rollout, trained=False) leaves one "
            "out of the loss.",
        )
    return rollouts


def _scored(batch: Batch, roles: Sequence[str], config: Config) -> Batch:
    for name in roles:
        batch = batch.with_column(role_specs(config)[name].column, -torch.rand(batch.mask.shape) * batch.mask)
    return batch.with_(entropy=torch.rand(batch.mask.shape) * batch.mask if batch.logprobs is not None else None)


def _advantages(batch: Batch, config: Config) -> Batch:
    algorithm, key, function = config.algorithm, "algorithm.advantage", config.algorithm.advantage
    result: Batch
    if algorithm.state is None:
        result = _call(key, function, (batch,), batch, config)
        _require_advantages(key, function, result, batch)
    else:
        pair = _call(key, function, (batch, dict(algorithm.state)), batch, config)
        valid = isinstance(pair, tuple) and len(pair) == 2 and isinstance(pair[1], dict)
        require(valid, f"{_named(key, function)} has a state, so it must return (batch, state).")
        result, state = pair
        _require_advantages(key, function, result, batch)
        _call(f"{key}: saving the state of", lambda: json.dumps(state), (), batch, config)
    if algorithm.correction is None:
        return result
    key, function = "algorithm.correction", algorithm.correction
    pair = _call(key, function, (result,), result, config)
    valid = isinstance(pair, tuple) and len(pair) == 2 and isinstance(pair[1], dict)
    require(valid, f"{_named(key, function)} must return (batch, metrics).")
    corrected: Batch = pair[0]
    _require_advantages(key, function, corrected, batch)
    return corrected


def _require_advantages(key: str, function: Any, result: Any, batch: Batch) -> None:
    name, rows, width = _named(key, function), *batch.mask.shape
    require(
        isinstance(result, Batch),
        f"{name} must return a batch, as batch.with_(advantages=...) does, not {result!r:.60}.",
    )
    columns = {"advantages": result.advantages, "returns": result.returns}
    require(result.advantages is not None, f"{name} must set the advantages: return batch.with_(advantages=...).")
    for column, value in columns.items():
        shape = tuple(getattr(value, "shape", ()))
        require(
            value is None or shape == (rows, width),
            f"{name} sets {column} of shape {list(shape)}, but they must be [B, T] = {[rows, width]}: return one value "
            "per token (from a value per response, x [B]: x[:, None] * batch.mask).",
        )
        require(
            value is None or bool(torch.isfinite(value[batch.mask]).all()),
            f"{name} gives {column} that are not finite on a made-up batch: look for a division by zero, as in a group "
            "with equal rewards or a response of one token.",
        )


def _losses(batch: Batch, time: UpdateTime, config: Config) -> None:
    plan = UpdatePlan(len(batch), 1, config.algorithm.aggregation, config.sampling.max_new_tokens)
    specs = role_specs(config)
    updates = role_updates(config.algorithm, plan, config.algorithm.policy_start)
    for role in [role for role, update in updates.items() if update.time is time]:
        key = "algorithm.loss" if role == POLICY else f"algorithm.roles.{role}.loss"
        output, shape = torch.zeros(batch.mask.shape, requires_grad=True), list(batch.mask.shape)
        given: Any = output - 0.5
        if specs[role].kind is RoleKind.causal_lm:
            given = TokenOutput((output - 0.5) * batch.mask, (output + 0.5) * batch.mask)
        total = torch.zeros(())
        for loss in updates[role].losses:
            result, name = _call(key, loss, (given, batch), batch, config), _named(key, loss)
            valid = isinstance(result, tuple) and len(result) == 2 and isinstance(result[1], dict)
            require(valid, f"{name} must return (loss, metrics): a tensor [b, T] and a dictionary of tensors [b, T].")
            for part, value in {"the loss": result[0], **{f"the metric {k}": v for k, v in result[1].items()}}.items():
                found = list(value.shape) if isinstance(value, Tensor) else type(value).__name__
                require(
                    found == shape or (part != "the loss" and found in ([], "float")),
                    f"{name}: {part} must be [b, T] = {shape}, one value per token, not {found}: return it unsummed, "
                    "because algorithm.aggregation sums it (a metric may also be a scalar).",
                )
            total = total + result[0].sum()
        require(
            total.requires_grad,
            f"{_named(key, updates[role].losses[0])} does not depend on the model's output: compute it from the first "
            "argument.",
        )


def _call(key: str, function: Callable[..., Any], arguments: Sequence[Any], batch: Any, config: Config) -> Any:
    """Call a user's function and return its result. Raises ConfigError with its exception in one sentence or, if it
    reads a column that `batch` lacks, with the setting that provides this column. key: the setting that names the
    function. batch: the batch among the arguments; anything else if there is none."""
    try:
        return function(*arguments)
    except Exception as error:
        frames = traceback.extract_tb(error.__traceback__)[1:]
        theirs = [frame for frame in frames if not _is_library(frame.filename)] or frames
        own = f" at {theirs[-1].filename}:{theirs[-1].lineno}" if theirs else ""
        missing = _missing_column(error, frames, batch) if isinstance(batch, Batch) else None
        if missing is None:
            reason = " ".join(str(error).split())
            if isinstance(error, FrozenInstanceError):
                reason += "; return a copy, as batch.with_(advantages=...) and dataclasses.replace make"
            reason = reason or f"`{frames[-1].line if frames else ''}`"
            raise ConfigError(
                f"{_named(key, function)} fails on a made-up batch{own} ({type(error).__name__}: {reason:.300}): "
                "correct this function."
            ) from error
        there = sorted([name for name in COLUMNS if getattr(batch, name) is not None] + list(batch.extra))
        role, part = role_that_gives(missing), key.split(".")[1]
        file = option_file(key, config.choices)
        near = get_close_matches(missing, there, 1, 0.9)
        remedy = (
            f"set roles.NAME.column: {missing} in a file of conf/algorithm/role/ and list it in the defaults of {file}."
        )
        if near:
            remedy = f"did you mean {near[0]}?"
        elif missing.startswith("reward/"):
            remedy = (
                f"choose a reward whose weighted functions have {missing.removeprefix('reward/')}, such as reward=r1."
            )
        elif missing == "logprobs":
            remedy = "set algorithm.old_logprobs=trainer."
        elif (rollouts := rollouts_that_give(missing)) is not None:
            remedy = f"choose algorithm/rollouts={rollouts}."
        elif role is not None:
            remedy = f"add /algorithm/role/{role} to the defaults of {file} or choose another algorithm/{part}."
        raise ConfigError(
            f"{_named(key, function)} reads the column {missing}, which this run does not have (available: "
            f"{', '.join(there)}): {remedy}"
        ) from error


def _is_library(file: str) -> bool:
    """Return whether a source file belongs to Python or to an installed package."""
    return file.startswith(("<", *map(str, _LIBRARIES))) or "site-packages" in Path(file).parts


_LIBRARIES = {Path(sysconfig.get_path(name)) for name in ("stdlib", "platstdlib", "purelib", "platlib")}


def _missing_column(error: Exception, frames: Sequence[traceback.FrameSummary], batch: Batch) -> str | None:
    """Return the column whose absence caused the error: a key of `extra`, or a field that is None and occurs in a line
    of the traceback. Returns None if there is no such column."""
    if isinstance(error, FrozenInstanceError):
        return None
    if isinstance(error, KeyError) and error.args and isinstance(error.args[0], str):
        return error.args[0] if error.args[0] not in batch.extra and "extra" in _lines(frames) else None
    absent = [name for name in sorted(COLUMNS) if getattr(batch, name) is None and f".{name}" in _lines(frames)]
    return max(absent, key=len) if absent else None


def _lines(frames: Sequence[traceback.FrameSummary]) -> str:
    return " ".join(frame.line or "" for frame in frames)


def _named(key: str, function: Any) -> str:
    if getattr(function, "func", None) is with_current_logprobs:
        function = function.keywords["loss"]
    function = getattr(function, "func", function)
    return f"{key} ({function.__module__}.{function.__qualname__})"
