"""Measure the GPU-hours and CPU-hours that a run has used over all its attempts.

Separate from `simplerl.runs.folder`, its only user, to keep SLURM's environment variables out of that file.
"""

from __future__ import annotations

import os
import re
import time
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Usage:
    """Hours used by earlier attempts, and the devices that this attempt has reserved since it began."""

    gpu_hours: float
    cpu_hours: float
    gpus: int
    cpus: int
    began: float = field(default_factory=time.monotonic)

    @classmethod
    def after(cls, status: dict[str, Any]) -> Usage:
        """Start an attempt, given the status.json of the previous one, or {}.

        A killed attempt counts up to the last step that it logged.
        """
        gpus, cpus = reserved_devices()
        return cls(float(status.get("gpu_hours", 0)), float(status.get("cpu_hours", 0)), gpus, cpus)

    def hours(self) -> dict[str, float]:
        """Return gpu_hours and cpu_hours of all attempts until now."""
        elapsed = (time.monotonic() - self.began) / 3600
        return {
            "gpu_hours": round(self.gpu_hours + elapsed * self.gpus, 6),
            "cpu_hours": round(self.cpu_hours + elapsed * self.cpus, 6),
        }


def reserved_devices() -> tuple[int, int]:
    """Return the numbers of GPUs and CPUs of the SLURM job or, outside SLURM, available to this process."""
    if "SLURM_JOB_ID" in os.environ:
        nodes = int(os.environ.get("SLURM_JOB_NUM_NODES", "1"))
        return nodes * int(os.environ.get("SLURM_GPUS_ON_NODE", "0")), total_slurm_cpus(
            os.environ["SLURM_JOB_CPUS_PER_NODE"]
        )
    import torch

    return torch.cuda.device_count(), len(os.sched_getaffinity(0))


def total_slurm_cpus(text: str) -> int:
    """Return the sum of a SLURM_JOB_CPUS_PER_NODE, such as 20 for "8(x2),4"."""
    return sum(int(cpus) * int(times or 1) for cpus, times in re.findall(r"(\d+)(?:\(x(\d+)\))?", text))
