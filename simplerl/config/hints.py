"""Return advice about errors that Hydra reports: an unknown key on the command line, a mistake in a file of conf/."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from difflib import get_close_matches
from functools import cache
from typing import Any

from omegaconf import DictConfig, OmegaConf

from simplerl.config import schema
from simplerl.config.schema import AlgorithmConfig, all_settings
from simplerl.io.places import CONF, spelled

PARTS = ("advantage", "loss", "kl", "correction", "rollouts", "shape")  # nested groups of conf/algorithm/
# Setting of TRL or verl -> the corresponding setting here, as in the table of docs/migration.md.
FOREIGN = {
    "run_name": "run.name",
    "experiment_name": "run.name",
    "learning_rate": "train.policy.lr",
    "actor.optim.lr": "train.policy.lr",
    "critic.optim.lr": "train.critic.lr",
    "train_batch_size": "train.prompts_per_step",
    "num_generations": "train.samples_per_prompt",
    "rollout.n": "train.samples_per_prompt",
    "ppo_mini_batch_size": "train.minibatch_size",
    "gradient_accumulation_steps": "train.minibatch_size",
    "steps_per_generation": "train.minibatch_size",
    "per_device_train_batch_size": "train.tokens_per_micro_batch",
    "ppo_micro_batch_size_per_gpu": "train.tokens_per_micro_batch",
    "ppo_max_token_len_per_gpu": "train.tokens_per_micro_batch",
    "num_iterations": "train.epochs",
    "num_ppo_epochs": "train.epochs",
    "ppo_epochs": "train.epochs",
    "max_steps": "train.steps",
    "total_training_steps": "train.steps",
    "num_train_epochs": "train.passes",
    "total_epochs": "train.passes",
    "warmup_ratio": "train.policy.warmup_fraction",
    "warmup_steps": "train.policy.warmup_fraction",
    "lr_warmup_steps_ratio": "train.policy.warmup_fraction",
    "lr_warmup_steps": "train.policy.warmup_fraction",
    "lr_scheduler_type": "train.policy.schedule",
    "max_grad_norm": "train.policy.grad_clip",
    "clip_grad": "train.policy.grad_clip",
    "adam_beta1": "train.policy.betas",
    "adam_beta2": "train.policy.betas",
    "adam_epsilon": "train.policy.eps",
    "weight_decay": "train.policy.weight_decay",
    "bf16": "train.precision",
    "fp16": "train.precision",
    "torch_dtype": "train.precision",
    "enable_gradient_checkpointing": "train.gradient_checkpointing",
    "model_name_or_path": "model.path",
    "train_dataset": "data.path",
    "dataset_name": "data.path",
    "train_files": "data.path",
    "val_files": "evals.path",
    "max_prompt_length": "prompt.max_tokens",
    "max_completion_length": "sampling.max_new_tokens",
    "max_response_length": "sampling.max_new_tokens",
    "reward_funcs": "reward",
    "custom_reward_function": "reward",
    "adv_estimator": "algorithm/advantage",
    "scale_rewards": "algorithm.advantage.std",
    "norm_adv_by_std_in_grpo": "algorithm.advantage.std",
    "gamma": "algorithm.advantage.gamma",
    "lam": "algorithm.advantage.lam",
    "loss_type": "algorithm.aggregation",
    "loss_agg_mode": "algorithm.aggregation",
    "importance_sampling_level": "algorithm/loss=gspo",
    "beta": "algorithm.kl.coef",
    "kl_loss_coef": "algorithm.kl.coef",
    "kl_ctrl.kl_coef": "algorithm.kl.coef",
    "use_kl_loss": "algorithm/kl=k3_loss",
    "kl_loss_type": "algorithm/kl=k3_loss",
    "use_kl_in_reward": "algorithm/kl=k1_reward",
    "kl_penalty": "algorithm/kl=k1_reward",
    "epsilon": "algorithm.loss.clip_low",
    "cliprange": "algorithm.loss.clip_low",
    "clip_ratio": "algorithm.loss.clip_low",
    "clip_ratio_low": "algorithm.loss.clip_low",
    "epsilon_high": "algorithm.loss.clip_high",
    "clip_ratio_high": "algorithm.loss.clip_high",
    "delta": "algorithm/loss=dual_clip",
    "clip_ratio_c": "algorithm/loss=dual_clip",
    "cliprange_value": "algorithm.roles.critic.loss.clip",
    "entropy_coeff": "algorithm.entropy_coef",
    "mask_truncated_completions": "algorithm/shape=mask_truncated",
    "overlong_buffer": "algorithm/shape=soft_overlong",
    "overlong_buffer_cfg": "algorithm/shape=soft_overlong",
    "filter_groups": "algorithm/rollouts=refill",
    "vllm_importance_sampling_correction": "algorithm/correction=truncated_importance",
    "tis_imp_ratio_cap": "algorithm/correction=truncated_importance",
    "rollout_is": "algorithm/correction=truncated_importance",
    "use_vllm": "sampler",
    "rollout.name": "sampler",
    "val_kwargs.n": "evals.samples",
    "val_kwargs.temperature": "evals.sampling.temperature",
    "eval_steps": "evals.every",
    "test_freq": "evals.every",
    "save_steps": "run.save_every",
    "save_freq": "run.save_every",
    "save_total_limit": "run.keep",
    "max_actor_ckpt_to_keep": "run.keep",
    "output_dir": "run.root",
    "default_local_dir": "run.root",
    "report_to": "tracking",
    "trainer.logger": "tracking",
    "project_name": "tracking.project",
    "use_peft": "train.lora.rank",
    "lora_r": "train.lora.rank",
    "lora_rank": "train.lora.rank",
    "lora_alpha": "train.lora.alpha",
    "lora_dropout": "train.lora.dropout",
    "lora_target_modules": "train.lora.targets",
    "target_modules": "train.lora.targets",
}
PACKAGE = "# @package algorithm"


@cache
def option_keys() -> dict[str, list[str]]:
    """Return the dotted keys that the YAML files of conf/ set, with the options (group=option) that set each."""
    found: dict[str, list[str]] = {}
    for path in sorted(CONF.rglob("*.yaml")):
        group = str(path.parent.relative_to(CONF))
        if path.relative_to(CONF).parts[0] not in ("config.yaml", "hydra", "experiment", "local", "debug", "oddity"):
            prefix = "algorithm" if path.read_text(encoding="utf-8").startswith(PACKAGE) else group.replace("/", ".")
            for key in _leaves(OmegaConf.to_container(OmegaConf.load(path), resolve=False), f"{prefix}."):
                found.setdefault(key, []).append(f"{group}={path.stem}")
    return found


def _leaves(node: Any, prefix: str) -> list[str]:
    names = [name for name in node if str(name)[0] not in "_/" and name != "defaults"] if isinstance(node, dict) else []
    return [key for name in names for key in (f"{prefix}{name}", *_leaves(node[name], f"{prefix}{name}."))]


def unknown_key(key: str, value: str = "VALUE") -> str:
    """Return advice about a key that does not exist, with the key or group that was probably meant."""
    leaf = key.rsplit(".", 1)[-1]
    if "@" in key or "/" in key:
        return _unknown_group(key, value)
    if leaf in PARTS and key in (leaf, f"algorithm.{leaf}"):
        return f"{key} is unknown: the parts of an algorithm are groups: write algorithm/{leaf}={value}."
    given = option_keys()
    if key in given:
        return (
            f"{key} is unknown to the chosen option: it belongs to {' and '.join(given[key])}; to pass it to a "
            f"function of your own write +{key}={value}."
        )
    ours = [ours for name, ours in FOREIGN.items() if key == name or key.endswith(f".{name}") or leaf == name]
    if not ours and len(leaf) > 6:
        ours = [ours for name, ours in FOREIGN.items() if leaf in name]
    if ours:
        return f"{key} is unknown: this setting is called {' or '.join(dict.fromkeys(ours))}."
    return _nearest(key, value, list(dict.fromkeys([*all_settings(), *given])))


def _unknown_group(key: str, value: str) -> str:
    group = key.partition("@")[0]
    if (CONF / group).is_dir():
        return f"{key} is not set by the chosen options: add it with +{key}={value}."
    groups = [str(path.relative_to(CONF)) for path in sorted(CONF.rglob("*")) if path.is_dir()]
    near = get_close_matches(group, groups, 1)
    return f"{group} is unknown: " + (f"did you mean {near[0]}?" if near else f"valid groups are {', '.join(groups)}.")


def _nearest(key: str, value: str, keys: list[str]) -> str:
    """Return advice that suggests the most similar key of the same group, or keys of that name in other groups."""
    path = key.split(".")
    for depth, name in enumerate(path):
        prefix = "".join(f"{part}." for part in path[:depth])
        if prefix + name in keys:
            continue
        siblings = [one for one in keys if one.startswith(prefix) and one.count(".") == depth]
        near = get_close_matches(name, [one.removeprefix(prefix) for one in siblings], 1)
        elsewhere = [one for one in keys if one.rsplit(".", 1)[-1] == path[-1]]
        deeper = [one for one in elsewhere if one.startswith(prefix)]
        if near and not deeper:
            return f"{key} is unknown: did you mean {prefix}{near[0]}?"
        if elsewhere:
            return f"{key} is unknown: did you mean {' or '.join(elsewhere[:3])}?"
        settings = [one for one in siblings if one in all_settings()]
        if settings:
            return f"{key} is unknown: valid keys are {', '.join(settings)}."
        break
    extra = f"to pass an extra keyword to a function write +{key}={value}"
    return f"{key} is unknown: {spelled('train')} --cfg job shows all keys; {extra}."


def file_mistake(text: str) -> str | None:
    """Return advice about a mistake in a YAML file, given Hydra's message; None if the message is not about a file."""
    if found := re.search(r"In '(.+?)': Could not load '(.+)/(.+?)'", text):
        return _unknown_option(*found.groups())
    if found := re.search(r"In '(.+?)': [^\0]*Key '(.+?)' not in '(\w+)'", text):
        return _key_of_file(*found.groups())
    if found := re.search(r"In '(.+?)': [^\0]*: (\w+) is not a subclass of (\w+)\. value: (.*)", text):
        file, _, kind, value = found.groups()
        if kind == "RoleConfig":
            return f"conf/{file}.yaml: {value} is not a role: nest its keys below a name, as roles: NAME: column: ..."
        return (
            f"conf/{file}.yaml: {value} must be a mapping with the keys {', '.join(_keys(kind))}, such as KEY: VALUE."
        )
    return _wrong_value(text)


