"""The parts of an algorithm as nested Hydra groups: each composes with the others, and what a part needs comes and goes
with it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from composing import composed

from simplerl.algorithms import advantages, losses
from simplerl.backends.rehearsal import rehearse
from simplerl.config import Config, OptimizerConfig, RoleKind
from simplerl.config.load import load
from simplerl.errors import ConfigError

ROOT = Path(__file__).resolve().parent.parent


def configured(*overrides: str) -> Config:
    return load(composed(f"model.path={ROOT}/assets/micro_base", *overrides))


# Parts of an algorithm that do not go with the others of PPO or GRPO.
ALONE = {("advantage", "none"), ("loss", "none")}


def with_defaults(name: str) -> list[dict[str, Any]]:
    """Return the YAML of conf/algorithm/<name>.yaml and of the files in its defaults."""
    node: Any = yaml.safe_load((ROOT / f"conf/algorithm/{name}.yaml").read_text()) or {}
    others = [one for one in node.get("defaults", []) if one != "_self_"]
    paths = [one.removeprefix("/algorithm/") if one.startswith("/") else f"{Path(name).parent}/{one}" for one in others]
    return [node, *(file for path in paths for file in with_defaults(path))]


def chosen_parts(algorithm: str) -> dict[str, str]:
    """Return the options that conf/algorithm/<algorithm>.yaml chooses, by part."""
    parts: dict[str, str] = {}
    for one in yaml.safe_load((ROOT / f"conf/algorithm/{algorithm}.yaml").read_text())["defaults"]:
        if isinstance(one, dict):
            parts |= {key.removeprefix("override "): option for key, option in one.items()}
        elif one != "_self_":
            parts |= chosen_parts(one)
    return parts


def required_models(name: str) -> list[str]:
    """Return overrides for the roles whose model the user must name (`model: ""`)."""
    roles = [(role, spec) for file in with_defaults(name) for role, spec in file.get("roles", {}).items()]
    required = [role for role, spec in roles if spec.get("model") == ""]
    return [f"algorithm.roles.{role}.model={ROOT}/assets/micro_base" for role in required]


# Estimators that read columns which rollouts or a reward provide.
PARTNERS = {"remax": ["algorithm/rollouts=greedy_baseline"], "gdpo": ["reward=r1"]}


def parts() -> list[tuple[str, str]]:
    """Return (group, option) of every part of an algorithm; the roles are chosen by other parts."""
    paths = sorted((ROOT / "conf/algorithm").glob("*/*.yaml"))
    return [(path.parent.name, path.stem) for path in paths if path.parent.name != "role"]


@pytest.mark.parametrize("algorithm", ["ppo", "grpo"])
@pytest.mark.parametrize(("part", "option"), [one for one in parts() if one not in ALONE])
def test_every_part_composes_with_every_other(algorithm: str, part: str, option: str) -> None:
    own = required_models(f"{part}/{option}") + PARTNERS.get(option, [])
    whole = configured(f"algorithm={algorithm}", f"algorithm/{part}={option}", *own)
    config = whole.algorithm
    assert config.advantage is not None and config.loss is not None and config.rollouts is not None
    chosen = chosen_parts(algorithm) | {part: option}
    chosen |= {"rollouts": "greedy_baseline"} if option == "remax" else {}
    files = [file for chosen_part, name in chosen.items() for file in with_defaults(f"{chosen_part}/{name}")]
    # A role, a state or a need is there when a chosen part's file brings it, and only then.
    assert set(config.roles) == {name for file in files for name in file.get("roles", {})}
    assert config.state == next((file["state"] for file in files if "state" in file), None)
    needs = {name for file in files for name, value in file.get("needs", {}).items() if value}
    assert needs == {name for name, value in vars(config.needs).items() if value}
    rehearse(whole)


def test_another_advantage_drops_the_critic() -> None:
    """What each estimator needs comes and goes with it: the critic with GAE, groups with GRPO's."""
    ppo, grpo = configured().algorithm, configured("algorithm=grpo").algorithm
    assert set(ppo.roles) == {"reference", "critic"} and not ppo.needs.group
    assert ppo.roles["critic"].column == "values" and ppo.roles["critic"].kind is RoleKind.critic
    assert set(grpo.roles) == {"reference"} and grpo.needs.group
    swapped = configured("algorithm/advantage=group").algorithm
    assert set(swapped.roles) == {"reference"} and swapped.needs.group
    assert swapped.advantage.func.__name__ == "group_relative" and swapped.kl == ppo.kl
    back = configured("algorithm=grpo", "algorithm/advantage=gae").algorithm
    assert set(back.roles) == {"reference", "critic"} and not back.needs.group
    assert set(configured("algorithm/kl=none").algorithm.roles) == {"critic"}


@pytest.mark.parametrize("option", ["k1_reward", "k2_loss", "k3_loss"])
def test_the_kl_penalty_is_one_choice(option: str) -> None:
    """Estimator and place have one name; the coefficient 0 measures the divergence without using it."""
    config = configured("algorithm=grpo", f"algorithm/kl={option}", "algorithm.kl.coef=0").algorithm
    assert f"{config.kl.estimator.name}_{config.kl.place.name}" == option
    assert config.kl.coef == 0 and "reference" in config.roles


def test_several_reward_stages_follow_each_other() -> None:
    config = configured("algorithm=grpo", "algorithm/shape=[kimi_length,soft_overlong]")
    assert list(config.algorithm.shape) == ["kimi_length", "soft_overlong"]
    assert config.algorithm.shape["soft_overlong"].keywords["max_length"] == config.sampling.max_new_tokens


