"""Decides whether a run compiles its layers, where `train.compile` is null.

A run on this machine is compiled if a compiler is installed (a C++ compiler for CPUs, Triton for GPUs) and the time
that compilation is expected to save, a fraction SAVED of all scoring and updates by the plan's estimate, is at least
WORTH times the time that compilation takes. The estimate depends on the configuration, the prompts and the kind of
device alone, so a resumed run decides as before. Null means false on Ray and for a model of unknown size.
"""

from __future__ import annotations

import logging
import os
import shutil
from collections.abc import Sequence
from importlib.util import find_spec

from simplerl.config import Config
from simplerl.errors import ConfigError
from simplerl.planning.devices import CPU, default_device
from simplerl.planning.roofline import CPU_UTILISATIONS, Utilisations, step_time
from simplerl.planning.setup import LOCAL_BACKEND, assumed_lengths, backend_name, describe

logger = logging.getLogger(__name__)
COMPILATION = 60.0  # seconds, an assumption: it has not been measured apart
SAVED = 0.1  # of scoring and updates; measured: 1 % to 25 %, see docs/results.md
WORTH = 2.0


def chosen_compile(config: Config, steps: int, prompt_lengths: Sequence[int] = ()) -> bool:
    """Return train.compile or, if it is null, whether compilation repays its time and a compiler is installed; log
    the choice in one line.

    steps: rollout steps of the run. prompt_lengths: tokens of the training prompts."""
    if config.train.compile is not None:
        return config.train.compile
    if backend_name(config) != LOCAL_BACKEND or not steps:
        return False
    seconds = compiled_seconds(config, steps, prompt_lengths)
    if seconds is None:
        return False
    worth = SAVED * seconds >= WORTH * COMPILATION
    compiler = has_compiler(on_cpu=default_device(config).name == CPU)
    reason = "" if compiler or not worth else ", but no compiler is installed"
    message = "train.compile=%s was chosen: about %.0f min of scoring and updates, of which %.0f %% may be saved%s"
    logger.info(message, str(worth and compiler).lower(), seconds / 60, 100 * SAVED, reason)
    return worth and compiler


def compiled_seconds(config: Config, steps: int, prompt_lengths: Sequence[int]) -> float | None:
    """Return the planned seconds of what compilation makes faster, scoring and updates of all steps; None if the size
    of a model is unknown."""
    lengths = (max(prompt_lengths), sum(prompt_lengths) / len(prompt_lengths)) if prompt_lengths else None
    try:
        setup = describe(config, default_device(config), assumed_lengths(config, lengths))
    except ConfigError:
        return None
    stages = step_time(setup, CPU_UTILISATIONS if setup.on_cpu else Utilisations()).stages
    return steps * (stages["score"] + stages["update"])


def has_compiler(*, on_cpu: bool) -> bool:
    """Return whether torch.compile finds what it needs: a C++ compiler for CPUs, Triton for GPUs."""
    return shutil.which(os.environ.get("CXX", "g++")) is not None if on_cpu else find_spec("triton") is not None
