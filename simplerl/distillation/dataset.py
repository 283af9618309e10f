"""Writes the selected answers of a teacher as a data set that `warmup=distilled` and other libraries' SFT read.

datasets/<name>/README.md            the data set card, from which datasets.load_dataset knows the file
datasets/<name>/data/train.parquet   one row per answer; the report is in the metadata of the file
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from simplerl.config import TeacherConfig
from simplerl.distillation.duplicates import Benchmarks, NearDuplicates
from simplerl.distillation.samples import answer_groups
from simplerl.distillation.selection import KEPT, REASONS, Answer, select
from simplerl.errors import ConfigError
from simplerl.io.files import reading

TRAIN, CARD = Path("data/train.parquet"), "README.md"
METADATA = b"simplerl"
CHAT = pa.list_(pa.struct([("role", pa.string()), ("content", pa.string())]))
COPIED = (  # columns of samples.parquet
    *("question", "response", "answer", "problem_id", "source", "level", "sample"),
    *("finish_reason", "tokens", "score", "correct"),
)
CHATS = ("messages", "prompt", "completion")  # the conversation, its turns before the answer, and the answer
UNSELECTIVE = ("samples", "problems_per_chunk", "name", "license")  # settings of `teacher` that select nothing


def selection_settings(teacher: TeacherConfig, keep: Mapping[str, Any], sets: Mapping[str, str]) -> dict[str, Any]:
    """Return everything that decides which answers are kept, as JSON values.

    keep: the function of conf/teacher/ and its keywords. sets: digest of each benchmark."""
    settings = {key: value for key, value in vars(teacher).items() if key not in UNSELECTIVE}
    return {**settings, "keep": dict(keep), "evals.sets": dict(sets)}


def read_report(folder: Path) -> dict[str, Any]:
    """Return the report in the metadata of a data set. Raises ConfigError if it cannot be read."""
    path = folder / TRAIN
    with reading(path, f"remove the folder {folder}, and the same command writes it again"):
        try:
            metadata = pq.read_schema(path).metadata or {}
        except pa.ArrowException as error:
            raise ValueError(str(error)) from error
        report: dict[str, Any] = json.loads(metadata[METADATA])
        return report


def check_same_selection(folder: Path, settings: Mapping[str, Any]) -> bool:
    """Return whether a data set exists. Raises ConfigError if it was selected by other settings."""
    if not folder.exists():
        return False
    known = read_report(folder)["selection"]
    for key in sorted({*known, *settings}):
        if known.get(key) != settings.get(key):
            name = key if key.startswith("evals") else f"teacher.{key}"
            raise ConfigError(
                f"{folder} holds a selection with {name}={known.get(key)}, not {settings.get(key)}: set teacher.name "
                "to another name, or remove this folder."
            )
    return True


def overlap_report(groups: Sequence[Sequence[Answer]], benchmarks: Benchmarks) -> dict[str, dict[str, Any]]:
    """Return benchmark -> {"items": number of its items, "questions": (problem id, item id) pairs whose questions
    overlap, "responses": number of responses that overlap with an item}."""
    found: dict[str, dict[str, Any]] = {
        name: {"items": items, "questions": [], "responses": 0} for name, items in benchmarks.items.items()
    }
    for group in groups:
        for name, item in sorted(benchmarks.in_question(group[0].question)):
            found[name]["questions"].append([group[0].problem_id, item])
        for answer in group:
            for name in {name for name, _ in benchmarks.in_response(answer.response)}:
                found[name]["responses"] += 1
    return found


def select_rows(
    samples: pa.Table, teacher: TeacherConfig, benchmarks: Benchmarks
) -> tuple[list[str], dict[str, dict[str, Any]]]:
    """Return why each row of samples.parquet is left out (KEPT: it is not), and the overlap with benchmarks."""
    groups = list(answer_groups(samples))
    overlap = overlap_report(groups, benchmarks)
    problems = {problem for one in overlap.values() for problem, _ in one["questions"]}
    duplicates = None if teacher.near_duplicates is None else NearDuplicates(teacher.near_duplicates)
    return select(groups, teacher, duplicates, problems if teacher.drop_overlap else ()), overlap


def counts(samples: pa.Table, reasons: Sequence[str]) -> dict[str, Any]:
    """Return the numbers of problems, responses, and kept and dropped answers, in total and by level."""
    columns = (samples[name].to_pylist() for name in ("level", "problem_id", "correct", "tokens"))
    rows = list(zip(*columns, reasons, strict=True))
    levels = sorted({row[0] for row in rows if row[0] is not None})
    parts = {level: [row for row in rows if row[0] == level] for level in levels}
    if unknown := [row for row in rows if row[0] is None]:
        parts["unknown"] = unknown
    dropped = {reason: sum(row[-1] == reason for row in rows) for reason in REASONS}
    return {"total": _count(rows), "levels": {k: _count(v) for k, v in parts.items()}, "dropped": dropped}


def _count(rows: Sequence[tuple[Any, ...]]) -> dict[str, Any]:
    kept = [row for row in rows if row[-1] == KEPT]
    return {
        "problems": len({row[1] for row in rows}),
        "responses": len(rows),
        "correct": sum(row[2] for row in rows),
        "solved": len({row[1] for row in rows if row[2]}),  # problems with a correct response
        "kept": len(kept),
        "covered": len({row[1] for row in kept}),  # problems with a kept answer
        "tokens": sum(row[3] for row in kept),
    }


def training_table(samples: pa.Table, reasons: Sequence[str], teacher: str, report: Mapping[str, Any]) -> pa.Table:
    """Return the rows of the data set: the kept rows of `samples` as chats, with `report` in the schema's metadata.

    reasons: why each row is left out, or KEPT (see `select_rows`). Raises ConfigError if no answer is kept.
    """
    kept = samples.filter(pa.array([reason == KEPT for reason in reasons], pa.bool_()))
    if not len(kept):
        most = max(report["counts"]["dropped"].items(), key=lambda pair: pair[1])
        raise ConfigError(
            f"No answer of the teacher is kept: {most[1]} of {len(samples)} are left out as {most[0]}; choose "
            "another teacher=..., raise sampling.max_new_tokens, or choose easier data."
        )
    chats: dict[str, list[Any]] = {name: [] for name in CHATS}
    for before, answer in _conversations(kept):
        for name, turns in zip(CHATS, (before + answer, before, answer), strict=True):
            chats[name].append(turns)
    columns = {name: pa.array(turns, CHAT) for name, turns in chats.items()}
    columns |= {name: kept[name] for name in COPIED}
    columns["teacher"] = pa.array([teacher] * len(kept), pa.string())
    return pa.table(columns).combine_chunks().replace_schema_metadata({METADATA: json.dumps(report)})


def _conversations(rows: pa.Table) -> Iterator[tuple[list[dict[str, str]], list[dict[str, str]]]]:
    """Yield, for each row, the turns before the answer and that of the answer, as chat messages."""
    texts = (rows[name].to_pylist() for name in ("system", "question", "response"))
    for system, question, response in zip(*texts, strict=True):
        start = [] if system is None else [{"role": "system", "content": system}]
        yield [*start, {"role": "user", "content": question}], [{"role": "assistant", "content": response}]


def write_data(table: pa.Table, folder: Path) -> Path:
    """Write data/train.parquet into a folder that is being written, and return its path."""
    path = folder / TRAIN
    path.parent.mkdir(parents=True)
    pq.write_table(table, path)
    return path
