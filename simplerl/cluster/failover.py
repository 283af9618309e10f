"""Restarts a run whose Ray head has died.

Ray cannot replace its head (the GCS process): a driver that loses it hangs until Ray ends the driver after a minute.
So the driver monitors the head, and when it dies restarts its own command, which resumes from the last checkpoint.
"""

from __future__ import annotations

import logging
import os
import socket
import subprocess
import sys
import threading

from simplerl.cluster import allocation

logger = logging.getLogger(__name__)

POLL_SECONDS = 1.0
REFUSALS = 3  # refused connections in a row; on the driver's own node a dead process refuses at once
command_is_restartable = False  # True if this process does nothing but the run or sweep of its command line
COUNT = "SIMPLERL_HEAD_RESTARTS"  # environment variable: how often this command has been restarted


class HeadMonitor:
    """Polls the head at `address` ("host:port") in a thread until it is closed. restarts: how often this command may be
    restarted."""

    def __init__(self, address: str, restarts: int) -> None:
        host, port = address.rsplit(":", 1)
        self._address = host, int(port)
        self._restarts = restarts
        self._closed = threading.Event()
        threading.Thread(target=self._poll, name="head-monitor", daemon=True).start()

    def close(self) -> None:
        self._closed.set()

    def _poll(self) -> None:
        refused = 0
        while not self._closed.wait(POLL_SECONDS):
            try:
                socket.create_connection(self._address, timeout=10 * POLL_SECONDS).close()
                refused = 0
            except ConnectionRefusedError:
                refused += 1
            except OSError:
                continue
            if refused == REFUSALS and not self._closed.is_set():
                restart_command(self._restarts)


def restart_command(restarts: int) -> None:
    """Replace this process by a new start of the same command. In an allocation of several nodes SLURM requeues the
    job instead, because the other tasks leave with this process. Does not return."""
    done = int(os.environ.get(COUNT, "0"))
    if done >= restarts:
        logger.error(
            "Ray's head has died and all %d restarts are used up (backend.max_restarts): the same command resumes "
            "from the last checkpoint",
            restarts,
        )
        os._exit(1)
    logger.error("Ray's head has died; restart %d of %d, from the last checkpoint", done + 1, restarts)
    sys.stdout.flush()
    sys.stderr.flush()
    if allocation.tasks() > 1:
        subprocess.run(["scontrol", "requeue", os.environ["SLURM_JOB_ID"]], check=False)
        os._exit(75)  # EX_TEMPFAIL
    os.environ[COUNT] = str(done + 1)
    os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])
