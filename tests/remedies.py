"""Finds every message in the source that proposes something to type, and matches messages with their raise sites."""

from __future__ import annotations

import ast
import re
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Any

Test = Callable[..., Any]
ROOT = Path(__file__).resolve().parent.parent
RAISERS = {"require": 1, "ConfigError": 0, "SourceError": 0, "RunFailed": 0, "SlurmError": 0, "error": 0}
# A setting with a value, a setting to set, raise or lower, an option of a command line, or a program with an argument.
PROPOSED = re.compile(
    r"(?<![\w{}.])[a-z_]+(?:[./@][a-z_]+)*=[\w\[{]|\{\}(?:\.[a-z_]+)?=[\w{\[]|(?<!\w)--[a-z]+|~prompt"
    r"|\b(?:set|raise|lower|empty) (?:\{\}|[a-z_]+)\.[a-z_]+|\bhf download"
    r"|\brun (?:pip|chmod|python)|\bpip install|\bmkdir\b|`iconv"
)
# Every message of these modules is about a setting, so each one has a remedy that can be typed.
ABOUT_SETTINGS = ("config/checks.py", "config/load.py", "cluster/layout.py")


def text_of(node: ast.expr) -> str | None:
    """Return a literal message with {} in place of values; None if it is not a literal."""
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        return node.value
    if isinstance(node, ast.JoinedStr):
        return "".join(v.value if isinstance(v, ast.Constant) else "{}" for v in node.values)  # type: ignore[misc]
    return None


def _calls(path: Path) -> Iterator[tuple[str, ast.expr]]:
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Call):
            name = getattr(node.func, "id", None) or getattr(node.func, "attr", "")
            place = RAISERS.get(name)
            if place is not None and len(node.args) == place + 1:
                yield name, node.args[place]


@cache
def messages() -> tuple[str, ...]:
    """Return all literal messages as "file: message", with {} in place of values."""
    files = [*(ROOT / "simplerl").rglob("*.py"), *(ROOT / "analysis").rglob("*.py"), *ROOT.glob("*.py")]
    found = []
    for path in sorted(files):
        name = str(path.relative_to(ROOT)).removeprefix("simplerl/")
        found += [f"{name}: {text}" for _, node in _calls(path) if (text := text_of(node)) is not None]
    return tuple(found)


def with_remedy() -> list[str]:
    """Return the messages whose remedy, after the fault, can be typed."""
    return [one for one in messages() if one.split(":")[0] in ABOUT_SETTINGS or PROPOSED.search(remedy_of(one))]


def remedy_of(message: str) -> str:
    """Return what follows the fault: the part after the first colon with a space of the message."""
    text = message.split(": ", 1)[1]
    return text.split(": ", 1)[-1]


def sites(said: str) -> list[str]:
    """Return the messages of the source that can read like `said`, the most specific one first."""
    fitting = [one for one in messages() if _pattern(one).fullmatch(said)]
    return sorted(fitting, key=lambda one: -len(one.split(": ", 1)[1].replace("{}", "")))


@cache
def _pattern(message: str) -> re.Pattern[str]:
    return re.compile(".*".join(map(re.escape, message.split(": ", 1)[1].split("{}"))), re.S)


COVERED: list[str] = []


def covers(*starts: str) -> Callable[[Test], Test]:
    """Mark a test that provokes the messages with these starts and does what they say."""
    COVERED.extend(starts)
    return lambda test: test
