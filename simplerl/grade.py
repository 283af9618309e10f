"""Grades the responses in a file and writes the rows back, in order, with their scores.

Rows are JSON lines with "response" and "answer", or the rollouts of a run in Parquet, whose "gold" is the answer.
Every row gets the columns reward, correct, extracted, status, seconds (spent in the reward function) and parts; all
other columns are kept. A reward sees "finish_reason" if a row has it, and no tokens.
"""

from __future__ import annotations

import argparse
import inspect
import json
import os
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

from hydra.utils import get_method
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError

from simplerl.data.readers import RowError, location_of, read_file
from simplerl.errors import ConfigError
from simplerl.io.files import write_text
from simplerl.rewards.pool import Grader
from simplerl.rewards.returned import is_encodable
from simplerl.types import FINISH_STOP, Problem, Response, Reward

GRADER_SETTINGS = {"workers": int, "seconds_per_answer": float, "memory_gib": float}
GRADER_HELP = """\
  workers=1              number of grading processes
  seconds_per_answer=8   CPU time limit per answer; that of wall time is 4 x as long
  memory_gib=2           memory limit of each process
"""
REWARD_HELP = """\
settings:
  reward=strict          strict, lenient, binary, or the dotted path of a function
  rule=math_verify       math_verify, qwen, exact or qwen_train; like wrong=0, a keyword of the reward
"""


def command_parser(command: str, files: str, description: str, settings_help: str) -> argparse.ArgumentParser:
    """Return the parser that `simplerl.grade` and `simplerl.audit` share: the input file and --bare."""
    parser = argparse.ArgumentParser(
        prog=f"python -m simplerl.{command}",
        usage=f"python -m simplerl.{command} [-h] [--bare] {files} [KEY=VALUE ...]",
        description=description,
        epilog=settings_help,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "input", metavar="INPUT", type=Path, help="rows with response and answer: .jsonl, .json, .parquet or .arrow"
    )
    parser.add_argument("--bare", action="store_true", help='"response" is only the answer, without text and \\boxed{}')
    return parser


def parse_command(
    parser: argparse.ArgumentParser, arguments: list[str]
) -> tuple[argparse.Namespace, dict[str, Any], dict[str, Any]]:
    """Return the parsed options, the settings of the Grader, and all other settings.

    Settings (key=value) may be anywhere among the arguments. Raises ConfigError for an invalid setting.
    """
    words = [word for word in arguments if "=" in word and not word.startswith("-")]
    options = parser.parse_args([word for word in arguments if word not in words])
    try:
        settings = OmegaConf.to_container(OmegaConf.from_dotlist(words))
    except (OmegaConfBaseException, YAMLError) as error:
        reason = str(error).splitlines()[0]
        raise ConfigError(f"The settings {' '.join(words)} cannot be parsed ({reason}): write key=value.") from error
    assert isinstance(settings, dict)
    grader_settings = {}
    for key in GRADER_SETTINGS.keys() & settings.keys():
        grader_settings[key] = settings.pop(key)
        _check_type(key, grader_settings[key], GRADER_SETTINGS[key])
        if grader_settings[key] <= 0:
            raise ConfigError(f"{key}={grader_settings[key]} must be greater than 0.")
    return options, grader_settings, {str(key): value for key, value in settings.items()}


def _check_type(key: str, value: object, expected: type) -> None:
    """Raise ConfigError if a setting does not have the type of its default; an int is accepted as a float."""
    if expected is bool and not isinstance(value, bool):
        raise ConfigError(f"{key}={value} must be true or false.")
    if expected in (int, float) and (isinstance(value, bool) or not isinstance(value, (int, expected))):
        raise ConfigError(f"{key}={value} must be {'an integer' if expected is int else 'a number'}.")
    if expected is str and not isinstance(value, str):
        raise ConfigError(f"{key}={value} must be a name.")


def find_reward(name: str, keywords: dict[str, Any]) -> Reward:
    """Return the reward function called `name`, with its keywords bound.

    name: strict, lenient, binary, or the dotted path of a function. Raises ConfigError for an unknown function, an
    unknown keyword or a value of the wrong type.
    """
    try:
        reward = partial(get_method(name if "." in name else f"simplerl.rewards.{name}"), **keywords)
    except (ImportError, ValueError) as error:
        raise ConfigError(
            f"reward={name} is unknown: choose strict, lenient, binary or the dotted path of a function."
        ) from error
    signature = inspect.signature(reward.func)
    try:
        signature.bind("", None, **keywords)
    except TypeError as error:
        raise ConfigError(f"reward={name} does not accept these settings: {error}.") from error
    for key, value in keywords.items():
        if key in signature.parameters:
            _check_type(key, value, type(signature.parameters[key].default))
    return reward