def test_the_optimizer_of_a_role_is_whole() -> None:
    """A role's YAML sets what differs from the defaults."""
    prm = configured("algorithm=prime").algorithm.roles["prm"]
    assert prm.optimizer == OptimizerConfig(lr=1e-6, grad_clip=10.0)
    assert configured("train.critic.lr=0.125").algorithm.roles["critic"].optimizer.lr == 0.125


# mistake -> (overrides, the part that is replaced, its function, words of the message)
MISTAKES: dict[str, tuple[str, str, Any, list[str]]] = {
    "field that no role gives": (
        "grpo",
        "advantage",
        advantages.gae,
        ["the column values", "/algorithm/role/critic to"],
    ),
    "extra column that no role gives": (
        "grpo",
        "advantage",
        advantages.teacher_advantage,
        [
            "the column teacher_logprobs",
            "available: correct",
            "/algorithm/role/teacher to the defaults of conf/algorithm/",
        ],
    ),
    "column of no role at all": ("grpo", "advantage", lambda b: b.extra["novelty"], ["roles.NAME.column: novelty in"]),
    "column off by a letter": ("grpo", "advantage", lambda b: b.extra["sampler_logprob"], ["did you mean sampler_log"]),
    "column set in place": ("grpo", "advantage", lambda b: setattr(b, "advantages", b.mask), ["return a copy"]),
    "division by zero": (
        "grpo",
        "advantage",
        lambda b: b.with_(advantages=b.mask * (b.reward - b.reward)[:, None] / 0.0),
        ["advantages that are not finite"],
    ),
    "stage that drops a rollout": ("grpo", "shape", {"mine": lambda r: r[1:]}, ["trained=False"]),
    "signature": ("reinforce", "advantage", advantages.group_relative, ["takes 1 positional argument but 2"]),
    "no state returned": ("reinforce", "advantage", lambda b, s: b, ["must return (batch, state)"]),
    "state of tensors": ("reinforce", "advantage", lambda b, s: (b.with_(advantages=b.mask), {"x": b.mask}), ["JSON"]),
    "nothing returned": ("grpo", "advantage", lambda b: None, ["must return a batch"]),
    "no advantages": ("grpo", "advantage", lambda b: b, ["must set the advantages"]),
    "a number per response": (
        "grpo",
        "advantage",
        lambda b: b.with_(advantages=b.reward),
        ["must be [B, T]", "[16, 7]"],
    ),
    "correction without metrics": ("grpo", "correction", lambda b: b, ["must return (batch, metrics)"]),
    "loss of a scalar": ("grpo", "loss", lambda o, b: (o.logprobs.mean(), {}), ["the loss must be [b, T]"]),
    "loss without metrics": ("grpo", "loss", lambda o, b: o.logprobs, ["must return (loss, metrics)"]),
    "loss of another output": ("grpo", "loss", losses.clipped_value, ["algorithm.loss (simplerl.algorithms.losses."]),
    "loss without gradient": (
        "dapo",
        "loss",
        lambda o, b: (o.logprobs.detach(), {}),
        ["does not depend on the model's"],
    ),
    "stage without a return": ("grpo", "shape", {"mine": lambda r: None}, ["algorithm.shape.mine", "list of rollouts"]),
}


def test_functions_that_read_skipped_log_probs_are_refused() -> None:
    """Losses are given the current log-probs, and named by their own name."""
    one_step = ["algorithm=dr_grpo", "algorithm.old_logprobs=skip", "train.minibatch_size=128"]
    config = configured(*one_step)
    rehearse(config)
    with pytest.raises(ConfigError, match=r"reads the column logprobs.*set algorithm\.old_logprobs=trainer\.$"):
        rehearse(
            replace(config, algorithm=replace(config.algorithm, advantage=lambda b: b.with_(advantages=-b.logprobs)))
        )
    with pytest.raises(ConfigError, match=r"^algorithm\.loss \(test_algorithm_groups"):
        rehearse(replace(config, algorithm=replace(config.algorithm, loss=lambda o, b: o.logprobs)))


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_in_a_function_is_found_before_a_model_loads(mistake: str) -> None:
    algorithm, part, function, words = MISTAKES[mistake]
    config = configured(f"algorithm={algorithm}")
    with pytest.raises(ConfigError) as caught:
        rehearse(replace(config, algorithm=replace(config.algorithm, **{part: function})))
    message = str(caught.value)
    assert message.startswith(f"algorithm.{part}") and message.endswith((".", "?")) and "\n" not in message
    for word in words:
        assert word in message


def test_a_failing_function_is_located_in_its_own_file() -> None:
    """Not in the standard library, whose `replace` raises here."""
    config = configured("algorithm=grpo")
    stage = {"mine": lambda rollouts: [replace(one, rewards=1) for one in rollouts]}
    with pytest.raises(ConfigError, match=r"fails on a made-up batch at .*test_algorithm_groups\.py:\d+ \(TypeError"):
        rehearse(replace(config, algorithm=replace(config.algorithm, shape=stage)))


@pytest.mark.parametrize("name", sorted(path.stem for path in (ROOT / "conf/algorithm").glob("*.yaml")))
def test_every_algorithm_passes_the_rehearsal(name: str) -> None:
    state = torch.random.get_rng_state()
    models = [one for part, option in chosen_parts(name).items() for one in required_models(f"{part}/{option}")]
    rehearse(configured(f"algorithm={name}", *models, *PARTNERS.get(name, [])))
    assert torch.equal(torch.random.get_rng_state(), state)
