"""Ray for one run: its own cluster on this machine, or the one that the nodes of a SLURM allocation have joined."""

from __future__ import annotations

import logging
import os
import signal
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import ray

from simplerl.cluster import cleanup
from simplerl.cluster.allocation import ray_cluster
from simplerl.cluster.failover import HeadWatch

logger = logging.getLogger(__name__)


@contextmanager
def ray_session(cpus: float, address: str | None = None, head_restarts: int | None = None) -> Iterator[None]:
    """Ray is there inside the block. `cpus`: at least so many are announced where the cluster is our own, although
    there may be fewer: the roles of a small run take turns anyway. `address`: of a running cluster to join. Ray that
    this process has started already is used as it is. `head_restarts`: how often this process may start its own command
    again when the head of a cluster of our own dies (None: it is left to Ray, which ends the process)."""
    if ray.is_initialized():
        yield
        return
    if address is not None:
        with _connected(address):
            yield
        return
    with ray_cluster() as found:
        if found != "local":
            with _connected(found), _watched(head_restarts):
                yield
            return
        folder = tempfile.mkdtemp(prefix="ray_", dir="/tmp")  # socket paths are short
        watch = cleanup.start(folder)
        os.environ[cleanup.MARK] = folder  # what Ray starts inherits it; what we start later must not
        try:
            with _connected("local", num_cpus=max(1, round(cpus)), include_dashboard=False, _temp_dir=folder):
                os.environ.pop(cleanup.MARK, None)
                with _watched(head_restarts):
                    yield
        finally:
            os.environ.pop(cleanup.MARK, None)
            watch.communicate()  # closes its input, and waits until nothing is left


@contextmanager
def _watched(restarts: int | None) -> Iterator[None]:
    if restarts is None:
        yield
        return
    watch = HeadWatch(ray.get_runtime_context().gcs_address, restarts)
    try:
        yield
    finally:
        watch.close()


@contextmanager
def _connected(address: str, **options: Any) -> Iterator[None]:
    # ray.init puts a SIGTERM handler of its own in place, which ends the process instead of saving.
    handlers = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    ray.init(address=address, log_to_driver=False, logging_level=logging.ERROR, configure_logging=False, **options)
    for number, handler in handlers.items():
        signal.signal(number, handler)
    try:
        yield
    finally:
        ray.shutdown()
        for number, handler in handlers.items():
            signal.signal(number, handler)
