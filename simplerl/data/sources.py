"""Problems from files and from the Hugging Face Hub, by a mapping of columns.

    load_problems(path="train.jsonl", columns={"question": "prompt", "answer": "gold"})

JSON (a list of objects), JSONL, Parquet, Arrow, folders written by `datasets.save_to_disk`, or a Hub id. A row
that cannot become a problem is named by file and row and stops the run, unless `on_bad_row` is "skip".
Where no mapping of columns is enough, write a function () -> list[Problem] and name it in conf/data/.
"""

from __future__ import annotations

import logging
import random
import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from simplerl.data.benchmarks import ANSWERS, BENCHMARKS, as_text
from simplerl.data.readers import Row, RowError, read_rows
from simplerl.errors import ConfigError
from simplerl.types import Problem

log = logging.getLogger(__name__)

REQUIRED, OPTIONAL = ("question", "answer"), ("solution", "level", "id")
COUNTS = ("rows", "bad", "other_level", "duplicates", "conflicts", "ungradable", "kept")
NAMED_BAD_ROWS = 3  # skipped rows that are named in the log

Reader = Callable[["dict[str, Any] | RowError", str, int], Problem]  # of a row, the data set's name, its place from 0


class Problems(list[Problem]):
    """A list of problems that knows what its file held.

    `report` counts: rows, bad (skipped), other_level, duplicates (questions asked before), conflicts (of
    those: with another answer), ungradable (empty gold), kept.
    """

    def __init__(self, problems: Iterable[Problem], report: Mapping[str, int]) -> None:
        super().__init__(problems)
        self.report = dict(report)


def gsm8k_solution(value: Any) -> str:
    """GSM8K's worked solution without its calculator marks `<<6*7=42>>` and its `####` line."""
    return re.sub(r"<<[^<>]*>>", "", as_text(value)).rpartition("####")[0].strip()


def gsm8k_level(value: Any) -> str:
    """How many calculations GSM8K's worked solution takes: its calculator marks `<<6*7=42>>`."""
    return str(as_text(value).count("<<"))


def plain_level(value: Any) -> str:
    return as_text(value).removeprefix("Level ")


SOLUTIONS: dict[str, Callable[[Any], str]] = {"text": as_text, "gsm8k": gsm8k_solution}
LEVELS: dict[str, Callable[[Any], str]] = {"text": plain_level, "gsm8k": gsm8k_level}


def load_problems(
    *,
    path: str,
    columns: Mapping[str, str | None],
    source: str = "",
    split: str | None = None,
    hub: Mapping[str, Any] | None = None,
    answer_from: str = "text",
    solution_from: str = "text",
    level_from: str = "text",
    levels: Sequence[Any] | None = None,
    on_bad_row: str = "raise",
    ungradable: str = "raise",
    duplicates: str = "drop",
    shuffle_seed: int | None = None,
    limit: int | None = None,
) -> Problems:
    """The problems of one file, folder or Hub data set.

    columns: where question and answer stand (and solution, level, id; null: nowhere); "a.b" reaches into nested ones.
    source: name of the data set, which the grader may know; "" takes the file's name.
    split: of a Hub data set or a folder of several; null is "train". hub: more arguments of `load_dataset`.
    answer_from, solution_from, level_from: the rules in `simplerl.data.benchmarks.ANSWERS`, SOLUTIONS and LEVELS.
    levels: keep only these; "Level 3" and 3 are the same.
    ungradable: what to do with rows whose answer is empty: "raise", "exclude", or "keep" (no response is right).
    duplicates: "drop" keeps the first of equal questions, "keep" only counts. shuffle_seed, then limit: which
    problems are taken and in what order; null leaves the file's order.
    """
    columns = _named(columns)
    _check_options(columns, levels, limit)
    _choice("answer_from", answer_from, ANSWERS)
    _choice("solution_from", solution_from, SOLUTIONS)
    _choice("level_from", level_from, LEVELS)
    _choice("on_bad_row", on_bad_row, ("raise", "skip"))
    _choice("ungradable", ungradable, ("raise", "keep", "exclude"))
    _choice("duplicates", duplicates, ("drop", "keep"))
    name = source or re.sub(r"\..*", "", Path(path).name)
    read = _reader(columns, ANSWERS[answer_from], SOLUTIONS[solution_from], LEVELS[level_from])
    report: Counter[str] = Counter(dict.fromkeys(COUNTS, 0))
    found = _problems(path, read_rows(path, split, hub), read, name, report, on_bad_row == "skip", ungradable)
    worked = [problem for problem in found if "####" in problem.answer]
    if answer_from == "text" and len(worked) > len(found) / 2:
        raise ConfigError(
            f"{path}: {len(worked)} of {len(found)} answers are worked solutions with the result after ####, which no "
            "response can equal: set data.answer_from=after_hashes."
        )
    wanted = None if levels is None else {plain_level(level) for level in levels}
    chosen = [problem for problem in found if wanted is None or problem.level in wanted]
    if wanted is not None and not chosen:
        have = ", ".join(sorted({str(problem.level) for problem in found})[:10])
        raise ConfigError(f"levels={list(levels or [])} match no row of {path}, whose levels are {have}.")
    report["other_level"] = len(found) - len(chosen)
    chosen = _distinct(chosen, report, drop=duplicates == "drop")
    return _finish(path, chosen, report, shuffle_seed, limit)


