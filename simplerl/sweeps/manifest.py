"""Reads and writes sweep.json: which runs belong to a sweep, how they were started, and their SLURM jobs.

The states of the runs are not in it: they are read from the run folders and SLURM's queue (`simplerl.sweeps.states`).
"""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

from filelock import FileLock

from simplerl.config.secrets import hide_in_overrides
from simplerl.errors import ConfigError
from simplerl.io.files import read_json, reading, write_text
from simplerl.io.places import place

logger = logging.getLogger(__name__)
FOLDER = ".sweeps"  # under run.root
TRAIN = place("train.py")
REMEDY = "remove it, and run the sweep's command again with hydra.sweep.dir=FOLDER, where FOLDER is the sweep's folder"


@dataclass
class SweepRun:
    overrides: list[str]
    folder: str  # absolute path
    command: list[str]  # sys.argv of the sweep; `sweep.py resume` runs it only if it is this project's train.py
    launcher: str  # local | slurm
    job: str | None = None  # SLURM id of the last submission
    log: str | None = None  # log file of that job

    def __post_init__(self) -> None:
        """Hide passwords and access tokens in overrides and command. Raises ValueError if a value read from a file has
        the wrong type."""
        lists = all(isinstance(x, list) and all(isinstance(y, str) for y in x) for x in (self.overrides, self.command))
        if not (lists and self.command and all(isinstance(x, str) for x in (self.folder, self.launcher))):
            raise ValueError("overrides and command of a run must be lists of texts, folder and launcher texts")
        if not all(isinstance(x, str | None) for x in (self.job, self.log)):
            raise ValueError("the job or log of a run is neither a string nor null")
        self.overrides, self.command = hide_in_overrides(self.overrides), hide_in_overrides(self.command)


@dataclass
class Sweep:
    folder: Path
    cwd: str  # where the sweep was started
    created: str = field(default_factory=lambda: time.strftime("%Y-%m-%d %H:%M:%S"))
    runs: list[SweepRun] = field(default_factory=list)

    @property
    def name(self) -> str:
        return self.folder.name

    def write(self) -> None:
        content = {"cwd": self.cwd, "created": self.created, "runs": [asdict(run) for run in self.runs]}
        write_text(self.folder / "sweep.json", json.dumps(content, indent=1))

    def add(self, run: SweepRun) -> SweepRun:
        """Add the run and return its entry. If the sweep has a run with this folder already, that entry gets the new
        overrides, command and launcher."""
        for known in self.runs:
            if known.folder == run.folder:
                known.overrides, known.command, known.launcher = run.overrides, run.command, run.launcher
                return known
        self.runs.append(run)
        return run


def labels(runs: Sequence[SweepRun]) -> dict[str, str]:
    """Return run folder -> the overrides that distinguish this run from the others."""
    common = set.intersection(*(set(run.overrides) for run in runs)) if len(runs) > 1 else set()
    return {run.folder: " ".join(o for o in run.overrides if o not in common) or Path(run.folder).name for run in runs}


def read(folder: Path) -> Sweep:
    """Return the sweep in a folder. Raises ConfigError if its sweep.json is damaged or was not written by this
    project."""
    path = folder / "sweep.json"
    content = read_json(path, REMEDY, {"cwd": str, "created": str, "runs": list})
    with reading(path, REMEDY):
        try:
            runs = [SweepRun(**run) for run in content["runs"]]
        except TypeError as error:
            raise ValueError(f"a run is not as expected: {error}") from error
    return Sweep(folder, content["cwd"], content["created"], runs)


def all_sweeps(root: Path) -> list[Sweep]:
    """Return the sweeps under `root` and under its direct subfolders, such as runs/debug, oldest first. A sweep whose
    sweep.json is damaged is named in a warning and left out."""
    found = []
    for path in sorted(path for level in ("", "*/") for path in root.glob(f"{level}{FOLDER}/*/sweep.json")):
        try:
            found.append(read(path.parent))
        except ConfigError as error:
            logger.warning("Left out: %s", error)
    return sorted(found, key=lambda sweep: (sweep.created, sweep.name))


def find(name: str, root: Path) -> Sweep:
    """Return a sweep by its name under `root`, or by its folder. Raises ConfigError if there is none."""
    for folder in (root / FOLDER / name, Path(name)):
        if (folder / "sweep.json").exists():
            return read(folder)
    sweeps = all_sweeps(root)
    for sweep in reversed(sweeps):
        if sweep.name == name:
            return sweep
    known = ", ".join(sweep.name for sweep in sweeps) or "none"
    raise ConfigError(
        f"There is no sweep {name} under {root}. Sweeps there: {known}. Use --root for sweeps of another run.root."
    )


def jobs_of(root: Path) -> dict[str, list[str]]:
    """Return run folder -> ids of all jobs submitted for it, from the sweep.json of every sweep under `root`."""
    jobs: dict[str, list[str]] = {}
    for sweep in all_sweeps(root):
        for run in sweep.runs:
            if run.job is not None:
                jobs.setdefault(run.folder, []).append(run.job)
    return jobs


def submission_lock(root: Path) -> FileLock:
    """Return a file lock that lets one process at a time check which runs are queued and submit the others."""
    (root / FOLDER).mkdir(parents=True, exist_ok=True)
    return FileLock(root / FOLDER / ".lock")
