"""Read the rows of the data set at a path: a file, a folder or pattern of shards, a saved data set, or a Hub id."""

from __future__ import annotations

import glob
import logging
import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from simplerl.data.readers import READERS, read_file
from simplerl.data.rows import RowError, file_format, location_of, setting
from simplerl.errors import ConfigError, import_optional, require

log = logging.getLogger(__name__)

Located = tuple[str, "dict[str, Any] | RowError"]  # where a row is, for error messages, and its content
SPLITS = ("train", "test", "validation", "valid", "val", "dev", "eval")
METADATA = ("dataset_info.json", "dataset_infos.json", "dataset_dict.json", "state.json")


def read_rows(
    path: str, split: str | None = None, hub: Mapping[str, Any] | None = None, encoding: str | None = "utf-8"
) -> Iterator[Located]:
    """Yield the rows of a file, of shards, of a saved data set or of a Hub data set in order, each with its location.

    A row that cannot be read is yielded as a RowError. Raises ConfigError if `path` itself cannot be read.

    path: a file, a folder of shards, a pattern such as `data/train-*.parquet`, a folder written by
        `datasets.save_to_disk`, or a Hub id.
    split: the split of a folder or Hub data set; None means "train" if there are several.
    hub: further arguments of `datasets.load_dataset`, used for Hub ids only.
    encoding: of text files; None means UTF-8 where the caller has no such setting.
    """
    file = Path(path).expanduser()
    if file.is_dir():
        if any((file / name).is_file() for name in ("dataset_dict.json", "state.json")):
            return _saved_dataset(file, split)
        return _files(_shards(file, split), encoding)
    is_pattern = not file.exists() and glob.has_magic(str(file))
    if is_pattern or file.exists() or file_format(file) in READERS:
        what = "a pattern of files" if is_pattern else "a single file"
        require(not split, f"{path} is {what}, which has no splits: set {setting('split')}=null.")
        return _files(_matches(file) if is_pattern else [_one_file(file)], encoding)
    if re.fullmatch(r"[\w.-]+(/[\w.-]+)?", path) is None:
        raise ConfigError(
            f"{path} is neither an existing file or folder nor a Hub id: correct the path, or write owner/name."
        )
    return _hub_dataset(path, split or "train", dict(hub or {}))


def _files(files: Iterable[Path], encoding: str | None) -> Iterator[Located]:
    iterators = [(file, read_file(file, encoding)) for file in files]  # checks all before reading the first
    return ((location_of(file, number), row) for file, rows in iterators for number, row in rows)


def _one_file(file: Path) -> Path:
    """Return the path unchanged. Warn that only this file is read, if its name is that of one of several shards."""
    shard = re.search(r"-\d+-of-(\d+)\.", file.name)
    if shard and int(shard[1]) > 1:
        log.warning("%s is one of %d shards: name their folder to read all of them", file, int(shard[1]))
    return file


def _natural(file: Path) -> list[Any]:
    """Return a sorting key that puts part-2 before part-10."""
    return [int(part) if part.isdigit() else part for part in re.split(r"(\d+)", str(file))]


def _matches(pattern: Path) -> list[Path]:
    found = sorted((Path(name) for name in glob.glob(str(pattern), recursive=True)), key=_natural)
    files = [file for file in found if file.is_file()]
    require(bool(files), f"{pattern} matches no file: correct the pattern (relative paths start at {Path.cwd()}).")
    return files


