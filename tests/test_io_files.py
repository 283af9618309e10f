"""Atomic writing of files and folders, and reading of the files of a run."""

from __future__ import annotations

import json
import os
import resource
import string
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from safetensors.torch import save_file

from simplerl.errors import ConfigError
from simplerl.io.files import (
    RESTORE,
    atomic_file,
    atomic_folder,
    disk_full,
    read_json,
    read_jsonl,
    read_lines_backwards,
    read_parquet,
    read_yaml,
    write_text,
)


def _fill(folder: Path, text: str) -> None:
    (folder / "deep").mkdir()
    (folder / "deep/file").write_text(text)


def _fail_after(write: Callable[..., Any], *arguments: Any) -> None:
    write(*arguments)
    raise OSError("disk full")


def test_a_file_is_replaced_only_when_the_block_succeeds(tmp_path: Path) -> None:
    path = tmp_path / "a.bin"
    with atomic_file(path) as temporary:
        temporary.write_bytes(b"old")
        assert not path.exists()
    with pytest.raises(OSError, match="disk full"), atomic_file(path) as temporary:
        _fail_after(temporary.write_bytes, b"ne")
    assert path.read_bytes() == b"old" and [p.name for p in tmp_path.iterdir()] == ["a.bin"]


def test_links_and_devices_are_kept(tmp_path: Path) -> None:
    target, link = tmp_path / "target", tmp_path / "link"
    target.write_text("old")
    link.symlink_to(target)
    write_text(link, "new")
    assert link.is_symlink() and target.read_text() == "new"
    write_text(Path(os.devnull), "discarded")
    assert not Path(os.devnull).is_file()


def test_a_folder_is_replaced_only_when_the_block_succeeds(tmp_path: Path) -> None:
    path = tmp_path / "checkpoint"
    with atomic_folder(path) as temporary:
        _fill(temporary, "old")
    with pytest.raises(OSError, match="disk full"), atomic_folder(path) as temporary:
        _fail_after(_fill, temporary, "ne")
    assert (path / "deep/file").read_text() == "old" and [p.name for p in tmp_path.iterdir()] == ["checkpoint"]
    (tmp_path / ".checkpoint").mkdir()
    (tmp_path / ".checkpoint/half").write_text("left by a killed process")
    with atomic_folder(path) as temporary:
        _fill(temporary, "new")
    assert (path / "deep/file").read_text() == "new" and [p.name for p in tmp_path.iterdir()] == ["checkpoint"]


