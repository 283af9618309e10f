"""Runs one Ray cluster inside a SLURM allocation of several nodes with one task each.

Task 0 is the driver: it runs the training loop and is the only one to write the run's folder. The other tasks add their
node to its Ray cluster: they call `join_ray_cluster`, which starts a Ray worker node once the driver has started Ray's
head, and leave when the driver ends for any reason. Driver and tasks talk over `simplerl.cluster.control_channel`.

`ray symmetric-run` does not replace this. Its head is a daemon that outlives a killed driver, its worker nodes notice
the driver's death only when Ray gives up the lost head, it does not restart a dead worker node, and it ends with
`ray stop`, which kills the Ray processes of the user's other jobs on the node. It also distributes no token.

Uses the standard library only: Ray reads its environment when it is imported, so this module must not import it.
"""

from __future__ import annotations

import ctypes
import logging
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import IO, Any

from simplerl.cluster.control_channel import ControlServer, connect_to_driver, node_address, node_names, own_address

logger = logging.getLogger(__name__)

STARTED = "Ray runtime started"  # `ray start` prints this once the node is registered
LIBC = ctypes.CDLL(None)  # loaded before any fork
START_SECONDS = 300.0  # time limit for Ray's head to start, and then again for all other nodes to join
DRIVER_SECONDS = 600.0  # how long a task looks for the driver
RAYLET_RESTARTS = 5  # how often Ray is restarted on a worker node that is itself still alive
STOP_RAY: dict[str, Any] = {"ray": None}  # tells the other tasks to stop their Ray node
RESTART_COUNT = "SIMPLERL_HEAD_RESTARTS"  # environment variable: how often this command has been restarted
command_is_restartable = False  # True if this process does nothing but the run or sweep of its command line


def _resource_options() -> list[str]:
    """Return the options of `ray start` for the CPUs and GPUs that SLURM gave to this node; Ray by itself would count
    those of the whole machine."""
    cpus = os.environ.get("SLURM_CPUS_PER_TASK") or os.environ.get("SLURM_CPUS_ON_NODE") or str(os.cpu_count())
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")  # unset on sites that do not bind GPUs: Ray counts them
    gpus = [] if visible is None else [f"--num-gpus={len([gpu for gpu in visible.split(',') if gpu])}"]
    return [f"--num-cpus={cpus}", *gpus]


def _die_with_parent() -> None:
    """Ask the kernel to send SIGTERM to this child process when its parent ends, even by `kill -9`."""
    LIBC.prctl(1, signal.SIGTERM)  # PR_SET_PDEATHSIG


class RayNode:
    """Runs `ray start --block` as a child process, which ends with this process.

    role: `--head` or `--address=HOST:PORT`. environment: added to this process's own.
    """

    def __init__(self, role: str, environment: Mapping[str, str], *options: str) -> None:
        self.log: IO[bytes] = tempfile.TemporaryFile()  # noqa: SIM115 (open as long as the node runs)
        start = [sys.executable, "-m", "ray.scripts.scripts", "start", role, f"--node-ip-address={own_address()}"]
        self.process = subprocess.Popen(
            [*start, "--block", *_resource_options(), *options],
            stdout=self.log,
            stderr=subprocess.STDOUT,
            env={**os.environ, **environment},
            start_new_session=True,  # signals to the task's process group are handled by the training loop
            preexec_fn=_die_with_parent,  # noqa: PLW1509 (a single system call, safe with threads)
        )

    def output(self) -> str:
        self.log.seek(0)
        return self.log.read().decode(errors="replace")

    @property
    def started(self) -> bool:
        return STARTED in self.output()

    def wait_until_started(self) -> None:
        """Wait until the node has started. Raises RuntimeError, with Ray's output, if that fails or takes longer than
        `START_SECONDS`."""
        deadline = time.monotonic() + START_SECONDS
        while not self.started:
            if self.process.poll() is not None or time.monotonic() > deadline:
                self.stop()
                raise RuntimeError(f"The Ray node did not start; its output shows why:\n{self.output()[-3000:]}")
            time.sleep(0.2)

    def stop(self) -> None:
        if self.process.poll() is None:
            self.process.terminate()
        try:
            self.process.wait(30)
        except subprocess.TimeoutExpired:
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()


