"""Contradictions between settings, each refused with one sentence that names the key and the remedy.

`check_values` reads numbers alone (quick: nothing heavy is imported yet), then `simplerl.config.functions` what the
configured functions take, then `check_fit` whether they fit each other. What needs a tokenizer or data is checked in
`simplerl.data.task`.
"""

from __future__ import annotations

import math
import re
from dataclasses import fields, is_dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from simplerl.config import AlgorithmConfig, Config, KLEstimator, KLPlace, OptimizerConfig, TrainConfig
from simplerl.errors import ConfigError, at_least, require

LEAST_TEMPERATURE = 0.01  # below it logits overflow; 0 is greedy
MOST_SEED = 2**31 - 1
# Below these a worker has no room for its own libraries, and no answer is read in time.
LEAST_MEMORY_GIB, LEAST_SECONDS = 0.25, 0.1


def check_known(node: DictConfig, prefix: str = "") -> None:
    """Keys that were added by `+key=value` but that nothing reads. Keywords of functions are checked by `_call`."""
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
    """No number of the configuration may be infinite or NaN."""
    if isinstance(value, dict | list):
        items = value.items() if isinstance(value, dict) else enumerate(value)
        for name, part in items:
            check_finite(part, f"{key}.{name}" if key else str(name))
    require(not isinstance(value, float) or math.isfinite(value), f"{key}={value} is not a finite number.")


def check_values(config: Config) -> None:
    """Of a configuration whose functions may still be plain nodes."""
    require(config.seed <= MOST_SEED, f"seed={config.seed} is more than {MOST_SEED}.")
    _model_path(config.model.path)
    train = config.train
    at_least(
        1,
        train__prompts_per_step=train.prompts_per_step,
        train__samples_per_prompt=train.samples_per_prompt,
        train__minibatch_size=train.minibatch_size,
        train__epochs=train.epochs,
        train__tokens_per_micro_batch=train.tokens_per_micro_batch,
        train__steps=train.steps,
        run__keep=config.run.keep,
        run__save_every=config.run.save_every,
        run__threads=config.run.threads,
        grading__workers=config.grading.workers,
        evals__samples=config.evals.samples,
        evals__limit=config.evals.limit,
        warmup__epochs=config.warmup.epochs,
        warmup__minibatch_size=config.warmup.minibatch_size,
        warmup__save_every=config.warmup.save_every,
        warmup__limit=config.warmup.limit,
        prompt__max_tokens=config.prompt.max_tokens,
        model__context=config.model.context,
    )
    at_least(2, warmup__max_tokens=config.warmup.max_tokens)
    at_least(
        0,
        seed=config.seed,
        evals__every=config.evals.every,
        algorithm__kl_coef=config.algorithm.kl_coef,
        algorithm__entropy_coef=config.algorithm.entropy_coef,
    )
    if config.algorithm.advantage is not None:
        _batches(train)
        require(
            config.sampling.temperature > 0,
            f"sampling.temperature={config.sampling.temperature} draws the same response every time: "
            "reinforcement learning needs a positive temperature.",
        )
        _optimizer("train.policy", train.policy)
        if config.algorithm.value_loss is not None:
            _optimizer("train.critic", train.critic)
    if config.warmup.data is not None:
        _optimizer("warmup.optimizer", config.warmup.optimizer)
    _kl(config.algorithm)
    _sampling(config)
    _rollout(config)
    at_least(LEAST_SECONDS, grading__seconds_per_answer=config.grading.seconds_per_answer)
    at_least(LEAST_MEMORY_GIB, grading__memory_gib=config.grading.memory_gib)
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


