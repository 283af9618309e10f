"""Launches the runs that Hydra's sweeper requests: composes and checks them, records the sweep, and starts them."""

from __future__ import annotations

import signal
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

from simplerl.cli import run_label
from simplerl.config.load import load
from simplerl.config.secrets import hide_in_overrides
from simplerl.errors import ConfigError
from simplerl.io.places import spelled
from simplerl.runs.folder import run_folder
from simplerl.sweeps import manifest
from simplerl.sweeps.manifest import Sweep, SweepRun
from simplerl.sweeps.slurm import QueuedJob, Resources, SlurmError, check_backend, queued, submit
from simplerl.sweeps.slurm_job import RunJob
from simplerl.sweeps.states import RunState, state_of

SLURM_TIMEOUT = 600.0  # seconds for which SLURM may fail to answer
POLLS_WITHOUT_JOB = 3  # in a row, before an unfinished run counts as ended (its status file may arrive late)


@dataclass(frozen=True)
class PlannedRun:
    """Holds a run of a sweep with its composed and resolved configuration."""

    overrides: list[str]
    job: RunJob


def plan_runs(loader: ConfigLoader, config: DictConfig, job_overrides: Sequence[Sequence[str]]) -> list[PlannedRun]:
    """Compose each run and determine its label and folder."""
    runs = []
    for overrides in job_overrides:
        composed = loader.load_sweep_config(config, list(overrides))
        hydra, raw = composed.hydra, composed.copy()
        OmegaConf.set_readonly(raw, False)
        with open_dict(raw):
            del raw["hydra"]
        raw.choices = {group: str(choice) for group, choice in hydra.runtime.choices.items() if "hydra/" not in group}
        OmegaConf.resolve(raw)  # freeze: it must not change between submission and start
        resolved: Any = OmegaConf.to_container(raw, resolve=True, enum_to_str=True)
        label = run_label(raw.run.name, hydra.job.override_dirname, in_sweep=True)
        own = [override for override in overrides if not override.startswith("hydra")]
        runs.append(PlannedRun(own, RunJob(raw, label, run_folder(resolved, label).absolute())))
    return runs


def open_sweep(folder: Path, runs: Sequence[PlannedRun], launcher: str) -> tuple[Sweep, list[SweepRun]]:
    """Create or read the sweep in `folder`, add these runs to it, and return it with their entries. launcher: local or
    slurm."""
    folder = folder.absolute()
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "multirun.yaml").unlink(missing_ok=True)  # Hydra's record, which shows passwords; sweep.json replaces it
    known = (folder / "sweep.json").exists()
    sweep = manifest.read(folder) if known else Sweep(folder, str(Path.cwd()))
    entries = [sweep.add(SweepRun(run.overrides, str(run.job.folder), list(sys.argv), launcher)) for run in runs]
    return sweep, entries


def _sweep_command(action: str, folder: Path) -> str:
    """Return the command line of sweep.py that applies `action` to this sweep, with --root if it is not under runs/."""
    if folder.parent.name != manifest.FOLDER:
        return f"{spelled('sweep')} {action} {folder}"
    root = folder.absolute().parent.parent
    elsewhere = "" if root == Path("runs").absolute() else f" --root {root}"
    return f"{spelled('sweep')} {action} {folder.name}{elsewhere}"


def launch_local(folder: Path, runs: Sequence[PlannedRun]) -> None:
    """Check the runs, record the sweep and print the state of each run. Hydra's own launcher then starts them one after
    the other; finished runs return at once. Raises CompactHydraException if a configuration is invalid."""
    try:
        _check(runs)
    except ConfigError as error:
        _remove_unstarted(folder)
        raise CompactHydraException(f"Nothing was started: {error}") from error
    sweep, entries = open_sweep(folder, runs, "local")
    sweep.write()
    print(f"Sweep {sweep.name}: {len(runs)} runs, one after the other. Status: {_sweep_command('status', folder)}")
    names = manifest.labels(entries)
    for entry in entries:
        print(f"  {names[entry.folder]}: {next_action(state_of(entry, None))}", flush=True)


def print_summary(folder: Path) -> None:
    """Print how many runs of a local sweep are in each state, and the command that shows the state of every run."""
    sweep = manifest.read(folder)
    ended = Counter(state_of(run, None).state for run in sweep.runs)
    names = {"pending": "not started"}
    print(f"\nSweep {sweep.name}: {', '.join(f'{count} {names.get(state, state)}' for state, count in ended.items())}")
    print(f"Each run: {_sweep_command('status', folder)}", flush=True)


def launch_slurm(
    folder: Path, root: Path, runs: Sequence[PlannedRun], resources: Resources, wait: bool, poll_s: float
) -> None:
    """Submit the runs that are neither finished, queued nor running as one array, and with `wait` follow them to the
    end. Raises CompactHydraException if a configuration or the submission is refused, or if a followed run did not
    finish."""
    try:
        _check(runs, resources)
        with manifest.submission_lock(root):
            entries, submitted = _submit(folder, root, runs, resources)
    except (ConfigError, SlurmError) as error:
        _remove_unstarted(folder)
        raise CompactHydraException(f"Nothing was submitted: {error}") from error
    print(f"Status: {_sweep_command('status', folder)}    Cancel: {_sweep_command('cancel', folder)}", flush=True)
    if not wait or not submitted:
        return
    signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        follow_runs(entries, poll_s, manifest.jobs_of(root))
    except KeyboardInterrupt:
        print(f"\nThe jobs keep running. To cancel them: {_sweep_command('cancel', folder)}")
        sys.exit(130)


