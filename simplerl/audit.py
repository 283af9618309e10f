"""The grading rules side by side: `python -m simplerl.audit rollouts.parquet|in.jsonl [report.md|report.html]`.

Rows as for `simplerl.grade`; `--bare` and its settings too. The report (beside the input unless named) has the
share of right answers under each rule, their agreement, every row on which any two columns disagree, with both
normal forms, golds that do not equal themselves, and the slowest answers.
"""

from __future__ import annotations

import html
import itertools
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from simplerl.errors import ConfigError
from simplerl.grade import (
    OPTIONS,
    asks_for_help,
    options_of,
    parse,
    problem_of,
    read_rows,
    response_of,
    writable,
    write_whole,
)
from simplerl.rewards import lenient, strict
from simplerl.rewards.rules import RULES
from simplerl.rewards.normalize import normalize
from simplerl.rewards.pool import Grader
from simplerl.rewards.qwen import normal_form
from simplerl.types import Problem, Reward, Score

SLOWEST = 10
COLUMNS: dict[str, Reward] = {rule: partial(strict, rule=rule) for rule in RULES} | {"lenient": partial(lenient)}
Graded = dict[str, list[tuple[Score, float]]]  # by column: (score, seconds) of each row


@dataclass(frozen=True)
class Table:
    title: str
    header: Sequence[str]
    rows: Sequence[Sequence[object]]
    note: str = ""


def grade_all(pairs: list[tuple[str, Problem]], **options: Any) -> Graded:
    """Every response under every rule with the strict extraction, and leniently under the default one."""
    graded: Graded = {}
    for name, reward in COLUMNS.items():
        with Grader(reward, **options) as grader:
            graded[name] = grader.grade_timed(pairs)
    return graded


def unequal_golds(problems: list[Problem], **options: Any) -> list[tuple[Problem, str]]:
    """Distinct golds that, boxed, do not equal themselves under the default rule, with the status."""
    distinct = list({(problem.source, problem.answer): problem for problem in problems}.values())
    with Grader(partial(strict), **options) as grader:
        scores = grader.grade_pairs((f"\\boxed{{{problem.answer}}}", problem) for problem in distinct)
    return [(problem, score.status) for problem, score in zip(distinct, scores, strict=True) if not score.correct]


def tables(pairs: list[tuple[str, Problem]], graded: Graded, golds: list[tuple[Problem, str]]) -> list[Table]:
    count = max(len(pairs), 1)
    right = {name: [score.correct for score, _ in column] for name, column in graded.items()}
    statuses = ("equal", "different", "no_answer", "timeout", "failed")
    verdicts = [
        [
            name,
            f"{100 * sum(right[name]) / count:.2f} %",
            *(sum(s.status == status for s, _ in column) for status in statuses),
        ]
        for name, column in graded.items()
    ]
    agreement = [
        [f"{a} / {b}", f"{100 * sum(x == y for x, y in zip(right[a], right[b], strict=True)) / count:.2f} %",
         sum(x and not y for x, y in zip(right[a], right[b], strict=True)),
         sum(y and not x for x, y in zip(right[a], right[b], strict=True))]
        for a, b in itertools.combinations(graded, 2)
    ]  # fmt: skip
    return [
        Table("Verdicts", ("rule", "right", *statuses), verdicts, f"{len(pairs)} responses"),
        Table("Agreement", ("rules", "agree", "only the first", "only the second"), agreement),
        _disagreements(pairs, graded),
        Table(
            "Golds that do not equal themselves",
            ("source", "id", "gold", "status"),
            [(problem.source, problem.id, problem.answer, status) for problem, status in golds],
        ),
        _slowest(pairs, graded),
    ]


def _disagreements(pairs: list[tuple[str, Problem]], graded: Graded) -> Table:
    rows = []
    for i, (_, problem) in enumerate(pairs):
        scores = {name: column[i][0] for name, column in graded.items()}
        if len({score.correct for score in scores.values()}) == 1:
            continue
        answer = next((score.extracted for score in scores.values() if score.extracted), "")
        rows.append(
            (
                problem.id,
                *("right" if score.correct else score.status for score in scores.values()),
                answer,
                problem.answer,
                f"{normalize(answer[:2000])} | {normalize(problem.answer)}",
                f"{normal_form(answer[:2000], problem.source)} | {normal_form(problem.answer, problem.source)}",
            )
        )
    header = ("id", *graded, "answer", "gold", "normal forms (math_verify)", "normal forms (qwen)")
    return Table("Disagreements", header, rows)


def _slowest(pairs: list[tuple[str, Problem]], graded: Graded) -> Table:
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
    if asks_for_help(arguments):
        print(__doc__.strip())
        return
    paths, settings, bare = parse(arguments)
    if len(paths) not in (1, 2):
        raise ConfigError(
            "One file is needed: python -m simplerl.audit rollouts.parquet|in.jsonl [report.md|report.html]."
        )
    if unknown := sorted(set(settings) - set(OPTIONS)):
        raise ConfigError(f"{unknown[0]} is unknown here: the settings are {', '.join(OPTIONS)}.")
    settings = options_of(settings)
    target = writable(paths[1] if len(paths) == 2 else paths[0].with_suffix(".audit.md"), paths[0])
    pairs = [(response_of(row, bare=bare), problem_of(row, i)) for i, row in enumerate(read_rows(paths[0]))]
    golds = unequal_golds([problem for _, problem in pairs], **settings)
    report = tables(pairs, grade_all(pairs, **settings), golds)
    title = f"Audit of {paths[0].name}"
    write_whole(target, as_html(report, title) if target.suffix == ".html" else as_markdown(report, title))
    print(as_markdown(report[:2], title))
    print(f"{len(report[2].rows)} disagreements, {len(golds)} golds unequal to themselves; report: {target}")


if __name__ == "__main__":
    try:
        main(sys.argv[1:])
    except ConfigError as error:
        sys.exit(f"error: {error}")
