"""Accuracy and behaviour on benchmarks: called by the training loop, and alone by evaluate.py at the root.

All sets go through one stream of responses. What is graded is written to `out/parts` as it comes in, each row
with a key of everything that decides it, so a killed evaluation goes on where it stopped. Every number is
computed from the finished table, in its order: a resumed evaluation ends with the same files.

    out/samples.parquet    a row per response: set, key, and the columns of simplerl.runs.rollout_table
    out/results.json       settings, and per set the metrics, their intervals, and the items that cannot be graded
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from simplerl.config import EvalsConfig
from simplerl.evals.behaviour import has_box, is_code, reflects, repetition
from simplerl.evals.statistics import (
    Array,
    Interval,
    bootstrap_mean,
    bootstrap_samples,
    bounded_mean,
    bounded_mean_of_sets,
    majority,
    pass_at_k,
)
from simplerl.runs.rollout_table import SCHEMA, rollout_table
from simplerl.types import FINISH_LENGTH, FINISH_STOP, Prompt, Rollout

if TYPE_CHECKING:
    from simplerl.data.task import EvalSets
    from simplerl.rewards.pool import Grader
    from simplerl.samplers import Sampler

PART_SECONDS = 30.0  # between two parts: what a kill can lose
SAMPLES_SCHEMA = pa.schema([("set", pa.string()), ("key", pa.string()), *SCHEMA])
Stream = Iterator[Rollout]


def evaluate(
    sampler: Sampler,
    grader: Grader,
    evals: EvalSets,
    config: EvalsConfig,
    seed: int,
    step: int,
    out: Path | None,
    *,
    weights: str = "",
    watch: Callable[[Stream], Stream] = iter,
) -> dict[str, float]:
    """Samples, grades and summarises; the metrics are eval/<set>/<name> and eval/mean/<name>.

    config: samples per item. out: folder for the responses and results; None writes nothing. weights: what tells
    these weights from others that may be evaluated into the same folder. watch: wraps the stream of responses
    (it may raise, to stop cleanly).
    """
    if not evals.prompts:
        return {}
    context = {
        "sampling": asdict(evals.sampling),
        "stop": asdict(evals.format.stop),
        "reward": grader.name,
        "reward_keywords": grader.keywords,
        "reward_source": grader.source,
        "weights": weights,
        "seed": seed,
        "step": step,
    }
    items = [_Item(name, prompt, context) for name, prompts in evals.prompts.items() for prompt in prompts]
    done = _finished(out)
    have = set(zip(done["key"].to_pylist(), done["sample"].to_pylist(), strict=True))
    todo = [item for item in items if any((item.key, i) not in have for i in range(config.samples))]
    tables = [done]
    if todo:
        by_id = {item.prompt.problem.id: item for item in todo}
        prompts = [item.prompt for item in todo]
        stream = watch(sampler.generate(prompts, evals.sampling, evals.format.stop, config.samples, seed, step))
        while rows := grader.grade(_for_seconds(stream, PART_SECONDS)):
            new = [r for r in rows if (by_id[r.prompt.problem.id].key, r.sample) not in have]
            tables.append(_table([by_id[r.prompt.problem.id] for r in new], new, step))
            if out is not None:
                _write_part(out, tables[-1])
    table = _in_order(pa.concat_tables(tables), items, config.samples)
    results = {
        **context,
        "samples": config.samples,
        "prompt": evals.format.config.name,
        **summarise(table, list(evals.prompts)),
    }
    for name, left_out in evals.too_long.items():
        results["sets"][name]["too_long"] = left_out
    if out is not None:
        _write_all(out, table, results)
    return flat_metrics(results)


class _Item:
    """One question of one set. Its id within the run carries the set's name: ids of two sets may be the same."""

    def __init__(self, name: str, prompt: Prompt, context: dict[str, Any]) -> None:
        self.name, self.id = name, prompt.problem.id
        self.prompt = replace(prompt, problem=replace(prompt.problem, id=f"{name}:{self.id}"))
        problem = prompt.problem
        what = [name, problem.id, problem.answer, problem.source, prompt.text, prompt.token_ids, context]
        self.key = hashlib.sha256(json.dumps(what, sort_keys=True, default=str).encode()).hexdigest()[:20]


