"""Reads and ends the processes that grade (Linux)."""

from __future__ import annotations

import os
import signal
import subprocess
from contextlib import suppress
from pathlib import Path

END_SECONDS = 2.0  # time for a killed process to disappear

_TICKS = os.sysconf("SC_CLK_TCK")


def queue_seconds(pid: int) -> float:
    """Return the seconds that the main thread of a process was ready but had no processor (Linux; 0 if unknown)."""
    try:
        return int(Path(f"/proc/{pid}/schedstat").read_text().split()[1]) / 1e9
    except (OSError, ValueError, IndexError):
        return 0.0


def cpu_seconds(pid: int) -> float:
    """Return the CPU time that a process has used (Linux)."""
    fields = Path(f"/proc/{pid}/stat").read_bytes().rpartition(b")")[2].split()
    return (int(fields[11]) + int(fields[12])) / _TICKS


def descendants(pid: int) -> list[int]:
    """Return the children of a process and their descendants; [] if it has ended."""
    found: list[int] = []
    for path in Path(f"/proc/{pid}/task").glob("*/children"):
        with suppress(OSError):
            found += map(int, path.read_text().split())
    return found + [deeper for child in found for deeper in descendants(child)]


def kill_with_descendants(process: subprocess.Popen[bytes], mark: str) -> None:
    """Kill the process group that `process` leads, the processes below it, and all others whose environment contains
    `mark`. Then wait for `process`, for at most END_SECONDS."""
    below = descendants(process.pid)  # while a process starts another program, its environment is empty
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    for _ in range(5):  # a process may be just starting another one
        found = [*below, *_marked_processes(mark.encode())]
        for pid in found:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        if not found:
            break
        below = []
    with suppress(subprocess.TimeoutExpired):
        process.wait(END_SECONDS)


def _marked_processes(mark: bytes) -> list[int]:
    found = []
    for path in Path("/proc").glob("[0-9]*"):
        try:
            if mark in (path / "environ").read_bytes().split(b"\0"):
                found.append(int(path.name))
        except OSError:
            continue  # the process has ended or belongs to another user
    return found
