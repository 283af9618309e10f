"""Compares the grading rules on the same responses and writes a report in Markdown or HTML.

The report lists the fraction of correct responses under each rule, the agreement of each pair of rules, every row on
which two rules disagree (with both normal forms of the answer), gold answers that are not graded as equal to
themselves, and the slowest answers. Rows are read as by `simplerl.grade`.

`python -m simplerl.audit golds FILE` checks only the gold answers of a data set (column "answer" or "gold"): it counts
those with a unit, an option letter, a sentence or a remark to which the plain value is not graded as equal.
"""

from __future__ import annotations

import html
import itertools
import sys
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from pkgutil import resolve_name
from typing import Any

import numpy as np

from simplerl.data.readers import read_file
from simplerl.data.responses import read_responses
from simplerl.data.rows import RowError, location_of
from simplerl.errors import ConfigError
from simplerl.grade import (
    GRADER_HELP,
    GRADER_SETTINGS,
    check_writable,
    command_parser,
    parse_command,
    run_command,
)
from simplerl.io.files import write_text
from simplerl.io.tables import Table, as_html, markdown, text_cells
from simplerl.rewards import lenient, strict
from simplerl.rewards.decorations import describe_golds
from simplerl.rewards.normalize import normalize
from simplerl.rewards.pool import Grader
from simplerl.rewards.qwen import normal_form
from simplerl.rewards.rules import DIFFERENT, EQUAL, FAILED, NO_ANSWER, RULES, TIMEOUT
from simplerl.rewards.worker import LocalGradingWorker
from simplerl.types import Problem, Response, Reward, Score

SLOWEST = 10  # number of slowest answers in the report
REWARDS: dict[str, Reward] = {rule: partial(strict, rule=rule) for rule in RULES} | {"lenient": partial(lenient)}
STATUSES = (EQUAL, DIFFERENT, NO_ANSWER, TIMEOUT, FAILED)
MATH_VERIFY = RULES[0]
Pair = tuple[Response, Problem]
Graded = dict[str, list[tuple[Score, float]]]  # rule -> (score, seconds) of each row


@dataclass(frozen=True)
class _Ruled(Problem):
    """Holds a problem and the name of the entry of `REWARDS` that grades it."""

    reward: str = ""


def _by_its_reward(response: Response, problem: Problem) -> Score:
    assert isinstance(problem, _Ruled)
    score: Score = REWARDS[problem.reward](response, problem)
    return score


def _math_worker(payload: bytes, seconds: float, memory_gib: float, _: bool) -> LocalGradingWorker:
    """Return a worker that loads math-verify before its first answer, so that no answer's time includes loading."""
    return LocalGradingWorker(payload, seconds, memory_gib, uses_math_grader=True)


def grade_by_all_rules(pairs: list[Pair], **settings: Any) -> tuple[Graded, list[tuple[Problem, str]]]:
    """Grade every response by the strict reward under every rule, and by the lenient reward under the default rule.

    Returns the scores, and (problem, status) of each distinct gold answer that, in a box, is not graded as correct."""
    distinct = list({(problem.source, problem.answer): problem for _, problem in pairs}.values())
    golds = [(Response(f"\\boxed{{{problem.answer}}}"), problem) for problem in distinct]
    tasks = [(name, *pair) for name in REWARDS for pair in pairs] + [(MATH_VERIFY, *pair) for pair in golds]
    with Grader(_by_its_reward, worker_type=_math_worker, **settings) as grader:
        scores = grader.grade_timed((text, _Ruled(**vars(problem), reward=name)) for name, text, problem in tasks)
    graded = {name: scores[i * len(pairs) :][: len(pairs)] for i, name in enumerate(REWARDS)}
    of_golds = zip(distinct, scores[len(REWARDS) * len(pairs) :], strict=True)
    return graded, [(problem, score.status) for problem, (score, _) in of_golds if not score.correct]


def report_tables(pairs: list[Pair], graded: Graded, unequal: list[tuple[Problem, str]]) -> list[Table]:
    """Return the sections of the report from the results of `grade_by_all_rules`."""
    correct = {name: np.array([score.correct for score, _ in column], bool) for name, column in graded.items()}

    def percentage(chosen: Any) -> str:
        return f"{100 * chosen.sum() / max(len(pairs), 1):.2f} %"

    verdicts = []
    for name, column in graded.items():
        counts = Counter(score.status for score, _ in column)
        verdicts.append((name, percentage(correct[name]), *(counts[status] for status in STATUSES)))
    agreement = [
        (f"{a} / {b}", percentage(x == y), (x & ~y).sum(), (y & ~x).sum())
        for (a, x), (b, y) in itertools.combinations(correct.items(), 2)
    ]
    golds = [(problem.source, problem.id, problem.answer, status) for problem, status in unequal]
    return [
        _table("Verdicts", ("rule", "correct", *STATUSES), verdicts, f"{len(pairs)} responses"),
        _table("Agreement", ("rules", "agree", "correct only by the first", "correct only by the second"), agreement),
        _disagreements(pairs, graded),
        _table("Gold answers not equal to themselves", ("source", "id", "gold", "status"), golds),
        _slowest(pairs, graded),
    ]