def _for_seconds(stream: Stream, seconds: float) -> Stream:
    """The next responses, at least one where there is one."""
    end = time.monotonic() + seconds
    for rollout in stream:
        yield rollout
        if time.monotonic() >= end:
            return


# Files


def _table(items: Sequence[_Item], rollouts: Sequence[Rollout], step: int) -> pa.Table:
    originals = [
        replace(r, prompt=replace(r.prompt, problem=replace(r.prompt.problem, id=item.id)))
        for item, r in zip(items, rollouts, strict=True)
    ]
    table = rollout_table(originals, step)
    columns = {"set": [item.name for item in items], "key": [item.key for item in items]}
    return pa.table({**columns, **{name: table[name] for name in table.column_names}}, schema=SAMPLES_SCHEMA)


def _finished(out: Path | None) -> pa.Table:
    """Every row that earlier attempts left in a folder."""
    files = [] if out is None else [*sorted((out / "parts").glob("*.parquet")), out / "samples.parquet"]
    tables = [pq.read_table(file, schema=SAMPLES_SCHEMA) for file in files if file.exists()]
    return pa.concat_tables([SAMPLES_SCHEMA.empty_table(), *tables])


def _write_part(out: Path, table: pa.Table) -> None:
    parts = out / "parts"
    parts.mkdir(parents=True, exist_ok=True)
    number = 1 + max((int(file.stem) for file in parts.glob("*.parquet")), default=-1)
    _replace(parts / f"{number:06d}.parquet", lambda beside: pq.write_table(table, beside))


def _replace(path: Path, write: Callable[[Path], object]) -> None:
    """All of a file or nothing of it, even after a kill or a power cut."""
    beside = path.with_name(f".{path.name}.{os.getpid()}")
    write(beside)
    with beside.open("rb") as file:
        os.fsync(file.fileno())
    os.replace(beside, path)


def _in_order(table: pa.Table, items: Sequence[_Item], samples: int) -> pa.Table:
    """The rows of these items, by item and sample; rows under other keys (other settings) are left out."""
    place = {
        pair: row for row, pair in enumerate(zip(table["key"].to_pylist(), table["sample"].to_pylist(), strict=True))
    }
    return table.take([place[item.key, i] for item in items for i in range(samples)]).combine_chunks()


def _write_all(out: Path, table: pa.Table, results: dict[str, Any]) -> None:
    out.mkdir(parents=True, exist_ok=True)
    _replace(out / "samples.parquet", lambda beside: pq.write_table(table, beside))
    text = json.dumps(results, indent=1, ensure_ascii=False, allow_nan=False)
    _replace(out / "results.json", lambda beside: beside.write_text(text + "\n", encoding="utf-8"))
    shutil.rmtree(out / "parts", ignore_errors=True)


# Numbers


def summarise(table: pa.Table, names: Sequence[str] | None = None) -> dict[str, Any]:
    """{"sets": {name: {items, samples, metrics, intervals, ungradable}}, "mean": {metrics, intervals}} of a
    samples table; "mean" is unweighted over the sets."""
    found = table["set"].to_pylist()
    names = list(dict.fromkeys(found)) if names is None else names
    sets, correct = {}, []
    for name in names:
        rows = table.filter(pa.array([other == name for other in found], pa.bool_())).to_pylist()
        right = _by_item(rows, "correct")
        correct.append(right)
        items, samples = right.shape
        sets[name] = {
            "items": items,
            "samples": samples,
            "metrics": set_metrics(rows),
            "intervals": {key: asdict(interval) for key, interval in _intervals(rows, right).items()},
            "ungradable": list(dict.fromkeys(row["problem_id"] for row in rows if not row["gold"])),
        }
    shared = [key for key in sets[names[0]]["metrics"] if all(key in sets[name]["metrics"] for name in names)]
    mean = {key: float(np.mean([sets[name]["metrics"][key] for name in names])) for key in shared}
    return {
        "sets": sets,
        "mean": {"metrics": mean, "intervals": {"accuracy": asdict(bounded_mean_of_sets(correct))}},
    }