def benchmark(*, name: str, path: str | None, ungradable: str = "keep", limit: int | None = None) -> Problems:
    """One of the eight benchmarks, from `<path>/<name>.jsonl`, with its own gold rule. Items keep the file's order
    and their number in it (math500/97), counted from 0.

    ungradable: "exclude" drops items whose gold is empty; "keep" counts and reports them, and they are wrong.
    """
    _choice("name", name, BENCHMARKS)
    _choice("ungradable", ungradable, ("keep", "exclude"))
    if path is None:
        raise ConfigError(f"evals.path is not set: name the folder that holds {name}.jsonl.")
    file = str(Path(path) / f"{name}.jsonl")
    rule = BENCHMARKS[name]
    columns = {"question": rule.question, "answer": rule.answer}
    columns |= {"level": rule.level} if rule.level else {}
    columns |= {"solution": rule.solution} if rule.solution else {}
    read = _reader(columns, ANSWERS[rule.answer_from], as_text, plain_level)
    report: Counter[str] = Counter(dict.fromkeys(COUNTS, 0))
    found = _problems(file, read_rows(file, None, None), read, name, report, False, ungradable)
    if report["rows"] != rule.items:
        log.warning("%s has %d items, the published %s has %d", file, report["rows"], name, rule.items)
    return _finish(file, _distinct(found, report, drop=False), report, None, limit)


def _problems(
    path: str, rows: Iterable[Row], read: Reader, name: str, report: Counter[str], skip_bad: bool, ungradable: str
) -> list[Problem]:
    """Reads every row and counts. Raises ConfigError at the first bad one, or where none is left."""
    found: list[Problem] = []
    first_bad = ""
    for index, (number, row) in enumerate(rows):
        report["rows"] += 1
        where = f"{path}, {'line' if path.endswith('.jsonl') else 'row'} {number}"
        try:
            problem = read(row, name, index)
        except RowError as error:
            if not skip_bad:
                raise ConfigError(f"{where}: {error}; correct it, or skip such rows (on_bad_row=skip).") from error
            first_bad = first_bad or f"{where}: {error}"
            report["bad"] += 1
            if report["bad"] <= NAMED_BAD_ROWS:
                log.warning("%s: %s; skipped", where, error)
            continue
        if not problem.answer:
            if ungradable == "raise":
                raise ConfigError(f"{where}: the answer is empty; correct it, or set ungradable to exclude or keep.")
            report["ungradable"] += 1
            log.warning(
                "%s: the answer of %s is empty, so it cannot be graded (ungradable=%s)", where, problem.id, ungradable
            )
            if ungradable == "exclude":
                continue
        found.append(problem)
    if not found:
        raise ConfigError(f"{first_bad}; no row can be used." if first_bad else f"{path} has no rows that can be used.")
    return found


