"""Starts one node of a Ray cluster: `ray start --block` as a child process. Uses the standard library only."""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from typing import IO

STARTED = "Ray runtime started"  # `ray start` prints this once the node is registered
LIBC = ctypes.CDLL(None)  # loaded before any fork


def resource_options(object_store_bytes: int | None) -> list[str]:
    """Return the options of `ray start` for the CPUs and GPUs that SLURM gave to this node; Ray by itself would count
    those of the whole machine."""
    cpus = os.environ.get("SLURM_CPUS_PER_TASK") or os.environ.get("SLURM_CPUS_ON_NODE") or str(os.cpu_count())
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")  # unset on sites that do not bind GPUs: Ray counts them
    gpus = [] if visible is None else [f"--num-gpus={len([gpu for gpu in visible.split(',') if gpu])}"]
    store = [] if object_store_bytes is None else [f"--object-store-memory={object_store_bytes}"]
    return [f"--num-cpus={cpus}", *gpus, *store]


def _die_with_parent() -> None:
    """Ask the kernel to send SIGTERM to this child process when its parent ends, even by `kill -9`."""
    LIBC.prctl(1, signal.SIGTERM)  # PR_SET_PDEATHSIG


class RayNode:
    """A running `ray start --block`, which ends with this process.

    role: `--head` or `--address=HOST:PORT`. address: IP of this node. environment: added to this process's own.
    """

    def __init__(
        self, role: str, address: str, options: list[str], environment: Mapping[str, str] | None = None
    ) -> None:
        self.log: IO[bytes] = tempfile.TemporaryFile()  # noqa: SIM115 (open as long as the node runs)
        start = [sys.executable, "-m", "ray.scripts.scripts", "start"]
        self.process = subprocess.Popen(
            [*start, role, f"--node-ip-address={address}", "--block", *options],
            stdout=self.log,
            stderr=subprocess.STDOUT,
            env={**os.environ, **(environment or {})},
            start_new_session=True,  # signals to the task's process group are handled by the training loop
            preexec_fn=_die_with_parent,  # noqa: PLW1509 (a single system call, safe with threads)
        )

    def output(self) -> str:
        self.log.seek(0)
        return self.log.read().decode(errors="replace")

    @property
    def started(self) -> bool:
        return STARTED in self.output()

    def wait_until_started(self, deadline: float) -> None:
        """Wait until `deadline` (of `time.monotonic`). Raises RuntimeError with Ray's output if the node did not
        start."""
        while not self.started:
            if self.process.poll() is not None or time.monotonic() > deadline:
                self.stop()
                raise RuntimeError(f"The Ray node did not start:\n{self.output()[-3000:]}")
            time.sleep(0.2)

    def stop(self) -> None:
        if self.process.poll() is None:
            self.process.terminate()
        try:
            self.process.wait(30)
        except subprocess.TimeoutExpired:
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()
