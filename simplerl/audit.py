"""Compares the grading rules on the same responses and writes a report in Markdown or HTML.

The report lists the fraction of correct responses under each rule, the agreement of each pair of rules, every row on
which two rules disagree (with both normal forms of the answer), gold answers that are not graded as equal to
themselves, and the slowest answers. Rows are read as by `simplerl.grade`.
"""

from __future__ import annotations

import html
import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from simplerl.errors import ConfigError
from simplerl.grade import (
    GRADER_HELP,
    GRADER_SETTINGS,
    check_writable,
    command_parser,
    parse_command,
    read_answers,
    read_rows,
    run_command,
    write_atomically,
)
from simplerl.rewards import lenient, strict
from simplerl.rewards.normalize import normalize
from simplerl.rewards.pool import Grader
from simplerl.rewards.qwen import normal_form
from simplerl.rewards.rules import DIFFERENT, EQUAL, FAILED, NO_ANSWER, RULES, TIMEOUT
from simplerl.types import Problem, Response, Reward, Score

SLOWEST = 10  # number of slowest answers in the report
REWARDS: dict[str, Reward] = {rule: partial(strict, rule=rule) for rule in RULES} | {"lenient": partial(lenient)}
Graded = dict[str, list[tuple[Score, float]]]  # rule -> (score, seconds) of each row


@dataclass(frozen=True)
class Table:
    """Holds one section of the report."""

    title: str
    header: Sequence[str]
    rows: Sequence[Sequence[object]]
    note: str = ""


def grade_by_all_rules(pairs: list[tuple[Response, Problem]], **settings: Any) -> Graded:
    """Grade every response by the strict reward under every rule, and by the lenient reward under the default rule."""
    graded: Graded = {}
    for name, reward in REWARDS.items():
        with Grader(reward, **settings) as grader:
            graded[name] = grader.grade_timed(pairs)
    return graded


def unequal_golds(problems: list[Problem], **settings: Any) -> list[tuple[Problem, str]]:
    """Return the distinct gold answers that, put in a box, are not graded as correct, with the status."""
    distinct = list({(problem.source, problem.answer): problem for problem in problems}.values())
    with Grader(partial(strict), **settings) as grader:
        scores = grader.grade_pairs((f"\\boxed{{{problem.answer}}}", problem) for problem in distinct)
    return [(problem, score.status) for problem, score in zip(distinct, scores, strict=True) if not score.correct]


def report_tables(
    pairs: list[tuple[Response, Problem]], graded: Graded, unequal: list[tuple[Problem, str]]
) -> list[Table]:
    """Return the sections of the report; `unequal` is the result of `unequal_golds`."""
    count = max(len(pairs), 1)
    correct = {name: [score.correct for score, _ in column] for name, column in graded.items()}
    statuses = (EQUAL, DIFFERENT, NO_ANSWER, TIMEOUT, FAILED)
    verdicts = [
        [
            name,
            f"{100 * sum(correct[name]) / count:.2f} %",
            *(sum(s.status == status for s, _ in column) for status in statuses),
        ]
        for name, column in graded.items()
    ]
    agreement = [
        [f"{a} / {b}", f"{100 * sum(x == y for x, y in zip(correct[a], correct[b], strict=True)) / count:.2f} %",
         sum(x and not y for x, y in zip(correct[a], correct[b], strict=True)),
         sum(y and not x for x, y in zip(correct[a], correct[b], strict=True))]
        for a, b in itertools.combinations(graded, 2)
    ]  # fmt: skip
    return [
        Table("Verdicts", ("rule", "correct", *statuses), verdicts, f"{len(pairs)} responses"),
        Table("Agreement", ("rules", "agree", "correct only by the first", "correct only by the second"), agreement),
        _disagreements(pairs, graded),
        Table(
            "Gold answers not equal to themselves",
            ("source", "id", "gold", "status"),
            [(problem.source, problem.id, problem.answer, status) for problem, status in unequal],
        ),
        _slowest(pairs, graded),
    ]