def _shards(folder: Path, split: str | None) -> list[Path]:
    """Return the data files of a folder, at any depth, or those of a split. Raises ConfigError if they are not the
    shards of one data set."""
    relative = [file.relative_to(folder) for file in folder.rglob("*") if file.is_file()]
    names = [
        name
        for name in sorted(relative, key=_natural)
        if file_format(name) in READERS and name.name not in METADATA and not any(p[0] in "._" for p in name.parts)
    ]
    require(bool(names), f"{folder} holds no data files ({', '.join(READERS)}): name another folder or a file.")
    groups: dict[str, list[Path]] = {}
    for name in names:
        groups.setdefault(re.sub(r"\d+", "#", str(name)), []).append(name)
    if len(groups) == 1 and len(names) > 1 and not _are_numbered(names):
        groups = {str(name): [name] for name in names}
    splits = {_split_of(group[0]): group for group in groups.values()}
    if split is None and len(groups) == 1:
        chosen = names
    elif len(splits) == len(groups) and None not in splits:
        name_of_split = split or "train"
        options = " or ".join(f"{setting('split')}={one}" for one in splits)
        require(name_of_split in splits, f"{folder} has no split {name_of_split!r}: set {options}.")
        chosen = splits[name_of_split]
        log.info("%s: the split %s of %s", folder, name_of_split, ", ".join(map(str, splits)))
    elif split is not None:
        raise ConfigError(f"{folder} has no splits: set {setting('split')}=null.")
    else:
        first = next(iter(groups.values()))[0]
        raise ConfigError(
            f"{folder} holds files that are not shards of one data set ({', '.join(str(name) for name in names[:4])}"
            f"{', ...' if len(names) > 4 else ''}): name one of them, such as {setting('path')}={folder / first}, or a "
            "pattern."
        )
    _check_complete(folder, chosen)
    return [folder / name for name in chosen]


def _are_numbered(names: list[Path]) -> bool:
    """Return whether names that differ in digits alone are numbered without gaps: part-0 and part-1, not aime24 and
    aime25 or math500 and math12."""
    numbers = [[int(one) for one in re.findall(r"\d+", str(name))] for name in names]
    varying = [column for column in zip(*numbers, strict=True) if len(set(column)) > 1]
    first = sorted(varying[0]) if len(varying) == 1 else []
    return bool(first) and first[0] <= 1 and first[-1] - first[0] < 2 * len(first)


def _split_of(name: Path) -> str | None:
    """Return the split that a file's name or folder begins with, such as "train" for data/train-00000-of-00002; None if
    it begins with none."""
    for part in reversed(name.parts):
        word = re.match(r"[a-z]+", part.lower())
        if word and word[0] in SPLITS:
            return word[0]
    return None


def _check_complete(folder: Path, names: list[Path]) -> None:
    """Raise ConfigError if there are fewer shards than their names state, such as 00000-of-00002."""
    counts = {int(found[1]) for name in names if (found := re.search(r"-\d+-of-(\d+)\.", name.name))}
    if counts and max(counts) > len(names):
        raise ConfigError(
            f"{folder} holds {len(names)} of {max(counts)} shards: copy the missing ones, or read the existing ones "
            f"with {setting('path')}={folder / names[0].parent}/*{''.join(names[0].suffixes)}."
        )


def _numbered(path: object, rows: Iterable[Any]) -> Iterator[Located]:
    return ((f"{path}, row {number}", row) for number, row in enumerate(rows, start=1))


def _saved_dataset(path: Path, split: str | None) -> Iterator[Located]:
    datasets = import_optional("datasets", f"{path}, which datasets.save_to_disk wrote,")
    try:
        data = datasets.load_from_disk(str(path))
    except Exception as error:  # damaged files raise errors of several libraries
        raise ConfigError(
            f"{path} is not a valid saved data set ({_first_line(error)}): copy or write it again."
        ) from error
    if isinstance(data, datasets.DatasetDict):
        name = split or "train"
        options = " or ".join(f"{setting('split')}={one}" for one in data)
        require(name in data, f"{path} has no split {name!r}: set {options}.")
        data = data[name]
    elif split:
        raise ConfigError(f"{path} has no splits: set {setting('split')}=null.")
    return _numbered(path, data)


def _hub_dataset(name: str, split: str, arguments: dict[str, Any]) -> Iterator[Located]:
    datasets = import_optional("datasets", f"The Hub data set {name}")
    try:
        data = datasets.load_dataset(name, split=split, **arguments)
    except Exception as error:  # of the network, of the Hub, and of the libraries that read its files
        raise ConfigError(
            f"The Hub data set {name} (split {split}) cannot be loaded ({_first_line(error).rstrip('.')}): correct "
            f"{setting('path')}, {setting('split')} or {setting('hub')}, or download the files and set "
            f"{setting('path')} to their folder."
        ) from error
    return _numbered(name, data)


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]
