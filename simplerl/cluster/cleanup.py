"""Ends every process of a Ray session when the process that started the session is gone, however it went.

Ray itself leaves some for minutes when its driver is killed. This file is run as a program of its own, with nothing but
the standard library: its standard input is a pipe that the driver holds; at its end, all processes that carry the
session's mark in their environment are killed and the session's folder is removed.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

MARK = "SIMPLERL_RAY_SESSION"
SECONDS = 10.0  # in which children that were just being started show up


def start(folder: str) -> subprocess.Popen[bytes]:
    """Watches over the session of `folder` until its standard input is closed."""
    return subprocess.Popen(
        [sys.executable, "-S", "-E", __file__, folder], stdin=subprocess.PIPE, start_new_session=True
    )


def marked(folder: str, spare: int) -> list[int]:
    """Processes of the session: those with its mark, and those with a file of its folder open (Ray's agents write
    their title over their environment). Not this process, nor `spare`."""
    mark, found = f"{MARK}={folder}".encode(), []
    for path in Path("/proc").glob("[0-9]*"):
        try:
            if mark in (path / "environ").read_bytes().split(b"\0") or _writes_into(folder, path):
                found.append(int(path.name))
        except OSError:
            continue  # ended meanwhile, or another user's
    return [pid for pid in found if pid not in (os.getpid(), spare)]


def _writes_into(folder: str, process: Path) -> bool:
    return any(os.readlink(file).startswith(f"{folder}/") for file in (process / "fd").iterdir())


def sweep(folder: str, driver: int) -> None:
    """`driver` lives on where it has ended the session itself; it may still have a log of it open."""
    deadline = time.monotonic() + SECONDS
    while (pids := marked(folder, driver)) and time.monotonic() < deadline:
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
    sweep(sys.argv[1], driver)