def _disagreements(pairs: list[tuple[Response, Problem]], graded: Graded) -> Table:
    rows = []
    for i, (_, problem) in enumerate(pairs):
        scores = {name: column[i][0] for name, column in graded.items()}
        if len({score.correct for score in scores.values()}) == 1:
            continue
        answer = next((score.extracted for score in scores.values() if score.extracted), "")
        rows.append(
            (
                problem.id,
                *("correct" if score.correct else score.status for score in scores.values()),
                answer,
                problem.answer,
                f"{normalize(answer[:2000])} | {normalize(problem.answer)}",
                f"{normal_form(answer[:2000], problem.source)} | {normal_form(problem.answer, problem.source)}",
            )
        )
    header = ("id", *graded, "answer", "gold", "normal forms (math_verify)", "normal forms (qwen)")
    return Table("Disagreements", header, rows)


def _slowest(pairs: list[tuple[Response, Problem]], graded: Graded) -> Table:
    timed = [(seconds, name, i) for name, column in graded.items() for i, (_, seconds) in enumerate(column)]
    rows = [
        (
            pairs[i][1].id,
            name,
            f"{seconds:.3f}",
            graded[name][i][0].status,
            graded[name][i][0].extracted,
            pairs[i][1].answer,
        )
        for seconds, name, i in sorted(timed, reverse=True)[:SLOWEST]
    ]
    return Table("Slowest answers", ("id", "rule", "seconds", "status", "answer", "gold"), rows)


def _cell(value: object) -> str:
    text = "" if value is None else str(value).replace("\n", " ")
    return text if len(text) <= 160 else text[:157] + "..."


def as_markdown(report: list[Table], title: str) -> str:
    lines = [f"# {title}", ""]
    for table in report:
        lines += [f"## {table.title} ({len(table.rows)})", "", *([table.note, ""] if table.note else [])]
        if table.rows:
            lines += ["| " + " | ".join(table.header) + " |", "|" + " --- |" * len(table.header)]
            lines += ["| " + " | ".join(_markdown_cell(value) for value in row) + " |" for row in table.rows]
        lines += [] if table.rows else ["None."]
        lines.append("")
    return "\n".join(lines)


def _markdown_cell(value: object) -> str:
    text = _cell(value)
    return f"`{text.replace('|', chr(0xA6)).replace('`', chr(39))}`" if "\\" in text or "|" in text else text


def as_html(report: list[Table], title: str) -> str:
    parts = [
        f"<!doctype html><meta charset='utf-8'><title>{html.escape(title)}</title><style>body{{font:14px sans-serif}}"
    ]
    parts.append("td,th{border:1px solid #ccc;padding:2px 6px;text-align:left;font-family:monospace}</style>")
    parts.append(f"<h1>{html.escape(title)}</h1>")
    for table in report:
        parts.append(f"<h2>{html.escape(table.title)} ({len(table.rows)})</h2><p>{html.escape(table.note)}</p><table>")
        for tag, row in [("th", table.header), *(("td", row) for row in table.rows)]:
            parts.append("<tr>" + "".join(f"<{tag}>{html.escape(_cell(v))}</{tag}>" for v in row) + "</tr>")
        parts.append("</table>")
    return "\n".join(parts)


def main(arguments: list[str]) -> None:
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
    answers = list(read_answers(read_rows(options.input), bare=options.bare))
    unequal = unequal_golds([problem for _, problem in answers], **grader_settings)
    report = report_tables(answers, grade_by_all_rules(answers, **grader_settings), unequal)
    title = f"Audit of {options.input.name}"
    write_atomically(target, as_html(report, title) if target.suffix == ".html" else as_markdown(report, title))
    print(as_markdown(report[:2], title))
    disagreements = len(report[2].rows)
    print(f"{disagreements} disagreements, {len(unequal)} gold answers not equal to themselves; report: {target}")


if __name__ == "__main__":
    run_command(main)
