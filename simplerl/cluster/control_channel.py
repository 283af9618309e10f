"""Connects every other task of a SLURM allocation to the driver (task 0) by TCP.

A connection serves two purposes. The driver sends JSON lines over it: the address of its Ray cluster and environment
variables for the nodes, including Ray's authentication token. It also shows that the driver is alive: the kernel closes
it when the driver's process ends, even by `kill -9`, so that no task waits for a file or a timeout.

Ports are derived from the job id. The driver accepts connections only from nodes of its allocation, and first sends
job, step and restart count, so that two jobs on one node cannot be confused. Uses the standard library only.
"""

from __future__ import annotations

import json
import logging
import os
import queue
import re
import socket
import subprocess
import threading
import time
from contextlib import suppress
from typing import Any

logger = logging.getLogger(__name__)

PORTS = 16  # candidate ports per job
GREETING_SECONDS = 5.0


def job_key() -> str:
    """Return an identifier of the current start of this SLURM job step, the same in all of its tasks."""
    names = ("SLURM_JOB_ID", "SLURM_STEP_ID", "SLURM_RESTART_COUNT")
    return ".".join(os.environ.get(name, "0") for name in names)


def candidate_ports() -> list[int]:
    first = 20000 + int(os.environ["SLURM_JOB_ID"]) * PORTS % 12000  # below the kernel's ephemeral ports
    return list(range(first, first + PORTS))


def node_names() -> list[str]:
    """Return the host names of this job step's nodes; the first one runs the driver."""
    command = ["scontrol", "show", "hostnames", os.environ["SLURM_STEP_NODELIST"]]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()


def node_address(node: str) -> str:
    """Return the IP address of a SLURM node, from SLURM's controller if its name does not resolve.

    Raises RuntimeError if neither knows the node."""
    try:
        found = socket.gethostbyname(node)
    except OSError:
        found = ""
    if found and not found.startswith("127.0.1."):  # Debian's /etc/hosts entry for the machine's own name
        return found
    shown = subprocess.run(["scontrol", "-o", "show", "node", node], capture_output=True, text=True, check=False).stdout
    match = re.search(r"NodeAddr=(\S+)", shown)
    if match is None:
        raise RuntimeError(
            f"No IP address for node {node}, which neither resolves nor is known to scontrol: correct the DNS."
        )
    return socket.gethostbyname(match[1])


def own_address() -> str:
    return node_address(os.environ["SLURMD_NODENAME"])


def _enable_keepalive(connection: socket.socket) -> None:
    """Enable TCP keepalive, which detects within a minute that the peer is gone without closing the connection."""
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for option, value in ((socket.TCP_KEEPIDLE, 30), (socket.TCP_KEEPINTVL, 10), (socket.TCP_KEEPCNT, 3)):
        connection.setsockopt(socket.IPPROTO_TCP, option, value)


def _encode(message: dict[str, Any]) -> bytes:
    return json.dumps(message).encode() + b"\n"


class ControlServer:
    """Serves the driver's end: accepts connections of the other tasks in a thread and sends them messages."""

    def __init__(self) -> None:
        self.address = own_address()
        self.joined: set[int] = set()  # task ranks whose node has joined the Ray cluster
        self._allowed = {node_address(node) for node in node_names()}
        self._last_message: dict[str, Any] = {}
        self._lock = threading.Lock()
        self._connections: list[socket.socket] = []
        self._socket = self._bind()
        self._socket.listen(1024)
        threading.Thread(target=self._accept, daemon=True).start()

    def _bind(self) -> socket.socket:
        for port in candidate_ports():
            candidate = socket.socket()
            candidate.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                candidate.bind((self.address, port))
            except OSError:
                candidate.close()
                continue
            return candidate
        first, last = candidate_ports()[0], candidate_ports()[-1]
        raise RuntimeError(
            f"All ports from {first} to {last} on {self.address} are in use: submit the job again, which changes its "
            "ports."
        )

    def _accept(self) -> None:
        while True:
            try:
                connection, peer = self._socket.accept()
            except OSError:  # the server was closed
                return
            if peer[0] not in self._allowed:  # messages carry the authentication token
                logger.warning("refused a connection from %s, which is not a node of this allocation", peer[0])
                connection.close()
                continue
            _enable_keepalive(connection)
            with self._lock:
                self._connections.append(connection)
                self._send(connection, {"job": job_key()})
                if self._last_message:
                    self._send(connection, self._last_message)
            threading.Thread(target=self._receive, args=(connection,), daemon=True).start()

    def _receive(self, connection: socket.socket) -> None:
        with suppress(OSError, ValueError):  # the node is lost; Ray reports that to the callers of its actors
            for line in connection.makefile():
                self.joined.add(int(json.loads(line)["joined"]))

    def _send(self, connection: socket.socket, message: dict[str, Any]) -> None:
        try:
            connection.sendall(_encode(message))
        except OSError:
            logger.warning("a node of the allocation has closed its connection to the driver")

    def broadcast(self, message: dict[str, Any]) -> None:
        """Send a message to all connected tasks, and to those that connect later."""
        with self._lock:
            self._last_message = message
            self.joined.clear()
            for connection in self._connections:
                self._send(connection, message)

    def close(self) -> None:
        self._socket.close()
        with self._lock:
            for connection in self._connections:
                with suppress(OSError):  # the peer has closed the connection
                    connection.shutdown(socket.SHUT_RDWR)
                connection.close()


class ControlClient:
    """Serves the end of a task other than the driver: reads the driver's messages in a thread."""

    def __init__(self, connection: socket.socket) -> None:
        self.connection = connection
        self.reported = False  # whether the last message has been answered with `report_joined`
        self._messages: queue.SimpleQueue[dict[str, Any] | None] = queue.SimpleQueue()
        threading.Thread(target=self._receive, daemon=True).start()

    def _receive(self) -> None:
        with suppress(OSError, ValueError):  # ValueError: a line truncated because the driver ended
            for line in self.connection.makefile():
                self._messages.put(json.loads(line))
        self._messages.put(None)

    def next_message(self, seconds: float) -> dict[str, Any] | None:
        """Return the driver's next message, {} if none came within `seconds`, None if the driver has ended."""
        try:
            message = self._messages.get(timeout=seconds)
        except queue.Empty:
            return {}
        self.reported = False
        return message

    def report_joined(self, rank: int) -> None:
        self.reported = True
        self.connection.sendall(_encode({"joined": rank}))


def connect_to_driver(host: str, deadline: float) -> ControlClient | None:
    """Connect to the driver of this job on `host`, which may still be starting. Returns None if it cannot be reached
    before `deadline` (of time.monotonic())."""
    own = own_address()  # the driver accepts only the addresses under which SLURM knows its nodes
    while time.monotonic() < deadline:
        for port in candidate_ports():
            connection = _try_connect(host, port, own)
            if connection is not None:
                return ControlClient(connection)
        time.sleep(1)
    return None


def _try_connect(host: str, port: int, own: str) -> socket.socket | None:
    """Connect to `host`:`port` and check the first message. Returns None unless this job's driver listens there."""
    expected, greeting = _encode({"job": job_key()}), b""
    try:
        connection = socket.create_connection((host, port), GREETING_SECONDS, source_address=(own, 0))
        while len(greeting) < len(expected):
            received = connection.recv(len(expected) - len(greeting))
            if not received:
                break
            greeting += received
    except OSError:
        return None
    if greeting != expected:
        connection.close()
        return None
    connection.settimeout(None)
    _enable_keepalive(connection)
    return connection
