"""From the runs that Hydra's sweeper asks for to runs that go: planned, said, written down, started."""

from __future__ import annotations

import sys
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hydra.core.config_loader import ConfigLoader
from hydra.errors import CompactHydraException
from omegaconf import DictConfig, OmegaConf, open_dict

from simplerl.config.load import load
from simplerl.errors import ConfigError
from simplerl.runs.folder import run_folder
from simplerl.sweeps import manifest
from simplerl.sweeps.manifest import Sweep, SweepRun
from simplerl.sweeps.slurm_job import RunJob
from simplerl.sweeps.slurm_queue import QueuedJob, SlurmError, queued
from simplerl.sweeps.slurm_submit import Resources, check_backend, submit
from simplerl.sweeps.states import RunState, state_of

SILENCE = 600.0  # seconds that SLURM may leave us without an answer
GONE = 3  # polls in a row without a job before a run that has not finished counts as ended (slow file systems)


@dataclass(frozen=True)
class PlannedRun:
    """A run of a sweep, composed and resolved."""

    overrides: list[str]
    job: RunJob


def planned(loader: ConfigLoader, config: DictConfig, job_overrides: Sequence[Sequence[str]]) -> list[PlannedRun]:
    """The configuration, label and folder that each run will have. Raises ConfigError."""
    runs = []
    for overrides in job_overrides:
        composed = loader.load_sweep_config(config, list(overrides))
        hydra, raw = composed.hydra, composed.copy()
        OmegaConf.set_readonly(raw, False)
        with open_dict(raw):
            del raw["hydra"]
        raw.choices = {group: str(choice) for group, choice in hydra.runtime.choices.items() if "hydra/" not in group}
        OmegaConf.resolve(raw)  # frozen: nothing in it may change between submission and start
        resolved: Any = OmegaConf.to_container(raw, resolve=True, enum_to_str=True)
        label = hydra.job.override_dirname
        own = [override for override in overrides if not override.startswith("hydra")]
        runs.append(PlannedRun(own, RunJob(raw, label, run_folder(resolved, label).absolute())))
    return runs


def opened(folder: Path, runs: Sequence[PlannedRun], launcher: str) -> tuple[Sweep, list[SweepRun]]:
    """The sweep in `folder`, new or known, with these runs in it, and their entries."""
    folder = folder.absolute()
    folder.mkdir(parents=True, exist_ok=True)
    known = (folder / "sweep.json").exists()
    sweep = manifest.read(folder) if known else Sweep(folder, str(Path.cwd()))
    entries = [sweep.add(SweepRun(run.overrides, str(run.job.folder), list(sys.argv), launcher)) for run in runs]
    return sweep, entries


def _command(what: str, folder: Path) -> str:
    """Of sweep.py, for a sweep that may not be under runs/."""
    if folder.parent.name != manifest.FOLDER:
        return f"python sweep.py {what} {folder}"
    root = folder.absolute().parent.parent
    elsewhere = "" if root == Path("runs").absolute() else f" --root {root}"
    return f"python sweep.py {what} {folder.name}{elsewhere}"


def launch_local(folder: Path, runs: Sequence[PlannedRun]) -> None:
    """Writes the sweep down and says how each run stands; Hydra's own launcher then runs them one after the other,
    and those that are finished return at once. Raises CompactHydraException if a run is refused."""
    try:
        for run in runs:
            _check(run)
    except ConfigError as error:
        _forget(folder)
        raise CompactHydraException(f"Nothing was started: {error}") from error
    sweep, entries = opened(folder, runs, "local")
    sweep.write()
    print(f"Sweep {sweep.name}: {len(runs)} runs, one after the other. To look: {_command('status', folder)}")
    names = manifest.labels(entries)
    for entry in entries:
        print(f"  {names[entry.folder]}: {intention(state_of(entry, None))}", flush=True)


def conclude(folder: Path) -> None:
    """Says how the runs of a local sweep have ended, and what to do with them."""
    sweep = manifest.read(folder)
    ended = Counter(state_of(run, None).state for run in sweep.runs)
    said = {"pending": "refused before the start"}
    print(f"\nSweep {sweep.name}: {', '.join(f'{count} {said.get(state, state)}' for state, count in ended.items())}")
    print(f"Each run: {_command('status', folder)}    side by side: python -m analysis.report {folder}", flush=True)


def launch_slurm(
    folder: Path, root: Path, runs: Sequence[PlannedRun], resources: Resources, wait: bool, poll_s: float
) -> None:
    """Submits what is neither finished nor queued nor running, as one array. With `wait`, follows it to the end.
    Raises CompactHydraException if anything is refused or, with `wait`, a run did not finish."""
    try:
        for run in runs:
            _check(run, resources)
        with manifest.submitting(root):
            entries, submitted = _submit(folder, root, runs, resources)
    except (ConfigError, SlurmError) as error:
        _forget(folder)
        raise CompactHydraException(f"Nothing was submitted: {error}") from error
    print(f"To look: {_command('status', folder)}    to stop: {_command('cancel', folder)}", flush=True)
    if not wait or not submitted:
        return
    try:
        follow(entries, poll_s, manifest.jobs_of(root))
    except KeyboardInterrupt:
        print(f"\nThe jobs go on. To stop them: {_command('cancel', folder)}")
        sys.exit(130)


