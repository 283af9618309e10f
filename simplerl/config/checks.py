"""Check settings and their combinations. Each check raises a one-sentence ConfigError that names key and remedy.

`simplerl.config.load` calls `check_values` first, which imports nothing heavy, then checks the keywords of the
configured functions, then calls `check_fit`. Checks that need a tokenizer or data are in `simplerl.data.task`.
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
    HeadStart,
    KLEstimator,
    KLPlace,
    OldLogprobs,
    OptimizerConfig,
    RoleConfig,
    RoleKind,
    TrainConfig,
)
from simplerl.errors import ConfigError, require

MIN_TEMPERATURE = 0.01  # lower temperatures make logits overflow; 0 is greedy
MAX_SEED = 2**31 - 1


# Columns of a batch that no role may give.
NOT_A_ROLES_COLUMN = (
    *("tokens", "attention", "mask", "group", "reward", "correct", "trained", "sampler_logprobs", "logprobs"),
    *("entropy", "token_rewards", "advantages", "returns", "weights", "extra"),
)


def check_known(node: DictConfig, prefix: str = "", given: DictConfig | None = None) -> None:
    """Raise ConfigError for keys of `node` (or of `given`, which will be merged into it) that the schema does not have,
    such as those added with `+key=value`. Keywords of functions are checked in `simplerl.config.load`."""
    kind = OmegaConf.get_type(node)
    node = node if given is None else given
    if is_dataclass(kind):
        known = [field.name for field in fields(kind)]
        for name in [name for name in map(str, node) if name not in known]:
            near = get_close_matches(name, known, 1)
            suggestion = f"did you mean {prefix}{near[0]}?" if near else f"valid keys are {', '.join(known)}."
            raise ConfigError(f"{prefix}{name} is unknown: {suggestion}")
    for name in map(str, node):
        has_value = not OmegaConf.is_missing(node, name) and not OmegaConf.is_interpolation(node, name)
        if has_value and isinstance(node[name], DictConfig):
            check_known(node[name], f"{prefix}{name}.")


def check_finite(value: Any, key: str = "") -> None:
    """Raise ConfigError for an infinite or NaN number anywhere in a nested configuration."""
    if isinstance(value, dict | list):
        items = value.items() if isinstance(value, dict) else enumerate(value)
        for name, part in items:
            check_finite(part, f"{key}.{name}" if key else str(name))
    require(not isinstance(value, float) or math.isfinite(value), f"{key}={value} is not finite: set a finite number.")


def numeric_fields(config: Any, prefix: str = "") -> Iterator[tuple[str, Any, dict[str, Any]]]:
    """Yield (dotted key, value, metadata) of every field of a configuration, including nested ones. Metadata: as set by
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


def check_values(config: Config, *, trains: bool = True) -> None:
    """Raise ConfigError for settings out of bounds or in conflict. Functions may still be uninstantiated nodes. trains:
    whether `algorithm` and `warmup` are used and checked."""
    for key, value, metadata in numeric_fields(config):
        minimum = metadata.get("minimum")
        require(minimum is None or value is None or value >= minimum, f"{key}={value} must be at least {minimum}.")
    require(config.seed <= MAX_SEED, f"seed={config.seed} must be at most {MAX_SEED}.")
    _model_path("model.path", config.model.path)
    _sampling(config)
    if trains:
        _training(config)
    require(
        re.fullmatch(r"auto|cpu|cuda(:\d+)?", config.run.device) is not None,
        f"run.device={config.run.device} is unknown: choose auto, cpu or cuda.",
    )


def _training(config: Config) -> None:
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
    _lora(config)
    _rollout(config)
    _skipped_logprobs(config)
    require(
        config.algorithm.advantage is not None
        or config.warmup.data is not None
        or (bool(config.evals.sets) and config.evals.every > 0),
        "algorithm=none without a warm-up and without evaluations does nothing: choose warmup=..., evals=... (with "
        "evals.every above 0) or another algorithm.",
    )


def _model_path(key: str, path: str) -> None:
    """Raise ConfigError for a local path that does not exist (it would be looked up on the Hub) or has no model."""
    parts = Path(path).parts
    looks_local = path.startswith(("/", ".", "~")) or len(parts) > 2 or (len(parts) == 2 and Path(parts[0]).is_dir())
    require(
        not looks_local or Path(path).is_dir(),
        f"{key}={path} does not exist: give a Hugging Face folder (relative paths start at {Path.cwd()}) or a Hub id.",
    )
    folder = Path(path)
    if folder.is_dir() and not (folder / "config.json").is_file():
        inside = sorted(folder.glob("checkpoints/step_*/policy")) or sorted(folder.glob("warmup/model"))
        remedy = f"use {inside[-1]}" if inside else "give a Hugging Face folder"
        raise ConfigError(f"{key}={path} contains no model (no config.json): {remedy}.")


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
        f"train.steps={train.steps} and train.passes={train.passes} both set the length of training: set one to null.",
    )
    require(
        train.steps is not None or train.passes is not None,
        "train.steps and train.passes are both null: set the number of rollout steps or of passes over the data.",
    )
    require(train.passes is None or train.passes > 0, f"train.passes={train.passes} must be positive.")


