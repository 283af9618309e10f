"""One Ray cluster inside a SLURM allocation of several nodes, one task on each.

Task 0 is the driver: it runs the loop and alone writes the run's folder. The other tasks only lend their node: they
call `join`, which starts Ray's worker node when the driver has a head, and leaves when the driver does in any way.

What holds them together is one TCP connection from each of them to the driver's process (the lifeline). The kernel
closes it when that process ends, also by `kill -9`, so nobody waits for a file or a time-out. It also carries the
head's address, so nothing is found through files that an earlier cluster may have left. Ports derive from the job's id,
and a greeting with job, step and restart count keeps two jobs on one node apart.

Standard library only: Ray reads its environment when it is imported, so this module must not import it.
"""

from __future__ import annotations

import json
import logging
import os
import re
import select
import shutil
import socket
import subprocess
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from simplerl.cluster.ray_node import RayNode, resources

logger = logging.getLogger(__name__)

RAYLET_RESTARTS = 5  # of a worker node whose raylet dies while its SLURM node lives
CANDIDATES = 16  # ports tried for the lifeline


def rank() -> int:
    """Of this task among those that one `srun` started; 0 outside."""
    return int(os.environ.get("SLURM_PROCID", "0")) if tasks() > 1 else 0


def tasks() -> int:
    """How many tasks this `srun` started; 1 outside (a batch script alone is no step of several tasks)."""
    return int(os.environ.get("SLURM_STEP_NUM_TASKS", "1"))


def _key() -> str:
    """What every task of this start of this job knows, and no other."""
    names = ("SLURM_JOB_ID", "SLURM_STEP_ID", "SLURM_RESTART_COUNT")
    return ".".join(os.environ.get(name, "0") for name in names)


def _ports() -> list[int]:
    first = 20000 + int(os.environ["SLURM_JOB_ID"]) * CANDIDATES % 12000  # below the kernel's own choices
    return list(range(first, first + CANDIDATES))


def _address(node: str) -> str:
    """The IP of a SLURM node; from its controller where the name does not resolve."""
    try:
        found = socket.gethostbyname(node)
    except OSError:
        found = ""
    if found and not found.startswith("127.0.1."):  # Debian's entry for a host's own name
        return found
    shown = subprocess.run(["scontrol", "-o", "show", "node", node], capture_output=True, text=True, check=False).stdout
    match = re.search(r"NodeAddr=(\S+)", shown)
    if match is None:
        raise RuntimeError(f"No address for node {node}: neither its name resolves nor does scontrol know it.")
    return socket.gethostbyname(match[1])


def _own_address() -> str:
    return _address(os.environ["SLURMD_NODENAME"])


def _first_node() -> str:
    command = ["scontrol", "show", "hostnames", os.environ["SLURM_STEP_NODELIST"]]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()[0]


def _keep_alive(connection: socket.socket) -> None:
    """Notices within a minute a node that is gone without a word."""
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for option, value in ((socket.TCP_KEEPIDLE, 30), (socket.TCP_KEEPINTVL, 10), (socket.TCP_KEEPCNT, 3)):
        connection.setsockopt(socket.IPPROTO_TCP, option, value)


class Lifeline:
    """The driver's end."""

    def __init__(self) -> None:
        self.address = _own_address()
        self._said: dict[str, Any] = {}
        self._lock = threading.Lock()
        self._connections: list[socket.socket] = []
        self.joined: set[int] = set()  # ranks whose node Ray knows
        self._socket = self._bound()
        self._socket.listen(1024)
        threading.Thread(target=self._accept, daemon=True).start()

    def _bound(self) -> socket.socket:
        for port in _ports():
            one = socket.socket()
            one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                one.bind((self.address, port))
            except OSError:
                one.close()
                continue
            return one
        raise RuntimeError(f"No free port among {_ports()} on {self.address}: too many jobs share this node.")

    def _accept(self) -> None:
        while True:
            try:
                connection, _ = self._socket.accept()
            except OSError:  # closed
                return
            _keep_alive(connection)
            with self._lock:
                self._connections.append(connection)
                self._send(connection, {"job": _key()})
                if self._said:
                    self._send(connection, self._said)
            threading.Thread(target=self._listen, args=(connection,), daemon=True).start()

    def _listen(self, connection: socket.socket) -> None:
        try:
            for line in connection.makefile():
                self.joined.add(int(json.loads(line)["joined"]))
        except (OSError, ValueError):
            return  # that node is lost: Ray says so to whom it concerns

    def _send(self, connection: socket.socket, line: dict[str, Any]) -> None:
        try:
            connection.sendall(json.dumps(line).encode() + b"\n")
        except OSError:
            logger.warning("a node of the allocation has left")

    def say(self, line: dict[str, Any]) -> None:
        """To all that are connected, and to whoever connects later."""
        with self._lock:
            self._said = line
            self.joined.clear()
            for connection in self._connections:
                self._send(connection, line)

    def close(self) -> None:
        self._socket.close()
        with self._lock:
            for connection in self._connections:
                connection.close()


_lifeline: list[Lifeline] = []  # the one of this process, while it is the driver


