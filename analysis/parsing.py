"""Text as configurations and exports write it -> Python values."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import Any

_NUMBER = re.compile(r"[+-]?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?")  # no "4711_0": int() would read 47110
_NOT_FINITE = {"nan": math.nan, "infinity": math.inf, "inf": math.inf, "-infinity": -math.inf, "-inf": -math.inf}
_LAST_PARTS = ("last", "max", "min", "mean", "best")  # of a summary that define_metric(summary=...) made a dict
_IDENTITY = re.compile(r"(?:^|[._/])(?:\w*sha|commit|revision|\w*id|name|path)$", re.IGNORECASE)


def number(value: Any) -> float | None:
    """A metric's value: numbers, "0.5", "NaN", "Infinity"; None where there is nothing or something else.

    A dict that W&B's define_metric(summary="max,last") makes gives its "last", else its "max", "best" or "mean"."""
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
        return next((number(value[part]) for part in _LAST_PARTS if part in value), None)
    return None


def plain(value: Any, key: str = "") -> Any:
    """A setting, the same from every source: "0.10" and 0.1 are one number, "true" is True, "" is None.

    "none" and "null" stay text (`reward=none` is a choice), and so do ids, names and commits (`0123`, `4711_0`)."""
    if isinstance(value, str):
        text = value.strip()
        if not text:
            return None
        if _NUMBER.fullmatch(text) and not _IDENTITY.search(key):
            value = float(text)
        elif text.lower() in ("true", "false"):
            return text.lower() == "true"
        else:
            return text
    if isinstance(value, float) and value.is_integer() and abs(value) < 1e15:
        return int(value)
    if isinstance(value, list | tuple):
        return ", ".join(str(plain(one)) for one in value)
    return value


def flatten(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """{"reward": {"wrong": -0.5}} -> {"reward.wrong": -0.5}; W&B's {"value": x, "desc": ...} wrappers are opened."""
    flat: dict[str, Any] = {}
    for key, value in tree.items():
        if isinstance(value, Mapping) and value.keys() >= {"value"} and value.keys() <= {"value", "desc"}:
            value = value["value"]  # noqa: PLW2901
        name = f"{prefix}{key}"
        if isinstance(value, Mapping) and value:
            flat |= flatten(value, f"{name}.")
        else:
            flat[name] = plain(value, name)
    return flat
