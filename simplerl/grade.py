"""Grades responses from a file: `python -m simplerl.grade in.jsonl out.jsonl [reward=strict] [rule=...] [--bare]`.

Rows are {"response": ..., "answer": ...} in JSON lines, or rollouts in Parquet ("gold" is "answer" too); other
columns pass through. Each comes back, in order, with reward, correct, extracted, status, seconds and parts.
`--bare`: "response" is the answer alone, not a text with a box in it.
Further settings: workers=N, seconds_per_answer=S, memory_gib=G, and any keyword of the reward (wrong=0).
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

from hydra.utils import get_method
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError

from simplerl.errors import ConfigError
from simplerl.rewards.pool import Grader
from simplerl.types import Problem, Reward

OPTIONS = {"workers": int, "seconds_per_answer": float, "memory_gib": float}  # of the Grader


def read_rows(path: Path) -> list[dict[str, Any]]:
    """Rows of a JSON-lines or Parquet file; each has "response" and "answer". Raises ConfigError by row."""
    if not path.is_file():
        raise ConfigError(f"{path} does not exist.")
    if path.suffix == ".parquet":
        import pyarrow.parquet as pq

        try:
            rows: list[dict[str, Any]] = pq.read_table(path).to_pylist()
        except (OSError, ValueError) as error:  # pyarrow's own errors are ValueErrors
            raise ConfigError(f"{path} cannot be read as Parquet: {str(error).splitlines()[0]}") from error
    else:
        try:
            rows = list(_json_rows(path))
        except UnicodeDecodeError as error:
            raise ConfigError(f"{path} is not UTF-8 text (byte {error.start}): write it as UTF-8.") from error
    for number, row in enumerate(rows, 1):
        if "answer" not in row and "gold" in row:
            row["answer"] = row["gold"]
        for key in ("response", "answer"):
            if not isinstance(row.get(key), (str, int, float)) or isinstance(row[key], bool):
                raise ConfigError(f'{path}, row {number}: "{key}" must be a text or a number, not {row.get(key)!r}.')
    return rows


def _json_rows(path: Path) -> Iterator[dict[str, Any]]:
    with path.open(encoding="utf-8") as file:
        for number, line in enumerate(file, 1):
            if not line.strip():
                continue
            try:
                row = json.loads(line)
            except json.JSONDecodeError as error:
                raise ConfigError(f"{path}, line {number}: not JSON ({error}).") from error
            if not isinstance(row, dict):
                raise ConfigError(f"{path}, line {number}: a row must be an object with response and answer.")
            yield row


def problem_of(row: dict[str, Any], number: int) -> Problem:
    return Problem(
        id=str(row.get("problem_id", row.get("id", number))),
        question=str(row.get("question") or ""),
        answer=str(row["answer"]),
        source=str(row.get("source") or ""),
    )


def response_of(row: dict[str, Any], *, bare: bool) -> str:
    return f"\\boxed{{{row['response']}}}" if bare else str(row["response"])


def reward_named(name: str, keywords: dict[str, Any]) -> Reward:
    """`strict`, `lenient`, `binary`, or the dotted path of another reward, with keywords bound and checked."""
    path = name if "." in name else f"simplerl.rewards.{name}"
    try:
        reward = partial(get_method(path), **keywords)
    except (ImportError, ValueError) as error:
        raise ConfigError(
            f"reward={name} is unknown: take strict, lenient, binary or the path of a function."
        ) from error
    import inspect

    try:
        signature = inspect.signature(reward.func)
        signature.bind("", None, **keywords)
    except TypeError as error:
        raise ConfigError(f"reward={name}: {error}.") from error
    for key, value in keywords.items():
        if key in signature.parameters:
            _check_kind(key, value, type(signature.parameters[key].default))
    return reward


def _check_kind(key: str, value: object, kind: type) -> None:
    """Raises ConfigError where a setting is not of the kind of its default."""
    if kind is bool and not isinstance(value, bool):
        raise ConfigError(f"{key}={value} must be true or false.")
    if kind in (int, float) and (isinstance(value, bool) or not isinstance(value, (int, kind))):
        raise ConfigError(f"{key}={value} must be {'a whole number' if kind is int else 'a number'}.")
    if kind is str and not isinstance(value, str):
        raise ConfigError(f"{key}={value} must be a name.")


def options_of(settings: dict[str, Any]) -> dict[str, Any]:
    """Those settings that are the Grader's, checked: numbers above 0."""
    options = {key: settings[key] for key in OPTIONS if key in settings}
    for key, value in options.items():
        _check_kind(key, value, OPTIONS[key])
        if value <= 0:
            raise ConfigError(f"{key}={value} must be above 0.")
    return options


