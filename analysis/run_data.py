"""Defines what every reader of runs returns (`RunData`) or raises (`SourceError`), and parses numbers and settings."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pandas as pd

_NUMBER = re.compile(r"[+-]?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?")  # not "4711_0", which float() would accept
_NOT_FINITE = {"nan": math.nan, "infinity": math.inf, "inf": math.inf, "-infinity": -math.inf, "-inf": -math.inf}
_SUMMARY_KEYS = ("last", "max", "min", "mean", "best")  # in order of preference
_IDENTIFIER = re.compile(r"(?:^|[._/])(?:\w*sha|commit|revision|\w*id|name|path)$", re.IGNORECASE)


class SourceError(ValueError):
    """Raised if a source of runs cannot be read; the message is one sentence for the user."""


@dataclass(frozen=True)
class RunData:
    """Holds what one source contains about one run."""

    id: str
    name: str
    state: str | None  # finished, running, failed, crashed, interrupted or killed; None: unknown
    source: str  # folder, or wandb table, plot, group, history, api or offline
    where: str  # path or URL path of the source
    config: dict[str, Any] = field(default_factory=dict)  # dotted setting -> value
    summary: dict[str, float] = field(default_factory=dict)  # metric -> last value
    metrics: pd.DataFrame | None = None  # columns phase, step, and one for each metric
    created: str | None = None  # time of the start, in ISO format
    seconds: float | None = None  # duration of the run
    attempts: int = 1  # starts of the run, resumptions included
    kind: str = ""  # "evaluation" if evaluate.py wrote the folder
    environment: dict[str, Any] = field(default_factory=dict)  # environment.json; empty for W&B
    status: dict[str, Any] = field(default_factory=dict)  # status.json; empty for W&B
    alarms: list[str] = field(default_factory=list)  # of simplerl.runs.alarms


def temporary_id(name: str, occurrence: int) -> str:
    """Return a temporary id for a run known by name only: number `occurrence` (from 0) of that name in its file."""
    return f"?{name}#{occurrence}"


def parse_number(value: Any) -> float | None:
    """Return a metric's value as a float; None if it is empty or not a number.

    Text such as "0.5", "NaN" and "Infinity" is accepted. From a dict, as W&B's define_metric(summary="max,last")
    stores it, the first of last, max, min, mean and best is taken."""
    if isinstance(value, bool):
        return float(value)
    if isinstance(value, int | float):
        return float(value)
    if isinstance(value, str):
        text = value.strip()
        if _NUMBER.fullmatch(text):
            return float(text)
        return _NOT_FINITE.get(text.lower())
    if isinstance(value, Mapping):
        return next((parse_number(value[key]) for key in _SUMMARY_KEYS if key in value), None)
    return None


def parse_setting(value: Any, key: str = "") -> Any:
    """Return a setting in one form for all sources: "0.10" becomes 0.1, "true" True, "8.0" the integer 8, "" None, and
    a list "a, b".

    "none" and "null" stay text because `reward=none` is a valid choice. So do values such as `0123` if the key is that
    of an id, name, path or commit."""
    if isinstance(value, str):
        text = value.strip()
        if not text:
            return None
        if _NUMBER.fullmatch(text) and not _IDENTIFIER.search(key):
            value = float(text)
        elif text.lower() in ("true", "false"):
            return text.lower() == "true"
        else:
            return text
    if isinstance(value, float) and value.is_integer() and abs(value) < 1e15:
        return int(value)
    if isinstance(value, list | tuple):
        return ", ".join(str(parse_setting(one)) for one in value)
    return value


def flatten_config(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Return dotted keys and parsed settings: {"reward": {"wrong": -0.5}} becomes {"reward.wrong": -0.5}.

    W&B's wrappers {"value": x, "desc": ...} are removed."""
    flat: dict[str, Any] = {}
    for key, value in tree.items():
        if isinstance(value, Mapping) and value.keys() >= {"value"} and value.keys() <= {"value", "desc"}:
            value = value["value"]  # noqa: PLW2901
        name = f"{prefix}{key}"
        if isinstance(value, Mapping) and value:
            flat |= flatten_config(value, f"{name}.")
        else:
            flat[name] = parse_setting(value, name)
    return flat
