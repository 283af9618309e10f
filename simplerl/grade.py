"""Grades the responses in a file and writes the rows back, in order, with their scores.

INPUT is JSON, JSON Lines, Parquet or any other format that training reads, with the columns "response" and "answer" (or
"gold", as in the rollouts of a run); columns.response=NAME and columns.answer=NAME read other columns. OUTPUT is JSON
Lines: each row with all its columns and with reward, correct, extracted, status, seconds (spent in the reward
function), parts and reason. A null response counts as empty. A row that cannot be graded gets the status "failed" and a
reason. The reward gets the row's "finish_reason", if it has one, and no tokens.
"""

from __future__ import annotations

import argparse
import inspect
import json
import math
import os
import re
import sys
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from difflib import get_close_matches
from pathlib import Path
from pkgutil import resolve_name
from typing import Any

from hydra import compose, initialize_config_dir
from hydra.errors import HydraException
from hydra.utils import instantiate
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError

from simplerl.data.responses import COLUMNS, SURROGATE, Row, read_responses
from simplerl.data.rows import RowError
from simplerl.errors import ConfigError
from simplerl.io.files import write_text
from simplerl.io.places import CONF, options_in, spelled
from simplerl.rewards.pool import Grader
from simplerl.rewards.rules import FAILED, TIMEOUT
from simplerl.types import Reward, Score

GRADER_SETTINGS = {"workers": int, "seconds_per_answer": float, "memory_gib": float}
GRADER_HELP = """\
  workers=1              number of grading processes
  seconds_per_answer=8   CPU-time limit per answer; the wall-time limit is 4 x as long
  memory_gib=2           memory limit of each process
  columns.response=NAME  column with the responses; likewise columns.answer, id, question, source, finish_reason
"""
REWARD_HELP = """\
settings:
  reward=strict          an option of conf/reward (yours, or strict, lenient, binary), or the dotted path of a function
  reward.rule=qwen       math_verify, qwen, exact or qwen_train; like reward.wrong=0, a keyword of the reward
"""
SCORES = ("reward", "correct", "extracted", "status", "seconds", "parts", "reason")  # columns that grading adds


# Command line