def _wrong_value(text: str) -> str | None:
    """Return advice about a value of the wrong type or outside an enum in a YAML file, or None."""
    fault = r"Invalid value '(.*?)', expected one of \[(.+?)\]|Value (.+)"
    if (found := re.search(rf"In '(.+?)': [^\0]*?(?:{fault})\s+full_key: (\S+)", text)) is None:
        return None
    file, value, choices, wrong, key = found.groups()
    if wrong is not None:
        return f"conf/{file}.yaml: {key}: value {wrong.strip().rstrip('.')}: correct it."
    near = (get_close_matches(value, choices.split(", "), 1) or choices.split(", "))[0]
    return f"conf/{file}.yaml: {key}={value} is unknown: choose one of {choices}, such as {near}."


def _unknown_option(file: str, group: str, option: str) -> str:
    if (CONF / "algorithm/role" / f"{option}.yaml").is_file() and group.endswith("role"):
        return f"conf/{file}.yaml: {group}/{option} is unknown: write /algorithm/role/{option} in its defaults."
    near = get_close_matches(option, options(group), 1)
    suggestion = f"did you mean {near[0]}? Valid" if near else "valid"
    where = "" if "/" not in file or group == "algorithm/shape" else f"conf/{file}.yaml: "
    return f"{where}{group}={option} is unknown: {suggestion} options are {', '.join(options(group))}."


