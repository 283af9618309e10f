"""Runs one Ray cluster inside a SLURM allocation of several nodes with one task each.

Task 0 is the driver: it runs the training loop and is the only one to write the run's folder. The other tasks lend
their node: they call `join_ray_cluster`, which starts a Ray worker node once the driver has started Ray's head, and
leave when the driver ends for any reason. Driver and tasks talk over `simplerl.cluster.control_channel`.

Uses the standard library only: Ray reads its environment when it is imported, so this module must not import it.
"""

from __future__ import annotations

import logging
import os
import shutil
import socket
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from simplerl.cluster.control_channel import ControlServer, connect_to_driver, node_address, node_names, own_address
from simplerl.cluster.ray_start import RayNode, resource_options

logger = logging.getLogger(__name__)

RAYLET_RESTARTS = 5  # on a worker node whose raylet dies while its SLURM node lives
STOP_RAY: dict[str, Any] = {"ray": None}  # tells the other tasks to stop their Ray node


def rank() -> int:
    """Return this task's rank among the tasks that one `srun` started; 0 outside of `srun`."""
    return int(os.environ.get("SLURM_PROCID", "0")) if tasks() > 1 else 0


def tasks() -> int:
    """Return the number of tasks that this `srun` started; 1 outside of `srun`, also in a batch script."""
    return int(os.environ.get("SLURM_STEP_NUM_TASKS", "1"))


_servers: list[ControlServer] = []  # this process's server while it is the driver, else empty


@contextmanager
def driver_role() -> Iterator[None]:
    """Wrap everything that task 0 does; the other tasks leave at the end of the block. Does nothing if there is only
    one task. Raises RuntimeError unless there is exactly one task per node."""
    if tasks() == 1 or _servers:
        yield
        return
    nodes = int(os.environ.get("SLURM_STEP_NUM_NODES", "1"))
    if tasks() != nodes:
        raise RuntimeError(f"{tasks()} tasks on {nodes} node(s): start one task on each node (--ntasks-per-node=1).")
    _servers.append(ControlServer())
    try:
        yield
    finally:
        _servers.pop().close()


@contextmanager
def ray_cluster(
    *,
    object_store_bytes: int | None = None,
    seconds: float = 300.0,
    environment: Mapping[str, str] | None = None,
) -> Iterator[str]:
    """Start a Ray cluster on all nodes of the allocation and yield its address for `ray.init`, or "local" if this is
    the only task. The cluster stops at the end of the block.

    object_store_bytes: size of each node's object store (None: Ray's default).
    environment: added to the environment of every node (Ray's authentication token).
    Raises RuntimeError if the head does not start, or not every node has joined after `seconds`.
    """
    if tasks() == 1:
        yield "local"
        return
    with driver_role():
        server = _servers[0]
        port = _free_port(server.address)
        temporary = tempfile.mkdtemp(prefix=f"ray_{os.environ['SLURM_JOB_ID']}_", dir="/tmp")  # short, for sockets
        options = [*resource_options(object_store_bytes), f"--port={port}", "--include-dashboard=false"]
        head = RayNode("--head", server.address, [*options, f"--temp-dir={temporary}"], environment)
        try:
            head.wait_until_started(time.monotonic() + seconds)
            address = f"{server.address}:{port}"
            server.broadcast(
                {"ray": address, "object_store_bytes": object_store_bytes, "environment": dict(environment or {})}
            )
            _wait_for_nodes(server, seconds)
            yield address
        finally:
            server.broadcast(STOP_RAY)
            head.stop()
            shutil.rmtree(temporary, ignore_errors=True)


def _wait_for_nodes(server: ControlServer, seconds: float) -> None:
    deadline = time.monotonic() + seconds
    while len(server.joined) < tasks() - 1:
        if time.monotonic() > deadline:
            missing = sorted(set(range(1, tasks())) - server.joined)
            raise RuntimeError(
                f"After {seconds:.0f} s these tasks had not joined the Ray cluster: {missing}. See their logs."
            )
        time.sleep(0.2)


def _free_port(address: str) -> int:
    with socket.socket() as probe:
        probe.bind((address, 0))
        port: int = probe.getsockname()[1]
        return port


def join_ray_cluster(seconds: float = 600.0) -> int:
    """Lend this node to the driver's Ray cluster until the driver ends; every task but the first calls this.

    Returns the exit status: 1 if the driver was not found within `seconds` or Ray kept dying on this node."""
    driver = node_names()[0]
    client = connect_to_driver(node_address(driver), time.monotonic() + seconds)
    if client is None:
        logger.error("task %d found no driver on node %s within %.0f s", rank(), driver, seconds)
        return 1
    node: RayNode | None = None
    last_message, restarts = STOP_RAY, 0
    try:
        while True:
            message = client.next_message(1.0)
            if message is None:
                return 0  # the driver has ended
            if message:
                last_message, node = message, _replace_node(node, message)
            elif node is not None and node.process.poll() is not None:
                logger.error("Ray died on this node:\n%s", node.output()[-3000:])
                restarts += 1
                if restarts > RAYLET_RESTARTS:
                    return 1
                node = _replace_node(node, last_message)
            if node is not None and not client.reported and node.started:
                client.report_joined(rank())
    finally:
        _replace_node(node, STOP_RAY)


def _replace_node(node: RayNode | None, message: dict[str, Any]) -> RayNode | None:
    """Stop `node` and start the one that the driver's message asks for, if any."""
    if node is not None:
        node.stop()
    if message["ray"] is None:
        return None
    options = resource_options(message["object_store_bytes"])
    return RayNode(f"--address={message['ray']}", own_address(), options, message["environment"])
