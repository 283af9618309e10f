"""Reads status.json and the lock of a run folder for commands that do not open the run, such as `sweep.py`."""

from __future__ import annotations

import json
import os
import socket
from contextlib import suppress
from pathlib import Path
from typing import Any

from simplerl.config.secrets import HIDDEN, secret_values
from simplerl.errors import ConfigError
from simplerl.io.files import read_json, write_text

AGAIN = "remove it, and the same command writes it again"
AGAIN_ALLOWED = "remove it, and the same command with run.allow_changed=true writes it again"  # it records the inputs
_NUMBER = int | float
STATUS_KINDS = {
    "state": str,  # running | finished | failed | interrupted | refused
    "attempt": int | None,
    "phase": str | None,
    "step": int | None,
    "steps": dict | None,
    "reason": str | None,
    "pid": int,
    "host": str,
    "gpu_hours": _NUMBER,
    "cpu_hours": _NUMBER,
}


def read_status(folder: Path) -> dict[str, Any]:
    """Return the content of a run's status.json, or {} if there is none. Raises ConfigError if it is damaged."""
    path = folder / "status.json"
    return read_json(path, AGAIN, STATUS_KINDS) if os.path.lexists(path) else {}


def record_refusal(folder: Path, settings: dict[str, Any], error: ConfigError) -> None:
    """Write the status "refused" for a run of a sweep that could not start, unless another process runs it."""
    reason = str(error)
    for secret in secret_values(settings):
        reason = reason.replace(secret, HIDDEN)
    with suppress(OSError, ConfigError):
        if not is_locked(folder):
            folder.mkdir(parents=True, exist_ok=True)
            place = {"pid": os.getpid(), "host": socket.gethostname(), "gpu_hours": 0.0, "cpu_hours": 0.0}
            status = {**place, **read_status(folder), "state": "refused", "reason": reason}
            write_text(folder / "status.json", json.dumps(status, indent=1))


def is_locked(folder: Path) -> bool:
    """Return whether a process is writing the run folder, on this machine or on one that shares its file locks."""
    import fcntl

    if not (folder / ".lock").exists():
        return False
    with open(folder / ".lock") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
    return False
