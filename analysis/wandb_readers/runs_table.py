"""Reads the runs table, exported from the W&B page or saved from `wandb.Api().runs()` with pandas as in W&B's guide."""

from __future__ import annotations

import ast
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from analysis.run_data import RunData, flatten_config, parse_number, parse_setting, temporary_id
from simplerl.config import all_settings

# Columns of the runs table that are neither settings nor results.
METADATA = (
    *("Name", "ID", "State", "Notes", "User", "Username", "Tags", "Created", "Updated", "End Time", "Runtime", "Sweep"),
    *("Agent", "Group", "Job Type", "Project", "Entity", "Host", "Hostname", "GPU Count", "GPU Type", "CPU Count"),
    *("Description", "Relative Time (Process)", "Relative Time (Wall)", "Duration", "Commit", "Github"),
)
API_COLUMNS = {"summary", "config", "name"}
EMPTY = ("", "-")
# Words that mark a name without a slash as a setting or a result; the last word of a name counts most.
SETTING_WORDS = {
    *("lr", "rate", "coef", "coefficient", "weight", "scale", "size", "batch", "epochs", "seed", "clip", "decay"),
    *("temperature", "threshold", "limit", "penalty", "bonus", "beta", "betas", "gamma", "lambda", "lam", "alpha"),
    *("epsilon", "eps", "tau", "warmup", "rank", "layers", "heads", "workers", "gpus", "nodes", "dropout"),
}
RESULT_WORDS = {
    *("accuracy", "acc", "reward", "rewards", "return", "returns", "loss", "score", "scores", "error", "errors", "em"),
    *("perplexity", "ppl", "entropy", "pass", "f1", "bleu", "rouge", "correct", "solved", "success", "solve", "win"),
    *("reflection", "truncated"),
}


def read_runs_table(path: Path, header: list[str], rows: list[list[str]], notes: list[str]) -> list[RunData]:
    """Return one run per row of an exported runs table."""
    _note_table_problems(path, header, notes)
    results = result_columns(header, rows)
    unmarked = [header[index] for index in sorted(results) if "/" not in header[index]]
    if guessed := [name for name in unmarked if header.count(name) == 1]:
        notes.append(f"{path.name}: read as results because of their numbers and names: {', '.join(guessed)}.")
    occurrences: dict[str, int] = {}
    found: list[RunData] = []
    not_numbers: set[str] = set()
    for row in rows:
        cells = dict(zip(header, row, strict=True))
        name = cells["Name"]
        occurrence = occurrences[name] = occurrences.get(name, -1) + 1
        config, summary = _settings_and_results(header, row, results, not_numbers)
        found.append(
            RunData(
                id=cells.get("ID") or temporary_id(name, occurrence),
                name=name,
                state=cells.get("State") or None,
                source="wandb table",
                where=path.name,
                config=config,
                summary=summary,
                created=cells.get("Created") or None,
                seconds=parse_number(cells.get("Runtime", "")),
            )
        )
    if not_numbers:
        notes.append(f"{path.name}: results that are not numbers were skipped: {', '.join(sorted(not_numbers))}.")
    return found


def _note_table_problems(path: Path, header: list[str], notes: list[str]) -> None:
    repeated = sorted({name for name in header if header.count(name) > 1})
    if repeated:
        notes.append(
            f"{path.name}: columns that appear twice (a setting and a result with one name): {', '.join(repeated)}; "
            "the first is read as the setting, the last as the result."
        )
    if hidden := [name for name in ("State", "ID") if name not in header]:
        notes.append(f"{path.name}: {' and '.join(hidden)} hidden: show these columns in the table and export again.")
    if "seed" not in header:
        notes.append(f"{path.name}: has no seed column; runs with equal settings are treated as different seeds.")