def writable(path: Path, source: Path) -> Path:
    """The path of an output, before the work. Raises ConfigError where no file can be written there, or where it is
    the input."""
    if not path.parent.is_dir():
        raise ConfigError(f"{path}: the folder {path.parent} does not exist; create it.")
    is_special = path.exists() and not path.is_file()
    places = [path] if is_special else [path.resolve().parent, path]
    if path.is_dir() or not all(os.access(place, os.W_OK) for place in places if place.exists()):
        raise ConfigError(f"{path} cannot be written: name another file.")
    if path.exists() and source.exists() and path.samefile(source):
        raise ConfigError(f"{path} is the input: name another file for the output.")
    return path


def write_whole(path: Path, text: str) -> None:
    """The file, complete or absent: written beside its place and renamed. A device or pipe is written to."""
    if path.exists() and not path.is_file():
        path.write_text(text, encoding="utf-8")
        return
    path = path.resolve()
    beside = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        beside.write_text(text, encoding="utf-8")
        os.replace(beside, path)
    finally:
        beside.unlink(missing_ok=True)


def asks_for_help(arguments: list[str]) -> bool:
    return any(argument in ("--help", "-h") for argument in arguments)


def parse(arguments: list[str]) -> tuple[list[Path], dict[str, Any], bool]:
    """(files, settings, bare) of a command line: files, key=value and --bare in any order."""
    paths = [Path(a) for a in arguments if "=" not in a and not a.startswith("-")]
    flags = [a for a in arguments if a.startswith("-")]
    if unknown := [flag for flag in flags if flag != "--bare"]:
        raise ConfigError(f"{unknown[0]} is unknown: the only flag is --bare, settings are key=value.")
    try:
        settings = OmegaConf.to_container(OmegaConf.from_dotlist([a for a in arguments if "=" in a and a[0] != "-"]))
    except (OmegaConfBaseException, YAMLError) as error:
        raise ConfigError(f"a setting cannot be read ({str(error).splitlines()[0]}): write key=value.") from error
    assert isinstance(settings, dict)
    return paths, {str(key): value for key, value in settings.items()}, bool(flags)


def grade_rows(rows: list[dict[str, Any]], reward: Reward, *, bare: bool, **options: Any) -> Iterator[dict[str, Any]]:
    """The rows with their verdicts. options: those of `Grader`."""
    with Grader(reward, **options) as grader:
        pairs = ((response_of(row, bare=bare), problem_of(row, i)) for i, row in enumerate(rows))
        for row, (score, seconds) in zip(rows, grader.grade_timed(pairs), strict=True):
            yield row | {
                "reward": score.reward,
                "correct": score.correct,
                "extracted": score.extracted,
                "status": score.status,
                "seconds": round(seconds, 6),
                "parts": score.parts,
            }


def main(arguments: list[str]) -> None:
    if asks_for_help(arguments):
        print(__doc__.strip())
        return
    paths, settings, bare = parse(arguments)
    if len(paths) != 2:
        raise ConfigError("Two files are needed: python -m simplerl.grade in.jsonl out.jsonl [reward=strict] [--bare].")
    options = options_of(settings)
    settings = {key: value for key, value in settings.items() if key not in OPTIONS}
    writable(paths[1], paths[0])
    reward = reward_named(str(settings.pop("reward", "strict")), settings)
    rows = list(grade_rows(read_rows(paths[0]), reward, bare=bare, **options))
    write_whole(paths[1], "".join(json.dumps(row, ensure_ascii=False, default=str) + "\n" for row in rows))
    counts: dict[str, int] = {}
    for row in rows:
        counts[row["status"]] = counts.get(row["status"], 0) + 1
    shown = ", ".join(f"{status} {count}" for status, count in sorted(counts.items()))
    mean = sum(row["reward"] for row in rows) / max(len(rows), 1)
    print(f"{len(rows)} rows graded to {paths[1]}: mean reward {mean:.4f}; {shown}")


if __name__ == "__main__":
    try:
        main(sys.argv[1:])
    except ConfigError as error:
        sys.exit(f"error: {error}")
