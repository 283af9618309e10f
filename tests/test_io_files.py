"""Atomic writing of files and folders, and reading of the files of a run."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from simplerl.errors import ConfigError
from simplerl.io.files import atomic_file, atomic_folder, read_json, read_jsonl, read_yaml, write_text


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
    assert (path / "deep/file").read_text() == "old"
    with atomic_folder(path) as temporary:  # what the failed attempt left is removed
        _fill(temporary, "new")
    assert (path / "deep/file").read_text() == "new" and [p.name for p in tmp_path.iterdir()] == ["checkpoint"]


def test_json_lines_without_an_incomplete_last_line(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    assert read_jsonl(path) == []
    for end in ("", "\n", '\n{"step": 2, "lo', "\n\0\0\0\n"):
        path.write_text('{"step": 0}\n\n{"step": 1, "text": "\u2028"}' + end)
        assert [row["step"] for row in read_jsonl(path)] == [0, 1]
    path.write_text('{"step": 0}\n{"st\n{"step": 2}\n')
    with pytest.raises(ConfigError, match=r"metrics\.jsonl is damaged \(line 2: .*\): remove it"):
        read_jsonl(path)


def test_damaged_files_are_named_in_one_line(tmp_path: Path) -> None:
    path = tmp_path / "file"
    for read, content in ((read_json, "{"), (read_json, "[]"), (read_yaml, "a: [1\nb: 2"), (read_yaml, "")):
        path.write_text(content)
        with pytest.raises(ConfigError, match=r"^[^\n]*file is damaged \([^\n]+\): remove it[^\n]*$"):
            read(path)
    path.write_bytes(b"\xff")
    with pytest.raises(ConfigError, match="damaged"):
        read_json(path)
