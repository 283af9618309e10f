"""Load problems from files and from the Hugging Face Hub.

    load_problems(path="train.jsonl", columns={"question": "prompt", "answer": "gold"})

The path is a file (JSON, JSON Lines, CSV, Parquet, Arrow), a folder or pattern of shards, a folder written by
`datasets.save_to_disk`, or a Hub id. Columns that are not named are guessed, and the guess is logged. A row that cannot
become a problem stops the run with an error that names file and row, unless `on_bad_row` is "skip". For data that needs
more than a column mapping, write a function () -> list[Problem] and name it in conf/data/.
"""

from __future__ import annotations

import itertools
import logging
import random
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from simplerl.data.benchmarks import BENCHMARKS
from simplerl.data.columns import (
    ANSWERS,
    GUESS,
    LEVELS,
    SOLUTIONS,
    as_text,
    guess_columns,
    plain_level,
    row_parser,
)
from simplerl.data.parsing import BENCHMARKS_FILE, parse_rows, refuse_solutions
from simplerl.data.paths import Located, read_rows
from simplerl.data.rows import setting
from simplerl.errors import ConfigError
from simplerl.types import Problem

log = logging.getLogger(__name__)

REQUIRED, OPTIONAL = ("question", "answer"), ("solution", "level", "id")
COUNTS = ("rows", "bad", "other_level", "duplicates", "conflicts", "ungradable", "kept")


class Problems(list[Problem]):
    """Holds problems, as a list, and the statistics of the file that they come from.

    `report` has the numbers of rows, bad rows (skipped), rows of other levels (filtered out), duplicates (repeated
    questions), conflicts (duplicates with a different answer), ungradable rows (empty gold answer) and kept problems.
    """

    def __init__(self, problems: Iterable[Problem], report: Mapping[str, int]) -> None:
        super().__init__(problems)
        self.report = dict(report)


def load_problems(
    *,
    path: str,
    columns: Mapping[str, str | None] | None = None,
    source: str = "",
    split: str | None = None,
    hub: Mapping[str, Any] | None = None,
    encoding: str = "utf-8",
    answer_from: str = "text",
    solution_from: str = "text",
    level_from: str = "text",
    remove: Sequence[str] = (),
    system: str = "keep",
    extra: Sequence[str] | None = None,
    levels: Sequence[Any] | None = None,
    on_bad_row: str = "raise",
    ungradable: str = "raise",
    duplicates: str = "drop",
    shuffle_seed: int | None = None,
    limit: int | None = None,
) -> Problems:
    """Load the problems of one file, folder of shards, saved data set or Hub data set. Raises ConfigError for invalid
    settings and unusable data.

    columns: the column names of question, answer, solution, level and id; "a.b" selects field b of the nested column
        a. "guess" finds the usual name; null does so for question and answer, and means no such column otherwise. A
        question may be a chat with one user turn, and an answer or solution a chat with an assistant turn.
    source: name of the data set, which some grading rules depend on; "" uses the file name.
    split: the split of a Hub data set or of a folder with several; null means "train".
    hub: further arguments of `datasets.load_dataset`.
    encoding: of a text file.
    answer_from, solution_from, level_from: extraction rules, see ANSWERS, SOLUTIONS and LEVELS in
        `simplerl.data.columns`.
    remove: texts that are deleted from every question, such as an instruction on the form of the answer.
    system: "keep" renders the system turn of a chat (chat prompts only), "drop" ignores it.
    extra: columns that rewards see as `problem.extra`; null means all that are not mapped.
    levels: keep only problems of these levels; "Level 3" and 3 are equivalent.
    on_bad_row: "raise" stops at a row that cannot become a problem, "skip" logs and counts it.
    ungradable: for rows with an empty or null gold answer: "raise", "exclude", or "keep" (every response is graded
        wrong).
    duplicates: "drop" keeps only the first of equal questions, "keep" only counts them.
    shuffle_seed: shuffle with this seed; null keeps the file's order.
    limit: keep only the first problems, after shuffling; null keeps all.
    """
    named = _check_columns(columns or {})
    if levels is not None and "level" not in named:
        raise ConfigError(
            f"{setting('levels')} needs the column of the level: set it, such as {setting('columns.level')}=level."
        )
    if limit is not None and limit < 1:
        key = setting("limit")
        raise ConfigError(f"{key}={limit} keeps no problem: set {key}=null for all, or at least {key}=1.")
    _check_choice("answer_from", answer_from, ANSWERS)
    _check_choice("solution_from", solution_from, SOLUTIONS)
    _check_choice("level_from", level_from, LEVELS)
    _check_choice("system", system, ("keep", "drop"))
    _check_choice("on_bad_row", on_bad_row, ("raise", "skip"))
    _check_choice("ungradable", ungradable, ("raise", "keep", "exclude"))
    _check_choice("duplicates", duplicates, ("drop", "keep"))
    name = source or re.sub(r"[.*].*", "", Path(path).name) or "data"
    rows, named = _guessed(path, read_rows(path, split, hub, encoding), named)
    parser = row_parser(
        named, ANSWERS[answer_from], SOLUTIONS[solution_from], LEVELS[level_from], remove, system == "keep", extra
    )
    report: Counter[str] = Counter(dict.fromkeys(COUNTS, 0))
    found: Iterable[Problem] = parse_rows(path, rows, parser, name, report, on_bad_row, ungradable)
    found = refuse_solutions(path, found) if answer_from == "text" else found
    chosen = _of_levels(path, found, levels, report)
    return _finish(path, _deduplicate(chosen, report, drop=duplicates == "drop"), report, shuffle_seed, limit)