def set_metrics(rows: Sequence[dict[str, Any]]) -> dict[str, float]:
    """Metrics of one set from its rows, by item and sample. Lengths are in tokens, the stop token included; a mean
    over nothing (the length of right answers where none is right) is left out."""
    right = _by_item(rows, "correct")
    _, samples = right.shape
    lengths = np.array([row["length"] for row in rows], dtype=np.float64)
    correct = right.reshape(-1) > 0
    stopped = np.array([row["finish_reason"] == FINISH_STOP for row in rows])
    texts = [row["response"] for row in rows]
    status = [row["status"] for row in rows]
    metrics = {"accuracy": right.mean(), "reward": _by_item(rows, "reward").mean()}
    for k in _ks(samples):
        metrics[f"pass@{k}"] = pass_at_k(samples, right.sum(1), k).mean()
    if samples > 1:
        metrics[f"maj@{samples}"] = _majorities(rows, samples).mean()
    metrics["response_length"] = lengths.mean()
    for name, chosen in {"stopped": stopped, "correct": correct, "wrong": ~correct}.items():
        if chosen.any():
            metrics[f"response_length_{name}"] = lengths[chosen].mean()
    metrics |= {
        "truncated_share": np.mean([row["finish_reason"] == FINISH_LENGTH for row in rows]),
        "box_share": np.mean([has_box(text) for text in texts]),
        "code_share": np.mean([is_code(text) for text in texts]),
        "reflection_share": np.mean([reflects(text) for text in texts]),
        "repetition": np.mean([repetition(text) for text in texts]),
        "no_answer_fraction": status.count("no_answer") / len(rows),
        "timeout_fraction": status.count("timeout") / len(rows),
        "failed_fraction": status.count("failed") / len(rows),
    }
    return {name: float(value) for name, value in metrics.items()}


def flat_metrics(results: dict[str, Any]) -> dict[str, float]:
    """eval/<set>/<metric>, eval/<set>/accuracy_se, eval/mean/<metric>."""
    flat: dict[str, float] = {}
    for name, one in [*results["sets"].items(), ("mean", results["mean"])]:
        flat |= {f"eval/{name}/{key}": value for key, value in one["metrics"].items()}
        if one["intervals"]["accuracy"]["se"] is not None:
            flat[f"eval/{name}/accuracy_se"] = one["intervals"]["accuracy"]["se"]
    return flat


def _by_item(rows: Sequence[dict[str, Any]], column: str) -> Array:
    """[items, samples] of a numeric column."""
    samples = 1 + max(row["sample"] for row in rows)
    return np.array([row[column] for row in rows], dtype=np.float64).reshape(-1, samples)


def _ks(samples: int) -> list[int]:
    """2, 4, 8, ... and the number of samples."""
    powers = [2**i for i in range(1, samples.bit_length()) if 2**i < samples]
    return [*powers, samples] if samples > 1 else []


def _majorities(rows: Sequence[dict[str, Any]], samples: int) -> Array:
    """[N] of the majority vote."""
    groups = [rows[i : i + samples] for i in range(0, len(rows), samples)]
    return np.array([majority([r["extracted"] for r in g], [r["correct"] for r in g]) for g in groups])


def _intervals(rows: Sequence[dict[str, Any]], right: Array) -> dict[str, Interval]:
    _, samples = right.shape
    found = {"accuracy": bounded_mean(right), "response_length": bootstrap_mean(_by_item(rows, "length"))}
    if samples > 1:
        found["accuracy_same_items"] = bootstrap_samples(right)
        found |= {f"pass@{k}": bounded_mean(pass_at_k(samples, right.sum(1), k)) for k in _ks(samples)}
        found[f"maj@{samples}"] = bounded_mean(_majorities(rows, samples))
    return found
