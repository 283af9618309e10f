r"""Read the fields of a problem from the columns of a row: extraction rules, and guessed column names.

A gold answer is kept as the data set writes it (including LaTeX); normalising it is the grader's job.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Container, Mapping, Sequence
from decimal import Decimal
from difflib import get_close_matches
from typing import Any

from simplerl.data.chats import assistant_text, decoded, is_missing, question_and_system
from simplerl.data.escapes import lost_backslash
from simplerl.data.rows import RowError, is_chat, override, setting
from simplerl.errors import ConfigError
from simplerl.rewards.extract import last_boxed
from simplerl.rewards.returned import is_encodable
from simplerl.types import Problem

# Converts a row to a problem, given the data set's name and the row's index from 0. Raises RowError.
RowParser = Callable[["dict[str, Any] | RowError", str, int], Problem]

SHORT_ANSWER = 300  # characters; a longer text without \boxed{} or #### is a solution whose answer cannot be found


# Rules for one value


def as_text(value: Any) -> str:
    """Return a string, or the only one of a list, stripped, or a number in its shortest form (27.0 as "27"). Raises
    ValueError otherwise."""
    if isinstance(value, list) and len(value) == 1 and isinstance(value[0], str):
        value = value[0]
    if isinstance(value, str):
        return value.strip()
    if isinstance(value, bool) or not isinstance(value, int | float | Decimal):
        raise ValueError(f"is {_type_name(value)}, not text or a number")
    if not math.isfinite(value):
        raise ValueError(f"is {value}")
    if isinstance(value, Decimal):
        return str(int(value)) if value == value.to_integral_value() else f"{value:f}"
    return str(int(value)) if isinstance(value, float) and value.is_integer() else str(value)


def _type_name(value: Any) -> str:
    names = {type(None): "empty (null)", list: "a list", dict: "an object", bool: "true/false"}
    return names.get(type(value), f"a {type(value).__name__}")


def after_hashes(value: Any) -> str:
    """Return the text after the last `####`, without thousands commas (GSM8K). Raises ValueError if there is none."""
    _, mark, tail = as_text(value).rpartition("####")
    if not mark:
        raise ValueError("has no ####")
    return tail.strip().replace(",", "")


def last_box(value: Any) -> str:
    r"""Return the content of the last box of a solution (MATH), written \boxed{7} or `\boxed 7`. Raises ValueError if
    there is none."""
    text = as_text(value)
    bare = list(re.finditer(r"\\f?box(?:ed)?\s*(?![a-zA-Z{\s])([^$\n]*?)(?:[.,;]?\s*)(?:\$|\\\)|\\\]|\n|$)", text))
    found = last_boxed(text)
    if bare and (found is None or not re.search(r"\\f?box(?:ed)?\s*\{", text[bare[-1].end(1) :])):
        found = bare[-1][1]
    if found is None:
        raise ValueError(r"has no \boxed{}")
    return found.strip()


def final(value: Any) -> str:
    r"""Return the answer of a solution: the last \boxed{}, or else the text after ####, or else a short text itself.
    Raises ValueError if there is none of these."""
    text = as_text(value)
    for rule in (last_box, after_hashes):
        try:
            return rule(text)
        except ValueError:
            continue
    if len(text) > SHORT_ANSWER:
        raise ValueError(r"is a long text without \boxed{} and ####")
    return text


def without_dollars(value: Any) -> str:
    """Return the answer without the `$` signs that delimit mathematics."""
    return as_text(value).replace("$", "").strip()


def first_without_dollars(value: Any) -> str:
    """Return the first of a list of answers, without `$` (OlympiadBench). Raises ValueError for anything else."""
    if not isinstance(value, list) or not value:
        raise ValueError("is not a list of answers" if value != [] else "is an empty list")
    return without_dollars(value[0])


def gsm8k_solution(value: Any) -> str:
    """Return a GSM8K solution without its calculator annotations `<<6*7=42>>` and without its `####` line."""
    return re.sub(r"<<[^<>]*>>", "", as_text(value)).rpartition("####")[0].strip()


def gsm8k_level(value: Any) -> str:
    """Return the number of calculator annotations `<<6*7=42>>` in a GSM8K solution, as a measure of difficulty."""
    return str(as_text(value).count("<<"))


def plain_level(value: Any) -> str:
    """Return a level as text, without the prefix "Level " of MATH."""
    return as_text(value).removeprefix("Level ")


# The values of `answer_from`, `solution_from` and `level_from`: how to read the answer, solution and level columns.
ANSWERS: dict[str, Callable[[Any], str]] = {
    "text": as_text,
    "final": final,
    "after_hashes": after_hashes,
    "last_box": last_box,
    "without_dollars": without_dollars,
    "first_without_dollars": first_without_dollars,
}
SOLUTIONS: dict[str, Callable[[Any], str]] = {"text": as_text, "gsm8k": gsm8k_solution}
LEVELS: dict[str, Callable[[Any], str]] = {"text": plain_level, "gsm8k": gsm8k_level}


# Columns


def value_of(row: Mapping[str, Any], column: str) -> Any:
    """Return the value of a column, or of the nested field that "a.b" names. Raises KeyError if the row has neither.

    A part of the name may be the index of a list ("0.value"). A field of null is null. To reach a field inside a
    string, the string is parsed as JSON; the value itself is returned as it is."""
    if column in row:
        return row[column]
    value: Any = row
    for part in column.split("."):
        if isinstance(value, str) and value.lstrip()[:1] in ("{", "["):
            try:
                value = json.loads(value)
            except ValueError:
                raise KeyError(column) from None
        if isinstance(value, list) and part.isdigit() and int(part) < len(value):
            value = value[int(part)]
        elif isinstance(value, Mapping) and part in value:
            value = value[part]
        elif value is not None:
            raise KeyError(column)
    return value


GUESS = "guess"  # instead of a column name: use the usual name that the data has
_REQUIRED = ("columns.question", "columns.answer")
# The usual names of each field, in groups: a name of an earlier group wins over those of later groups.
USUAL: dict[str, tuple[tuple[str, ...], ...]] = {
    "question": (
        ("question",),
        ("problem", "prompt", "query", "instruction", "input"),
        ("messages", "conversations", "conversation"),
    ),
    "answer": (
        ("answer",),
        (
            *("gold", "target", "label", "gt_answer", "final_answer", "expected_answer", "ground_truth_answer"),
            *("ground_truth", "reward_model.ground_truth"),
        ),
        ("solution", "completion", "response", "output"),
        ("messages", "conversations", "conversation"),
    ),
    "solution": (("solution",), ("completion", "response", "output"), ("messages", "conversations", "conversation")),
    "level": (("level",), ("difficulty",)),
    "id": (("id",), ("unique_id", "uuid", "problem_id")),
}


def guess_columns(row: Mapping[str, Any], wanted: Mapping[str, str], where: str) -> dict[str, str]:
    """Return the columns with every `guess` replaced by the usual name that the row has, ignoring case.

    An optional field that the row does not have is left out. Raises ConfigError if a question or answer has no usual
    name, or if several names are equally usual."""
    actual = {name.lower().strip(): name for name in row}
    columns = dict(wanted)
    for key in [key for key, column in wanted.items() if column == GUESS]:
        found: list[str] = []
        for group in USUAL[key]:
            found = found or [actual.get(name, name) for name in group if name in actual or _has_field(row, name)]
        if len(found) > 1:
            if "instruction" in map(str.lower, found) and "input" in map(str.lower, found):
                raise _in_two_parts(row, found, where)
            options = " or ".join(override("columns." + key, name) for name in found)
            raise ConfigError(f"{where}: {' and '.join(found)} may each hold the {key}: set {options}.")
        if found:
            columns[key] = found[0]
        elif key in ("question", "answer"):
            have = ", ".join(map(repr, row)) or "none"
            name = _proposed(row, key, set(columns.values()))
            remedy = f"set the correct one, such as {override('columns.' + key, name)}" if name else "correct the file"
            raise ConfigError(f"{where}: no column has a usual name of the {key} (its columns: {have}): {remedy}.")
        else:
            del columns[key]
    return columns


def _in_two_parts(row: Mapping[str, Any], found: Sequence[str], where: str) -> ConfigError:
    """Return the error for a row with an instruction and its input, of which a question would hold only one."""
    first, second = (next(name for name in found if name.lower() == one) for one in ("instruction", "input"))
    remedy = f"join {first} and {second} in one column"
    if is_missing(row[second]):
        key = override("columns.question", first)
        remedy = f"if {second} is empty in every row, set {key}, otherwise {remedy}"
    return ConfigError(f"{where}: {first} and {second} are two parts of the question: {remedy}.")


def _proposed(row: Mapping[str, Any], key: str, taken: Container[str]) -> str | None:
    """Return the column or nested field to propose for the question or answer: one with a usual last name, otherwise
    the first text for a question and the last value for an answer. None: there is none."""
    names = [name for name in _value_columns(row) if name not in taken]
    usual = [one for group in USUAL[key] for one in group]
    near = [name for one in usual for name in names if name.rpartition(".")[2].lower().strip() == one]
    if key == "question":
        names = [name for name in names if not isinstance(value_of(row, name), int | float)] or names
    found = near or (names[:1] if key == "question" else names[-1:])
    return found[0] if found else None


def _value_columns(row: Mapping[str, Any]) -> list[str]:
    """Return the columns, or their nested fields, that hold text, a number or a chat, without the roles of messages."""
    found = []
    for name, value in row.items():
        if isinstance(value, Mapping):
            found += [f"{name}.{inner}" for inner in _value_columns(value)]
        elif is_chat(value) or (isinstance(value, str | int | float) and name not in ("from", "role")):
            found.append(name)
    return found


def _has_field(row: Mapping[str, Any], name: str) -> bool:
    try:
        return "." in name and value_of(row, name) is not None
    except KeyError:
        return False


def _field_remedy(key: str, column: str, content: Any) -> str:
    """Return the remedy for a column whose content cannot be used: the field of an object, or of a list of one object,
    that holds a value. No single turn of a chat and no single element of a longer list is proposed."""
    if is_chat(content):
        return "write each chat with one user turn of text" if key == "columns.question" else "correct the file"
    if isinstance(content, list) and len(content) > 1:
        return 'write each list as one text, such as "1, 2"'
    nested = {"0": content[0]} if isinstance(content, list) and content else content
    inner = _value_columns(nested) if isinstance(nested, Mapping) else []
    return f"set {override(key, f'{column}.{inner[0]}')}" if inner else "correct the file"


def _missing_column(row: dict[str, Any], key: str, column: str, columns: Mapping[str, str], benchmark: str) -> RowError:
    """Return the error for a row without `column`, which the setting `key` names. The others are as in `row_parser`."""
    present = ", ".join(map(repr, row)) or "none"
    if benchmark:
        return RowError(f"the benchmark {benchmark} reads {column!r}, which it lacks (columns: {present})")
    unused = [name for name in row if name not in columns.values()]
    near = get_close_matches(column, unused, 1) or (unused[:1] if key in _REQUIRED else ["null"])
    remedy = f"set {override(key, 'null' if key == 'extra' else near[0])}" if near else "correct the file"
    return RowError(
        f"{setting(key)}={column} names a column that this row does not have (its columns: {present})", remedy
    )


def row_parser(
    columns: Mapping[str, str],
    answer_of: Callable[[Any], str],
    solution_of: Callable[[Any], str],
    level_of: Callable[[Any], str],
    remove: Sequence[str],
    keep_system: bool,
    extra: Sequence[str] | None,
    benchmark: str = "",
) -> RowParser:
    """Return a function that converts a row to a problem, or raises RowError if the row lacks a column or has an
    invalid value. columns: field -> column. remove: texts to delete from questions. extra: columns for `Problem.extra`;
    None: all others. benchmark: name of the benchmark whose columns these are, for messages; "" if
    data.columns names them."""

    def value(row: dict[str, Any], key: str, column: str) -> Any:
        try:
            return value_of(row, column)
        except KeyError as error:
            raise _missing_column(row, key, column, columns, benchmark) from error

    def field(row: dict[str, Any], key: str, rule: Callable[[Any], Any]) -> Any:
        content = value(row, f"columns.{key}", columns[key])
        try:
            if (damage := lost_backslash(content, always=key == "answer")) is not None:
                raise ValueError(damage)
            return rule(content)
        except ValueError as error:
            remedy = _field_remedy(f"columns.{key}", columns[key], content)
            raise RowError(f"the {key} (column {columns[key]!r}) {error}", remedy) from error

    def optional(row: dict[str, Any], key: str, rule: Callable[[Any], str]) -> str | None:
        if key not in columns or is_missing(value(row, f"columns.{key}", columns[key])):
            return None
        return str(field(row, key, rule))

    def gold_answer(content: Any) -> str:
        return "" if is_missing(content) else answer_of(assistant_text(decoded(content)))

    def parse(row: dict[str, Any] | RowError, name: str, index: int) -> Problem:
        if isinstance(row, RowError):
            raise row
        question, system = field(row, "question", lambda text: question_and_system(decoded(text)))
        for text in remove:
            question = question.replace(text, "")
        names = extra if extra is not None else [name for name in row if name not in columns.values()]
        problem = Problem(
            id=optional(row, "id", as_text) or f"{name}/{index}",
            question=question.strip(),
            answer=field(row, "answer", gold_answer),
            source=name,
            level=optional(row, "level", level_of),
            solution=optional(row, "solution", lambda text: solution_of(assistant_text(decoded(text)))),
            system=system if keep_system else None,
            extra={name: value(row, "extra", name) for name in names},
        )
        for key, text in vars(problem).items():
            if isinstance(text, str) and not is_encodable(text):
                raise RowError(f"the {key} has a lone surrogate, which UTF-8 cannot represent")
        return problem

    return parse
