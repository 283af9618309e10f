"""Log metrics to Weights & Biases, with the names and steps of metrics.jsonl.

This short file is separate because it is the only one that depends on wandb.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from simplerl.config import TrackingConfig, TrackingMode
from simplerl.errors import ConfigError, import_optional


class Tracker:
    """Logs to a W&B run, or does nothing if tracking.mode=disabled.

    The W&B run id is the name of the run folder, so a resumed run continues the same W&B run. Raises ConfigError if
    W&B cannot be used.
    """

    def __init__(self, config: TrackingConfig, folder: Path, resolved: dict[str, Any]) -> None:
        self.run: Any = None
        if config.mode is TrackingMode.disabled:
            return
        wandb = import_optional("wandb", "tracking=wandb")
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
        except wandb.errors.Error as error:  # no API key, or no connection
            reason = str(error).strip().splitlines()[0].rstrip(".")
            remedy = "run `wandb login`, or set tracking.mode=offline and run `wandb sync` later."
            raise ConfigError(f"tracking=wandb cannot start ({reason}): {remedy}") from error
        for phase in ("warmup", "rl"):
            self.run.define_metric(f"{phase}/step", hidden=True)
        self.run.define_metric("warmup/*", step_metric="warmup/step")
        for part in ("train", "rollout", "reward", "policy", "critic", "eval", "time"):
            self.run.define_metric(f"{part}/*", step_metric="rl/step")

    def log(self, phase: str, step: int, metrics: dict[str, float]) -> None:
        """Log the metrics of one step of a phase ("warmup" or "rl")."""
        if self.run is not None:
            self.run.log({f"{phase}/step": step, **metrics})

    def close(self, exit_code: int) -> None:
        """Finish the W&B run; a non-zero exit code marks it as failed."""
        if self.run is not None:
            self.run.finish(exit_code=exit_code)
