"""Refuses a run that cannot fit the memory of its devices, before a model is loaded."""

from __future__ import annotations

import logging
from collections.abc import Sequence

from simplerl.cluster import allocation
from simplerl.config import Config
from simplerl.errors import ConfigError
from simplerl.io.places import spelled
from simplerl.planning.devices import CPU, Device, default_device
from simplerl.planning.memory import PlaceMemory, plan_memory
from simplerl.planning.remedies import needed, sentence
from simplerl.planning.setup import LOCAL_BACKEND, Setup, assumed_lengths, backend_name, describe

logger = logging.getLogger(__name__)
MARGIN = 0.75  # of the estimate: what a run needs at least, by the largest error of the estimate that was measured


def check_memory(config: Config, prompt_lengths: Sequence[int] = ()) -> None:
    """Raise ConfigError if the run needs more memory than its devices have even if it takes only `MARGIN` of the
    estimate. Nothing is checked with run.plan=false or, with a line in the log, if sizes or devices are unknown.

    prompt_lengths: tokens of each training prompt; without them, lengths are assumed."""
    if not config.run.plan:
        return
    device = _device(config)
    if device is None:
        return
    lengths = (max(prompt_lengths), sum(prompt_lengths) / len(prompt_lengths)) if prompt_lengths else None
    try:
        setup = describe(config, device, assumed_lengths(config, lengths))
    except ConfigError as error:
        logger.info("memory is not planned: %s", error)
        return
    memory = plan_memory(setup)
    if not certainly_too_large(setup, memory):
        return
    raise ConfigError(
        f"The run does not fit: {sentence(setup, memory)}, or set run.plan=false to try it anyway "
        f"({spelled('plan')} shows the whole estimate)."
    )


def certainly_too_large(setup: Setup, memory: list[PlaceMemory]) -> bool:
    """Return whether a run does not fit even if it needs only `MARGIN` of the estimate."""
    return MARGIN * needed(setup, memory) > setup.device.memory


def _device(config: Config) -> Device | None:
    """Return the device of the run; None if it is on other machines, whose devices are not known here."""
    device = default_device(config)
    if backend_name(config) == LOCAL_BACKEND:
        return device
    elsewhere = allocation.tasks() > 1 or config.backend.keywords.get("address") is not None
    known = device.name == CPU or device.here
    if elsewhere or not known:
        logger.info("memory is not planned: the devices of the Ray cluster are unknown before it starts.")
        return None
    return device
