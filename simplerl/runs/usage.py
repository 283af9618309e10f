"""GPU-hours and CPU-hours of a run, over all its attempts."""

from __future__ import annotations

import os
import re
import time
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Usage:
    """Hours that earlier attempts took, and what this one holds since it began."""

    gpu_hours: float
    cpu_hours: float
    gpus: int
    cpus: int
    began: float = field(default_factory=time.monotonic)

    @classmethod
    def after(cls, status: dict[str, Any]) -> Usage:
        """`status`: that of the last attempt, or {}. A killed one counts to its last step."""
        gpus, cpus = devices()
        return cls(float(status.get("gpu_hours", 0)), float(status.get("cpu_hours", 0)), gpus, cpus)

    def hours(self) -> dict[str, float]:
        passed = (time.monotonic() - self.began) / 3600
        return {
            "gpu_hours": round(self.gpu_hours + passed * self.gpus, 6),
            "cpu_hours": round(self.cpu_hours + passed * self.cpus, 6),
        }


def devices() -> tuple[int, int]:
    """GPUs and CPUs that this run holds: of the whole SLURM job, or those that this process may use."""
    if "SLURM_JOB_ID" in os.environ:
        nodes = int(os.environ.get("SLURM_JOB_NUM_NODES", "1"))
        return nodes * int(os.environ.get("SLURM_GPUS_ON_NODE", "0")), slurm_cpus(os.environ["SLURM_JOB_CPUS_PER_NODE"])
    import torch

    return torch.cuda.device_count(), len(os.sched_getaffinity(0))


def slurm_cpus(text: str) -> int:
    """SLURM_JOB_CPUS_PER_NODE, such as "8(x2),4", as a sum."""
    return sum(int(cpus) * int(times or 1) for cpus, times in re.findall(r"(\d+)(?:\(x(\d+)\))?", text))
