"""Evaluate a model on benchmarks: accuracy and behaviour, used by the training loop and by evaluate.py.

The prompts of all sets are sampled in one stream. Graded responses are written to `out/parts` while sampling, each with
a key that hashes everything its content depends on, so a killed evaluation can be resumed. All metrics are computed
from the complete table in a fixed order: a resumed evaluation produces the same files.

`evals.reward` decides whether a response is correct, independently of the training reward. The same responses are also
judged by the strict and the lenient rule with their default keywords (`simplerl.rewards.FIXED_RULES`). If
`evals.reward` is null, the training reward decides, and those two verdicts are null.

    out/samples.parquet    one row per response: set, key, the verdicts correct_strict and correct_lenient, and the
                           columns of simplerl.runs.rollout_table
    out/results.json       settings, and per set the metrics, their intervals, and items without a gold answer
"""

from __future__ import annotations

import hashlib
import itertools
import json
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from simplerl.config import Config, EvalsConfig
from simplerl.config.secrets import hide_secrets
from simplerl.evals.behaviour import TEXT_METRICS
from simplerl.evals.statistics import (
    Array,
    Interval,
    bootstrap_mean,
    bootstrap_within_items,
    bounded_mean,
    bounded_mean_of_sets,
    majority_vote_accuracy,
    pass_at_k,
)
from simplerl.io.files import atomic_file, read_parquet, write_text
from simplerl.rewards import FIXED_RULES, WithFixedRules
from simplerl.runs.rollout_table import SCHEMA, rollout_table
from simplerl.types import FINISH_LENGTH, FINISH_STOP, Prompt, Reward, Rollout, score_of

if TYPE_CHECKING:
    from simplerl.data.task import EvalSets
    from simplerl.rewards.pool import Grader
    from simplerl.samplers import Sampler

PART_SECONDS = 30.0  # sampling time between two parts; a killed evaluation loses at most as much
VERDICTS = tuple(f"correct_{name}" for name in FIXED_RULES)
SAMPLES_SCHEMA = pa.schema(
    [("set", pa.string()), ("key", pa.string()), *((name, pa.bool_()) for name in VERDICTS), *SCHEMA]
)
Stream = Iterator[Rollout]


def evaluation_reward(config: Config) -> Reward:
    """Return the reward that grades evaluations: `evals.reward` with the fixed rules or, if that is null, the training
    reward alone."""
    return config.reward if config.evals.reward is None else WithFixedRules.of(config.evals.reward)


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
    wrap_stream: Callable[[Stream], Stream] = iter,
) -> dict[str, float]:
    """Sample and grade all benchmarks, and return the metrics eval/<set>/<name> and eval/mean/<name>.

    grader: grades by `evals.reward`, with the fixed rules if that is a `simplerl.rewards.WithFixedRules`.
    config: settings, of which only `samples` (per item) is used here.
    out: folder for responses and results, which is resumed if it exists; None writes nothing.
    weights: identifies the model's weights, to distinguish them from others evaluated into the same folder.
    wrap_stream: wraps the stream of responses, for a progress bar or to raise when the run is interrupted.
    """
    if not evals.prompts:
        return {}
    context = {
        "sampling": asdict(evals.sampling),
        "stop": asdict(evals.format.stop),
        "reward": grader.name,
        "reward_keywords": hide_secrets(grader.keywords),
        "reward_source": grader.source,
        "fixed_rules": grader.fixed_rules,
        "weights": weights,
        "seed": seed,
        "step": step,
    }
    items = [_Item(name, prompt, context) for name, prompts in evals.prompts.items() for prompt in prompts]
    done = _read_rows(out)
    have = set(zip(done["key"].to_pylist(), done["sample"].to_pylist(), strict=True))
    todo = [item for item in items if any((item.key, i) not in have for i in range(config.samples))]
    tables = [done]
    if todo:
        by_id = {item.prompt.problem.id: item for item in todo}
        too_long = [item.prompt for item in todo if item.id in evals.too_long.get(item.name, ())]
        prompts = [item.prompt for item in todo if item.id not in evals.too_long.get(item.name, ())]
        empty = (Rollout(prompt, i, "", (), (), FINISH_LENGTH) for prompt in too_long for i in range(config.samples))
        stream = wrap_stream(sampler.generate(prompts, evals.sampling, evals.format.stop, config.samples, seed, step))
        stream = itertools.chain(empty, stream if prompts else ())
        while rows := grader.grade(_take_seconds(stream, PART_SECONDS)):
            new = [r for r in rows if (by_id[r.prompt.problem.id].key, r.sample) not in have]
            tables.append(_samples_table([by_id[r.prompt.problem.id] for r in new], new, step))
            if out is not None:
                _write_part(out, tables[-1])
    table = _select_rows(pa.concat_tables(tables), items, config.samples)
    own = {"samples": config.samples, "prompt": evals.format.config.name}
    results = {**context, **own, **summarise(table, list(evals.prompts))}
    for name, too_long_ids in evals.too_long.items():
        results["sets"][name]["too_long"] = too_long_ids
        results["sets"][name]["too_long_excluded"] = evals.excludes_too_long
    if out is not None:
        _write_results(out, table, results)
    return flat_metrics(results)


