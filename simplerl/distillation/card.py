"""Renders the data set card (README.md) of a distillation: teacher, sampling, grader, selection, acceptance, digests.

The card depends on settings, inputs and responses only, so that the same command writes the same bytes. Machine, time
and code version are in environment.json of the run folder.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

import yaml

from simplerl.distillation.dataset import TRAIN
from simplerl.io.tables import Table, escape_markdown, markdown, text_cells

SIZES = {1_000: "n<1K", 10_000: "1K<n<10K", 100_000: "10K<n<100K", 1_000_000: "100K<n<1M"}  # of the Hub
COLUMNS = {
    "messages": "the conversation: question and answer, after a system message if the problem has one",
    "prompt, completion": "the same conversation, split before the answer",
    "question, response": "question and answer as text",
    "answer": "the gold answer that the grader compares with",
    "problem_id, sample": "the problem, and the index of the response among its samples",
    "source, level": "data set and level of the problem",
    "finish_reason, tokens": "stop or length, and the number of the teacher's tokens",
    "score, correct": "reward and verdict of the grader",
    "teacher": "the model that was sampled",
}
EXAMPLES = 5  # overlapping problems that are named for each benchmark


def dataset_card(report: Mapping[str, Any]) -> str:
    """Return the text of README.md for the report of a data set (`simplerl.distillation.command.build_report`)."""
    total = report["counts"]["total"]
    size = next((name for limit, name in SIZES.items() if total["kept"] < limit), "n>1M")
    front = {
        "license": report["license"],
        "task_categories": ["text-generation"],
        "tags": ["distillation", "reasoning", "mathematics", "simplerl"],
        "size_categories": [size],
        "configs": [{"config_name": "default", "data_files": [{"split": "train", "path": str(TRAIN)}]}],
    }
    parts = [
        f"---\n{yaml.safe_dump(front, sort_keys=False)}---\n",
        f"# {total['kept']:,} answers of {escape_markdown(report['teacher']['model'])}\n",
        f"{total['kept']:,} of {total['responses']:,} responses to {total['problems']:,} problems, for supervised "
        f"fine-tuning; {total['covered']:,} problems have at least one. Sampled, graded and selected by SimpleRL's "
        "distill.py.\n",
        _section("Teacher and sampling", report["teacher"]),
        f"The prompt of the first problem:\n\n{_fenced(report['example'])}",
        _section("Grader", report["grader"]),
        _section("Selection", report["selection"]),
        markdown(dropped_table(report)).rstrip() + "\n",
        "## Acceptance by level\n",
        markdown(level_table(report)).rstrip() + "\n",
        *_overlap(report),
        "## Columns\n",
        _table(("column", "content"), [(f"{name}", text) for name, text in COLUMNS.items()]),
        _section("Digests", report["digests"]),
        "## License\n",
        f"`license: {report['license']}`. The license and terms of the teacher govern the use of its outputs, and the "
        "questions and gold answers remain under the license of their data set: check both before you publish this "
        "data set or a model that was trained on it.\n",
    ]
    return "\n".join(parts)


def _table(columns: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    table = Table("table", "", list(columns), [text_cells(row) for row in rows], align="l" * len(columns))
    return markdown(table).rstrip() + "\n"


def _section(title: str, facts: Mapping[str, Any]) -> str:
    rows = [
        (key, value if isinstance(value, str) else json.dumps(value, ensure_ascii=False))
        for key, value in facts.items()
    ]
    return f"## {title}\n\n{_table(('setting', 'value'), rows)}"


def _fenced(text: str) -> str:
    """Return a text as a Markdown code block, with a fence that the text does not contain."""
    fence = "```"
    while fence in text:
        fence += "`"
    return f"{fence}text\n{text}\n{fence}\n"


def dropped_table(report: Mapping[str, Any]) -> Table:
    """Return how many answers are kept, and how many are left out for each reason."""
    counts, every = report["counts"], report["counts"]["total"]["responses"]
    rows = {"kept": counts["total"]["kept"], **{key: count for key, count in counts["dropped"].items() if count}}
    cells = [text_cells([name, f"{count:,}", _percent(count, every)]) for name, count in rows.items()]
    return Table("selection", "", ["answers", "count", "%"], cells)


def level_table(report: Mapping[str, Any]) -> Table:
    """Return a table with one row per level and one for all: problems, responses, fraction correct, pass@samples,
    number and fraction of kept answers, and their mean length in tokens."""
    counts, samples = report["counts"], report["teacher"]["samples per problem"]
    levels = {**counts["levels"], "all": counts["total"]} if len(counts["levels"]) > 1 else {"all": counts["total"]}
    rows = []
    for level, one in levels.items():
        correct, solved = _percent(one["correct"], one["responses"]), _percent(one["solved"], one["problems"])
        accepted = _percent(one["kept"], one["responses"])
        length = f"{one['tokens'] / one['kept']:.0f}" if one["kept"] else None
        sizes = [f"{one['problems']:,}", f"{one['responses']:,}"]
        rows.append(text_cells([level, *sizes, correct, solved, f"{one['kept']:,}", accepted, length]))
    columns = ["level", "problems", "responses", "correct %", f"pass@{samples} %", "kept", "kept %", "tokens if kept"]
    return Table("levels", "", columns, rows, rule_after=(len(rows) - 2,) if len(rows) > 1 else ())


def _percent(part: int, whole: int) -> str | None:
    return f"{100 * part / whole:.1f}" if whole else None


def overlap_lines(report: Mapping[str, Any]) -> list[str]:
    """Return one sentence for each benchmark about its overlap with the problems and with the teacher's responses."""
    words, lines = report["selection"]["overlap_words"], []
    for name, one in report["overlap"].items():
        pairs = one["questions"]
        problems, items = len({problem for problem, _ in pairs}), len({item for _, item in pairs})
        line = (
            f"{name}: {problems} problems share {words} consecutive words with {items} of its {one['items']} "
            f"questions, or are equal to one; {one['responses']} responses do."
        )
        named = ", ".join(f"{problem} with {item}" for problem, item in pairs[:EXAMPLES])
        lines.append(f"{line} {'First' if len(pairs) > EXAMPLES else 'These are'}: {named}." if pairs else line)
    return lines


def _overlap(report: Mapping[str, Any]) -> list[str]:
    lines = overlap_lines(report) or ["Not checked: the distillation had no evaluation sets (`evals=...`)."]
    fate = "Overlapping problems are left out." if report["selection"]["drop_overlap"] else ""
    note = f"Words are compared in lower case, without symbols and drawings. {fate}".strip()
    return ["## Overlap with benchmarks\n", f"{note}\n", *(f"- {escape_markdown(line)}" for line in lines), ""]
