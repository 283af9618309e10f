"""Load runs from any mixture of sources into one set of frames.

A source is one of: a run folder; a sweep's folder (runs/.sweeps/NAME); a folder of any depth that holds run folders,
exported CSV files or offline W&B runs; one such file; wandb:ENTITY/PROJECT or wandb:ENTITY/PROJECT/RUN for histories on
a W&B server. A run folder is read from its own files; to read the W&B files inside it, name RUN/wandb.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from analysis.folders import read_run_folder
from analysis.frames import Frames, assemble
from analysis.run_data import RunData, SourceError
from analysis.wandb_readers.exports import read_csv
from analysis.wandb_readers.history import read_project
from analysis.wandb_readers.offline import read_offline
from analysis.wandb_readers.run_ids import resolve_run_ids
from simplerl.sweeps import manifest

SERVER = "wandb:"
RUN_FILES = {"config.yaml", "environment.json"}  # present in every run folder


def find_run_folders(path: Path) -> list[Path]:
    """Return the run folders at or under `path`, sorted by path."""
    return sorted(place for place, is_run in _walk(path) if is_run)


def _walk(path: Path) -> list[tuple[Path, bool]]:
    """Return run folders (True), which are not entered, and CSV and .wandb files (False) at or under `path`; for a
    sweep's folder those of its runs."""
    if path.is_file():
        return [(path, False)]
    if (path / "sweep.json").is_file():
        return [place for run in manifest.read(path).runs for place in _walk(Path(run.folder))]
    found = []
    for place, folders, files in os.walk(path):
        if set(files) >= RUN_FILES:
            found.append((Path(place), True))
            folders.clear()
        else:
            folders.sort()
            found += [(Path(place) / file, False) for file in sorted(files) if file.endswith((".csv", ".wandb"))]
    return found


def load(sources: Sequence[str | Path]) -> Frames:
    """Return all runs of `sources`. Raises SourceError if one cannot be read, does not exist or holds no run."""
    notes: list[str] = []
    found: list[RunData] = []
    for source in sources:
        if str(source).startswith(SERVER):
            found += read_project(str(source).removeprefix(SERVER), notes)
        else:
            found += _read_path(Path(source), notes)
    # Later parts of a run take precedence, and a resumed offline run is several folders: sort them by creation time.
    found.sort(key=lambda one: (one.created or "") if one.source == "wandb offline" else "")
    return assemble(resolve_run_ids(found, notes), notes)


def _read_path(path: Path, notes: list[str]) -> list[RunData]:
    if not path.exists():
        raise SourceError(f"{path} does not exist: name a run folder, a folder that holds some, or a W&B export.")
    places = _walk(path)
    found = _read_run_folders([place for place, is_run in places if is_run], notes)
    for file in (place for place, is_run in places if not is_run):
        if file.suffix == ".wandb":
            run = read_offline(file, notes)
            found += [run] if run else []
        else:
            runs = read_csv(file, notes)
            if runs is None:
                notes.append(f"{file}: skipped, neither a line plot nor a runs table of W&B.")
            found += runs or []
    if not found:
        raise SourceError(
            f"{path} holds no run: name a run folder (config.yaml, environment.json, metrics.jsonl) or a W&B export."
        )
    return found


def _read_run_folders(folders: Sequence[Path], notes: list[str]) -> list[RunData]:
    """Read several folders at a time in threads; Arrow parses without holding the GIL."""
    notes_of: list[list[str]] = [[] for _ in folders]
    with ThreadPoolExecutor(min(4, os.cpu_count() or 1)) as pool:
        found = list(pool.map(read_run_folder, folders, notes_of))
    notes += [note for own in notes_of for note in own]
    return found
