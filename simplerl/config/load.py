"""From a composed configuration to typed, checked values."""

from __future__ import annotations

import re

from hydra.errors import InstantiationException
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import InterpolationResolutionError

from simplerl.config.checks import check_finite, check_fit, check_known, check_values
from simplerl.config.functions import check_functions
from simplerl.config.schema import Config, OptimizerConfig
from simplerl.errors import ConfigError


def load(raw: DictConfig) -> Config:
    """The composed configuration as typed values, checked. Raises ConfigError."""
    try:
        missing = sorted(OmegaConf.missing_keys(raw))
        if missing:
            raise ConfigError(f"{missing[0]} has no value: set it on the command line or choose an experiment.")
        check_known(raw)
        for role in raw.algorithm.roles.values():
            if role.optimizer is not None:
                role.optimizer = OmegaConf.merge(OmegaConf.structured(OptimizerConfig), role.optimizer)
        check_finite(OmegaConf.to_container(raw, resolve=True))
        check_values(OmegaConf.to_object(raw))  # type: ignore[arg-type]
        check_functions(raw)
        config: Config = instantiate(raw, _convert_="object")
    except InterpolationResolutionError as error:
        raise ConfigError(f"{error.full_key} cannot be resolved: {str(error).splitlines()[0]}.") from error
    except InstantiationException as error:
        raise ConfigError(_import_fault(error)) from error
    check_fit(config)
    return config


def _import_fault(error: InstantiationException) -> str:
    """Hydra's message takes several lines; the reason stands in the second line of its cause, or, where Hydra itself
    refuses the target, is all of its first sentence."""
    key = re.search(r"full_key: (.+)", str(error))
    target = re.search(r"'([\w.]+)'", str(error))
    named = f"{key[1] if key else 'node'}._target_={target[1] if target else '?'}"
    if error.__cause__ is None:
        said = " ".join(str(error).partition("\nfull_key:")[0].split())
        return f"{named} is refused: {re.split(r'[.] ', said)[0].rstrip('.')}."
    why = str(error.__cause__).strip().splitlines()[:2][-1]
    extra = re.search(r"No module named '(ray|deepspeed|vllm)", why)
    remedy = " Install the extra: pip install -e '.[cpu]', or '.[gpu]'." if extra else ""
    return f"{named} cannot be imported: {why}.{remedy}"