def _model_path(path: str) -> None:
    """A folder that is not there would otherwise be looked for on the Hub."""
    parts = Path(path).parts
    looks_local = path.startswith(("/", ".", "~")) or len(parts) > 2 or (len(parts) == 2 and Path(parts[0]).is_dir())
    require(
        not looks_local or Path(path).is_dir(),
        f"model.path={path} does not exist: name a Hugging Face folder (relative paths start at {Path.cwd()}) "
        "or a hub id.",
    )
    folder = Path(path)
    if folder.is_dir() and not (folder / "config.json").is_file():
        inside = sorted(folder.glob("checkpoints/step_*/policy")) or sorted(folder.glob("warmup/model"))
        meant = f"take {inside[-1]}" if inside else "name a Hugging Face folder"
        raise ConfigError(f"model.path={path} holds no model (there is no config.json in it): {meant}.")


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
    require(
        algorithm.kl is KLPlace.none or algorithm.kl_coef > 0,
        f"algorithm.kl={algorithm.kl.name} needs a coefficient: set algorithm.kl_coef above 0, or algorithm.kl=none.",
    )
    require(
        algorithm.kl is not KLPlace.none or algorithm.kl_coef == 0,
        f"algorithm.kl_coef={algorithm.kl_coef} has no effect under algorithm.kl=none: "
        "choose algorithm.kl=reward or loss, or set the coefficient to 0.",
    )
    require(
        algorithm.kl is not KLPlace.loss or algorithm.kl_estimator is not KLEstimator.k1,
        "algorithm.kl=loss with algorithm.kl_estimator=k1 pulls nowhere, its gradient has mean 0: choose k2 or k3.",
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
    ahead, cap = config.rollout.ahead, config.algorithm.importance_cap
    require(ahead in (0, 1), f"rollout.ahead={ahead} is unknown: choose 0 or 1.")
    require(cap is None or cap > 0, f"algorithm.importance_cap={cap} must be positive.")
    require(
        cap is None or not config.algorithm.logprobs_at_temperature_1 or config.sampling.temperature == 1,
        f"algorithm.importance_cap={cap} compares log-probs at temperature 1 with those drawn at "
        f"sampling.temperature={config.sampling.temperature}: set algorithm.logprobs_at_temperature_1=false.",
    )
    for key, off in (("top_p", 1.0), ("top_k", 0)):
        value = getattr(config.sampling, key)
        require(
            cap is None or value == off,
            f"algorithm.importance_cap={cap} compares the policy's log-probs with the sampler's, which "
            f"sampling.{key}={value} makes those of a truncated distribution: set sampling.{key}={off:g}, or "
            "algorithm.importance_cap=null.",
        )


def check_fit(config: Config) -> None:
    """What functions that may be chosen freely need of each other."""
    require(
        not config.rollout.ahead or getattr(config.backend.func, "samples_ahead", False),
        f"rollout.ahead={config.rollout.ahead} samples while the policy trains, which takes a sampler with devices of "
        "its own: choose one of backend=ray_..., or rollout.ahead=0.",
    )
    require(
        not config.rollout.ahead or config.algorithm.importance_cap is not None,
        f"rollout.ahead={config.rollout.ahead} trains on responses of older weights, which needs truncated importance "
        "sampling: set algorithm.importance_cap=2, or rollout.ahead=0.",
    )
    algorithm = config.algorithm
    if algorithm.advantage is None:
        return
    name = f"algorithm.advantage={algorithm.advantage.func.__name__}"
    needs_critic = getattr(algorithm.advantage.func, "needs_critic", False)
    needs_group = getattr(algorithm.advantage.func, "needs_group", False)
    require(
        algorithm.policy_loss is not None, "algorithm.policy_loss is null, but algorithm.advantage is set: set both."
    )
    require(
        not needs_critic or algorithm.value_loss is not None,
        f"{name} needs a critic: set algorithm.value_loss, or take group_relative advantages.",
    )
    require(
        needs_critic or algorithm.value_loss is None,
        f"algorithm.value_loss trains a critic that {name} does not use: set it to null.",
    )
    require(
        not needs_group or config.train.samples_per_prompt > 1,
        f"{name} compares the samples of a prompt: set train.samples_per_prompt to 2 or more.",
    )