def _table(title: str, columns: Iterable[str], rows: Sequence[Iterable[object]], *notes: str) -> Table:
    """Return a section of the report; long texts are shortened."""
    names = list(columns)
    cells = [text_cells(None if value is None else _shortened(str(value)) for value in row) for row in rows]
    return Table(title, f"{title} ({len(rows)})", names, cells, notes=list(notes), align="l" * len(names))


def _shortened(text: str) -> str:
    return text if len(text) <= 160 else text[:157] + "..."


def _disagreements(pairs: list[Pair], graded: Graded) -> Table:
    rows = []
    for i, (_, problem) in enumerate(pairs):
        scores = [column[i][0] for column in graded.values()]
        if len({score.correct for score in scores}) == 1:
            continue
        answer = next((score.extracted for score in scores if score.extracted), "")
        forms = [normalize(text) for text in (answer[:2000], problem.answer)]
        qwen_forms = [normal_form(text, problem.source) for text in (answer[:2000], problem.answer)]
        verdicts = ("correct" if score.correct else score.status for score in scores)
        rows.append((problem.id, *verdicts, answer, problem.answer, " | ".join(forms), " | ".join(qwen_forms)))
    header = ("id", *graded, "answer", "gold", "normal forms (math_verify)", "normal forms (qwen)")
    return _table("Disagreements", header, rows)


def _slowest(pairs: list[Pair], graded: Graded) -> Table:
    timed = [(seconds, name, i) for name, column in graded.items() for i, (_, seconds) in enumerate(column)]
    rows = []
    for seconds, name, i in sorted(timed, reverse=True)[:SLOWEST]:
        problem, score = pairs[i][1], graded[name][i][0]
        rows.append((problem.id, name, f"{seconds:.3f}", score.status, score.extracted, problem.answer))
    return _table("Slowest answers", ("id", "rule", "seconds", "status", "answer", "gold"), rows)


def as_markdown(report: list[Table], title: str) -> str:
    sections = [f"# {title}\n"]
    for table in report:
        rows = [[replace(cell, code="\\" in cell.text() or "|" in cell.text()) for cell in row] for row in table.rows]
        sections.append(f"## {table.caption}\n\n{markdown(replace(table, caption='', rows=rows))}")
    return "\n".join(sections)


def as_page(report: list[Table], title: str) -> str:
    """Return the report as an HTML page."""
    head = (
        f"<!doctype html><meta charset='utf-8'><title>{html.escape(title)}</title><style>body{{font:14px sans-serif}}"
    )
    head += "td,th{border:1px solid #ccc;padding:2px 6px;text-align:left;font-family:monospace}</style>"
    return "\n".join([head, f"<h1>{html.escape(title)}</h1>", *map(as_html, report)])


def report_golds(path: Path) -> list[str]:
    """Check the gold answers of a file and return the report as lines. Raises ConfigError, which names file and row,
    if a row has no usable gold answer."""
    problems = []
    for number, row in read_file(path):
        gold = row if isinstance(row, RowError) else row.get("answer", row.get("gold"))
        if isinstance(gold, RowError) or not isinstance(gold, (str, int, float)):
            reason = gold if isinstance(gold, RowError) else 'it has no "answer" or "gold" that is a string or a number'
            raise ConfigError(f"{location_of(path, number)}: {reason}; correct the row.")
        identifier = row.get("id", row.get("problem_id", number)) if isinstance(row, dict) else number
        problems.append(Problem(str(identifier), "", str(gold), source=str(row.get("source") or "")))  # type: ignore[union-attr]
    return [*describe_golds(problems), f"{len(problems)} gold answers checked."]


def main(arguments: list[str]) -> None:
    if arguments[:1] == ["golds"] and len(arguments) == 2:
        print(*report_golds(Path(arguments[1])), sep="\n")
        return
    parser = command_parser("audit", "INPUT [REPORT]", str(__doc__), "settings:\n" + GRADER_HELP)
    parser.add_argument(
        "report",
        metavar="REPORT",
        type=Path,
        nargs="?",
        help="report to write, .md or .html (default: INPUT with the suffix .audit.md)",
    )
    options, grader_settings, other_settings = parse_command(parser, arguments)
    if other_settings:
        raise ConfigError(f"{min(other_settings)} is not a setting of audit: choose from {', '.join(GRADER_SETTINGS)}.")
    target = check_writable(options.report or options.input.with_suffix(".audit.md"), options.input)
    rows = [row for _, row in read_responses(options.input, options.columns, bare=options.bare)]
    pairs = [row for row in rows if not isinstance(row, RowError)]
    if failed := [row for row in rows if isinstance(row, RowError)]:
        print(f"note: {len(failed)} of {len(rows)} rows were left out; the first: {failed[0]}", file=sys.stderr)
    graded, unequal = grade_by_all_rules(pairs, **grader_settings)
    report = report_tables(pairs, graded, unequal)
    title = f"Audit of {options.input.name}"
    write_text(target, as_page(report, title) if target.suffix == ".html" else as_markdown(report, title))
    print(as_markdown(report[:2], title))
    disagreements = len(report[2].rows)
    print(f"{disagreements} disagreements, {len(unequal)} gold answers not equal to themselves; report: {target}")


if __name__ == "__main__":
    run_command(resolve_name("simplerl.audit.main"))  # grading workers cannot import a reward from `__main__`