def read_rows(path: Path) -> list[dict[str, Any]]:
    """Read a file of rows that have "response" and "answer" (or "gold").

    Raises ConfigError that names the file and row if it cannot be read or a column is missing.
    """
    rows = []
    for number, row in read_file(path):
        if isinstance(row, RowError):
            raise ConfigError(f"{location_of(path, number)}: {row}.")
        row.setdefault("answer", row.get("gold"))
        for key in ("response", "answer"):
            if not isinstance(row.get(key), (str, int, float)) or isinstance(row[key], bool):
                place = location_of(path, number)
                raise ConfigError(f'{place}: "{key}" must be a string or a number, not {row.get(key)!r}.')
        rows.append(row)
    return rows


def read_answers(rows: list[dict[str, Any]], *, bare: bool) -> Iterator[tuple[Response, Problem]]:
    """Yield the response and problem of each row. bare: the response is only an answer, so put it into a box."""
    for number, row in enumerate(rows):
        text = f"\\boxed{{{row['response']}}}" if bare else str(row["response"])
        problem = Problem(
            id=str(row.get("problem_id", row.get("id", number))),
            question=str(row.get("question") or ""),
            answer=str(row["answer"]),
            source=str(row.get("source") or ""),
        )
        yield Response(text, finish_reason=str(row.get("finish_reason") or FINISH_STOP)), problem


def check_writable(path: Path, source: Path) -> Path:
    """Return `path` if a file can be written there, before the work starts.

    Raises ConfigError if the folder is missing or read-only, or if the path is the input file `source`.
    """
    if not path.parent.is_dir():
        raise ConfigError(f"{path}: the folder {path.parent} does not exist; create it.")
    is_device = path.exists() and not path.is_file()
    places = [path] if is_device else [path.resolve().parent, path]
    if path.is_dir() or not all(os.access(place, os.W_OK) for place in places if place.exists()):
        raise ConfigError(f"{path} cannot be written: choose another output file.")
    if path.exists() and source.exists() and path.samefile(source):
        raise ConfigError(f"{path} is the input file: choose another output file.")
    return path


def grade_rows(rows: list[dict[str, Any]], reward: Reward, *, bare: bool, **settings: Any) -> Iterator[dict[str, Any]]:
    """Yield the rows with their scores. settings: those of `Grader`."""
    with Grader(reward, **settings) as grader:
        graded = grader.grade_timed(read_answers(rows, bare=bare))
        for row, (score, seconds) in zip(rows, graded, strict=True):
            yield row | {
                "reward": score.reward,
                "correct": score.correct,
                "extracted": score.extracted,
                "status": score.status,
                "seconds": round(seconds, 6),
                "parts": score.parts,
            }


def json_line(row: dict[str, Any]) -> str:
    """Return a row as a line of JSON. All of it is escaped if it has a lone surrogate, which UTF-8 cannot represent."""
    line = json.dumps(row, ensure_ascii=False, default=str)
    return (line if is_encodable(line) else json.dumps(row, default=str)) + "\n"


def main(arguments: list[str]) -> None:
    parser = command_parser("grade", "INPUT OUTPUT", str(__doc__), REWARD_HELP + GRADER_HELP)
    parser.add_argument("output", metavar="OUTPUT", type=Path, help="JSON-lines file to write")
    options, grader_settings, settings = parse_command(parser, arguments)
    check_writable(options.output, options.input)
    reward = find_reward(str(settings.pop("reward", "strict")), settings)
    rows = list(grade_rows(read_rows(options.input), reward, bare=options.bare, **grader_settings))
    write_text(options.output, "".join(map(json_line, rows)))
    statuses = Counter(row["status"] for row in rows)
    shown = ", ".join(f"{status} {count}" for status, count in sorted(statuses.items()))
    mean = sum(row["reward"] for row in rows) / max(len(rows), 1)
    print(f"{len(rows)} rows graded to {options.output}: mean reward {mean:.4f}; {shown}")


def run_command(command: Callable[[list[str]], None]) -> None:
    """Run a command with the arguments of this process; a ConfigError becomes a one-line message and exit status 1."""
    try:
        command(sys.argv[1:])
    except ConfigError as error:
        sys.exit(f"error: {error}")


if __name__ == "__main__":
    run_command(main)