def _keys(kind: str) -> list[str]:
    known = getattr(schema, kind, None)
    return [field.name for field in fields(known)] if is_dataclass(known) else []


def _key_of_file(file: str, key: str, kind: str) -> str:
    path, algorithm = f"conf/{file}.yaml", [field.name for field in fields(AlgorithmConfig)]
    nested = file.startswith("algorithm/") and file.count("/") == 2
    if nested and (key in algorithm or key == "algorithm") and key not in _keys(kind):
        return f"{path}: {key} is in the wrong place: write `{PACKAGE}` as the first line of the file."
    if key in ("_target_", "_partial_"):
        remedy = f"nest it below `{file.split('/')[1]}:`" if nested else "remove `# @package ...` from the file"
        return f"{path}: {key} is in the wrong place: {remedy}."
    near = get_close_matches(key, _keys(kind), 1)
    remedy = f"did you mean {near[0]}?" if near else f"valid keys are {', '.join(_keys(kind))}."
    return f"{path}: the key {key} is unknown: {remedy}"


def option_file(key: str, choices: Mapping[str, str]) -> str:
    """Return the YAML file of the option that sets `key`, such as conf/reward/strict.yaml for reward.wrong. If the
    option is unknown, the file's name is OPTION.yaml."""
    path = key.split(".")
    nested = path[0] == "algorithm" and len(path) > 1
    group = f"algorithm/{path[1]}" if nested and path[1] in PARTS else path[0]
    option = choices.get(group, "OPTION")
    if nested and path[1] == "roles":
        group, option = "algorithm/role", path[2]
    if group == "algorithm/shape" and len(path) > 2:
        option = path[2]
    return f"conf/{group}/{option}.yaml"


def role_that_gives(column: str) -> str | None:
    """Return the option of conf/algorithm/role/ with a role that provides this column, or None."""
    for path in sorted((CONF / "algorithm/role").glob("*.yaml")):
        roles = OmegaConf.to_container(OmegaConf.load(path), resolve=False)
        found = roles.get("roles") if isinstance(roles, dict) else None
        if isinstance(found, dict) and any(isinstance(r, dict) and r.get("column") == column for r in found.values()):
            return path.stem
    return None


def rollouts_that_give(column: str) -> str | None:
    """Return the option of conf/algorithm/rollouts/ whose rollouts provide this column, or None."""
    for path in sorted((CONF / "algorithm/rollouts").glob("*.yaml")):
        option = OmegaConf.load(path)
        if isinstance(option, DictConfig) and column in option.get("rollout_columns", []):
            return path.stem
    return None


def options(group: str) -> list[str]:
    """Return the options of a group of conf/, such as algorithm/kl."""
    return sorted(path.stem for path in (CONF / group).glob("*.yaml"))
