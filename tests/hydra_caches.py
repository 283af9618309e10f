"""Caches inside Hydra, which otherwise reads, parses and merges the same files for every composition of a session, and
a quicker copy of OmegaConf's nodes.

A cached file is read again if it has changed. `test_config.py` compares compositions with and without the caches."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable
from functools import cache
from itertools import takewhile
from pathlib import Path
from typing import Any

import pytest
from hydra._internal import config_loader_impl, config_repository, defaults_list
from hydra.plugins.config_source import ConfigResult
from omegaconf import DictConfig, OmegaConf

Loader = config_loader_impl.ConfigLoaderImpl


KEPT = 32  # beginnings of compositions that are held in memory


def _changed(folder: str, name: str) -> int | None:
    """Return when a file of a source was changed, or None if the source is not a folder or has no such file."""
    file = Path(folder.removeprefix("file://"), f"{name.removesuffix('.yaml')}.yaml")
    return file.stat().st_mtime_ns if folder.startswith("file://") and file.is_file() else None


def _files_once(original: Callable[..., Any]) -> Callable[..., Any]:
    loaded: dict[Any, Any] = {}

    def load_config(self: Any, config_path: str) -> Any:
        key = (config_path, *((source.path, _changed(source.path, config_path)) for source in self.sources))
        if key not in loaded:
            loaded[key] = original(self, config_path)
        return copy.copy(loaded[key])

    return load_config


def _copied(original: Callable[..., Any]) -> Callable[..., Any]:
    """Copy a file's content where Hydra would merge it in place. `_beginning_once` gives a merged beginning instead."""

    def load_single_config(self: Any, default: Any, repo: Any) -> ConfigResult:
        if isinstance(default, DictConfig):
            return ConfigResult("", "", copy.deepcopy(default), {})
        result = copy.copy(original(self, default, repo))
        result.config = copy.deepcopy(result.config)
        return result

    return load_single_config


def _beginning_once(original: Callable[..., Any]) -> Callable[..., Any]:
    """Merge once what compositions have in common: Hydra's own settings, with which each begins, and what follows up to
    the first file that differs from those of the composition before."""
    merged: dict[Any, DictConfig] = {}
    before: tuple[Any, ...] = ()

    def compose(self: Any, defaults: list[Any], repo: Any) -> DictConfig:
        nonlocal before
        folders = [source.path for source in repo.get_sources()]
        files = tuple(
            (one.config_path, one.package, one.is_self, *((path, _changed(path, one.config_path)) for path in folders))
            for one in defaults
        )
        own = sum(1 for _ in takewhile(lambda one: one.config_path.startswith("hydra/"), defaults))
        shared = sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(files, before, strict=False)))
        before = files
        start: list[Any] = []
        done = 0
        if len(merged) > KEPT:
            merged.clear()
        for end in sorted({own, shared} - {0}):
            if files[:end] not in merged:
                merged[files[:end]] = original(self, [*start, *defaults[done:end]], repo)
            start, done = [merged[files[:end]]], end
        return original(self, [*start, *defaults[done:]], repo)

    return compose


def _if_needed(original: Callable[..., Any]) -> Callable[..., Any]:
    """Hydra needs this map only for a defaults list with interpolations."""

    def interpolation_map(overrides: Any, defaults: list[Any], self_added: bool) -> Any:
        needed = any(one.is_interpolation() for one in defaults)
        return original(overrides, defaults, self_added) if needed else OmegaConf.create()

    return interpolation_map


def _copied_whole(original: Callable[..., Any]) -> Callable[..., Any]:
    """Copy a node with all below it at once, which takes a fifth of the time of copying each."""

    def deepcopy(self: Any, memo: dict[int, Any]) -> Any:
        parent = self.__dict__["_parent"]
        self.__dict__["_parent"] = None
        try:
            content = pickle.dumps(self, pickle.HIGHEST_PROTOCOL)
        except (pickle.PicklingError, AttributeError, TypeError):  # it holds a class that a test defines
            content = b""
        finally:
            self.__dict__["_parent"] = parent
        if not content:
            return original(self, memo)
        new = pickle.loads(content)
        new.__dict__["_parent"] = parent
        return new

    return deepcopy


PLACES: list[tuple[Any, str, Callable[..., Any]]] = [
    (config_repository.ConfigRepository, "load_config", _files_once),
    (Loader, "_load_single_config", _copied),
    (Loader, "_compose_config_from_defaults_list", _beginning_once),
    (defaults_list, "_create_interpolation_map", _if_needed),
    (DictConfig, "__deepcopy__", _copied_whole),
]
ORIGINALS = {name: getattr(owner, name) for owner, name, _ in PLACES}


@cache
def install() -> None:
    """Put the caches into this process, once."""
    for owner, name, replacement in PLACES:
        setattr(owner, name, replacement(ORIGINALS[name]))


def remove(patch: pytest.MonkeyPatch) -> None:
    """Restore Hydra for one test."""
    for owner, name, _ in PLACES:
        patch.setattr(owner, name, ORIGINALS[name])