def _forget(folder: Path) -> None:
    """What Hydra has written of a sweep that does not begin; not of one that was there before."""
    if not (folder / "sweep.json").exists():
        (folder / "multirun.yaml").unlink(missing_ok=True)
        with suppress(OSError):
            folder.rmdir()


def _check(run: PlannedRun, resources: Resources | None = None) -> None:
    try:
        load(run.job.raw)
        if resources is not None:
            check_backend(run.job, resources)
    except ConfigError as error:
        raise ConfigError(f"{' '.join(run.overrides)}: {error}") from error


def _submit(
    folder: Path, root: Path, runs: Sequence[PlannedRun], resources: Resources
) -> tuple[list[SweepRun], list[SweepRun]]:
    """The entries of these runs, and those of them that became jobs."""
    sweep, entries = opened(folder, runs, "slurm")
    jobs, earlier = queued(), manifest.jobs_of(root)
    chosen: dict[str, tuple[SweepRun, RunJob]] = {}
    names = manifest.labels(entries)
    print(f"Sweep {sweep.name}: {len(runs)} runs")
    for entry, run in zip(entries, runs, strict=True):
        state = state_of(entry, jobs, earlier.get(entry.folder, ()))
        print(f"  {names[entry.folder]}: {intention(state)}{'' if state.needs_start else ', not submitted'}")
        if state.needs_start:
            chosen[entry.folder] = (entry, run.job)
    if chosen:
        ids = submit([job for _, job in chosen.values()], resources, sweep.name, sweep.folder / "jobs")
        for (entry, _), (job, log) in zip(chosen.values(), ids, strict=True):
            entry.job, entry.log = job, log
        print(f"Submitted {len(ids)}: {ids[0][0]}{f' to {ids[-1][0]}' if len(ids) > 1 else ''}")
    sweep.write()
    return entries, [entry for entry, _ in chosen.values()]


def intention(state: RunState) -> str:
    """What becomes of a run that is asked for again."""
    where = f"{state.phase} step {state.step}" if state.phase else "the start"
    if state.state == "finished":
        return "finished already"
    if state.job is not None:
        return f"{state.state} as job {state.job}"
    if state.state == "running":
        return "running"
    return "new" if state.state == "pending" else f"{state.state}, goes on from {where} or the checkpoint before"


def follow(
    entries: Sequence[SweepRun],
    poll_s: float,
    known_jobs: Mapping[str, Sequence[str]],
    look: Callable[[], dict[str, QueuedJob]] = queued,
) -> None:
    """Says every change of state until no run is open. `known_jobs`: of each folder, from this and other sweeps. Raises
    CompactHydraException if a run did not finish, or SLURM does not answer for `SILENCE` seconds."""
    said: dict[str, str] = {}
    names = manifest.labels(entries)
    without_job = dict.fromkeys((entry.folder for entry in entries), 0)
    while True:
        jobs = _queue(look, poll_s)
        states = {entry.folder: state_of(entry, jobs, known_jobs.get(entry.folder, ())) for entry in entries}
        for entry in entries:
            state = states[entry.folder]
            alive = state.job is not None or state.state == "running"
            settling = state.state != "finished" and without_job[entry.folder] < GONE
            without_job[entry.folder] = 0 if alive else without_job[entry.folder] + 1
            if said.get(entry.folder) != state.state and (alive or not settling):
                said[entry.folder] = state.state
                print(f"{time.strftime('%H:%M:%S')}  {names[entry.folder]}: {described(state)}", flush=True)
        if all(s.state == "finished" or without_job[folder] > GONE for folder, s in states.items()):
            break
        time.sleep(poll_s)
    ended = [entry for entry in entries if states[entry.folder].state != "finished"]
    if ended:
        raise CompactHydraException(
            f"{len(ended)} of {len(entries)} runs did not finish: {'; '.join(names[entry.folder] for entry in ended)}. "
            "The same command goes on with them."
        )


def _queue(look: Callable[[], dict[str, QueuedJob]], poll_s: float) -> dict[str, QueuedJob]:
    """A controller that restarts or is busy answers later."""
    deadline = time.monotonic() + SILENCE
    while True:
        try:
            return look()
        except SlurmError as error:
            if time.monotonic() > deadline:
                raise CompactHydraException(f"SLURM does not answer ({error}); the jobs go on without this.") from error
            print(f"{time.strftime('%H:%M:%S')}  {error} Looking again.", flush=True)
        time.sleep(poll_s)


def described(state: RunState) -> str:
    numbers = [state.state, f"{state.phase} {state.step}/{state.steps or '?'}" if state.phase else ""]
    numbers += [f"accuracy {state.accuracy:.1%}" if state.accuracy is not None else "", state.note]
    return "  ".join(part for part in numbers if part)
