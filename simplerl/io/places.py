"""Locates what the project ships beside its Python packages, and says how its commands are started.

In a checkout conf/, sweeps/, assets/ and the scripts (train.py ...) are beside the package; a wheel has them in
simplerl/share, where the build maps them (`pyproject.toml`).
"""

from __future__ import annotations

import sys
from pathlib import Path

from simplerl.errors import require

PACKAGE = Path(__file__).resolve().parents[1]
SHARE = PACKAGE / "share"  # only in a wheel
# Command of `simplerl NAME` -> the script or module that a checkout runs for it.
COMMANDS = {
    "train": "train.py",
    "evaluate": "evaluate.py",
    "sweep": "sweep.py",
    "plan": "plan.py",
    "distill": "distill.py",
    "report": "analysis.report",
    "section": "analysis.section",
    "tables": "analysis.tables",
    "plots": "analysis.plots",
    "compare": "analysis.compare",
    "diff": "analysis.diff",
    "aha": "analysis.aha",
    "claims": "analysis.claims",
    "benchmark": "analysis.benchmark",
    "grade": "simplerl.grade",
    "audit": "simplerl.audit",
    "fetch": "simplerl.data.fetch",
}
PROGRAM = "simplerl"  # the console script


def is_installed() -> bool:
    """Return whether this is an installed wheel, not a checkout."""
    return SHARE.is_dir()


def place(name: str) -> Path:
    """Return the absolute path of a shipped folder or script: conf, sweeps, assets or train.py."""
    return (SHARE if is_installed() else PACKAGE.parent) / name


CONF, SWEEPS = place("conf"), place("sweeps")


def shipped(path: str) -> str:
    """Return the path of a shipped file for a configuration: unchanged if it exists below the current folder, as in a
    checkout, otherwise its absolute path in the installation."""
    return path if Path(path).exists() or not place(path).exists() else str(place(path))


def options_in(folder: Path | None) -> list[str]:
    """Return the override that lets Hydra's compose find the options in `folder` beside those of conf/, as --config-dir
    of a Hydra command does; [] for None. Raises ConfigError if there is no such folder."""
    if folder is None:
        return []
    require(folder.is_dir(), f"--config-dir {folder} is not a folder: name one with the layout of {CONF}.")
    return [f"hydra.searchpath=['file://{folder.absolute()}']"]


def spelled(name: str) -> str:
    """Return how a user starts a command: "simplerl train" in a wheel or if this process was started so, otherwise
    "python train.py", and likewise "simplerl report" or "python -m analysis.report"."""
    if is_installed() or PROGRAM in (Path(word).name for word in sys.orig_argv[1:3]):
        return f"{PROGRAM} {name}"
    target = COMMANDS[name]
    return f"python {target}" if target.endswith(".py") else f"python -m {target}"
