"""sweep.json: which runs belong together, how they were started, and which jobs they became.

It says nothing of how they stand: that is in each run's folder and in SLURM's queue."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path

from simplerl.errors import ConfigError
from simplerl.io.files import read_json, write_text

FOLDER = ".sweeps"  # under run.root


@dataclass
class SweepRun:
    overrides: list[str]
    folder: str  # absolute
    command: list[str]  # sys.argv of the sweep
    launcher: str  # local | slurm
    job: str | None = None  # SLURM's id of the last submission
    log: str | None = None  # what that job prints


@dataclass
class Sweep:
    folder: Path
    cwd: str
    created: str = field(default_factory=lambda: time.strftime("%Y-%m-%d %H:%M:%S"))
    runs: list[SweepRun] = field(default_factory=list)

    @property
    def name(self) -> str:
        return self.folder.name

    def write(self) -> None:
        content = {"cwd": self.cwd, "created": self.created, "runs": [asdict(run) for run in self.runs]}
        write_text(self.folder / "sweep.json", json.dumps(content, indent=1))

    def add(self, run: SweepRun) -> SweepRun:
        """The entry for this run's folder: a new one, or the known one with what is new about it."""
        for known in self.runs:
            if known.folder == run.folder:
                known.overrides, known.command, known.launcher = run.overrides, run.command, run.launcher
                return known
        self.runs.append(run)
        return run


def labels(runs: Sequence[SweepRun]) -> dict[str, str]:
    """Run folder -> what tells it from the other runs."""
    common = set.intersection(*(set(run.overrides) for run in runs)) if len(runs) > 1 else set()
    return {run.folder: " ".join(o for o in run.overrides if o not in common) or Path(run.folder).name for run in runs}


def read(folder: Path) -> Sweep:
    content = read_json(folder / "sweep.json")
    runs = [SweepRun(**run) for run in content["runs"]]
    return Sweep(folder, content["cwd"], content["created"], runs)


def all_sweeps(root: Path) -> list[Sweep]:
    """Oldest first, also of roots just below, such as runs/debug."""
    found = [read(path.parent) for place in ("", "*/") for path in root.glob(f"{place}{FOLDER}/*/sweep.json")]
    return sorted(found, key=lambda sweep: (sweep.created, sweep.name))


def find(name: str, root: Path) -> Sweep:
    """By name under `root`, or by folder. Raises ConfigError."""
    sweeps = all_sweeps(root)
    for sweep in reversed(sweeps):
        if sweep.name == name:
            return sweep
    if (Path(name) / "sweep.json").exists():
        return read(Path(name))
    known = ", ".join(sweep.name for sweep in sweeps) or "none"
    raise ConfigError(f"No sweep {name} under {root}; known are: {known}. --root says where to look.")


def jobs_of(root: Path) -> dict[str, list[str]]:
    """Run folder -> every job it ever was, in any sweep under `root`."""
    jobs: dict[str, list[str]] = {}
    for sweep in all_sweeps(root):
        for run in sweep.runs:
            if run.job is not None:
                jobs.setdefault(run.folder, []).append(run.job)
    return jobs


@contextmanager
def submitting(root: Path) -> Iterator[None]:
    """One process at a time looks what is queued and submits the rest."""
    import fcntl

    (root / FOLDER).mkdir(parents=True, exist_ok=True)
    with open(root / FOLDER / ".lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