class _Item:
    """Represents one question of one set. During sampling its id contains the set's name, as sets may share ids."""

    def __init__(self, name: str, prompt: Prompt, context: dict[str, Any]) -> None:
        self.name, self.id, self.fixed_rules = name, prompt.problem.id, bool(context["fixed_rules"])
        self.prompt = replace(prompt, problem=replace(prompt.problem, id=f"{name}:{self.id}"))
        problem = prompt.problem
        decisive = [name, problem.id, problem.answer, problem.source, prompt.text, prompt.token_ids, context]
        self.key = hashlib.sha256(json.dumps(decisive, sort_keys=True, default=str).encode()).hexdigest()[:20]


def _take_seconds(stream: Stream, seconds: float) -> Stream:
    """Yield the responses that arrive within `seconds`, but at least one unless the stream has ended."""
    end = time.monotonic() + seconds
    for rollout in stream:
        yield rollout
        if time.monotonic() >= end:
            return


# Files


def _samples_table(items: Sequence[_Item], rollouts: Sequence[Rollout], step: int) -> pa.Table:
    """Return the rows of samples.parquet for rollouts of these items, with the original problem ids."""
    originals = []
    columns: dict[str, list[Any]] = {"set": [], "key": []} | {name: [] for name in VERDICTS}
    for item, rollout in zip(items, rollouts, strict=True):
        score = score_of(rollout)
        parts = {name: value for name, value in score.parts.items() if name not in VERDICTS}
        problem = replace(rollout.prompt.problem, id=item.id)
        prompt = replace(rollout.prompt, problem=problem)
        originals.append(replace(rollout, prompt=prompt, score=replace(score, parts=parts)))
        verdicts = {name: bool(score.parts.get(name)) if item.fixed_rules else None for name in VERDICTS}
        for name, value in {"set": item.name, "key": item.key, **verdicts}.items():
            columns[name].append(value)
    table = rollout_table(originals, step)
    return pa.table({**columns, **{name: table[name] for name in table.column_names}}, schema=SAMPLES_SCHEMA)


def _read_rows(out: Path | None) -> pa.Table:
    """Return all rows that earlier attempts wrote to a folder; an empty table if there are none or `out` is None."""
    files = [] if out is None else [*sorted((out / "parts").glob("*.parquet")), out / "samples.parquet"]
    remedy = "remove it, and the same command samples its responses again"
    tables = [read_parquet(file, remedy, schema=SAMPLES_SCHEMA) for file in files if file.exists()]
    return pa.concat_tables([SAMPLES_SCHEMA.empty_table(), *tables])