def _role(name: str, role: RoleConfig, train: TrainConfig) -> None:
    key = f"algorithm.roles.{name}"
    require(
        name != "policy", f"{key}: the policy is not declared as a role: set algorithm.loss and train.policy instead."
    )
    require(
        role.column not in NOT_A_ROLES_COLUMN,
        f"{key}.column={role.column} is a column that the rollouts or the advantage function set: choose another name.",
    )
    require(
        role.kind is RoleKind.critic or role.head is HeadStart.normal,
        f"{key}.head={role.head.name} initializes a value head, which {key}.kind={role.kind.name} does not have: "
        f"remove {key}.head.",
    )
    require(role.model != "", f"{key}.model is empty: give a Hugging Face folder or Hub id.")
    if role.model is not None:
        _model_path(f"{key}.model", role.model)
    require(
        (role.loss is None) == (role.optimizer is None),
        f"{key}.loss and {key}.optimizer belong together: set both to train the role, or neither to freeze it.",
    )
    if role.optimizer is not None:  # the critic's is the interpolation ${train.critic}: name the key that users set
        _optimizer("train.critic" if role.optimizer == train.critic else f"{key}.optimizer", role.optimizer)


def _optimizer(key: str, optimizer: OptimizerConfig) -> None:
    for name, valid, bounds in (
        ("lr", optimizer.lr > 0, "positive: the model would not learn"),
        ("warmup_fraction", 0 <= optimizer.warmup_fraction < 1, "in [0, 1)"),
        ("min_lr_ratio", 0 <= optimizer.min_lr_ratio <= 1, "in [0, 1]"),
        ("betas", len(optimizer.betas) == 2 and all(0 <= b < 1 for b in optimizer.betas), "two numbers in [0, 1)"),
        ("eps", optimizer.eps > 0, "positive"),
        ("weight_decay", optimizer.weight_decay >= 0, "at least 0"),
        ("grad_clip", optimizer.grad_clip > 0, "positive"),
    ):
        require(valid, f"{key}.{name}={getattr(optimizer, name)} must be {bounds}.")


def _kl(algorithm: AlgorithmConfig) -> None:
    kl = algorithm.kl
    require(
        kl.place is not KLPlace.none or kl.coef == 0,
        f"algorithm.kl.coef={kl.coef} has no effect with algorithm.kl.place=none: set algorithm.kl.coef=0, or, "
        "instead of algorithm.kl.place=none, an option of algorithm/kl, such as algorithm/kl=k1_reward.",
    )
    require(
        kl.place is KLPlace.none or "reference" in algorithm.roles,
        f"algorithm.kl.place={kl.place.name} needs a reference model: choose an option of algorithm/kl, such as "
        "algorithm/kl=k1_reward, which adds it.",
    )
    in_loss = (KLEstimator.k3_k2_gradient, KLEstimator.k3_ratio)
    require(
        kl.place is KLPlace.loss or kl.estimator not in in_loss,
        f"algorithm.kl.estimator={kl.estimator.name} differs from k3 only in its gradient: set "
        "algorithm.kl.place=loss or algorithm.kl.estimator=k3.",
    )
    require(
        kl.target is None or (kl.place is KLPlace.reward and kl.target > 0),
        f"algorithm.kl.target={kl.target} adapts the coefficient of a KL penalty in the reward and must be positive: "
        "choose algorithm/kl=adaptive_reward, or set algorithm.kl.target=null.",
    )
    require(
        kl.place is not KLPlace.loss or kl.estimator is not KLEstimator.k1,
        "algorithm.kl.estimator=k1 in the loss has zero expected gradient: choose k2 or k3.",
    )


def _lora(config: Config) -> None:
    lora = config.train.lora
    if not lora.rank:
        return
    require(lora.alpha > 0, f"train.lora.alpha={lora.alpha} must be positive: adapters would have no effect.")
    require(0 <= lora.dropout < 1, f"train.lora.dropout={lora.dropout} must be in [0, 1).")
    trained = ["policy", *(name for name, role in config.algorithm.roles.items() if role.loss is not None)]
    unknown = sorted(set(lora.roles) - set(trained))
    require(
        not unknown and len(lora.roles) > 0,
        f"train.lora.roles={','.join(lora.roles)}: {unknown[0] if unknown else 'an empty list'} is not a trained role "
        f"of this run: choose from {', '.join(trained)}.",
    )


