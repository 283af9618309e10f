"""Grades responses from a file: `python -m simplerl.grade in.jsonl out.jsonl [reward=strict] [rule=...] [--bare]`.

Rows are {"response": ..., "answer": ...} in JSON lines, or rollouts in Parquet ("gold" is "answer" too); other
columns pass through. Each comes back, in order, with reward, correct, extracted, status, seconds and parts.
`--bare`: "response" is the answer alone, not a text with a box in it.
Further settings: workers=N, seconds_per_answer=S, memory_gib=G, and any keyword of the reward (wrong=0).
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

from hydra.utils import get_method
from omegaconf import OmegaConf

from simplerl.config import ConfigError
from simplerl.rewards.pool import Grader
from simplerl.types import Problem, Reward

OPTIONS = ("workers", "seconds_per_answer", "memory_gib")


def read_rows(path: Path) -> list[dict[str, Any]]:
    """Rows of a JSON-lines or Parquet file; each has "response" and "answer". Raises ConfigError by row."""
    if not path.is_file():
        raise ConfigError(f"{path} does not exist.")
    if path.suffix == ".parquet":
        import pyarrow.parquet as pq

        rows: list[dict[str, Any]] = pq.read_table(path).to_pylist()
    else:
        rows = list(_json_rows(path))
    for number, row in enumerate(rows, 1):
        if "answer" not in row and "gold" in row:
            row["answer"] = row["gold"]
        for key in ("response", "answer"):
            if not isinstance(row.get(key), (str, int, float)):
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
        inspect.signature(reward.func).bind("", None, **keywords)
    except TypeError as error:
        raise ConfigError(f"reward={name}: {error}.") from error
    return reward


def parse(arguments: list[str]) -> tuple[list[Path], dict[str, Any], bool]:
    """(files, settings, bare) of a command line: files, key=value and --bare in any order."""
    paths = [Path(a) for a in arguments if "=" not in a and not a.startswith("-")]
    flags = [a for a in arguments if a.startswith("-")]
    if unknown := [flag for flag in flags if flag != "--bare"]:
        raise ConfigError(f"{unknown[0]} is unknown: the only flag is --bare, settings are key=value.")
    settings = OmegaConf.to_container(OmegaConf.from_dotlist([a for a in arguments if "=" in a and a[0] != "-"]))
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
    paths, settings, bare = parse(arguments)
    if len(paths) != 2:
        raise ConfigError("Two files are needed: python -m simplerl.grade in.jsonl out.jsonl [reward=strict] [--bare].")
    options = {key: settings.pop(key) for key in OPTIONS if key in settings}
    reward = reward_named(str(settings.pop("reward", "strict")), settings)
    rows = list(grade_rows(read_rows(paths[0]), reward, bare=bare, **options))
    with paths[1].open("w", encoding="utf-8") as file:
        for row in rows:
            file.write(json.dumps(row, ensure_ascii=False, default=str) + "\n")
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
