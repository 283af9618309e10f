"""Loads runs from any mixture of sources into one set of frames.

A source is one of: a run folder; a sweep's folder (runs/.sweeps/NAME); a folder of any depth that holds run folders,
exported CSV files or offline W&B runs; one such file; wandb:ENTITY/PROJECT or wandb:ENTITY/PROJECT/RUN for histories on
a W&B server. A run folder is read from its own files; to read the W&B files inside it, name RUN/wandb.
"""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from datetime import datetime
from pathlib import Path

from analysis.folders import naming, read_run_folder
from analysis.frames import Frames, assemble
from analysis.run_data import RunData, SourceError
from analysis.wandb_readers.exports import SUFFIXES, read_export
from analysis.wandb_readers.history import read_project
from analysis.wandb_readers.offline import read_offline
from analysis.wandb_readers.run_ids import resolve_run_ids
from simplerl.sweeps import manifest

SERVER = "wandb:"
RUN_FILES, METRICS = {"config.yaml", "environment.json"}, "metrics.jsonl"  # every run folder has the first two


def find_run_folders(path: Path) -> list[Path]:
    """Return the run folders at or under `path`: those of a sweep in its order, others sorted by path."""
    return [place for place, is_run in _walk(path) if is_run]


def _walk(path: Path) -> list[tuple[Path, bool]]:
    """Return the run folders (True), which are not searched further, and the CSV and .wandb files (False) at or under
    `path` or, for a sweep's folder, at or under the folders of its runs."""
    if path.is_file():
        is_part = path.suffix != ".csv" and all((path.parent / name).is_file() for name in RUN_FILES)
        return [(path.parent, True) if is_part else (path, False)]
    if (path / "sweep.json").is_file():
        with naming(path / "sweep.json"):
            return [place for run in manifest.read(path).runs for place in _walk(Path(run.folder))]
    found = []
    for place, folders, files in os.walk(path):
        if set(files) >= RUN_FILES or METRICS in files:
            found.append((Path(place), True))
            folders.clear()
        else:
            folders.sort()
            found += [(Path(place) / file, False) for file in sorted(files) if file.endswith((*SUFFIXES, ".wandb"))]
    return sorted(found, key=lambda one: not one[1])


def load(sources: Sequence[str | Path]) -> Frames:
    """Return all runs of `sources`. A damaged run or file is skipped, and a note names it.

    Raises SourceError if a source does not exist or contains no run, or if everything in all of them is damaged."""
    notes: list[str] = []
    found: list[RunData] = []
    faults: list[SourceError] = []
    for source in sources:
        if str(source).startswith(SERVER):
            found += read_project(str(source).removeprefix(SERVER), notes)
        else:
            found += _read_path(Path(source), notes, faults)
    if not found and faults:
        raise faults[0] if len(faults) == 1 else SourceError(f"{faults[0]} {len(faults) - 1} other parts failed, too.")
    notes += [f"Left out: {fault}" for fault in faults]
    # Later parts of a run take precedence, and a resumed offline run is several folders: sort them by creation time.
    found.sort(key=lambda one: (one.created or "") if one.source == "wandb offline" else "")
    return assemble(_in_order(resolve_run_ids(found, notes), sources), notes)


def _read_path(path: Path, notes: list[str], faults: list[SourceError]) -> list[RunData]:
    if not path.exists():
        raise SourceError(f"{path} does not exist: name a run folder, a folder of run folders, or a W&B export.")
    places = _walk(path)
    if not places:
        raise SourceError(
            f"{path} contains no run: name a run folder (config.yaml, environment.json, metrics.jsonl) or a W&B export."
        )
    found = _read_run_folders([place for place, is_run in places if is_run], notes, faults)
    for file in (place for place, is_run in places if not is_run):
        try:
            with naming(file):
                if file.suffix == ".wandb":
                    found += [read_offline(file, notes)]
                else:
                    found += read_export(file, notes)
        except SourceError as error:
            faults.append(error)
    return found


def _read_run_folders(folders: Sequence[Path], notes: list[str], faults: list[SourceError]) -> list[RunData]:
    """Read run folders in parallel threads, which is faster because Arrow parses without holding the GIL. Appends notes
    and faults."""
    notes_of: list[list[str]] = [[] for _ in folders]
    with ThreadPoolExecutor(min(4, os.cpu_count() or 1)) as pool:
        found = list(pool.map(_read_or_fault, folders, notes_of))
    notes += [note for own in notes_of for note in own]
    faults += [one for one in found if isinstance(one, SourceError)]
    return [one for one in found if isinstance(one, RunData)]


def _read_or_fault(folder: Path, notes: list[str]) -> RunData | SourceError:
    try:
        with naming(folder):
            return read_run_folder(folder, notes)
    except SourceError as error:
        return error


def _in_order(found: list[RunData], sources: Sequence[str | Path]) -> list[RunData]:
    """Sort the parts of all runs: by the creation time of the sweep that lists the run and its place in the sweep,
    otherwise by the run's start time; runs with neither come last."""
    listed: dict[Path, tuple[float, int]] = {}
    for root in dict.fromkeys(root for source in sources for root in (Path(source), Path(source).parent)):
        with suppress(ValueError, LookupError, TypeError, OSError):  # only the order is lost if a sweep.json is damaged
            sweeps = [manifest.read(root)] if (root / "sweep.json").is_file() else manifest.all_sweeps(root)
            for sweep in sweeps:
                for index, run in enumerate(sweep.runs):
                    listed.setdefault(Path(run.folder).resolve(), (_seconds(sweep.created), index))
    places: dict[str, tuple[float, int]] = {}
    for one in found:
        place = listed.get(Path(one.where).resolve()) if one.source == "folder" else None
        started = (_seconds(one.created), 0) if one.created else None
        if (known := place or started) is not None:
            places.setdefault(one.id, known)
    return sorted(found, key=lambda one: places.get(one.id, (math.inf, 0)))


def _seconds(time: str) -> float:
    """Return the seconds since 1970 of an ISO time, local if it names no zone; infinite for other text."""
    try:
        return datetime.fromisoformat(time).timestamp()
    except ValueError:
        return math.inf
