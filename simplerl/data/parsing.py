r"""Convert the rows of a file to problems, and decide what happens to rows that cannot become one."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from typing import Any

from simplerl.data.columns import RowParser
from simplerl.data.escapes import lost_backslash
from simplerl.data.paths import Located
from simplerl.data.rows import RowError, override, setting
from simplerl.errors import ConfigError, require
from simplerl.types import Problem

log = logging.getLogger("simplerl.data.sources")

BENCHMARKS_FILE = "simplerl/data/benchmarks.py"
LOGGED_ROWS = 3  # number of skipped and of ungradable rows that the log names


def parse_rows(
    path: str,
    rows: Iterable[Located],
    parse: RowParser,
    name: str,
    report: Counter[str],
    on_bad_row: str,
    ungradable: str,
) -> Iterator[Problem]:
    """Yield the problems of all rows and update the counts in `report`.

    Raises ConfigError at the first unusable row, unless such rows are skipped, and if no problem is left.

    on_bad_row: as in `load_problems`; "" raises, for callers that have no such setting.
    """
    first_bad = ""
    found = 0
    rows = iter(rows)
    for index, (where, row) in enumerate(rows):
        report["rows"] += 1
        try:
            problem = parse(row, name, index)
        except RowError as error:
            if on_bad_row != "skip":
                if not on_bad_row:
                    own = (
                        f", or the row {name!r} of BENCHMARKS in {BENCHMARKS_FILE}, or read it as a file of your own "
                        f"with evals=heldout evals.path={path}"
                    )
                    readable = isinstance(row, dict)
                    raise ConfigError(f"{where}: {error}; correct it{own if readable else ''}.") from error
                if not found and not _any_usable(rows, parse, lambda _: True):
                    raise ConfigError(f"{where}: {error}; no row is usable, so {error.remedy}.") from error
                remedy = f"skip such rows with {setting('on_bad_row')}=skip"
                raise ConfigError(f"{where}: {error}; correct it, or {remedy}.") from error
            first_bad = first_bad or f"{where}: {error}; no row is usable, so {error.remedy}."
            report["bad"] += 1
            if report["bad"] <= LOGGED_ROWS:
                log.warning("%s: %s; row skipped", where, error)
            continue
        if not problem.answer:
            if ungradable == "raise":
                raise _no_answer(where, row, rows, parse, bool(found))
            report["ungradable"] += 1
            if report["ungradable"] <= LOGGED_ROWS:
                message = "%s: the gold answer of %s is empty, so it cannot be graded (ungradable=%s)"
                log.warning(message, where, problem.id, ungradable)
            if ungradable == "exclude":
                continue
        if (damage := lost_backslash(problem.question)) is not None:
            log.warning(
                "%s: the question %s; kept as it is, as it has other commands", where, damage.partition(" (")[0]
            )
        found += 1
        yield problem
    if first_bad and not found:
        raise ConfigError(first_bad)
    require(bool(found), f"{path} has no usable rows: add some.")


def _no_answer(where: str, row: Any, rows: Iterable[Located], parse: RowParser, found: bool) -> ConfigError:
    """Return the error for a row with an empty gold answer. found: whether an earlier row is usable."""
    boxed = [name for name, value in row.items() if isinstance(value, str) and "\\boxed" in value]
    key = setting("ungradable")
    if boxed and "question" not in boxed[-1].lower():
        remedy = f"set {override('columns.answer', boxed[-1])} {setting('answer_from')}=last_box"
        return ConfigError(f"{where}: the answer is empty, and the column {boxed[-1]!r} has a box: {remedy}.")
    if found or _any_usable(rows, parse, lambda problem: bool(problem.answer)):
        return ConfigError(f"{where}: the answer is empty; correct it, or set {key}=exclude or {key}=keep.")
    return ConfigError(
        f"{where}: the answer is empty, as in all rows; name the column that holds it, or set {key}=keep."
    )


def _any_usable(rows: Iterable[Located], parse: RowParser, usable: Callable[[Problem], bool]) -> bool:
    """Return whether one of the remaining rows can become a problem that is usable."""
    try:
        for _, row in rows:
            with suppress(RowError):
                if usable(parse(row, "", 0)):
                    return True
    except ConfigError:  # a file that cannot be read to its end
        pass
    return False


def refuse_solutions(path: str, problems: Iterable[Problem]) -> list[Problem]:
    """Return the problems. Raises ConfigError if most gold answers are worked solutions, which no response matches."""
    found = list(problems)
    for mark, rule, what in (("####", "after_hashes", "####"), ("\\boxed", "last_box", "\\boxed{}")):
        count = sum(mark in problem.answer for problem in found)
        if count > len(found) / 2:
            place = "after" if mark == "####" else "in"
            raise ConfigError(
                f"{path}: {count} of {len(found)} answers are worked solutions with the result {place} {what}, which "
                f"no response can match: set {setting('answer_from')}={rule}."
            )
    return found