def result_columns(header: Sequence[str], rows: Sequence[Sequence[str]]) -> set[int]:
    """Return the indices of the columns that hold results; the page marks neither settings nor results.

    Names with a slash, and the second of two equal names, are results. Other columns can be results only if all values
    are numbers. For these, the words of the name decide. If they do not, the column is a setting if this suite has a
    setting of that name, if its values are equal, or if each value occurs in several runs; otherwise it is a result."""
    numbers = [key for key, one in all_settings().items() if re.search("int|float", str(one.type))]
    settings = {key.rpartition(".")[2] for key in numbers}
    found = set()
    for index, name in enumerate(header):
        if name in METADATA or name.startswith("_"):
            continue
        if "/" in name or header.index(name) < index:
            found.add(index)
            continue
        cells = [row[index].strip() for row in rows if row[index].strip() not in EMPTY]
        if not cells or any(parse_number(cell) is None for cell in cells):
            continue
        by_name = _is_result_by_name(name)
        known = name.rpartition(".")[2] in settings
        if by_name or (by_name is None and not known and not _looks_like_a_setting(cells)):
            found.add(index)
    return found


def _is_result_by_name(name: str) -> bool | None:
    """Return whether the name of a column is that of a result; None if the name allows either. A dotted name is a
    setting unless its last part is that of a result, because nested settings are dotted and results rarely are."""
    parent, _, leaf = name.removesuffix(".last").rpartition(".")
    if leaf in ("max", "min", "mean", "best"):  # summaries of a metric
        return True
    words = re.findall(r"[a-z]+\d*", re.sub(r"([a-z])([A-Z])", r"\1 \2", leaf).lower())
    if words and words[-1] == "rate" and RESULT_WORDS & set(words):
        return True
    if words and words[-1] in SETTING_WORDS:
        return False
    if RESULT_WORDS & set(words):
        return True
    return False if parent else None


def _looks_like_a_setting(cells: Sequence[str]) -> bool:
    """Return whether the values are equal, or each occurs more than once."""
    values = [parse_number(cell) for cell in cells]
    return len(set(values)) == 1 or all(values.count(value) > 1 for value in set(values))


def _settings_and_results(
    header: list[str], row: list[str], results: set[int], not_numbers: set[str]
) -> tuple[dict[str, Any], dict[str, float]]:
    config: dict[str, Any] = {}
    summary: dict[str, float] = {}
    for index, (name, cell) in enumerate(zip(header, row, strict=True)):
        if name in METADATA or name.startswith("_"):
            continue
        if index in results:
            value = parse_number(cell)
            if value is not None:
                summary[name.removesuffix(".last")] = value
            elif cell.strip() not in EMPTY:
                not_numbers.add(name)
        elif cell.strip():
            config[name] = parse_setting(cell, name)
    return config, summary


def read_api_table(path: Path, header: list[str], rows: list[list[str]], notes: list[str]) -> list[RunData]:
    """Return one run per row of a table with the columns name, config and summary, which hold Python dicts as text."""
    found: list[RunData] = []
    names: list[str] = []
    unreadable = 0
    for row in rows:
        cells = dict(zip(header, row, strict=True))
        config, summary = (_parse_dict(cells[key]) for key in ("config", "summary"))
        if config is None or summary is None:
            unreadable += 1
            continue
        names.append(cells["name"])
        flat = {key: parse_number(value) for key, value in summary.items() if not key.startswith("_")}
        found.append(
            RunData(
                id=cells.get("id") or temporary_id(cells["name"], names.count(cells["name"]) - 1),
                name=cells["name"],
                state=cells.get("state") or None,
                source="wandb table",
                where=path.name,
                config={key: value for key, value in flatten_config(config).items() if not key.startswith("_wandb")},
                summary={key: value for key, value in flat.items() if value is not None},
                seconds=parse_number(summary.get("_runtime", "")),
            )
        )
    if unreadable:
        notes.append(f"{path.name}: {unreadable} rows whose config or summary is not a dict were skipped.")
    return found


def _parse_dict(text: str) -> dict[str, Any] | None:
    """Return the dict whose `repr` is `text`; None if `text` is something else."""
    try:
        found = ast.literal_eval(re.sub(r"(?<=[:\[,] )(-?(?:nan|inf))(?=[,}\]])", r"'\1'", text))
    except (ValueError, SyntaxError, RecursionError, MemoryError):
        return None
    return found if isinstance(found, dict) else None
