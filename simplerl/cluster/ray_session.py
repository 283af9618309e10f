"""Provides Ray for one run: a new cluster on this machine or on a SLURM allocation, or a running cluster of the user's.

Clusters that are started here require token authentication with a random token for each job, because whoever reaches
the ports of a Ray cluster without it can run code there. The token lives in the environment of the job's processes
only, which other users cannot read. It is not used if the user has set RAY_AUTH_MODE, RAY_AUTH_TOKEN or
RAY_AUTH_TOKEN_PATH, or for the user's own cluster (`backend.address`).
"""

from __future__ import annotations

import logging
import os
import secrets
import signal
import socket
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import ray
import ray._raylet

from simplerl.cluster import cleanup
from simplerl.cluster.allocation import ray_cluster, restart_command

logger = logging.getLogger(__name__)

AUTH_MODE, AUTH_TOKEN = "RAY_AUTH_MODE", "RAY_AUTH_TOKEN"
AUTH_VARIABLES = (AUTH_MODE, AUTH_TOKEN, "RAY_AUTH_TOKEN_PATH")
POLL_SECONDS = 1.0  # between two test connections to Ray's head
REFUSALS = 3  # refused connections in a row after which the head counts as dead
_generated: dict[str, str] = {}  # the authentication variables that this process has set; one token per process


@contextmanager
def ray_session(cpus: float, address: str | None = None, head_restarts: int | None = None) -> Iterator[None]:
    """Initialise Ray inside the block, unless this process has initialised it already.

    cpus: number of CPUs declared to Ray if this call starts Ray on the local machine only; otherwise ignored. It may
    exceed the physical number, because the roles of a small run take turns.
    address: address of a running cluster to connect to (`backend.address`).
    head_restarts: how often this process may restart its own command after the head node of a cluster that it started
    has died (None: never; Ray then ends the process).
    """
    if ray.is_initialized():
        yield
        return
    if address is not None:
        with _initialised(address):
            yield
        return
    with ray_cluster(_authentication()) as found:
        if found != "local":
            with _initialised(found), _monitored_head(head_restarts):
                yield
            return
        folder = tempfile.mkdtemp(prefix="ray_", dir="/tmp")  # short, because socket paths are limited
        cleaner = cleanup.start(folder)
        os.environ[cleanup.MARK] = folder  # inherited by Ray's processes, but not by those that are started later
        try:
            with _initialised("local", num_cpus=max(1, round(cpus)), include_dashboard=False, _temp_dir=folder):
                os.environ.pop(cleanup.MARK, None)
                with _monitored_head(head_restarts):
                    yield
        finally:
            os.environ.pop(cleanup.MARK, None)
            cleaner.communicate()  # closes its input, then waits until every process of the session has ended


def _authentication() -> dict[str, str]:
    """Require token authentication in this process and its children, unless the user has configured authentication.
    Returns the variables that must be set on the other nodes of an allocation; those of the user are set already."""
    if not any(name in os.environ for name in AUTH_VARIABLES):
        _generated.update({AUTH_MODE: "token", AUTH_TOKEN: secrets.token_hex(32)})
        os.environ |= _generated
    # Ray has read its environment at import: read it again, as ray.init does after switching authentication on.
    raylet: Any = ray._raylet
    raylet.Config.initialize("")
    raylet.AuthenticationTokenLoader.instance().reset_cache()
    return dict(_generated)


@contextmanager
def _monitored_head(restarts: int | None) -> Iterator[None]:
    """Restart this process's command, at most `restarts` times (None: never), when Ray's head (the GCS process) dies in
    the block.

    Ray cannot replace its head: a driver that loses it hangs until Ray ends the driver after a minute."""
    if restarts is None:
        yield
        return
    host, port = ray.get_runtime_context().gcs_address.rsplit(":", 1)
    closed = threading.Event()

    def poll() -> None:
        refused = 0
        while not closed.wait(POLL_SECONDS):
            try:
                socket.create_connection((host, int(port)), timeout=10 * POLL_SECONDS).close()
                refused = 0
            except ConnectionRefusedError:
                refused += 1
            except OSError:
                continue
            if refused == REFUSALS and not closed.is_set():
                restart_command(restarts)

    threading.Thread(target=poll, name="head-monitor", daemon=True).start()
    try:
        yield
    finally:
        closed.set()


@contextmanager
def _initialised(address: str, **options: Any) -> Iterator[None]:
    # ray.init installs a SIGTERM handler that ends the process without saving: restore the previous handlers.
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
