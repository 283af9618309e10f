"""One node of a Ray cluster: `ray start --block` as a child of this process. Standard library only."""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import sys
import tempfile
import time
from typing import IO

STARTED = "Ray runtime started"  # what `ray start` prints when the node is registered
LIBC = ctypes.CDLL(None)  # loaded before any fork


def resources(object_store_bytes: int | None) -> list[str]:
    """What SLURM gave to this node; Ray would count the whole machine."""
    cpus = os.environ.get("SLURM_CPUS_PER_TASK") or os.environ.get("SLURM_CPUS_ON_NODE") or str(os.cpu_count())
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")  # not set where a site does not bind GPUs: Ray counts them
    gpus = [] if visible is None else [f"--num-gpus={len([gpu for gpu in visible.split(',') if gpu])}"]
    store = [] if object_store_bytes is None else [f"--object-store-memory={object_store_bytes}"]
    return [f"--num-cpus={cpus}", *gpus, *store]


def _die_with_parent() -> None:
    """In the child: SIGTERM when the parent ends, also by `kill -9`."""
    LIBC.prctl(1, signal.SIGTERM)  # PR_SET_PDEATHSIG


class RayNode:
    """`ray start --block` as a child that ends with this process."""

    def __init__(self, role: str, address: str, options: list[str]) -> None:
        self.log: IO[bytes] = tempfile.TemporaryFile()  # noqa: SIM115 (as long as the node)
        command = [
            sys.executable,
            "-m",
            "ray.scripts.scripts",
            "start",
            role,
            f"--node-ip-address={address}",
            "--block",
        ]
        self.process = subprocess.Popen(
            [*command, *options],
            stdout=self.log,
            stderr=subprocess.STDOUT,
            start_new_session=True,  # signals to the task's group are the loop's business
            preexec_fn=_die_with_parent,  # noqa: PLW1509 (one system call, nothing that a thread could hold)
        )

    def output(self) -> str:
        self.log.seek(0)
        return self.log.read().decode(errors="replace")

    @property
    def started(self) -> bool:
        return STARTED in self.output()

    def wait_until_started(self, deadline: float) -> None:
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
