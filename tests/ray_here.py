"""A small Ray of its own for the tests of one module."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import simplerl.cluster  # noqa: F401  sets what Ray reads when it is imported

os.environ.setdefault("RAY_memory_monitor_refresh_ms", "0")  # other work on this machine must not kill our actors

import ray


@contextmanager
def ray_here(cpus: int = 4) -> Iterator[None]:
    """Actors find the modules of tests/."""
    path, handler = os.environ.get("PYTHONPATH"), signal.getsignal(signal.SIGTERM)
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, (str(Path(__file__).parent), path)))
    ray.init(
        address="local",
        num_cpus=cpus,
        include_dashboard=False,
        log_to_driver=False,
        object_store_memory=120 * 2**20,
    )
    try:
        yield
    finally:
        ray.shutdown()
        signal.signal(signal.SIGTERM, handler)
        del os.environ["PYTHONPATH"]
        if path is not None:
            os.environ["PYTHONPATH"] = path