def test_json_lines_without_an_incomplete_last_line(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    assert list(read_jsonl(path)) == []
    for end in ("", "\n", '\n{"step": 2, "lo', "\n\0\0\0\n"):
        path.write_text('{"step": 0}\n\n{"step": 1, "text": "\u2028"}' + end)
        assert [row["step"] for row in read_jsonl(path)] == [0, 1]
    path.write_text('{"step": 0}\n{"st\n{"step": 2}\n')
    with pytest.raises(ConfigError, match=r"metrics\.jsonl is damaged \(line 2: .*\): remove it"):
        list(read_jsonl(path))


def _deep(path: Path) -> None:
    path.write_text("[" * 100_000)


def _folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


DAMAGES: dict[str, Callable[[Path], Any]] = {
    "empty": lambda path: path.write_bytes(b""),
    "blank": lambda path: path.write_text("\n\n"),
    "cut": lambda path: path.write_bytes(path.read_bytes()[: path.stat().st_size // 2]),
    "binary": lambda path: path.write_bytes(bytes(range(256)) * 8),
    "a list": lambda path: path.write_text("[1, 2]"),
    "a number": lambda path: path.write_text("7"),
    "foreign": lambda path: path.write_text('{"id": 12}'),
    "another type": lambda path: path.write_text('{"step": "three"}'),
    "null": lambda path: path.write_text('{"step": null}'),
    "deep": _deep,
    "a folder": _folder,
    "missing": Path.unlink,
    "a loop of links": lambda path: (path.unlink(), path.symlink_to(path)),
}
READERS: dict[str, Callable[[Path], Any]] = {
    "json": lambda path: read_json(path, kinds={"step": int}),
    "yaml": lambda path: read_yaml(path, kinds={"step": int}),
    "jsonl": lambda path: list(read_jsonl(path, kinds={"step": int})),
    "parquet": read_parquet,
}
# A file that is appended to may be absent or end in an incomplete line.
HARMLESS = {("jsonl", damage) for damage in ("empty", "blank", "cut", "missing", "deep")}


@pytest.mark.parametrize("damage", DAMAGES)
@pytest.mark.parametrize("kind", READERS)
def test_a_damaged_file_is_one_sentence(kind: str, damage: str, tmp_path: Path) -> None:
    path = tmp_path / f"file.{kind}"
    if kind == "parquet":
        pq.write_table(pa.table({"step": [1, 2]}), path)
        assert READERS[kind](path).column_names == ["step"]
    else:
        path.write_text('{"step": 3, "text": "abcdefghijklmnopqrstuvwxyz"}\n')
        row = {"step": 3, "text": string.ascii_lowercase}
        assert READERS[kind](path) == ([row] if kind == "jsonl" else row)
    DAMAGES[damage](path)
    if (kind, damage) in HARMLESS:
        assert READERS[kind](path) == []
        return
    with pytest.raises(ConfigError) as refused:
        READERS[kind](path)
    message = str(refused.value)
    assert message.startswith(str(path)) and message.endswith(f": {RESTORE}.") and "\n" not in message
    assert len(message) < 500


def test_a_file_of_another_user_is_one_sentence(tmp_path: Path) -> None:
    path = tmp_path / "status.json"
    path.write_text("{}")
    path.chmod(0)
    user = os.geteuid()
    if user == 0:
        os.seteuid(65534)  # nobody: root may read everything
    try:
        with pytest.raises(ConfigError, match=r"status\.json cannot be read \(Permission denied\): remove it"):
            read_json(path)
    finally:
        os.seteuid(user)


def test_json_lines_are_read_one_at_a_time(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    with path.open("w") as file:
        for step in range(20_000):
            file.write(json.dumps({"step": step, "text": "x" * 1000}) + "\n")
    tracemalloc.start()
    assert sum(row["step"] for row in read_jsonl(path)) == 199_990_000
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < path.stat().st_size / 20


def test_lines_are_read_from_the_end(tmp_path: Path) -> None:
    path = tmp_path / "log"
    lines = [f"line {number} {'x' * (number % 5000)}".encode() for number in range(300)]
    path.write_bytes(b"\n".join(lines))
    assert list(read_lines_backwards(path)) == lines[::-1]
    assert list(read_lines_backwards(tmp_path / "none")) == [] == list(read_lines_backwards(tmp_path))
    with path.open("r+b") as file:
        file.truncate(1 << 40)  # a sparse file that nobody could read from its beginning
        file.seek(0, os.SEEK_END)
        file.write(b"\nlast\n")
    assert next(line for line in read_lines_backwards(path) if line) == b"last"


@pytest.mark.parametrize("write", ["text", "safetensors", "torch", "parquet"])
def test_a_full_disk_is_recognized(write: str, tmp_path: Path) -> None:
    """Each library reports the system's error in another way."""
    tensors, table = {"a": torch.zeros(1 << 18)}, pa.table({"a": np.random.default_rng(0).random(1 << 18)})
    writers: dict[str, Callable[[Path], Any]] = {
        "text": lambda path: write_text(path, "x" * (1 << 20)),
        "safetensors": lambda path: save_file(tensors, path),
        "torch": lambda path: torch.save(tensors, path.open("wb")),
        "parquet": lambda path: pq.write_table(table, path),
    }
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 16, before[1]))
    try:
        with pytest.raises(Exception) as failed:  # noqa: PT011 (of the library)
            writers[write](tmp_path / "file")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert disk_full(failed.value) == "a file is too large", repr(failed.value)
    assert disk_full(ValueError("other")) == "" == disk_full(FileNotFoundError(2, "none"))
