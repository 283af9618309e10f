"""Any mixture of sources -> one set of frames.

A source is a run folder, a sweep's folder (runs/.sweeps/NAME), a folder of any depth with run folders, exported CSV
files and offline W&B runs in it, one such file, or wandb:ENTITY/PROJECT (wandb:ENTITY/PROJECT/RUN) for the histories on
a W&B server. Within a run folder its own files are read, not the W&B folder in it: name that folder (RUN/wandb) to read
it.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from analysis.folders import read_folder
from analysis.frames import Frames, RunData, assemble
from analysis.wandb_csv import UnreadableCsv, read_csv
from analysis.wandb_names import identified
from analysis.wandb_offline import NotAWandbFile, read_offline
from simplerl.sweeps import manifest

API = "wandb:"
RUN_FILES = {"config.yaml", "environment.json"}  # what makes a folder a run folder


class SourceError(ValueError):
    """A source that cannot be read; the message is one sentence for the user."""


def run_folders(path: Path) -> list[Path]:
    """The run folders at or under `path`, by name."""
    return sorted(place for place, is_run in _walk(path) if is_run)


def _walk(path: Path) -> list[tuple[Path, bool]]:
    """Run folders (True) and files (False) at or under a path; a run folder is not entered. Of a sweep: its runs."""
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
    """Raises SourceError where a source does not exist or holds no run."""
    notes: list[str] = []
    found: list[RunData] = []
    for source in sources:
        if str(source).startswith(API):
            from analysis.wandb_api import read_project

            found += read_project(str(source).removeprefix(API), notes)
        else:
            found += _read_path(Path(source), notes)
    # Parts of one run in the order in which they were written: a resumed offline run is several folders.
    found.sort(key=lambda one: (one.created or "") if one.source == "wandb offline" else "")
    return assemble(identified(found, notes), notes)


def _read_path(path: Path, notes: list[str]) -> list[RunData]:
    if not path.exists():
        raise SourceError(f"{path} does not exist: name a run folder, a folder of them, W&B exports or wandb:PROJECT.")
    places = _walk(path)
    found = _read_folders([place for place, is_run in places if is_run], notes)
    for place, is_run in places:
        if is_run:
            continue
        if place.suffix == ".wandb":
            try:
                one = read_offline(place, notes)
            except NotAWandbFile as error:
                raise SourceError(f"{place} {error}: name the file that `wandb` wrote.") from None
            found += [one] if one else []
        else:
            try:
                runs = read_csv(place, notes)
            except UnreadableCsv as error:
                raise SourceError(f"{place} {error}.") from error
            if runs is None:
                notes.append(f"{place}: neither a line plot nor a runs table of W&B, left out.")
            found += runs or []
    if not found:
        raise SourceError(f"{path} holds no run: neither a run folder (config.yaml, metrics.jsonl) nor a W&B export.")
    return found


def _read_folders(folders: Sequence[Path], notes: list[str]) -> list[RunData]:
    """A few at a time: Arrow parses without holding Python's lock."""
    own: list[list[str]] = [[] for _ in folders]
    with ThreadPoolExecutor(min(4, os.cpu_count() or 1)) as pool:
        found = list(pool.map(read_folder, folders, own))
    notes += [note for one in own for note in one]
    return found
