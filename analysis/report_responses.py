"""Packs the responses of runs for the report's page: an index of all of them, and the texts in compressed chunks.

The page unpacks the index once, and a chunk when one of its responses is shown or searched, so that its memory depends
on the size of a chunk and not on the number of responses. Where the texts exceed the page's budget, each file
contributes the same fraction of its texts. The other responses are in the index with their last characters."""

from __future__ import annotations

import base64
import gzip
import json
import math
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow.parquet as pq

from analysis.folders import evaluation_folders, naming, rollout_files
from analysis.report_tokens import TokenTexts, token_columns
from analysis.run_data import SourceError
from simplerl.evals.behaviour import REFLECTION_WORDS, has_box, is_code, reflects
from simplerl.io.files import read_parquet
from simplerl.types import FINISH_LENGTH

MAX_RESPONSES = 60_000  # in the index
MEGABYTES = 11.0  # default budget of a page for texts, compressed
MAX_TOKENS = 1_000_000  # with log-probs, in a page
CHUNK_CHARACTERS = 1_500_000
ENDING = 80  # characters of a response that the index holds
TRAINING = "training"
BOX, CODE, REFLECT = 1, 2, 4  # bits, as in page/browser.js
FACTS = [
    *("set", "step", "problem_id", "level", "question", "gold", "sample", "prompt", "finish_reason"),
    *("length", "reward", "correct", "status", "extracted", "parts"),
]


@dataclass(frozen=True)
class Responses:
    """Holds responses packed for the page, as base64 of gzip of JSON, and a sentence on how many of all they are."""

    index: str  # empty without responses
    chunks: list[str]
    note: str


@dataclass(frozen=True)
class ResponseFile:
    """Holds a Parquet file of responses: the index of its run, whether an evaluation wrote it, and how many of its rows
    the page lists."""

    run: int
    evaluation: bool
    step: int
    path: Path
    rows: int


def response_data(
    runs: Sequence[tuple[str, Path]], megabytes: float = MEGABYTES, always: Sequence[tuple[Path, int]] = ()
) -> Responses:
    """Return the responses of run folders, given as (title, folder).

    If not all fit, the index has those of training and evaluation at evenly spaced steps including the first and last.
    always: rows (file, number) whose texts are included whatever the budget."""
    damaged: dict[Path, str] = {}
    files, total = listed_files(runs, damaged)
    tables = [(file, table) for file in files if (table := _facts(file, damaged)) is not None]
    left_out = "".join(f" Left out: {fault}" for fault in damaged.values())
    if not tables:
        return Responses("", [], left_out.strip())
    table = pd.concat([one for _, one in tables], ignore_index=True)
    table["full"] = _affordable(table, megabytes) | _listed(table, always)
    table["with_tokens"] = _with_tokens(table, _listed(table, always))
    chunks = _write_chunks(table, [file for file, _ in tables], [folder for _, folder in runs])
    full = int(table["full"].sum())
    note = f"All {total:,} responses." if len(table) == total else f"{len(table):,} of {total:,} responses."
    if full < len(table):
        note += f" {full:,} with their whole text, the others with its end; --megabytes={3 * megabytes:.0f} holds more."
    return Responses(_pack(_index(table, runs)), chunks, note + left_out)


# Files


