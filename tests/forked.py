"""Runs the commands of this repository in forks of a process that has imported what they need.

The imports of a command take seconds of processor time, more than the small runs of the tests; a fork has them already.
Otherwise a command runs as in a new process: with its own arguments, environment, working directory, session, output
and exit status. Tests of the imports themselves start a new process instead.
"""

from __future__ import annotations

import atexit
import multiprocessing
import os
import runpy
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
MODULES = [
    "simplerl.cli",
    "simplerl.experiment",
    "simplerl.backends.local",
    "simplerl.samplers.local",
    "simplerl.micro.world",
    "simplerl.evals.standalone",
    "simplerl.sweeps.launch",
    "simplerl.sweeps.commands",
    "analysis.sources",
    "analysis.figures",
]


def _context() -> Any:
    context: Any = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(MODULES)  # has no effect if the server is running
    return context


def _execute(arguments: list[str], environment: dict[str, str], cwd: str, output: tuple[str, str]) -> None:
    """Replace this process's state by that of a new one and run the command."""
    os.setsid()
    for number, path in enumerate(output, 1):
        os.dup2(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND), number)
    os.environ.clear()
    os.environ.update(environment)
    os.chdir(cwd)
    sys.path[:0] = [path for path in environment.get("PYTHONPATH", "").split(os.pathsep) if path]
    sys.orig_argv = [sys.executable, *arguments]
    atexit._clear()
    try:
        if arguments[0] == "-m":
            sys.argv = arguments[1:]
            sys.path.insert(0, cwd)
            runpy.run_module(arguments[1], run_name="__main__", alter_sys=True)
        else:
            sys.argv = arguments
            sys.path.insert(0, str(Path(arguments[0]).absolute().parent))
            runpy.run_path(arguments[0], run_name="__main__")
    finally:
        atexit._run_exitfuncs()


class Command:
    """Runs `python ARGUMENTS`. stdout, stderr: files with its output; one file holds both if `merged`."""

    def __init__(
        self,
        *arguments: str,
        env: Mapping[str, str] | None = None,
        cwd: Path = ROOT,
        merged: bool = False,
    ) -> None:
        self.arguments = list(arguments)
        self.folder = tempfile.TemporaryDirectory(prefix="forked_")
        self.stdout = Path(self.folder.name, "stdout")
        self.stderr = self.stdout if merged else Path(self.folder.name, "stderr")
        self.stdout.touch(), self.stderr.touch()
        output = (str(self.stdout), str(self.stderr))
        environment = dict(os.environ if env is None else env)
        self.process = _context().Process(target=_execute, args=(self.arguments, environment, str(cwd), output))
        self.process.start()
        self.pid: int = self.process.pid

    def poll(self) -> int | None:
        status: int | None = self.process.exitcode
        return status

    def wait(self, timeout: float = 300.0) -> int:
        self.process.join(timeout)
        status = self.poll()
        if status is None:
            self.kill()
            raise subprocess.TimeoutExpired(self.arguments, timeout, self.stdout.read_text(), self.stderr.read_text())
        return status

    def kill(self) -> None:
        """Send SIGKILL, unless the command has ended."""
        self.process.kill()
        self.process.join()


def run(*arguments: str, env: Mapping[str, str] | None = None, cwd: Path = ROOT) -> subprocess.CompletedProcess[str]:
    """Return the finished command as `subprocess.run(capture_output=True, text=True)` does."""
    command = Command(*arguments, env=env, cwd=cwd)
    status = command.wait()
    return subprocess.CompletedProcess(
        command.arguments, status, command.stdout.read_text(), command.stderr.read_text()
    )