def _remove_unstarted(folder: Path) -> None:
    """Remove the files that Hydra has written for a sweep that is not started; keep those of an existing sweep."""
    if not (folder / "sweep.json").exists():
        (folder / "multirun.yaml").unlink(missing_ok=True)
        with suppress(OSError):
            folder.rmdir()


def _check(runs: Sequence[PlannedRun], resources: Resources | None = None) -> None:
    for run in runs:
        try:
            load(run.job.raw)
            if resources is not None:
                check_backend(run.job, resources)
        except ConfigError as error:
            raise ConfigError(f"{' '.join(hide_in_overrides(run.overrides))}: {error}") from error


def _submit(
    folder: Path, root: Path, runs: Sequence[PlannedRun], resources: Resources
) -> tuple[list[SweepRun], list[SweepRun]]:
    """Submit the runs that are neither finished, queued nor running. Returns the sweep's entries of all runs, and those
    of the submitted ones."""
    sweep, entries = open_sweep(folder, runs, "slurm")
    jobs, earlier = queued(), manifest.jobs_of(root)
    chosen: dict[str, tuple[SweepRun, RunJob]] = {}
    names = manifest.labels(entries)
    print(f"Sweep {sweep.name}: {len(runs)} runs")
    for entry, run in zip(entries, runs, strict=True):
        state = state_of(entry, jobs, earlier.get(entry.folder, ()))
        print(f"  {names[entry.folder]}: {next_action(state)}{'' if state.needs_start else ', not submitted'}")
        if state.needs_start:
            chosen[entry.folder] = (entry, run.job)
    if chosen:
        (sweep.folder / "jobs").mkdir(mode=0o700, exist_ok=True)  # the pickled jobs hold passwords, if there are any
        ids = submit([job for _, job in chosen.values()], resources, sweep.name, sweep.folder / "jobs")
        for (entry, _), (job, log) in zip(chosen.values(), ids, strict=True):
            entry.job, entry.log = job, log
        print(f"Submitted {len(ids)}: {ids[0][0]}{f' to {ids[-1][0]}' if len(ids) > 1 else ''}")
    sweep.write()
    return entries, [entry for entry, _ in chosen.values()]


def next_action(state: RunState) -> str:
    """Return in words what launching this run again will do, such as "already finished" or "running"."""
    where = f"{state.phase} step {state.step}" if state.phase else "the start"
    if state.state == "finished":
        return "already finished"
    if state.job is not None:
        return f"{state.state} as job {state.job}"
    if state.state == "running":
        return "running"
    if state.state == "pending":
        return "new"
    return f"{state.state}, resumes from {where} or the last checkpoint before it"


def follow_runs(
    entries: Sequence[SweepRun],
    poll_s: float,
    known_jobs: Mapping[str, Sequence[str]],
    query: Callable[[], dict[str, QueuedJob]] = queued,
) -> None:
    """Print every change of a run's state until all runs have ended. known_jobs: run folder -> job ids, from this and
    other sweeps. Raises CompactHydraException if a run did not finish, or SLURM does not answer for `SLURM_TIMEOUT`
    seconds."""
    printed: dict[str, str] = {}
    names = manifest.labels(entries)
    polls_without_job = dict.fromkeys((entry.folder for entry in entries), 0)
    while True:
        jobs = _queued_jobs(query, poll_s)
        states = {entry.folder: state_of(entry, jobs, known_jobs.get(entry.folder, ())) for entry in entries}
        for entry in entries:
            state = states[entry.folder]
            alive = state.job is not None or state.state == "running"
            settling = state.state != "finished" and polls_without_job[entry.folder] < POLLS_WITHOUT_JOB
            polls_without_job[entry.folder] = 0 if alive else polls_without_job[entry.folder] + 1
            if printed.get(entry.folder) != state.state and (alive or not settling):
                printed[entry.folder] = state.state
                print(f"{time.strftime('%H:%M:%S')}  {names[entry.folder]}: {describe(state)}", flush=True)
        if all(s.state == "finished" or polls_without_job[folder] > POLLS_WITHOUT_JOB for folder, s in states.items()):
            break
        time.sleep(poll_s)
    ended = [entry for entry in entries if states[entry.folder].state != "finished"]
    if ended:
        raise CompactHydraException(
            f"{len(ended)} of {len(entries)} runs did not finish: {'; '.join(names[entry.folder] for entry in ended)}. "
            "Start the same command again to resume them."
        )


def _queued_jobs(query: Callable[[], dict[str, QueuedJob]], poll_s: float) -> dict[str, QueuedJob]:
    """Return SLURM's queue from `query`, which is repeated every `poll_s` seconds while SLURM does not answer. Raises
    CompactHydraException after `SLURM_TIMEOUT` seconds."""
    deadline = time.monotonic() + SLURM_TIMEOUT
    while True:
        try:
            return query()
        except SlurmError as error:
            if time.monotonic() > deadline:
                raise CompactHydraException(
                    f"SLURM does not answer ({error}); the jobs are not affected: see `{spelled('sweep')} status`."
                ) from error
            print(f"{time.strftime('%H:%M:%S')}  {error} Trying again.", flush=True)
        time.sleep(poll_s)


def describe(state: RunState) -> str:
    numbers = [state.state, f"{state.phase} {state.step}/{state.steps or '?'}" if state.phase else ""]
    numbers += [f"accuracy {state.accuracy:.1%}" if state.accuracy is not None else "", state.note]
    return "  ".join(part for part in numbers if part)