@contextmanager
def driving() -> Iterator[None]:
    """Around everything that task 0 does: the other tasks leave at its end. Nothing outside several tasks."""
    if tasks() == 1 or _lifeline:
        yield
        return
    nodes = int(os.environ.get("SLURM_STEP_NUM_NODES", "1"))
    if tasks() != nodes:
        raise RuntimeError(f"{tasks()} tasks on {nodes} node(s): start one task on each node (--ntasks-per-node=1).")
    _lifeline.append(Lifeline())
    try:
        yield
    finally:
        _lifeline.pop().close()


@contextmanager
def ray_cluster(*, object_store_bytes: int | None = None, seconds: float = 300.0) -> Iterator[str]:
    """The address for `ray.init`: "local" where this is the only task, else that of a cluster which every node of the
    allocation has joined. At the end of the block the head stops. `object_store_bytes` of each node (None: Ray's
    choice). Raises RuntimeError if the head does not start, or not every node has joined after `seconds`."""
    if tasks() == 1:
        yield "local"
        return
    with driving():
        lifeline = _lifeline[0]
        port = _free_port(lifeline.address)
        temporary = tempfile.mkdtemp(prefix=f"ray_{os.environ['SLURM_JOB_ID']}_", dir="/tmp")  # socket paths are short
        options = [*resources(object_store_bytes), f"--port={port}", "--include-dashboard=false"]
        head = RayNode("--head", lifeline.address, [*options, f"--temp-dir={temporary}"])
        try:
            head.wait_until_started(time.monotonic() + seconds)
            lifeline.say({"ray": f"{lifeline.address}:{port}", "object_store_bytes": object_store_bytes})
            _wait_for_nodes(lifeline, seconds)
            yield f"{lifeline.address}:{port}"
        finally:
            lifeline.say({"ray": None})
            head.stop()
            shutil.rmtree(temporary, ignore_errors=True)


def _wait_for_nodes(lifeline: Lifeline, seconds: float) -> None:
    deadline = time.monotonic() + seconds
    while len(lifeline.joined) < tasks() - 1:
        if time.monotonic() > deadline:
            missing = sorted(set(range(1, tasks())) - lifeline.joined)
            raise RuntimeError(
                f"After {seconds:.0f} s these tasks had not joined the Ray cluster: {missing}; see their logs."
            )
        time.sleep(0.2)


def _free_port(address: str) -> int:
    with socket.socket() as one:
        one.bind((address, 0))
        port: int = one.getsockname()[1]
        return port


def join(seconds: float = 600.0) -> int:
    """What every task but the first does: lends its node to the driver's Ray cluster until the driver ends.
    Returns the exit status: 1 if the driver was not found within `seconds` or Ray kept dying here."""
    connection = _connected(_address(_first_node()), time.monotonic() + seconds)
    if connection is None:
        logger.error("task %d found no driver on %s within %.0f s", rank(), _first_node(), seconds)
        return 1
    node: RayNode | None = None
    lines, told, restarts = _Lines(connection), {}, 0
    try:
        while True:
            line = lines.next(1.0)
            if line is None:
                return 0  # the driver has ended
            if line:
                told, node = line, _replaced(node, line)
            elif node is not None and node.process.poll() is not None:
                logger.error("Ray died on this node:\n%s", node.output()[-3000:])
                restarts += 1
                if restarts > RAYLET_RESTARTS:
                    return 1
                node = _replaced(node, told)
            if node is not None and not lines.joined and node.started:
                lines.send({"joined": rank()})
    finally:
        _replaced(node, {"ray": None})


def _replaced(node: RayNode | None, told: dict[str, Any]) -> RayNode | None:
    """The node that the driver asks for, instead of the one that was."""
    if node is not None:
        node.stop()
    if told["ray"] is None:
        return None
    return RayNode(f"--address={told['ray']}", _own_address(), resources(told["object_store_bytes"]))


class _Lines:
    """JSON lines from the driver."""

    def __init__(self, connection: socket.socket) -> None:
        self.connection = connection
        self.rest = b""
        self.joined = False

    def next(self, seconds: float) -> dict[str, Any] | None:
        """The next line; {} if none came in time; None after the end."""
        if b"\n" not in self.rest:
            if not select.select([self.connection], [], [], seconds)[0]:
                return {}
            try:
                more = self.connection.recv(65536)
            except OSError:
                return None
            if not more:
                return None
            self.rest += more
        line, mark, rest = self.rest.partition(b"\n")
        if not mark:
            return {}
        self.rest, self.joined = rest, False
        said: dict[str, Any] = json.loads(line)
        return said

    def send(self, line: dict[str, Any]) -> None:
        self.joined = True
        self.connection.sendall(json.dumps(line).encode() + b"\n")


def _connected(host: str, deadline: float) -> socket.socket | None:
    """A connection to the driver of this job and no other; it may still be importing."""
    while time.monotonic() < deadline:
        for port in _ports():
            found = _greeted(host, port)
            if found is not None:
                return found
        time.sleep(1)
    return None


def _greeted(host: str, port: int) -> socket.socket | None:
    try:
        connection = socket.create_connection((host, port), timeout=5)
        with_key = json.dumps({"job": _key()}).encode() + b"\n"
        greeting = b""
        while len(greeting) < len(with_key):
            more = connection.recv(len(with_key) - len(greeting))
            if not more:
                break
            greeting += more
    except OSError:
        return None
    if greeting != with_key:
        connection.close()
        return None
    connection.settimeout(None)
    _keep_alive(connection)
    return connection
