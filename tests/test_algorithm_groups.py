"""The parts of an algorithm as nested Hydra groups: each composes with the others, and what a part needs comes and goes
with it."""

from __future__ import annotations

from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir

from simplerl.config import Config, KLPlace, OptimizerConfig, RoleKind, register
from simplerl.config.load import load

ROOT = Path(__file__).resolve().parent.parent


def configured(*overrides: str) -> Config:
    register()
    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        return load(compose("config", [f"model.path={ROOT}/assets/micro_base", *overrides]))


# Parts of an algorithm that do not go with the others of PPO or GRPO.
ALONE = {("advantage", "none"), ("loss", "none")}
TEACHER = [f"algorithm.roles.teacher.model={ROOT}/assets/micro_base"]


def parts() -> list[tuple[str, str]]:
    """Return (group, option) of every part of an algorithm; the roles are chosen by other parts."""
    paths = sorted((ROOT / "conf/algorithm").glob("*/*.yaml"))
    return [(path.parent.name, path.stem) for path in paths if path.parent.name != "role"]


@pytest.mark.parametrize("algorithm", ["ppo", "grpo"])
@pytest.mark.parametrize(("part", "option"), [one for one in parts() if one not in ALONE])
def test_every_part_composes_with_every_other(algorithm: str, part: str, option: str) -> None:
    own = TEACHER if option == "teacher" else []
    config = configured(f"algorithm={algorithm}", f"algorithm/{part}={option}", *own).algorithm
    assert config.advantage is not None and config.loss is not None and config.rollouts is not None
    trained = {name for name, role in config.roles.items() if role.loss is not None}
    # A role is there when a part needs it, and only then.
    advantage = option if part == "advantage" else {"ppo": "gae", "grpo": "group"}[algorithm]
    assert ("critic" in config.roles) == advantage.startswith("gae")
    assert ("reference" in config.roles) == (config.kl.place is not KLPlace.none or advantage == "prime")
    assert trained == {name for name in config.roles if name in ("critic", "prm")}
    assert (config.state is not None) == (advantage == "moving_baseline")
    if (part, option) in (("advantage", "group"), ("rollouts", "refill"), ("shape", "kimi_length")):
        assert config.needs.group
    assert config.needs.sampler_logprobs == (config.correction is not None)


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
