"""Any mixture of sources -> one set of frames: run folders, folders of run folders, W&B exports and offline runs."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from analysis.folders import read_folder
from analysis.frames import Frames, RunData, assemble, is_run_folder


class SourceError(ValueError):
    """A source that cannot be read; the message is one sentence for the user."""


def run_folders(path: Path) -> list[Path]:
    """The run folders at or under `path`, by name."""
    if is_run_folder(path):
        return [path]
    found = []
    for place, folders, files in os.walk(path):
        if {"config.yaml", "environment.json"} <= set(files):
            found.append(Path(place))
            folders.clear()
    return sorted(found)


def load(sources: Sequence[str | Path]) -> Frames:
    """Raises SourceError where a source does not exist or holds no run."""
    notes: list[str] = []
    found: list[RunData] = []
    for source in sources:
        path = Path(source)
        if not path.exists():
            raise SourceError(f"{source} does not exist: name a run folder, a folder of them, or W&B exports.")
        folders = run_folders(path)
        if not folders:
            raise SourceError(f"{source} holds no run folder (one has config.yaml and metrics.jsonl).")
        found += [read_folder(folder, notes) for folder in folders]
    return assemble(found, notes)
