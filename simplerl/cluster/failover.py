"""Ray's head (its GCS) has no replacement: a driver that loses it hangs, and Ray ends it after a minute. So the driver
watches it, and at its death starts its own command again, which goes on from the last checkpoint."""

from __future__ import annotations

import logging
import os
import socket
import subprocess
import sys
import threading

from simplerl.cluster import allocation

logger = logging.getLogger(__name__)

LOOK_SECONDS = 1.0
REFUSALS = 3  # in a row: the driver lives on the head's node, where a connection to a dead process is refused at once
own_command = False  # True where this process does nothing but the run or sweep that its command line names
COUNT = "SIMPLERL_HEAD_RESTARTS"  # in the environment: how often this command was started again


class HeadWatch:
    """Looks at `address` ("host:port") until it is closed. `restarts`: how often the command may be started again."""

    def __init__(self, address: str, restarts: int) -> None:
        host, port = address.rsplit(":", 1)
        self._address = host, int(port)
        self._restarts = restarts
        self._closed = threading.Event()
        threading.Thread(target=self._watch, name="head-watch", daemon=True).start()

    def close(self) -> None:
        self._closed.set()

    def _watch(self) -> None:
        refused = 0
        while not self._closed.wait(LOOK_SECONDS):
            try:
                socket.create_connection(self._address, timeout=10 * LOOK_SECONDS).close()
                refused = 0
            except ConnectionRefusedError:
                refused += 1
            except OSError:
                continue
            if refused == REFUSALS and not self._closed.is_set():
                start_again(self._restarts)


def start_again(restarts: int) -> None:
    """Replaces this process by the same command; in an allocation of several nodes, whose other tasks would leave,
    SLURM does it. Does not return."""
    done = int(os.environ.get(COUNT, "0"))
    if done >= restarts:
        logger.error("Ray's head has died; all %d restarts are used up: the same command goes on", restarts)
        os._exit(1)
    logger.error("Ray's head has died; restart %d of %d, from the last checkpoint", done + 1, restarts)
    sys.stdout.flush()
    sys.stderr.flush()
    if allocation.tasks() > 1:
        subprocess.run(["scontrol", "requeue", os.environ["SLURM_JOB_ID"]], check=False)
        os._exit(75)
    os.environ[COUNT] = str(done + 1)
    os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])
