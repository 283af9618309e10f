"""Load problems from files and from the Hugging Face Hub, given which column holds what.

    load_problems(path="train.jsonl", columns={"question": "prompt", "answer": "gold"})

Supported are JSON (a list of objects), JSON Lines, Parquet, Arrow, folders written by `datasets.save_to_disk`, and
Hub ids. A row that cannot become a problem stops the run with an error that names file and row, unless `on_bad_row`
is "skip". For data that needs more than a column mapping, write a function () -> list[Problem] and name it in
conf/data/.
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
from simplerl.data.readers import Row, RowError, location_of, read_rows
from simplerl.errors import ConfigError, require
from simplerl.types import Problem

log = logging.getLogger(__name__)

REQUIRED, OPTIONAL = ("question", "answer"), ("solution", "level", "id")
COUNTS = ("rows", "bad", "other_level", "duplicates", "conflicts", "ungradable", "kept")
LOGGED_BAD_ROWS = 3  # how many skipped rows the log names

# Converts a row to a problem, given the data set's name and the row's index from 0. Raises RowError.
RowParser = Callable[["dict[str, Any] | RowError", str, int], Problem]


class Problems(list[Problem]):
    """A list of problems with statistics of the file they come from.

    `report` has the numbers of rows, bad rows (skipped), rows of other levels (filtered out), duplicates (repeated
    questions), conflicts (duplicates with a different answer), ungradable rows (empty gold answer) and kept problems.
    """

    def __init__(self, problems: Iterable[Problem], report: Mapping[str, int]) -> None:
        super().__init__(problems)
        self.report = dict(report)


def gsm8k_solution(value: Any) -> str:
    """Return a GSM8K solution without its calculator annotations `<<6*7=42>>` and without its `####` line."""
    return re.sub(r"<<[^<>]*>>", "", as_text(value)).rpartition("####")[0].strip()


def gsm8k_level(value: Any) -> str:
    """Return the number of calculator annotations `<<6*7=42>>` in a GSM8K solution, as a measure of difficulty."""
    return str(as_text(value).count("<<"))


def plain_level(value: Any) -> str:
    """Return a level as text, without the prefix "Level " of MATH."""
    return as_text(value).removeprefix("Level ")


# The values of `solution_from` and `level_from`: how to read the solution and level columns.
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
    """Load the problems of one file, data set folder or Hub data set.

    columns: the column names of question and answer, and optionally of solution, level and id (null: no such
        column); "a.b" selects field b of the nested column a.
    source: name of the data set, which some grading rules depend on; "" uses the file name.
    split: the split of a Hub data set or of a folder with several; null means "train".
    hub: further arguments of `datasets.load_dataset`.
    answer_from, solution_from, level_from: extraction rules, see `simplerl.data.benchmarks.ANSWERS`, SOLUTIONS and
        LEVELS.
    levels: keep only problems of these levels; "Level 3" and 3 are equivalent.
    on_bad_row: "raise" stops at a row that cannot become a problem, "skip" logs and counts it.
    ungradable: for rows with an empty gold answer: "raise", "exclude", or "keep" (every response is graded wrong).
    duplicates: "drop" keeps only the first of equal questions, "keep" only counts them.
    shuffle_seed: shuffle with this seed; null keeps the file's order.
    limit: keep only the first problems, after shuffling; null keeps all.
    """
    columns = _check_columns(columns)
    if levels is not None and "level" not in columns:
        raise ConfigError("levels needs columns.level: set it to the name of the column that holds the level.")
    if limit is not None and limit < 1:
        raise ConfigError(f"limit={limit} keeps no problem: set it to at least 1, or to null.")
    _check_choice("answer_from", answer_from, ANSWERS)
    _check_choice("solution_from", solution_from, SOLUTIONS)
    _check_choice("level_from", level_from, LEVELS)
    _check_choice("on_bad_row", on_bad_row, ("raise", "skip"))
    _check_choice("ungradable", ungradable, ("raise", "keep", "exclude"))
    _check_choice("duplicates", duplicates, ("drop", "keep"))
    name = source or re.sub(r"\..*", "", Path(path).name)
    parse = _row_parser(columns, ANSWERS[answer_from], SOLUTIONS[solution_from], LEVELS[level_from])
    report: Counter[str] = Counter(dict.fromkeys(COUNTS, 0))
    found = _parse_rows(path, read_rows(path, split, hub), parse, name, report, on_bad_row == "skip", ungradable)
    solutions = [problem for problem in found if "####" in problem.answer]
    if answer_from == "text" and len(solutions) > len(found) / 2:
        raise ConfigError(
            f"{path}: {len(solutions)} of {len(found)} answers are worked solutions with the result after ####, which "
            "no response can match: set data.answer_from=after_hashes."
        )
    wanted = None if levels is None else {plain_level(level) for level in levels}
    chosen = [problem for problem in found if wanted is None or problem.level in wanted]
    if wanted is not None and not chosen:
        have = ", ".join(sorted({str(problem.level) for problem in found})[:10])
        raise ConfigError(
            f"levels={list(levels or [])} matches no row of {path}: choose among its levels, which are {have}."
        )
    report["other_level"] = len(found) - len(chosen)
    chosen = _deduplicate(chosen, report, drop=duplicates == "drop")
    return _finish(path, chosen, report, shuffle_seed, limit)


def benchmark(*, name: str, path: str | None, ungradable: str = "keep", limit: int | None = None) -> Problems:
    """Load one of the eight benchmarks from `<path>/<name>.jsonl`, with its own rule for the gold answer.

    Items are in file order and their ids hold their index from 0, such as math500/97.

    ungradable: "exclude" drops items with an empty gold answer; "keep" reports them and grades every response wrong.
    limit: keep only the first items; null keeps all.
    """
    _check_choice("name", name, BENCHMARKS)
    _check_choice("ungradable", ungradable, ("keep", "exclude"))
    if path is None:
        raise ConfigError(f"evals.path is not set: set it to the folder that holds {name}.jsonl.")
    file = str(Path(path) / f"{name}.jsonl")
    rule = BENCHMARKS[name]
    keys = ("question", "answer", "level", "solution")
    columns = {key: column for key in keys if (column := getattr(rule, key)) is not None}
    parse = _row_parser(columns, ANSWERS[rule.answer_from], as_text, plain_level)
    report: Counter[str] = Counter(dict.fromkeys(COUNTS, 0))
    found = _parse_rows(file, read_rows(file), parse, name, report, False, ungradable)
    if report["rows"] != rule.items:
        log.warning("%s has %d items, but the published %s has %d", file, report["rows"], name, rule.items)
    return _finish(file, _deduplicate(found, report, drop=False), report, None, limit)


def _parse_rows(
    path: str, rows: Iterable[Row], parse: RowParser, name: str, report: Counter[str], skip_bad: bool, ungradable: str
) -> list[Problem]:
    """Parse all rows and update the counts in `report`.

    Raises ConfigError at the first unusable row, unless such rows are skipped, and if no problem is left.
    """
    found: list[Problem] = []
    first_bad = ""
    for index, (number, row) in enumerate(rows):
        report["rows"] += 1
        where = location_of(path, number)
        try:
            problem = parse(row, name, index)
        except RowError as error:
            if not skip_bad:
                raise ConfigError(f"{where}: {error}; correct it, or skip such rows with on_bad_row=skip.") from error
            first_bad = first_bad or f"{where}: {error}"
            report["bad"] += 1
            if report["bad"] <= LOGGED_BAD_ROWS:
                log.warning("%s: %s; row skipped", where, error)
            continue
        if not problem.answer:
            if ungradable == "raise":
                raise ConfigError(
                    f"{where}: the answer is empty; correct it, or set ungradable=exclude or ungradable=keep."
                )
            report["ungradable"] += 1
            message = "%s: the gold answer of %s is empty, so it cannot be graded (ungradable=%s)"
            log.warning(message, where, problem.id, ungradable)
            if ungradable == "exclude":
                continue
        found.append(problem)
    if first_bad and not found:
        raise ConfigError(f"{first_bad}; no row is usable, so correct the file.")
    require(bool(found), f"{path} has no usable rows: add some.")
    return found


def _check_columns(columns: Mapping[str, str | None]) -> dict[str, str]:
    """Return the columns that are not null. Raises ConfigError for unknown, missing or invalid ones."""
    for key, column in columns.items():
        if key not in (*REQUIRED, *OPTIONAL):
            raise ConfigError(f"columns.{key} is unknown: choose among {', '.join((*REQUIRED, *OPTIONAL))}.")
        if not isinstance(column, str | None):
            raise ConfigError(f"columns.{key}={column} must be a column name (text).")
    named = {key: column for key, column in columns.items() if column is not None}
    for key in REQUIRED:
        if key not in named:
            raise ConfigError(f"columns.{key} is missing: set it to the name of the column that holds the {key}.")
    return named


def _check_choice(key: str, value: str, choices: Iterable[str]) -> None:
    if value not in choices:
        raise ConfigError(f"{key}={value} is unknown: choose one of {', '.join(choices)}.")


def _row_parser(
    columns: Mapping[str, str],
    answer_of: Callable[[Any], str],
    solution_of: Callable[[Any], str],
    level_of: Callable[[Any], str],
) -> RowParser:
    """Return the function that converts a row to a problem by these columns and extraction rules."""

    def value_of(row: dict[str, Any], key: str) -> Any:
        try:
            return _value_of(row, columns[key])
        except KeyError as error:
            present = ", ".join(map(repr, row)) or "none"
            raise RowError(
                f"columns.{key}={columns[key]} names a column that this row does not have (its columns: {present})"
            ) from error

    def field(row: dict[str, Any], key: str, rule: Callable[[Any], str]) -> str:
        value = value_of(row, key)
        try:
            return rule(value)
        except ValueError as error:
            raise RowError(f"the {key} (column {columns[key]!r}) {error}") from error

    def optional(row: dict[str, Any], key: str, rule: Callable[[Any], str]) -> str | None:
        return field(row, key, rule) if key in columns and value_of(row, key) is not None else None

    def parse(row: dict[str, Any] | RowError, name: str, index: int) -> Problem:
        if isinstance(row, RowError):
            raise row
        question = value_of(row, "question")
        if not isinstance(question, str) or not question.strip():
            raise RowError(
                f"the question (column {columns['question']!r}) is {'empty' if not question else 'not text'}"
            )
        return Problem(
            id=optional(row, "id", as_text) or f"{name}/{index}",
            question=question.strip(),
            answer=field(row, "answer", answer_of),
            source=name,
            level=optional(row, "level", level_of),
            solution=optional(row, "solution", solution_of),
        )

    return parse


def _value_of(row: Mapping[str, Any], column: str) -> Any:
    """Return the value of a column, or of the nested field that "a.b" names. Raises KeyError."""
    if column in row:
        return row[column]
    value: Any = row
    for part in column.split("."):
        if not isinstance(value, Mapping) or part not in value:
            raise KeyError(column)
        value = value[part]
    return value


def _deduplicate(problems: list[Problem], report: Counter[str], drop: bool) -> list[Problem]:
    """Count repeated questions in `report`, drop them if `drop`, and make ids unique by appending #2, #3, ..."""
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
    """Shuffle, limit, and log the counts."""
    if shuffle_seed is not None:
        random.Random(shuffle_seed).shuffle(problems)
    problems = problems[:limit]
    report["kept"] = len(problems)
    log.info("%s: %s", path, ", ".join(f"{count} {name}" for name, count in report.items() if count))
    return Problems(problems, report)