def command_parser(command: str, files: str, description: str, settings_help: str) -> argparse.ArgumentParser:
    """Return the parser that `simplerl.grade` and `simplerl.audit` share: the input file and --bare."""
    parser = argparse.ArgumentParser(
        prog=spelled(command),
        usage=f"{spelled(command)} [-h] [--bare] {files} [KEY=VALUE ...]",
        description=description,
        epilog=settings_help,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("input", metavar="INPUT", type=Path, help="file with one response per row")
    parser.add_argument("--bare", action="store_true", help='"response" is only the answer, without text and \\boxed{}')
    return parser


def parse_command(
    parser: argparse.ArgumentParser, arguments: list[str]
) -> tuple[argparse.Namespace, dict[str, Any], dict[str, Any]]:
    """Parse the arguments. Returns the options, the settings of the Grader, and all other settings: reward=NAME under
    "reward", reward.KEY=VALUE under KEY.

    Settings (key=value) may be anywhere among the arguments; `options.columns` has those of columns.KEY. Raises
    ConfigError for an invalid setting."""
    words = [word for word in arguments if _is_setting(word)]
    options = parser.parse_args([word for word in arguments if word not in words])
    # As in train.py, reward=NAME chooses an option and reward.KEY=VALUE changes one of its keywords.
    names = [word.partition("=")[2] for word in words if word.startswith("reward=")]
    dotlist = [word.removeprefix("+") for word in words if not word.startswith("reward=")]
    try:
        settings = OmegaConf.to_container(OmegaConf.from_dotlist(dotlist))
    except (OmegaConfBaseException, YAMLError) as error:
        reason = str(error).splitlines()[0]
        raise ConfigError(f"The settings {' '.join(dotlist)} cannot be parsed ({reason}): write key=value.") from error
    assert isinstance(settings, dict)
    grader_settings = {}
    for key in GRADER_SETTINGS.keys() & settings.keys():
        grader_settings[key] = settings.pop(key)
        _check_type(key, grader_settings[key], GRADER_SETTINGS[key])
        if grader_settings[key] <= 0:
            raise ConfigError(f"{key}={grader_settings[key]} must be greater than 0.")
    options.columns = settings.pop("columns", {})
    if not isinstance(options.columns, dict):
        raise ConfigError("columns is not a setting itself: write columns.response=NAME or columns.answer=NAME.")
    for key, name in options.columns.items():
        if key not in COLUMNS:
            raise ConfigError(f"columns.{key} is unknown: choose among columns.{', columns.'.join(COLUMNS)}.")
        if not isinstance(name, str):
            raise ConfigError(f"columns.{key}={name} must be the name of a column.")
    keywords = settings.pop("reward", {})
    other = {str(key): value for key, value in {**settings, **keywords}.items()}
    return options, grader_settings, other | ({"reward": names[-1]} if names else {})


def _is_setting(word: str) -> bool:
    """Return whether an argument is KEY=VALUE and not a path that contains "=", such as that of a run folder."""
    place = Path(word)
    is_file = place.exists() or (len(place.parts) > 1 and place.parent.is_dir())
    return re.match(r"\+?[A-Za-z_][\w.]*=", word) is not None and not is_file


def _check_type(key: str, value: object, expected: type) -> None:
    """Raise ConfigError if a setting does not have the type of its default; an int is accepted as a float."""
    if expected is bool and not isinstance(value, bool):
        raise ConfigError(f"{key}={value} must be true or false.")
    if expected in (int, float) and (isinstance(value, bool) or not isinstance(value, (int, expected))):
        raise ConfigError(f"{key}={value} must be {'an integer' if expected is int else 'a number'}.")
    if expected is str and not isinstance(value, str):
        raise ConfigError(f"{key}={value} must be a name.")


def find_reward(name: str, keywords: Mapping[str, Any], conf: Path = CONF, own: Path | None = None) -> Reward:
    """Return the reward called `name`, with its keywords bound.

    name: an option of the group `reward` in `conf` or in the folder `own`, whose values `keywords` change, or the
    dotted path of a function. Raises ConfigError for an unknown option or function, an unknown keyword or a value of
    the wrong type.
    """
    node = {"_target_": name} if "." in name else _reward_option(name, conf, own)
    try:
        function = resolve_name(str(node.get("_target_")))
        signature, _ = inspect.signature(function), inspect.getfile(function)
    except (ImportError, AttributeError, ValueError, TypeError) as error:
        raise ConfigError(
            f"reward={name} is not a function that can be imported ({error}): write the dotted path of a function in a "
            "module that Python finds from the current folder."
        ) from error
    node = dict(OmegaConf.to_container(OmegaConf.merge(node, dict(keywords))))  # type: ignore[arg-type]
    bound = {key: value for key, value in node.items() if key not in ("_target_", "_partial_")}
    try:
        signature.bind("", None, **bound)
    except TypeError as error:
        raise ConfigError(f"reward={name} does not accept these settings ({error}): correct its keywords.") from error
    for key in keywords.keys() & signature.parameters.keys():
        _check_type(key, keywords[key], type(signature.parameters[key].default))
    reward: Reward = instantiate(node | {"_partial_": True}, _convert_="all")
    return reward


def _reward_option(name: str, conf: Path, own: Path | None) -> dict[str, Any]:
    """Return the settings in conf/reward/NAME.yaml, composed by Hydra. Raises ConfigError if there is no such file or
    if it needs the rest of a run's configuration."""
    options_in(own)  # refuses a folder that does not exist
    folders = [conf] if own is None else [conf, own]
    options = sorted({path.stem for folder in folders for path in (folder / "reward").glob("*.yaml")})
    if name not in options:
        near = get_close_matches(name, options, 1)
        hint = f"did you mean {near[0]}? Valid options are" if near else "choose"
        raise ConfigError(
            f"reward={name} is unknown: {hint} {', '.join(options)} (the files in {conf}/reward) or the dotted path of "
            "a function."
        )
    try:
        first = next(folder.absolute() for folder in folders if (folder / "reward" / f"{name}.yaml").is_file())
        with initialize_config_dir(str(first), version_base="1.3"):  # Hydra finds a first file only there
            found = OmegaConf.to_container(compose(f"reward/{name}", options_in(conf)), resolve=True)
    except (HydraException, OmegaConfBaseException, YAMLError) as error:
        file, reason = conf / "reward" / f"{name}.yaml", str(error).splitlines()[0]
        raise ConfigError(
            f"{file} needs the rest of a run's configuration ({reason}): write plain values in this file."
        ) from error
    assert isinstance(found, dict)
    node: dict[str, Any] = found.get("reward", found)
    return node


# Grading and output


def grade_rows(rows: Sequence[Row], reward: Reward, **settings: Any) -> list[dict[str, Any]]:
    """Grade the rows and return each with all its columns and the columns `SCORES`. settings: keywords of `Grader`."""
    with Grader(reward, **settings) as grader:
        graded = grader.grade_timed([one for _, one in rows if not isinstance(one, RowError)])
    scored = iter(zip(graded, grader.errors, strict=True))
    result = []
    for row, one in rows:
        reason: str | None
        if isinstance(one, RowError):
            score, seconds, reason = Score(grader.failure_reward, False, FAILED, None, {}), 0.0, str(one)
        else:
            (score, seconds), error = next(scored)
            reason = f"no verdict within {seconds:g} s" if score.status == TIMEOUT and error is None else error
        scores = (float(score.reward), bool(score.correct), score.extracted, score.status)
        values = (*scores, round(seconds, 6), score.parts, reason)
        result.append(row | dict(zip(SCORES, values, strict=True)))
    return result


def as_json_line(row: Mapping[str, Any]) -> str:
    """Return a row as a line of JSON with lone surrogates escaped; NumPy numbers become numbers, dates text."""
    line = json.dumps(row, ensure_ascii=False, default=lambda x: x.item() if hasattr(x, "item") else str(x))
    return SURROGATE.sub(lambda found: f"\\\\u{ord(found[0]):04x}", line) + "\n"


def check_writable(path: Path, source: Path) -> Path:
    """Check, before the work starts, that a file can be written at `path`, and return `path`.

    Raises ConfigError if the folder is missing or read-only, or if the path is a folder or the input file `source`.
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


def main(arguments: list[str]) -> None:
    parser = command_parser("grade", "INPUT OUTPUT", str(__doc__), REWARD_HELP + GRADER_HELP)
    parser.add_argument("output", metavar="OUTPUT", type=Path, help="JSON-lines file to write")
    parser.add_argument("--config-dir", metavar="DIR", type=Path, help="options of your own beside conf/")
    options, grader_settings, settings = parse_command(parser, arguments)
    check_writable(options.output, options.input)
    if options.output.suffix in (".parquet", ".arrow", ".csv", ".gz", ".zip"):
        raise ConfigError(f"{options.output} would hold JSON Lines: name it {options.output.with_suffix('.jsonl')}.")
    reward = find_reward(str(settings.pop("reward", "strict")), settings, own=options.config_dir)
    rows = read_responses(options.input, options.columns, bare=options.bare)
    graded = grade_rows(rows, reward, **grader_settings)
    write_text(options.output, "".join(map(as_json_line, graded)))
    print_summary(rows, graded, options.output)


def print_summary(rows: Sequence[Row], graded: Sequence[Mapping[str, Any]], output: Path) -> None:
    """Print the mean reward and the count of each status; to stderr, the replaced columns and why rows failed."""
    if replaced := [name for name in SCORES if any(name in row for row, _ in rows)]:
        print(f"note: columns of the input were replaced: {', '.join(replaced)}", file=sys.stderr)
    if failed := [row for row in graded if row["status"] == FAILED]:
        reason = str(failed[0]["reason"]).strip().splitlines()[-1]
        print(f"note: {len(failed)} of {len(graded)} rows failed; the first: {reason}", file=sys.stderr)
    statuses = Counter(row["status"] for row in graded)
    shown = ", ".join(f"{status} {count}" for status, count in sorted(statuses.items()))
    mean = math.fsum(row["reward"] for row in graded) / len(graded)
    print(f"{len(graded)} rows graded to {output}: mean reward {mean:.4f}; {shown}")


def run_command(command: Callable[[list[str]], None]) -> None:
    """Run a command with the arguments of this process. A ConfigError, OSError or RuntimeError becomes a one-line
    message and exit status 1; Ctrl-C exits with status 130."""
    try:
        command(sys.argv[1:])
    except (ConfigError, OSError, RuntimeError) as error:
        sys.exit(f"error: {error}")
    except KeyboardInterrupt:
        sys.exit(130)


if __name__ == "__main__":
    run_command(main)
