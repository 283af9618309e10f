"""Contradictions between settings, each refused by one sentence that names the key and the remedy.

`check_values` reads numbers alone (quickly: nothing heavy is imported yet), then `simplerl.config.functions` what the
configured functions take, then `check_fit` whether they fit each other. What needs a tokenizer or data is checked in
`simplerl.data.task`.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from dataclasses import fields, is_dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from simplerl.config import (
    AlgorithmConfig,
    Config,
    KLEstimator,
    KLPlace,
    OptimizerConfig,
    RoleConfig,
    TrainConfig,
)
from simplerl.errors import ConfigError, require

LEAST_TEMPERATURE = 0.01  # below it logits overflow; 0 is greedy
MOST_SEED = 2**31 - 1


def check_known(node: DictConfig, prefix: str = "") -> None:
    """Refuse keys that were added by `+key=value` but that nothing reads. Keywords of functions are checked by
    `simplerl.config.functions`."""
    kind = OmegaConf.get_type(node)
    if is_dataclass(kind):
        known = [field.name for field in fields(kind)]
        for name in map(str, node):
            near = get_close_matches(name, known, 1)
            meant = f"perhaps {prefix}{near[0]} is meant." if near else f"there are {', '.join(known)}."
            require(name in known, f"{prefix}{name} is unknown: {meant}")
    for name in map(str, node):
        there = not OmegaConf.is_missing(node, name) and not OmegaConf.is_interpolation(node, name)
        if there and isinstance(node[name], DictConfig):
            check_known(node[name], f"{prefix}{name}.")


def check_finite(value: Any, key: str = "") -> None:
    """Refuse numbers that are infinite or NaN."""
    if isinstance(value, dict | list):
        items = value.items() if isinstance(value, dict) else enumerate(value)
        for name, part in items:
            check_finite(part, f"{key}.{name}" if key else str(name))
    require(not isinstance(value, float) or math.isfinite(value), f"{key}={value} is not a finite number.")


def numeric_fields(config: Any, prefix: str = "") -> Iterator[tuple[str, Any, dict[str, Any]]]:
    """Yield (key, value, metadata) of every field of a configuration and of those nested in it; the metadata is that of
    `simplerl.config.schema.setting`."""
    for one in fields(config):
        value, key = getattr(config, one.name), f"{prefix}{one.name}"
        nested = value if isinstance(value, dict) else {}
        if is_dataclass(value):
            yield from numeric_fields(value, f"{key}.")
        for name, part in nested.items():
            if is_dataclass(part):
                yield from numeric_fields(part, f"{key}.{name}.")
        yield key, value, dict(one.metadata)


def check_values(config: Config) -> None:
    """Check numeric fields; pluggable functions may still be uninstantiated `_target_` nodes."""
    for key, value, metadata in numeric_fields(config):
        least = metadata.get("least")
        require(least is None or value is None or value >= least, f"{key}={value} must be at least {least}.")
    require(config.seed <= MOST_SEED, f"seed={config.seed} must be at most {MOST_SEED}.")
    _model_path("model.path", config.model.path)
    train = config.train
    if config.algorithm.advantage is not None:
        _batches(train)
        require(
            config.sampling.temperature > 0,
            f"sampling.temperature={config.sampling.temperature} gives the same response every time: set a positive "
            "temperature for reinforcement learning.",
        )
        _optimizer("train.policy", train.policy)
        for name, role in config.algorithm.roles.items():
            _role(name, role, train)
    if config.warmup.data is not None:
        _optimizer("warmup.optimizer", config.warmup.optimizer)
    _kl(config.algorithm)
    _sampling(config)
    _rollout(config)
    require(
        config.algorithm.advantage is not None
        or config.warmup.data is not None
        or (bool(config.evals.sets) and config.evals.every > 0),
        "algorithm=none without a warm-up and without evaluations does nothing: choose warmup=..., evals=... (with "
        "evals.every above 0) or another algorithm.",
    )
    require(
        re.fullmatch(r"auto|cpu|cuda(:\d+)?", config.run.device) is not None,
        f"run.device={config.run.device} is unknown: choose auto, cpu or cuda.",
    )


def _model_path(key: str, path: str) -> None:
    """Refuse a folder that does not exist, which would otherwise be looked up on the Hub."""
    parts = Path(path).parts
    looks_local = path.startswith(("/", ".", "~")) or len(parts) > 2 or (len(parts) == 2 and Path(parts[0]).is_dir())
    require(
        not looks_local or Path(path).is_dir(),
        f"{key}={path} does not exist: name a Hugging Face folder (relative paths start at {Path.cwd()}) or a hub id.",
    )
    folder = Path(path)
    if folder.is_dir() and not (folder / "config.json").is_file():
        inside = sorted(folder.glob("checkpoints/step_*/policy")) or sorted(folder.glob("warmup/model"))
        meant = f"take {inside[-1]}" if inside else "name a Hugging Face folder"
        raise ConfigError(f"{key}={path} holds no model (there is no config.json in it): {meant}.")


def _batches(train: TrainConfig) -> None:
    rollouts = train.prompts_per_step * train.samples_per_prompt
    require(
        rollouts % train.minibatch_size == 0,
        f"train.minibatch_size={train.minibatch_size} does not divide the {rollouts} responses of a step "
        f"(train.prompts_per_step={train.prompts_per_step} x train.samples_per_prompt="
        f"{train.samples_per_prompt}): choose a divisor of {rollouts}.",
    )
    require(
        train.steps is None or train.passes is None,
        f"train.steps={train.steps} and train.passes={train.passes} both say how long to train: make one of them null.",
    )
    require(
        train.steps is not None or train.passes is not None,
        "train.steps and train.passes are both null: set one, rollout steps or passes over the data.",
    )
    require(train.passes is None or train.passes > 0, f"train.passes is {train.passes}, but must be positive.")


def _role(name: str, role: RoleConfig, train: TrainConfig) -> None:
    key = f"algorithm.roles.{name}"
    require(name != "policy", f"{key}: the policy is always there; its settings are algorithm.loss and train.policy.")
    require(role.model != "", f"{key}.model is empty: name a Hugging Face folder or hub id.")
    if role.model is not None:
        _model_path(f"{key}.model", role.model)
    require(
        (role.loss is None) == (role.optimizer is None),
        f"{key}.loss and {key}.optimizer belong together: set both to train the role, or neither to freeze it.",
    )
    if role.optimizer is not None:  # the critic's is ${train.critic}, where it can be set
        _optimizer("train.critic" if role.optimizer == train.critic else f"{key}.optimizer", role.optimizer)


def _optimizer(place: str, optimizer: OptimizerConfig) -> None:
    require(optimizer.lr >= 0, f"{place}.lr={optimizer.lr} is negative.")
    require(optimizer.lr > 0, f"{place}.lr is 0, so nothing would be learnt: set a learning rate.")
    require(0 <= optimizer.warmup_fraction < 1, f"{place}.warmup_fraction must be in [0, 1).")
    require(0 <= optimizer.min_lr_ratio <= 1, f"{place}.min_lr_ratio must be in [0, 1].")
    require(
        len(optimizer.betas) == 2 and all(0 <= beta < 1 for beta in optimizer.betas),
        f"{place}.betas={optimizer.betas} must be two numbers in [0, 1).",
    )
    require(optimizer.eps > 0, f"{place}.eps={optimizer.eps} must be positive.")
    require(optimizer.weight_decay >= 0, f"{place}.weight_decay={optimizer.weight_decay} is negative.")
    require(optimizer.grad_clip > 0, f"{place}.grad_clip={optimizer.grad_clip} must be positive.")


def _kl(algorithm: AlgorithmConfig) -> None:
    kl = algorithm.kl
    require(
        kl.place is not KLPlace.none or kl.coef == 0,
        f"algorithm.kl.coef={kl.coef} has no effect under algorithm.kl.place=none: choose an option of "
        "algorithm/kl, such as algorithm/kl=k1_reward.",
    )
    require(
        kl.place is KLPlace.none or "reference" in algorithm.roles,
        f"algorithm.kl.place={kl.place.name} needs a reference model: choose an option of algorithm/kl, such as "
        "algorithm/kl=k1_reward, which adds it.",
    )
    require(
        kl.place is not KLPlace.loss or kl.estimator is not KLEstimator.k1,
        "algorithm.kl.estimator=k1 in the loss has zero expected gradient: choose k2 or k3.",
    )


def _sampling(config: Config) -> None:
    for place, sampling in (("sampling", config.sampling), ("evals.sampling", config.evals.sampling)):
        require(
            sampling.temperature == 0 or sampling.temperature >= LEAST_TEMPERATURE,
            f"{place}.temperature={sampling.temperature} must be 0 (greedy) or at least {LEAST_TEMPERATURE}.",
        )
        require(0 < sampling.top_p <= 1, f"{place}.top_p={sampling.top_p} is outside (0, 1]; 1 turns it off.")
        require(sampling.top_k >= 0, f"{place}.top_k={sampling.top_k} is negative; 0 turns it off.")
        require(sampling.max_new_tokens >= 1, f"{place}.max_new_tokens must be at least 1.")
    require(
        config.evals.samples == 1 or config.evals.sampling.temperature > 0,
        f"evals.samples={config.evals.samples} greedy responses are all the same: set evals.sampling.temperature.",
    )


def _rollout(config: Config) -> None:
    ahead, algorithm = config.rollout.ahead, config.algorithm
    require(ahead in (0, 1), f"rollout.ahead={ahead} is unknown: choose 0 or 1.")
    require(
        not ahead or config.rollout.separate_sampler,
        f"rollout.ahead={ahead} samples while the policy trains, which takes a sampler with devices of its own: choose "
        "one of backend=ray_..., or rollout.ahead=0.",
    )
    require(
        not ahead or algorithm.correction is not None,
        f"rollout.ahead={ahead} trains on responses of older weights: set "
        "algorithm/correction=truncated_importance, or rollout.ahead=0.",
    )
    if not algorithm.needs.sampler_logprobs:
        return
    require(
        not algorithm.logprobs_at_temperature_1 or config.sampling.temperature == 1,
        "algorithm.correction compares log-probs at temperature 1 with those sampled at "
        f"sampling.temperature={config.sampling.temperature}: set algorithm.logprobs_at_temperature_1=false.",
    )
    for key, off in (("top_p", 1.0), ("top_k", 0)):
        value = getattr(config.sampling, key)
        require(
            value == off,
            "algorithm.correction compares the policy's log-probs with the sampler's, which "
            f"sampling.{key}={value} makes those of a truncated distribution: set sampling.{key}={off:g}, or "
            "algorithm/correction=none.",
        )


def check_fit(config: Config) -> None:
    """Check what the chosen parts of the algorithm require of other settings, and of each other."""
    algorithm = config.algorithm
    if algorithm.advantage is None:
        return
    for part in ("loss", "rollouts"):
        require(
            getattr(algorithm, part) is not None,
            f"algorithm.{part} is null, but algorithm.advantage is set: choose an option of algorithm/{part}.",
        )
    require(
        not algorithm.needs.group or config.train.samples_per_prompt > 1,
        f"algorithm={algorithm.name} compares the samples of a prompt: set train.samples_per_prompt to 2 or more.",
    )
