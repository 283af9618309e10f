"""Ends every process of a Ray session when the driver that started the session has ended for any reason.

Ray by itself leaves some of them running for minutes after its driver was killed. This file runs as a separate program
and imports only the standard library. Its standard input is a pipe that the driver holds open; when the pipe closes, it
kills all processes that carry the session's mark in their environment and removes the session's folder.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

MARK = "SIMPLERL_RAY_SESSION"  # environment variable of the session's processes: its folder
SECONDS = 10.0  # how long to look for processes, because some may still be starting


def start(folder: str) -> subprocess.Popen[bytes]:
    """Start this file as a program that ends the Ray session in `folder` when its standard input closes."""
    return subprocess.Popen(
        [sys.executable, "-S", "-E", __file__, folder], stdin=subprocess.PIPE, start_new_session=True
    )


def session_processes(folder: str, driver: int) -> list[int]:
    """Return the ids of the session's processes: those that carry its mark, and those that have a file in its folder
    open (Ray's agents overwrite their environment with their title). Leaves out this process and `driver`."""
    mark, found = f"{MARK}={folder}".encode(), []
    for path in Path("/proc").glob("[0-9]*"):
        try:
            if mark in (path / "environ").read_bytes().split(b"\0") or _has_file_open(folder, path):
                found.append(int(path.name))
        except OSError:
            continue  # the process has ended or belongs to another user
    return [pid for pid in found if pid not in (os.getpid(), driver)]


def _has_file_open(folder: str, process: Path) -> bool:
    return any(os.readlink(file).startswith(f"{folder}/") for file in (process / "fd").iterdir())


def kill_session(folder: str, driver: int) -> None:
    """Kill the session's processes except the driver, and remove its folder. A driver that closed the session itself
    continues, and may still have a log file of the session open."""
    deadline = time.monotonic() + SECONDS
    while (pids := session_processes(folder, driver)) and time.monotonic() < deadline:
        for pid in pids:
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                continue
        time.sleep(0.1)
    shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    driver = os.getppid()
    sys.stdin.buffer.read()
    kill_session(sys.argv[1], driver)