def _named(columns: Mapping[str, str | None]) -> dict[str, str]:
    """The columns that there are, checked."""
    for key, column in columns.items():
        if key not in (*REQUIRED, *OPTIONAL):
            raise ConfigError(f"columns.{key} is unknown: the columns are {', '.join((*REQUIRED, *OPTIONAL))}.")
        if not isinstance(column, str | None):
            raise ConfigError(f"columns.{key}={column} must be the name of a column.")
    named = {key: column for key, column in columns.items() if column is not None}
    for key in REQUIRED:
        if key not in named:
            raise ConfigError(f"columns.{key} is missing: name the column that holds the {key}.")
    return named


def _check_options(columns: Mapping[str, str], levels: Sequence[Any] | None, limit: int | None) -> None:
    if levels is not None and "level" not in columns:
        raise ConfigError("levels needs columns.level: name the column that holds the level.")
    if limit is not None and limit < 1:
        raise ConfigError(f"limit={limit} keeps no problem: set it to at least 1, or to null.")


def _choice(key: str, value: str, choices: Iterable[str]) -> None:
    if value not in choices:
        raise ConfigError(f"{key}={value} is unknown: choose one of {', '.join(choices)}.")


def _reader(
    columns: Mapping[str, str],
    answer_of: Callable[[Any], str],
    solution_of: Callable[[Any], str],
    level_of: Callable[[Any], str],
) -> Reader:
    """A function from a row, the data set's name and the row's place (from 0) to a problem. It raises RowError."""

    def cell(row: dict[str, Any], key: str) -> Any:
        try:
            return _cell(row, columns[key])
        except KeyError as error:
            there = ", ".join(map(repr, row)) or "none"
            raise RowError(
                f"there is no column {columns[key]!r} (it has {there}), which columns.{key} names"
            ) from error

    def field(row: dict[str, Any], key: str, rule: Callable[[Any], str]) -> str:
        value = cell(row, key)
        try:
            return rule(value)
        except ValueError as error:
            raise RowError(f"the {key} ({columns[key]}) {error}") from error

    def optional(row: dict[str, Any], key: str, rule: Callable[[Any], str]) -> str | None:
        if key not in columns or cell(row, key) is None:
            return None
        return field(row, key, rule)

    def read(row: dict[str, Any] | RowError, name: str, index: int) -> Problem:
        if isinstance(row, RowError):
            raise row
        question = cell(row, "question")
        if not isinstance(question, str) or not question.strip():
            raise RowError(f"the question ({columns['question']}) is {'empty' if not question else 'not text'}")
        return Problem(
            id=optional(row, "id", as_text) or f"{name}/{index}",
            question=question.strip(),
            answer=field(row, "answer", answer_of),
            source=name,
            level=optional(row, "level", level_of),
            solution=optional(row, "solution", solution_of),
        )

    return read


def _cell(row: Mapping[str, Any], column: str) -> Any:
    """Raises KeyError."""
    if column in row:
        return row[column]
    value: Any = row
    for part in column.split("."):
        if not isinstance(value, Mapping) or part not in value:
            raise KeyError(column)
        value = value[part]
    return value


def _distinct(problems: list[Problem], report: Counter[str], drop: bool) -> list[Problem]:
    """Counts questions asked before (and drops them), and makes the ids unique."""
    answers: dict[str, str] = {}
    seen: Counter[str] = Counter()
    taken = {problem.id for problem in problems}
    kept: list[Problem] = []
    for problem in problems:
        question = " ".join(problem.question.split())
        if question in answers:
            report["duplicates"] += 1
            report["conflicts"] += answers[question] != problem.answer
            if drop:
                continue
        answers.setdefault(question, problem.answer)
        seen[problem.id] += 1
        name, number = problem.id, seen[problem.id]
        while number > 1 and name in taken:
            name, number = f"{problem.id}#{number}", number + 1
        taken.add(name)
        kept.append(replace(problem, id=name))
    return kept


def _finish(
    path: str, problems: list[Problem], report: Counter[str], shuffle_seed: int | None, limit: int | None
) -> Problems:
    if shuffle_seed is not None:
        random.Random(shuffle_seed).shuffle(problems)
    problems = problems[:limit]
    report["kept"] = len(problems)
    log.info("%s: %s", path, ", ".join(f"{count} {name}" for name, count in report.items() if count))
    return Problems(problems, report)