def rank() -> int:
    """Return this task's rank among the tasks that one `srun` started; 0 outside of `srun`."""
    return int(os.environ.get("SLURM_PROCID", "0")) if tasks() > 1 else 0


def tasks() -> int:
    """Return the number of tasks that this `srun` started; 1 outside of `srun`, also in a batch script."""
    return int(os.environ.get("SLURM_STEP_NUM_TASKS", "1"))


_servers: list[ControlServer] = []  # the control server while this process is the driver, otherwise empty


@contextmanager
def driver_role() -> Iterator[None]:
    """Run the block as the driver (task 0); the other tasks exit when it ends. Does nothing within another such block,
    or if there is only one task. Raises RuntimeError unless there is exactly one task per node."""
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
def ray_cluster(environment: Mapping[str, str]) -> Iterator[str]:
    """Start a Ray cluster on all nodes of the allocation and yield its address for `ray.init`, or "local" if this is
    the only task. The cluster stops at the end of the block.

    environment: added to the environment of every node (Ray's authentication token).
    Raises RuntimeError if the head does not start, or not every node has joined, within `START_SECONDS`.
    """
    if tasks() == 1:
        yield "local"
        return
    with driver_role():
        server = _servers[0]
        port = _free_port(server.address)
        temporary = tempfile.mkdtemp(prefix=f"ray_{os.environ['SLURM_JOB_ID']}_", dir="/tmp")  # short, for sockets
        options = [f"--port={port}", "--include-dashboard=false", f"--temp-dir={temporary}"]
        head = RayNode("--head", environment, *options)
        try:
            head.wait_until_started()
            address = f"{server.address}:{port}"
            server.broadcast({"ray": address, "environment": dict(environment)})
            _wait_for_nodes(server)
            yield address
        finally:
            server.broadcast(STOP_RAY)
            head.stop()
            shutil.rmtree(temporary, ignore_errors=True)


def _wait_for_nodes(server: ControlServer) -> None:
    deadline = time.monotonic() + START_SECONDS
    while len(server.joined) < tasks() - 1:
        if time.monotonic() > deadline:
            missing = sorted(set(range(1, tasks())) - server.joined)
            raise RuntimeError(
                f"Tasks {missing} did not join the Ray cluster within {START_SECONDS:.0f} s: their logs show why."
            )
        time.sleep(0.2)


def _free_port(address: str) -> int:
    with socket.socket() as probe:
        probe.bind((address, 0))
        port: int = probe.getsockname()[1]
        return port


def join_ray_cluster() -> int:
    """Run a Ray worker node on this machine, as part of the driver's Ray cluster, until the driver ends; every task but
    the first calls this.

    Returns the exit status: 0 after the driver has ended, 1 if it was not found within `DRIVER_SECONDS` or Ray died on
    this node more than `RAYLET_RESTARTS` times.
    """
    driver = node_names()[0]
    client = connect_to_driver(node_address(driver), time.monotonic() + DRIVER_SECONDS)
    if client is None:
        logger.error("task %d found no driver on node %s within %.0f s", rank(), driver, DRIVER_SECONDS)
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
    """Stop `node`, if there is one, and return the node that the driver's message asks for; None if it asks for
    none."""
    if node is not None:
        node.stop()
    if message["ray"] is None:
        return None
    return RayNode(f"--address={message['ray']}", message["environment"])


def restart_command(restarts: int) -> None:
    """Restart this process's command. Does not return; after `restarts` restarts, ends the process with status 1.

    In an allocation of several nodes the job is requeued instead and the process exits with status 75, because the
    other tasks exit with this process. Requeues are not counted.
    """
    done = int(os.environ.get(RESTART_COUNT, "0"))
    if done >= restarts:
        logger.error(
            "Ray's head has died and all %d restarts are used up (backend.max_restarts): run the same command again "
            "to resume from the last checkpoint",
            restarts,
        )
        os._exit(1)
    how = "the job is requeued" if tasks() > 1 else f"restart {done + 1} of {restarts}"
    logger.error("Ray's head has died; %s, from the last checkpoint", how)
    sys.stdout.flush()
    sys.stderr.flush()
    if tasks() > 1:
        subprocess.run(["scontrol", "requeue", os.environ["SLURM_JOB_ID"]], check=False)
        os._exit(75)  # EX_TEMPFAIL
    os.environ[RESTART_COUNT] = str(done + 1)
    os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])