def listed_files(runs: Sequence[tuple[str, Path]], damaged: dict[Path, str]) -> tuple[list[ResponseFile], int]:
    """Return the files of responses with how many rows of each are listed, at most about MAX_RESPONSES, and the number
    of all responses. Files that cannot be read are left out and added to `damaged`."""
    per_run = max(MAX_RESPONSES // max(len(runs), 1), 2)
    found: list[ResponseFile] = []
    total = 0
    for index, (_, folder) in enumerate(runs):
        evaluations = {step: path / "samples.parquet" for step, path in evaluation_folders(folder).items()}
        kinds = [_counted(evaluations, damaged), _counted(rollout_files(folder), damaged)]
        # Evaluations and training get half of the budget each; what one does not need is added to the other.
        sizes = [sum(rows for _, rows in one.values()) for one in kinds]
        total += sum(sizes)
        for kind, own, other in zip((True, False), kinds, reversed(sizes), strict=True):
            spaced = _spaced(own, max(per_run // 2, per_run - other))
            found += [ResponseFile(index, kind, step, own[step][0], rows) for step, rows in spaced.items()]
    return found, total


def _counted(files: dict[int, Path], damaged: dict[Path, str]) -> dict[int, tuple[Path, int]]:
    """Return step -> (file, rows) of the files that have the columns of responses; others are added to `damaged`."""
    found = {}
    for step, path in files.items():
        try:
            with naming(path):
                metadata = pq.read_metadata(path)
                if absent := {*FACTS, "response"} - {"set", *metadata.schema.to_arrow_schema().names}:
                    raise ValueError(f"it has no column {min(absent)}")
                found[step] = (path, int(metadata.num_rows))
        except SourceError as error:
            damaged[path] = str(error)
    return found


def _spaced(files: dict[int, tuple[Path, int]], budget: int) -> dict[int, int]:
    """Return step -> rows to list, about `budget`, at evenly spaced steps including the first and the last."""
    steps, total = sorted(files), sum(rows for _, rows in files.values())
    if total <= budget or not steps:
        return {step: files[step][1] for step in steps}
    count = min(len(steps), max(2, int(budget * len(steps) / total)))
    chosen = sorted({round(i * (len(steps) - 1) / max(count - 1, 1)) for i in range(count)})
    most = max(1, budget // len(chosen))
    return {steps[i]: min(files[steps[i]][1], most) for i in chosen}


# What the index says


def _facts(file: ResponseFile, damaged: dict[Path, str]) -> pd.DataFrame | None:
    """Return the columns of the index for a file, with its texts replaced by what is shown of them; None, and an entry
    in `damaged`, if the file cannot be read."""
    try:
        with naming(file.path):
            columns = [name for name in FACTS if name != "set" or file.evaluation]
            table = read_parquet(file.path, columns=[*columns, "response"]).slice(0, file.rows).to_pandas()
    except SourceError as error:
        damaged[file.path] = str(error)
        return None
    text = table.pop("response").fillna("")
    shown = [BOX * has_box(one) + CODE * is_code(one) + REFLECT * reflects(one) for one in text]
    sizes = text.str.len()
    sample = "".join(text.iloc[:: max(len(text) // 20, 1)])[:200_000]
    ratio = len(zlib.compress(sample.encode("utf-8", "replace"), 6)) / max(len(sample), 1)  # bytes per character
    kind = table.get("set", pd.Series(None, index=table.index, dtype=object)).astype(object)
    facts = {"kind": kind.where(kind.notna(), TRAINING), "shows": shown, "ending": text.str[-ENDING:], "size": sizes}
    return table.assign(**facts, run=file.run, path=str(file.path), row=range(len(table)), packed=sizes * ratio * 4 / 3)


def _affordable(table: pd.DataFrame, megabytes: float) -> pd.Series:
    """Return which texts fit the budget: the first of each file, up to the same fraction of its size."""
    fraction = megabytes * 1e6 / max(float(table["packed"].sum()), 1.0)
    by_file = table.groupby("path", sort=False)["packed"]
    return by_file.cumsum() <= fraction * by_file.transform("sum") + 1e-6


def _listed(table: pd.DataFrame, rows: Sequence[tuple[Path, int]]) -> pd.Series:
    wanted = {(str(path), row) for path, row in rows}
    return pd.Series([pair in wanted for pair in zip(table["path"], table["row"], strict=True)], index=table.index)


def _with_tokens(table: pd.DataFrame, first: pd.Series) -> pd.Series:
    """Return which responses come with their tokens: those of `first`, then those of the last steps, up to
    MAX_TOKENS."""
    order = table[table["full"]].assign(first=~first).sort_values(["first", "step"], ascending=[True, False])
    chosen = order.index[order["length"].cumsum() <= MAX_TOKENS]
    return pd.Series(table.index.isin(chosen), index=table.index)


def _index(table: pd.DataFrame, runs: Sequence[tuple[str, Path]]) -> dict[str, Any]:
    """Return the index: columns of equal length and the lists that their codes refer to."""
    kind_codes, kind_names = pd.factorize(table["kind"])
    keys = pd.Series(list(zip(kind_codes, table["problem_id"], table["prompt"], strict=True)))
    problem_codes, _ = pd.factorize(keys)
    unique = table.loc[~pd.Series(problem_codes).duplicated().to_numpy()]
    status_codes, statuses = pd.factorize(table["status"].fillna(""))
    part_codes, partsets = pd.factorize(table["parts"].fillna("{}"))
    return {
        "runs": [title for title, _ in runs],
        "ids": [folder.resolve().name for _, folder in runs],
        "kinds": [str(name) for name in kind_names],
        "statuses": list(statuses),
        "partsets": list(partsets),
        "reflection": list(REFLECTION_WORDS),
        "problems": {
            "id": unique["problem_id"].astype(str).tolist(),
            "kind": [int(kind_codes[row]) for row in unique.index],
            **{name: unique[name].fillna("").tolist() for name in ("question", "gold", "level", "prompt")},
        },
        "kind": kind_codes.tolist(),
        "problem": problem_codes.tolist(),
        "truncated": (table["finish_reason"] == FINISH_LENGTH).astype(int).tolist(),
        "reward": [float(f"{value:.6g}") if math.isfinite(value) else None for value in table["reward"]],
        "correct": table["correct"].astype(int).tolist(),
        "status": status_codes.tolist(),
        "parts": part_codes.tolist(),
        "extracted": [None if pd.isna(value) else str(value) for value in table["extracted"]],
        **{name: table[name].tolist() for name in ("run", "step", "sample", "length", "shows", "ending")},
        **{name: table[name].tolist() for name in ("chunk", "place", "surprise")},
    }


# Texts


def _write_chunks(table: pd.DataFrame, files: Sequence[ResponseFile], folders: Sequence[Path]) -> list[str]:
    """Return the packed texts of the rows that are `full`. Adds the columns chunk and place (-1: not included), and
    surprise, the mean -log p of a response's tokens under the sampler (None: unknown)."""
    place_of = np.full((len(table), 2), -1)
    surprise: list[float | None] = [None] * len(table)
    chunks: list[str] = []
    rows: list[dict[str, Any]] = []
    size = 0
    for index, row, characters in _texts(table, files, [TokenTexts(folder) for folder in folders]):
        surprise[index] = row.pop("surprise")
        place_of[index] = len(chunks), len(rows)
        rows.append(row)
        size += characters
        if size > CHUNK_CHARACTERS:
            chunks.append(_pack(rows))
            rows, size = [], 0
    if rows:
        chunks.append(_pack(rows))
    table["chunk"], table["place"] = place_of[:, 0], place_of[:, 1]
    table["surprise"] = pd.Series(surprise, dtype=object)
    return chunks


def _texts(
    table: pd.DataFrame, files: Sequence[ResponseFile], tokens: Sequence[TokenTexts]
) -> Iterator[tuple[int, dict[str, Any], int]]:
    """Yield (index in `table`, what a chunk holds of the response, its characters) for each row that is `full`."""
    for file in files:
        own = table[(table["path"] == str(file.path)) & table["full"]]
        if own.empty:
            continue
        names = ["response", *token_columns(file.path)]
        read = read_parquet(file.path, columns=names).take(own["row"].to_numpy()).to_pydict()
        for number, (index, wanted) in enumerate(own["with_tokens"].items()):
            text = read["response"][number] or ""
            row = {"text": text, "surprise": _surprise(read, number)}
            if wanted:
                row |= tokens[file.run].of(text, {name: read[name][number] for name in names[1:]})
            yield int(str(index)), row, len(text)


def _surprise(read: dict[str, list[Any]], number: int) -> float | None:
    values = read["logprobs"][number] if "logprobs" in read else None
    return round(-math.fsum(values) / len(values), 4) if values else None


def _pack(content: Any) -> str:
    text = json.dumps(content, ensure_ascii=False, separators=(",", ":"), allow_nan=False).encode("utf-8", "replace")
    return base64.b64encode(gzip.compress(text, 6, mtime=0)).decode()
