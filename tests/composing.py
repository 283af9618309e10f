"""Compose the configuration as the command line does, with a cache for compositions of the same options.

Composing takes most of the time of many tests. Hydra composes what the shortcut cannot, so errors are its own."""

from __future__ import annotations

import copy
from functools import cache
from pathlib import Path

import hydra_caches
from hydra import compose, initialize_config_dir
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override, OverrideType
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from simplerl.config import register

ROOT = Path(__file__).resolve().parent.parent
CONF = ROOT / "conf"
hydra_caches.install()


def composed_by_hydra(*overrides: str, with_hydra: bool = False, conf: Path = CONF) -> DictConfig:
    register()
    with initialize_config_dir(str(conf), version_base="1.3"):
        return compose("config", list(overrides), return_hydra_config=with_hydra)


@cache
def _options(*overrides: str) -> DictConfig:
    return composed_by_hydra(*overrides)


def composed(*overrides: str) -> DictConfig:
    """Return the configuration of a command line: options of groups are composed, then values set, as Hydra does."""
    options: list[str] = []
    values: list[Override] = []
    for text, override in zip(overrides, OverridesParser.create().parse_overrides(list(overrides)), strict=True):
        key = override.key_or_group
        is_value = override.type is OverrideType.CHANGE and override.package is None and key != "sweep"
        if is_value and not key.startswith("hydra") and not (CONF / key).is_dir():
            values.append(override)
        else:
            options.append(text)
    raw = copy.deepcopy(_options(*options))
    try:
        for override in values:
            OmegaConf.update(raw, override.key_or_group, override.value(), merge=True)
    except OmegaConfBaseException:
        return composed_by_hydra(*overrides)
    return raw
