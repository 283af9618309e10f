"""Reads the rows of a file of responses, each with its gold answer, for grading."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from decimal import Decimal
from pathlib import Path
from typing import Any

from simplerl.data.readers import read_file
from simplerl.data.rows import RowError, location_of
from simplerl.errors import ConfigError
from simplerl.types import FINISH_STOP, Problem, Response

# The columns that are read and, in order of preference, their names in files of other programs. Only the first name of
# each, "gold" and "id" are used without being named on the command line; the others are suggested in error messages.
COLUMNS = {
    "response": ("response", "completion", "output", "generation", "prediction", "generated_text", "pred", "text"),
    "answer": (
        *("answer", "gold", "ground_truth", "gts", "gt", "reward_model.ground_truth", "target", "label"),
        *("reference", "solution", "expected"),
    ),
    "id": ("problem_id", "id"),
    "question": ("question",),
    "source": ("source",),
    "finish_reason": ("finish_reason",),
}
USED_UNNAMED = {*(names[0] for names in COLUMNS.values()), "gold", "id"}
SURROGATE = re.compile("[\ud800-\udfff]")

Graded = tuple[Response, Problem]
Row = tuple["dict[str, Any]", "Graded | RowError"]  # a row's columns, and the response and problem to grade


def read_responses(path: Path, columns: Mapping[str, str], *, bare: bool) -> list[Row]:
    """Read the rows of a file, each with the response and problem that are graded.

    columns: the names of columns that do not have their usual name, by the keys of `COLUMNS`. bare: the response is
    only an answer, so put it into a box. For a row that cannot be graded, a RowError replaces response and problem.
    Raises ConfigError if the file cannot be read, lacks a column, or has no row that can be graded.
    """
    if path.is_dir():
        raise ConfigError(f"{path} is a folder: name a file with one response per row.")
    found = list(read_file(path))
    if not found:
        raise ConfigError(f"{path} has no rows: name a file with one response per row.")
    names = _find_columns(path, [row for _, row in found if isinstance(row, dict)], columns)
    rows: list[Row] = []
    for number, row in found:
        try:
            if isinstance(row, RowError):
                raise row
            rows.append((row, _read_answer(row, names, number, bare=bare)))
        except RowError as error:
            failed = RowError(f"{location_of(path, number)}: {error}")
            rows.append((row if isinstance(row, dict) else {}, failed))
    if all(isinstance(graded, RowError) for _, graded in rows):
        raise ConfigError(f"{rows[0][1]}. No row of the file can be graded: correct it.")
    return rows


def _find_columns(path: Path, rows: Sequence[Mapping[str, Any]], named: Mapping[str, str]) -> dict[str, list[str]]:
    """Return the column names to look up for each key of COLUMNS. Raises ConfigError if no row has a response, or no
    row an answer."""
    found = {key: [name for name in names if name in USED_UNNAMED] for key, names in COLUMNS.items()}
    found |= {key: [name] for key, name in named.items()}
    present = list(dict.fromkeys(name for row in rows for name in row))
    missing = [key for key in ("response", "answer") if not any(_has(row, found[key]) for row in rows)]
    if missing and rows:
        taken = {name for key in found if key not in missing for name in found[key]}
        remedies = []
        for key in missing:
            free = [name for name in present if name not in taken]
            likely = [name for name in COLUMNS[key] if any(_has(row, [name]) for row in rows) and name not in taken]
            taken.add(guess := (likely or free or ["NAME"])[0])
            remedies.append(f"columns.{key}={guess}")
        absent = " and ".join(f'"{found[key][0]}"' for key in missing)
        raise ConfigError(
            f"{path} has no column {absent}; its columns are {', '.join(map(str, present))}: name the correct one, "
            f"such as {' '.join(remedies)}."
        )
    return found


def _has(row: Mapping[str, Any], names: Iterable[str]) -> bool:
    return any(_value(row, name)[0] for name in names)


def _value(row: Mapping[str, Any], name: str) -> tuple[bool, Any]:
    """Return whether the row has a column, or the nested field that "a.b" names, and its value (None if it has
    neither)."""
    if name in row:
        return True, row[name]
    value: Any = row
    for part in name.split("."):
        if not isinstance(value, Mapping) or part not in value:
            return False, None
        value = value[part]
    return True, value


def _read_answer(row: Mapping[str, Any], names: Mapping[str, Sequence[str]], number: int, *, bare: bool) -> Graded:
    """Return the response and problem of a row. Raises RowError if a column is missing or not text or a number. number:
    of the row, from 1; a row without an id gets number - 1. bare: put the response into a box."""

    def value(key: str) -> Any:
        return next((value for present, value in (_value(row, name) for name in names[key]) if present), None)

    for key in ("response", "answer"):
        if not _has(row, names[key]):
            raise RowError(f'it has no column "{names[key][0]}"')
    response, answer = _as_text("response", value("response")), _as_text("answer", value("answer"))
    if answer is None:
        raise RowError("the answer is null, so there is nothing to compare with")
    text = f"\\boxed{{{response}}}" if bare and response is not None else response or ""
    number_or_id = value("id")
    problem = Problem(
        id=_encodable(str(number - 1 if number_or_id is None else number_or_id)),
        question=_encodable(str(value("question") or "")),
        answer=answer,
        source=_encodable(str(value("source") or "")),
    )
    return Response(text, finish_reason=str(value("finish_reason") or FINISH_STOP)), problem


def _as_text(key: str, value: Any) -> str | None:
    """Return a response or answer as text, of chat messages the content of the last one; None if it is null or NaN.
    Raises RowError for any other type and for a lone surrogate."""
    if value is None or (isinstance(value, float | Decimal) and math.isnan(value)):
        return None
    if isinstance(value, list) and value and isinstance(value[-1], Mapping) and "content" in value[-1]:
        value = value[-1]["content"]  # chat messages: the last turn
    if isinstance(value, list):
        raise RowError(f"the {key} is a list of {len(value)}; write one row for each")
    if isinstance(value, bool) or not isinstance(value, str | int | float | Decimal):
        raise RowError(f"the {key} must be a string or a number, not {_shortened(repr(value))}")
    text = str(value)
    if SURROGATE.search(text):
        raise RowError(f"the {key} has a lone surrogate, which UTF-8 cannot represent")
    return text


def _shortened(text: str) -> str:
    return text if len(text) <= 60 else text[:57] + "..."


def _encodable(text: str) -> str:
    r"""Return a text with each lone surrogate replaced by its escape, such as \ud800."""
    return text.encode(errors="backslashreplace").decode()