def benchmark(*, name: str, path: str | None, ungradable: str = "keep", limit: int | None = None) -> Problems:
    """Load a benchmark from `<path>/<name>.jsonl`, with the columns and answer rule in BENCHMARKS.

    Items are in file order and their ids hold their index from 0, such as math500/97. Raises ConfigError if the file
    cannot be read.

    ungradable: "exclude" drops items with an empty gold answer; "keep" reports them and grades every response wrong.
    limit: keep only the first items; null keeps all.
    """
    _check_choice("name", name, BENCHMARKS)
    _check_choice("ungradable", ungradable, ("keep", "exclude"))
    if path is None:
        raise ConfigError(f"evals.path is not set: set it to the folder that holds {name}.jsonl.")
    folder = Path(path).expanduser()
    if folder.is_file():
        raise ConfigError(
            f"evals.path={path} is a file, but the benchmark {name} reads {name}.jsonl in a folder: set "
            f"evals.path={folder.parent}, or read a file of your own with evals=heldout evals.path={path}."
        )
    file = str(folder / f"{name}.jsonl")
    rule = BENCHMARKS[name]
    if rule.answer_from not in ANSWERS:
        raise ConfigError(
            f"BENCHMARKS[{name!r}] in {BENCHMARKS_FILE} has answer_from={rule.answer_from!r}, which is unknown: choose "
            f"one of {', '.join(ANSWERS)}."
        )
    keys = ("question", "answer", "level", "solution")
    columns = {key: column for key in keys if (column := getattr(rule, key)) is not None}
    parse = row_parser(columns, ANSWERS[rule.answer_from], as_text, plain_level, (), True, None, name)
    report: Counter[str] = Counter(dict.fromkeys(COUNTS, 0))
    found = list(parse_rows(file, read_rows(file, encoding=None), parse, name, report, "", ungradable))
    if report["rows"] != rule.items:
        log.warning("%s has %d items, but the published %s has %d", file, report["rows"], name, rule.items)
    return _finish(file, _deduplicate(found, report, drop=False), report, None, limit)


