"""Weights & Biases beside the run folder: the same metrics under the same names, keyed by the run's own step."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from simplerl.config import TrackingConfig, TrackingMode
from simplerl.errors import ConfigError


class Tracker:
    """W&B, or nothing. The run's id is its folder's name, so that a resumed run goes on in the same W&B run."""

    def __init__(self, config: TrackingConfig, folder: Path, resolved: dict[str, Any]) -> None:
        self.run: Any = None
        if config.mode is TrackingMode.disabled:
            return
        import wandb

        arguments: dict[str, Any] = {
            "project": config.project,
            "entity": config.entity,
            "group": config.group,
            "tags": config.tags,
            "name": folder.name,
            "id": re.sub(r"[:;,#?/']", "-", folder.name),
            "dir": folder,
            "mode": config.mode.value,
            "resume": "allow" if config.mode is TrackingMode.online else None,
            "config": resolved,
            "settings": wandb.Settings(console="off", silent=True),
        }
        try:
            self.run = wandb.init(**arguments)
        except wandb.errors.Error as error:  # no key, or no server
            why = str(error).strip().splitlines()[0].rstrip(".")
            remedy = "run `wandb login` once, or set tracking.mode=offline and `wandb sync` later."
            raise ConfigError(f"tracking=wandb: {why}: {remedy}") from error
        for phase in ("warmup", "rl"):
            self.run.define_metric(f"{phase}/step", hidden=True)
        self.run.define_metric("warmup/*", step_metric="warmup/step")
        for part in ("train", "rollout", "reward", "policy", "critic", "eval", "time"):
            self.run.define_metric(f"{part}/*", step_metric="rl/step")

    def log(self, phase: str, step: int, metrics: dict[str, float]) -> None:
        if self.run is not None:
            self.run.log({f"{phase}/step": step, **metrics})

    def close(self, exit_code: int) -> None:
        if self.run is not None:
            self.run.finish(exit_code=exit_code)
