"""Implements the Hydra commands: compose a configuration, run a command with it, report errors, set the exit status.

Multi-line errors raised by Hydra are shortened to one sentence with a remedy.
"""

from __future__ import annotations

import importlib
import logging
import os
import re
import signal
import sys
import traceback
from collections.abc import Callable
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.errors import CompactHydraException, HydraException
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError

from simplerl.cluster import allocation
from simplerl.config import register
from simplerl.config.hints import file_mistake, unknown_key
from simplerl.config.secrets import hide_in_overrides
from simplerl.errors import ConfigError, NonFinite, RunFailed
from simplerl.io.places import CONF, spelled

logger = logging.getLogger(__name__)
FULL_ERRORS = "HYDRA_FULL_ERROR"
BAD_CONFIGURATION, FAILED, CTRL_C = 2, 1, 130  # exit statuses; `Interrupted` exits with 75
NOISE = re.compile(
    r"\s*(full_key|object_type|reference_type|Set the environment|To append|Config search path|provider=)"
)


def hydra_command(command: str, show: Callable[[Path], None], label: str = "") -> None:
    """Compose the configuration from the command line, call `command` with it, and pass the resulting run folder to
    `show`. `command` is the dotted name of a function (DictConfig, label) -> folder, imported only when it is called.

    Errors are printed as one sentence or a traceback. The exit status is 2 for a bad configuration, 1 for a failed run,
    75 if a stop signal arrived and the run was saved, and 130 after Ctrl-C. In a sweep an error ends only that run.
    With HYDRA_FULL_ERROR=1, Hydra's errors are shown in full."""

    def run(raw: DictConfig) -> None:
        if allocation.rank() > 0:
            sys.exit(allocation.join_ray_cluster())
        signal.signal(signal.SIGINT, signal.default_int_handler)
        job, mode, choices = HydraConfig.get().job, HydraConfig.get().mode, HydraConfig.get().runtime.choices
        if mode is RunMode.RUN and choices["sweep"] is not None:
            sys.exit(f"Configuration: sweep={choices['sweep']} consists of several runs: add -m.")
        OmegaConf.set_readonly(raw, False)
        raw.choices = {group: str(choice) for group, choice in choices.items() if "hydra/" not in group}
        if mode is RunMode.MULTIRUN:
            shown = hide_in_overrides(HydraConfig.get().overrides.task)
            logger.info("\nrun %s of the sweep: %s", job.num, ", ".join(shown))
        own_label = run_label(raw.run.name, job.override_dirname, in_sweep=mode is RunMode.MULTIRUN)
        allocation.command_is_restartable = True
        module, _, name = command.rpartition(".")
        try:
            with allocation.driver_role():
                folder = getattr(importlib.import_module(module), name)(raw, f"{label}{own_label}")
            if mode is RunMode.RUN:
                show(folder)
        except KeyboardInterrupt:
            print("Stopped by Ctrl-C: the same command resumes from the last checkpoint.", file=sys.stderr)
            sys.exit(CTRL_C)
        except Exception as error:
            status = print_error(error)
            if mode is RunMode.MULTIRUN and status in (FAILED, BAD_CONFIGURATION):
                if isinstance(error, ConfigError) and not label:
                    from simplerl.runs.folder import run_folder
                    from simplerl.runs.status import record_refusal

                    resolved: Any = OmegaConf.to_container(raw, resolve=True, enum_to_str=True)
                    record_refusal(run_folder(resolved, own_label), resolved, error)
                # Hydra's launcher continues with the other runs, then prints this message and exits with status 1.
                raise CompactHydraException("A run of the sweep failed (see above); the others were run.") from None
            sys.exit(status)

    run.__module__ = Path(sys.argv[0]).stem  # Hydra takes the job name from it: train or evaluate
    register()
    main = hydra.main(version_base="1.3", config_path=str(CONF), config_name="config")(run)
    show_full_errors = FULL_ERRORS in os.environ
    os.environ[FULL_ERRORS] = "1"  # makes Hydra raise its errors instead of printing them
    try:
        main()
    except (HydraException, OmegaConfBaseException, YAMLError, ValueError) as error:
        by_hydra = not isinstance(error, ValueError) or any(x in str(error) for x in ("Only one of", "Config group"))
        if show_full_errors or not by_hydra:
            raise
        sys.exit(hydra_error_message(error))


def run_label(name: str | None, overrides: str, *, in_sweep: bool) -> str:
    """Return the label of a run folder: `run.name` or, if it is null, the overrides. In a sweep, whose runs share the
    name, the overrides follow it."""
    return f"{name},{overrides}" if name and in_sweep and overrides else name or overrides


def print_error(error: Exception) -> int:
    """Print the error that ended a run. Returns the exit status."""
    if isinstance(error, ConfigError):
        print(f"Configuration: {error}", file=sys.stderr)
        return BAD_CONFIGURATION
    from simplerl.io.files import disk_full
    from simplerl.runs.folder import INTERRUPTED, Interrupted

    full = "" if isinstance(error, RunFailed) else disk_full(error)
    if full:
        print(f"Failed: {full}: free some space, and run the same command again.", file=sys.stderr)
        return FAILED
    if isinstance(error, NonFinite):
        print(f"Failed: {error}: choose another model or an earlier checkpoint.", file=sys.stderr)
        return FAILED
    if isinstance(error, RunFailed):
        print(f"Failed: {error}", file=sys.stderr)
        return FAILED
    if isinstance(error, Interrupted):
        print(f"Stopped by {error} after saving: the same command resumes the run.", file=sys.stderr)
        return INTERRUPTED
    traceback.print_exception(error)
    return FAILED


def hydra_error_message(error: Exception) -> str:
    """Shorten an error of Hydra or OmegaConf about the command line to one line with a remedy."""
    text = str(error)
    if "Only one of --run, --multirun" in text:
        return "-m starts a sweep and --cfg shows the configuration of one run: remove one of them."
    if "Config group override must be a string" in text:
        return (
            f"A group is set to the name of an option, such as evals=none: {spelled('train')} --help lists the options."
        )
    if found := re.search(r"Could not override '(.+?)'", text):
        value = re.search(r"use \+\S+?=(.*)", text)
        return unknown_key(found[1], value[1].strip() if value else "VALUE")
    if found := re.search(r"Could not find '(.+)/(.+?)'[^\0]*Available options in '.+?':([^:]+?)Config search", text):
        group, option, options = found[1], found[2], found[3].split()
        near = get_close_matches(option, options, 1)
        suggestion = f"did you mean {near[0]}? Valid" if near else "valid"
        return f"{group}={option} is unknown: {suggestion} options are {', '.join(options)}."
    if mistake := _mistake(text, error):
        return mistake
    if text.startswith("Error merging override ") and "\n" not in text.strip():
        text = text.removeprefix("Error merging override ").strip() + f":\n{error.__cause__}"
    return " ".join(line.strip() for line in text.splitlines() if line.strip() and not NOISE.match(line))


def _mistake(text: str, error: Exception) -> str | None:
    """Return advice about an unknown option of algorithm/kl or algorithm/shape, an invalid YAML file or a mistake in
    one; None for any other error. text: the message of `error`."""
    if isinstance(error, YAMLError):
        return f"A YAML file cannot be read: {' '.join(text.split())}: correct its syntax."
    if found := re.search(r"Error merging override algorithm\.(kl|shape)=(\S+)$", text.strip()):
        return f"The parts of an algorithm are groups: write algorithm/{found[1]}={found[2]}."
    return file_mistake(text)