def _write_part(out: Path, table: pa.Table) -> None:
    parts = out / "parts"
    parts.mkdir(parents=True, exist_ok=True)
    number = 1 + max((int(file.stem) for file in parts.glob("*.parquet")), default=-1)
    with atomic_file(parts / f"{number:06d}.parquet") as temporary:
        pq.write_table(table, temporary)


def _select_rows(table: pa.Table, items: Sequence[_Item], samples: int) -> pa.Table:
    """Return the rows of these items, ordered by item and sample; rows with other keys (other settings) are dropped."""
    row_of = {
        pair: row for row, pair in enumerate(zip(table["key"].to_pylist(), table["sample"].to_pylist(), strict=True))
    }
    return table.take([row_of[item.key, i] for item in items for i in range(samples)]).combine_chunks()


def _write_results(out: Path, table: pa.Table, results: dict[str, Any]) -> None:
    out.mkdir(parents=True, exist_ok=True)
    with atomic_file(out / "samples.parquet") as temporary:
        pq.write_table(table, temporary)
    write_text(out / "results.json", json.dumps(results, indent=1, ensure_ascii=False, allow_nan=False) + "\n")
    shutil.rmtree(out / "parts", ignore_errors=True)


# Metrics


def summarise(table: pa.Table, names: Sequence[str] | None = None) -> dict[str, Any]:
    """Return {"sets": {name: {items, samples, metrics, intervals, ungradable}}, "mean": {metrics, intervals}}.

    table: rows of samples.parquet, ordered by set, item and sample. names: the sets; None uses those in the table.
    "mean" is the unweighted mean over sets; "ungradable" lists the ids of items with an empty gold answer.
    """
    found = table["set"].to_pylist()
    names = list(dict.fromkeys(found)) if names is None else names
    sets: dict[str, Any] = {}
    correct: dict[str, list[Array]] = {}
    for name in names:
        rows = table.filter(pa.array([other == name for other in found], pa.bool_())).to_pylist()
        by_item = {key: _item_matrix(rows, column) for key, column in accuracy_columns(rows).items()}
        for key, matrix in by_item.items():
            correct.setdefault(key, []).append(matrix)
        items, samples = by_item["accuracy"].shape
        sets[name] = {
            "items": items,
            "samples": samples,
            "metrics": set_metrics(rows),
            "intervals": {key: asdict(interval) for key, interval in _intervals(rows, by_item).items()},
            "ungradable": list(dict.fromkeys(row["problem_id"] for row in rows if not row["gold"])),
        }
    shared = [key for key in sets[names[0]]["metrics"] if all(key in sets[name]["metrics"] for name in names)]
    mean = {key: float(np.mean([sets[name]["metrics"][key] for name in names])) for key in shared}
    intervals = {key: asdict(bounded_mean_of_sets(matrices)) for key, matrices in correct.items()}
    return {"sets": sets, "mean": {"metrics": mean, "intervals": intervals}}


def set_metrics(rows: Sequence[dict[str, Any]]) -> dict[str, float]:
    """Return the metrics of one set, given its rows ordered by item and sample.

    Lengths are in tokens and include the stop token. A mean over no responses, such as the length of correct
    responses if none is correct, is left out.
    """
    by_item = _item_matrix(rows, "correct")
    _, samples = by_item.shape
    lengths = np.array([row["length"] for row in rows], dtype=np.float64)
    correct = by_item.reshape(-1) > 0
    stopped = np.array([row["finish_reason"] == FINISH_STOP for row in rows])
    texts = [row["response"] for row in rows]
    status = [row["status"] for row in rows]
    metrics = {name: _item_matrix(rows, column).mean() for name, column in accuracy_columns(rows).items()}
    metrics["reward"] = _item_matrix(rows, "reward").mean()
    for k in _pass_ks(samples):
        metrics[f"pass@{k}"] = pass_at_k(samples, by_item.sum(1), k).mean()
    if samples > 1:
        metrics[f"maj@{samples}"] = _majority_votes(rows, samples).mean()
    metrics["response_length"] = lengths.mean()
    for name, chosen in {"stopped": stopped, "correct": correct, "wrong": ~correct}.items():
        if chosen.any():
            metrics[f"response_length_{name}"] = lengths[chosen].mean()
    metrics |= {
        "truncated_share": np.mean([row["finish_reason"] == FINISH_LENGTH for row in rows]),
        **{name: np.mean([feature(text) for text in texts]) for name, feature in TEXT_METRICS.items()},
        **{f"{name}_fraction": status.count(name) / len(rows) for name in ("no_answer", "timeout", "failed")},
    }
    return {name: float(value) for name, value in metrics.items()}