def _sampling(config: Config) -> None:
    for key, sampling in (("sampling", config.sampling), ("evals.sampling", config.evals.sampling)):
        greedy = "" if key == "sampling" and config.algorithm.advantage is not None else "0 (greedy) or "
        require(
            sampling.temperature == 0 or sampling.temperature >= MIN_TEMPERATURE,
            f"{key}.temperature={sampling.temperature} must be {greedy}at least {MIN_TEMPERATURE}.",
        )
        require(0 < sampling.top_p <= 1, f"{key}.top_p={sampling.top_p} must be in (0, 1]; 1 disables it.")
    require(
        config.evals.samples == 1 or config.evals.sampling.temperature > 0,
        f"evals.samples={config.evals.samples} greedy responses are all the same: set a positive "
        "evals.sampling.temperature, or evals.samples=1.",
    )


def _rollout(config: Config) -> None:
    ahead, algorithm = config.rollout.ahead, config.algorithm
    require(ahead in (0, 1), f"rollout.ahead={ahead} is unknown: choose 0 or 1.")
    require(
        not ahead or config.rollout.separate_sampler,
        f"rollout.ahead={ahead} samples while the policy trains, which needs a sampler on separate devices: choose an "
        "option backend=ray_..., or set rollout.ahead=0.",
    )
    require(
        not ahead or algorithm.correction is not None,
        f"rollout.ahead={ahead} trains on responses of older weights: set "
        "algorithm/correction=truncated_importance, or rollout.ahead=0.",
    )
    if algorithm.needs.sampler_logprobs:
        reader = "algorithm.correction"
    elif algorithm.old_logprobs is OldLogprobs.sampler:
        reader = "algorithm.old_logprobs=sampler"
    else:
        return
    require(
        not algorithm.logprobs_at_temperature_1 or config.sampling.temperature == 1,
        f"{reader} compares log-probs at temperature 1 with those sampled at "
        f"sampling.temperature={config.sampling.temperature}: set algorithm.logprobs_at_temperature_1=false.",
    )
    for key, off in (("top_p", 1.0), ("top_k", 0)):
        value = getattr(config.sampling, key)
        require(
            value == off,
            f"{reader} compares the log-probs of policy and sampler, but sampling.{key}={value} truncates "
            f"the sampler's distribution: set sampling.{key}={off:g}, or algorithm/correction=none and "
            "algorithm.old_logprobs=trainer.",
        )


def _skipped_logprobs(config: Config) -> None:
    """Raise ConfigError if algorithm.old_logprobs=skip would not be exact, or another part needs the old log-probs."""
    algorithm, train = config.algorithm, config.train
    if algorithm.old_logprobs is not OldLogprobs.skip:
        return
    rollouts = train.prompts_per_step * train.samples_per_prompt
    require(
        train.minibatch_size == rollouts and train.epochs == 1,
        f"algorithm.old_logprobs=skip is exact for one optimizer step per rollout batch, but "
        f"train.minibatch_size={train.minibatch_size} and train.epochs={train.epochs} give "
        f"{rollouts // train.minibatch_size * train.epochs}: set train.minibatch_size={rollouts} train.epochs=1, or "
        "algorithm.old_logprobs=trainer.",
    )
    remedy = "set algorithm.old_logprobs=trainer."
    require(
        not (train.lora.rank and train.lora.dropout),
        f"algorithm.old_logprobs=skip: with train.lora.dropout={train.lora.dropout} the update's log-probs are not "
        "those of the policy that sampled: set train.lora.dropout=0, or algorithm.old_logprobs=trainer.",
    )
    require(
        algorithm.kl.place is not KLPlace.reward,
        f"algorithm.old_logprobs=skip: the KL penalty in the reward needs log-probs before the update: {remedy}",
    )
    require(
        algorithm.correction is None,
        f"algorithm.old_logprobs=skip: algorithm.correction needs log-probs before the update: {remedy}",
    )


def check_fit(config: Config) -> None:
    """Raise ConfigError if the parts of the algorithm do not fit each other or train.samples_per_prompt."""
    algorithm = config.algorithm
    if algorithm.advantage is None:
        require(
            algorithm.loss is None,
            "algorithm.advantage is null, but algorithm.loss is set: choose algorithm=none for a run without "
            "reinforcement learning, or an option of algorithm/advantage.",
        )
        return
    for part in ("loss", "rollouts"):
        require(
            getattr(algorithm, part) is not None,
            f"algorithm.{part} is null, but algorithm.advantage is set: choose an option of algorithm/{part}.",
        )
    require(
        not algorithm.needs.group or config.train.samples_per_prompt > 1,
        f"algorithm={algorithm.name} compares several samples of a prompt: set train.samples_per_prompt to 2 or more.",
    )