def _guessed(path: str, rows: Iterator[Located], columns: dict[str, str]) -> tuple[Iterable[Located], dict[str, str]]:
    """Replace guessed columns by those of the first undamaged row, and log them. Returns all rows and the columns."""
    if GUESS not in columns.values():
        return rows, columns
    read: list[Located] = []
    for where, row in rows:
        read.append((where, row))
        if isinstance(row, dict):
            found = guess_columns(row, columns, where)
            shown = [f"{key} = {column}" for key, column in found.items() if columns[key] == GUESS]
            log.info(
                "%s: guessed the columns %s (to change: %s=...)", path, ", ".join(shown), setting("columns.question")
            )
            columns = found
            break
    return itertools.chain(read, rows), columns


def _of_levels(
    path: str, problems: Iterable[Problem], levels: Sequence[Any] | None, report: Counter[str]
) -> Iterator[Problem]:
    """Yield the problems of these levels (None: all). Raises ConfigError if there is none."""
    wanted = None if levels is None else {plain_level(level) for level in levels}
    others: Counter[str] = Counter()
    found = False
    for problem in problems:
        if wanted is None or problem.level in wanted:
            found = True
            yield problem
        else:
            others[str(problem.level)] += 1
    report["other_level"] = others.total()
    if not found:
        have = ", ".join(sorted(others)[:10])
        raise ConfigError(
            f"{setting('levels')}={list(levels or [])} matches no row of {path}: choose among its levels, which are "
            f"{have}, such as '{setting('levels')}=[{min(others)}]'."
        )


def _check_columns(columns: Mapping[str, str | int | None]) -> dict[str, str]:
    """Return the given columns; absent question or answer: `guess`. Raises ConfigError for unknown or invalid ones."""
    for key, column in columns.items():
        if key not in (*REQUIRED, *OPTIONAL):
            near = (get_close_matches(key, (*REQUIRED, *OPTIONAL), 1) or ["question"])[0]
            raise ConfigError(
                f"{setting('columns.' + key)} is unknown: choose among {', '.join((*REQUIRED, *OPTIONAL))}, such as "
                f"{setting('columns.' + near)}={column}."
            )
        if isinstance(column, bool) or not isinstance(column, str | int | None):
            raise ConfigError(f"{setting('columns.' + key)}={column} must be a column name (text).")
    named = {key: str(column) for key, column in columns.items() if column is not None}
    return {**dict.fromkeys(REQUIRED, GUESS), **named}


def _check_choice(key: str, value: str, choices: Iterable[str]) -> None:
    options = list(choices)
    if value not in options:
        near = (get_close_matches(str(value), options, 1) or options)[0]
        key = setting(key)
        raise ConfigError(f"{key}={value} is unknown: choose one of {', '.join(options)}, such as {key}={near}.")


def _deduplicate(problems: Iterable[Problem], report: Counter[str], drop: bool) -> list[Problem]:
    """Return the problems with unique ids (#2, #3, ... is appended) and, if `drop`, without repeated questions, which
    are counted in `report`."""
    answers: dict[str, str] = {}
    kept: list[Problem] = []
    for problem in problems:
        question = " ".join(problem.question.split())
        if question in answers:
            report["duplicates"] += 1
            report["conflicts"] += answers[question] != problem.answer
            if drop:
                continue
        answers.setdefault(question, problem.answer)
        kept.append(problem)
    seen: Counter[str] = Counter()
    taken = {problem.id for problem in kept}
    for index, problem in enumerate(kept):
        seen[problem.id] += 1
        name, number = problem.id, seen[problem.id]
        while number > 1 and name in taken:
            name, number = f"{problem.id}#{number}", number + 1
        taken.add(name)
        kept[index] = replace(problem, id=name)
    return kept


def _finish(
    path: str, problems: list[Problem], report: Counter[str], shuffle_seed: int | None, limit: int | None
) -> Problems:
    """Shuffle by the seed, if it is given, keep the first `limit`, log the counts, and return problems and counts."""
    if shuffle_seed is not None:
        random.Random(shuffle_seed).shuffle(problems)
    problems = problems[:limit]
    report["kept"] = len(problems)
    log.info("%s: %s", path, ", ".join(f"{count} {name}" for name, count in report.items() if count))
    return Problems(problems, report)