def accuracy_columns(rows: Sequence[dict[str, Any]]) -> dict[str, str]:
    """Return {metric: column} for the accuracies that the rows have: accuracy, by `evals.reward`, and if the rows were
    judged by the fixed rules, accuracy_strict and accuracy_lenient."""
    fixed = {f"accuracy_{rule}": f"correct_{rule}" for rule in FIXED_RULES}
    return {"accuracy": "correct"} | {name: column for name, column in fixed.items() if rows[0].get(column) is not None}


def flat_metrics(results: dict[str, Any]) -> dict[str, float]:
    """Return the results as metrics eval/<set>/<metric> and eval/mean/<metric>, with the standard errors of accuracies
    as eval/<set>/accuracy_se, accuracy_strict_se and accuracy_lenient_se."""
    flat: dict[str, float] = {}
    for name, one in [*results["sets"].items(), ("mean", results["mean"])]:
        flat |= {f"eval/{name}/{key}": value for key, value in one["metrics"].items()}
        for key in ("accuracy", *(f"accuracy_{rule}" for rule in FIXED_RULES)):
            if (se := one["intervals"].get(key, {}).get("se")) is not None:
                flat[f"eval/{name}/{key}_se"] = se
    return flat


def _item_matrix(rows: Sequence[dict[str, Any]], column: str) -> Array:
    """Return a numeric column as [items, samples]."""
    samples = 1 + max(row["sample"] for row in rows)
    return np.array([row[column] for row in rows], dtype=np.float64).reshape(-1, samples)


def _pass_ks(samples: int) -> list[int]:
    """Return the k of pass@k: 2, 4, 8, ... and the number of samples; [] for one sample."""
    powers = [2**i for i in range(1, samples.bit_length()) if 2**i < samples]
    return [*powers, samples] if samples > 1 else []


def _majority_votes(rows: Sequence[dict[str, Any]], samples: int) -> Array:
    """Return the accuracy of the majority vote of each item, [N]."""
    groups = [rows[i : i + samples] for i in range(0, len(rows), samples)]
    return np.array([majority_vote_accuracy([r["extracted"] for r in g], [r["correct"] for r in g]) for g in groups])


def _intervals(rows: Sequence[dict[str, Any]], accuracies: dict[str, Array]) -> dict[str, Interval]:
    """Return the intervals of one set's metrics: accuracies and response length and, with several samples per item,
    pass@k, maj@n and accuracy_same_items.

    rows: the set's samples. accuracies: metric -> [items, samples]; "accuracy" is required.
    """
    correct = accuracies["accuracy"]
    _, samples = correct.shape
    found = {key: bounded_mean(matrix) for key, matrix in accuracies.items()}
    found["response_length"] = bootstrap_mean(_item_matrix(rows, "length"))
    if samples > 1:
        found["accuracy_same_items"] = bootstrap_within_items(correct)
        found |= {f"pass@{k}": bounded_mean(pass_at_k(samples, correct.sum(1), k)) for k in _pass_ks(samples)}
        found[f"maj@{samples}"] = bounded_mean(_majority_votes(rows, samples))
    return found
