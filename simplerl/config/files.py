"""The YAML files of conf/ behind the keys of a configuration, for messages that name the file to change."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from omegaconf import OmegaConf

CONF = Path(__file__).resolve().parents[2] / "conf"
PARTS = ("advantage", "loss", "kl", "correction", "rollouts", "shape")  # nested groups of conf/algorithm/


def option_file(key: str, choices: Mapping[str, str]) -> str:
    """Return the YAML file of the option that sets `key`, such as conf/reward/strict.yaml for reward.wrong. Where the
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
    """Return the option of conf/algorithm/role/ that has a role with this column."""
    for path in sorted((CONF / "algorithm/role").glob("*.yaml")):
        roles = OmegaConf.to_container(OmegaConf.load(path), resolve=False)
        found = roles.get("roles") if isinstance(roles, dict) else None
        if isinstance(found, dict) and any(isinstance(r, dict) and r.get("column") == column for r in found.values()):
            return path.stem
    return None


def options(group: str) -> list[str]:
    """Return the options of a group of conf/, such as algorithm/kl."""
    return sorted(path.stem for path in (CONF / group).glob("*.yaml"))
