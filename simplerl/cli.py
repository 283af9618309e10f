"""What the Hydra commands share: composing a configuration, running it, one error printer, exit statuses.

Hydra's own errors, of several lines, become one sentence with a remedy.
"""

from __future__ import annotations

import importlib
import logging
import os
import re
import sys
import traceback
from collections.abc import Callable
from dataclasses import fields, is_dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.errors import CompactHydraException, HydraException
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from simplerl.cluster import allocation
from simplerl.config import register
from simplerl.errors import ConfigError

logger = logging.getLogger(__name__)
CONF = Path(__file__).resolve().parent.parent / "conf"
FULL = "HYDRA_FULL_ERROR"
BAD_CONFIGURATION, FAILED, KEYBOARD = 2, 1, 130  # exit statuses; 75 after saving on a stop signal
NOISE = re.compile(
    r"\s*(full_key|object_type|reference_type|Set the environment|To append|Config search path|provider=)"
)


def hydra_command(command: str, show: Callable[[Path], None], label: str = "") -> None:
    """Run `command`, the dotted name of a function (DictConfig, label) -> folder, on the configuration that Hydra
    composes from the command line, and `show` its folder; it is imported only when something runs.

    A failure ends the process with one sentence or a traceback, and exit status 2 for a bad configuration, 1 for a
    failed run, 75 after saving on a stop signal. Within a sweep it ends only its own job. With HYDRA_FULL_ERROR=1 set
    by the user, Hydra's own errors are shown whole."""

    def run(raw: DictConfig) -> None:
        if allocation.rank() > 0:
            sys.exit(allocation.join_ray_cluster())
        job, mode, choices = HydraConfig.get().job, HydraConfig.get().mode, HydraConfig.get().runtime.choices
        if mode is RunMode.RUN and choices["sweep"] is not None:
            sys.exit(f"Configuration: sweep={choices['sweep']} is several runs: add -m.")
        OmegaConf.set_readonly(raw, False)
        raw.choices = {group: str(choice) for group, choice in choices.items() if "hydra/" not in group}
        if mode is RunMode.MULTIRUN:
            logger.info("\nrun %s of the sweep: %s", job.num, ", ".join(HydraConfig.get().overrides.task))
        allocation.command_is_restartable = True
        module, _, name = command.rpartition(".")
        try:
            with allocation.driver_role():
                folder = getattr(importlib.import_module(module), name)(raw, f"{label}{job.override_dirname}")
        except KeyboardInterrupt:
            print("Stopped by Ctrl-C: the same command resumes from the last checkpoint.", file=sys.stderr)
            sys.exit(KEYBOARD)
        except Exception as error:
            status = report(error)
            if mode is RunMode.MULTIRUN and status in (FAILED, BAD_CONFIGURATION):
                # Hydra's own launcher then continues with the other runs, and ends with this sentence and status 1.
                raise CompactHydraException("A run of the sweep failed (see above); the others were run.") from None
            sys.exit(status)
        if mode is RunMode.RUN:
            show(folder)

    run.__module__ = Path(sys.argv[0]).stem  # Hydra names the job by it: train or evaluate
    register()
    main = hydra.main(version_base="1.3", config_path=str(CONF), config_name="config")(run)
    shown_whole = FULL in os.environ
    os.environ[FULL] = "1"  # Hydra then raises what it would print
    try:
        main()
    except (HydraException, OmegaConfBaseException, ValueError) as error:
        refused = not isinstance(error, ValueError) or any(one in str(error) for one in ("Only one of", "Config group"))
        if shown_whole or not refused:
            raise
        sys.exit(sentence(error))


def report(error: Exception) -> int:
    """Print why a run ended. Returns its exit status."""
    if isinstance(error, ConfigError):
        print(f"Configuration: {error}", file=sys.stderr)
        return BAD_CONFIGURATION
    from simplerl.runs.folder import INTERRUPTED, Interrupted

    if isinstance(error, Interrupted):
        print(f"Stopped by {error} after saving: the same command resumes from there.", file=sys.stderr)
        return INTERRUPTED
    traceback.print_exception(error)
    return FAILED


def sentence(error: Exception) -> str:
    """Return one line for what Hydra or OmegaConf says of a command line."""
    text = str(error)
    if "Only one of --run, --multirun" in text:
        return "-m starts a sweep and --cfg shows one run: leave one of them out."
    if "Config group override must be a string" in text:
        return "A group takes the name of an option, such as evals=none: python train.py --help lists them."
    if found := re.search(r"Could not override '(.+?)'", text):
        return _unknown_key(found[1])
    if found := re.search(r"Could not find '(.+)/(.+?)'[^\0]*Available options in '.+?':([^:]+?)Config search", text):
        group, option, options = found[1], found[2], found[3].split()
        near = get_close_matches(option, options, 1)
        meant = f"perhaps {near[0]} is meant; " if near else ""
        return f"{group}={option} is unknown: {meant}there are {', '.join(options)}."
    if text.startswith("Error merging override ") and "\n" not in text.strip():
        text = text.removeprefix("Error merging override ").strip() + f":\n{error.__cause__}"
    return " ".join(line.strip() for line in text.splitlines() if line.strip() and not NOISE.match(line))


def _unknown_key(key: str) -> str:
    """Return a sentence that suggests the nearest key, or keys of that name elsewhere."""
    from simplerl.config import Config

    kind, known, path = Config, _keys(Config), key.split(".")
    for depth, name in enumerate(path):
        if name in known:
            kind = known[name]
            known = _keys(kind)
            continue
        prefix = "".join(f"{part}." for part in path[:depth])
        near = get_close_matches(name, known, 1)
        if near:
            return f"{key} is unknown: perhaps {prefix}{near[0]} is meant."
        elsewhere = [one for one in _all_keys(Config) if one.rsplit(".", 1)[-1] == path[-1]]
        if elsewhere:
            return f"{key} is unknown: perhaps {' or '.join(elsewhere)} is meant."
        if known:
            return f"{key} is unknown: there are {', '.join(prefix + one for one in known)}."
    extra = f"to pass an extra keyword to a function write +{key}=VALUE"
    return f"{key} is unknown: python train.py --cfg job shows all keys; {extra}."


def _keys(kind: Any) -> dict[str, Any]:
    """Return the fields of a dataclass with their types, or nothing for any other type."""
    if not is_dataclass(kind):
        return {}
    from typing import get_type_hints

    hints = get_type_hints(kind)
    return {field.name: hints[field.name] for field in fields(kind)}


def _all_keys(kind: Any, prefix: str = "") -> list[str]:
    found = []
    for name, inner in _keys(kind).items():
        found.append(prefix + name)
        found += _all_keys(inner, f"{prefix}{name}.")
    return found
