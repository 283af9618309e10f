"""Run folders made up to test claims and result sections: settings, curves, evaluations with items, responses."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import micro_runs
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import yaml

from simplerl.runs.rollout_table import SCHEMA

STEPS, ITEMS = 40, 100
STRICT = {"_target_": "simplerl.rewards.strict", "rule": "math_verify"}
CODE, TEXT = "```python\nprint(4)\n```", "2 + 2 = 4"


def write_evaluation(folder: Path, step: int, answers: Mapping[str, np.ndarray]) -> float:
    """Write the evaluation of one run: benchmark -> [items] correct. Returns the mean accuracy."""
    place = folder / f"evals/step_{step:06d}"
    place.mkdir(parents=True)
    tables = [
        pd.DataFrame({"set": name, "problem_id": [f"{name}/{i}" for i in range(len(correct))], "correct": correct})
        for name, correct in answers.items()
    ]
    rows = pd.concat(tables)
    rows.assign(correct_strict=rows["correct"]).to_parquet(place / "samples.parquet")
    (place / "results.json").write_text("{}")
    return float(np.mean([correct.mean() for correct in answers.values()]))


def write_rollouts(folder: Path, code_share: Sequence[float], text_length: Sequence[float]) -> None:
    """Write 10 responses per step; programs have 100 tokens."""
    (folder / "rollouts").mkdir()
    empty = dict.fromkeys(SCHEMA.names)
    for step, (share, length) in enumerate(zip(code_share, text_length, strict=True)):
        kinds = [i < round(10 * share) for i in range(10)]
        rows = [
            {**empty, "step": step, "response": CODE if code else TEXT, "length": int(100 if code else length)}
            for code in kinds
        ]
        pq.write_table(pa.Table.from_pylist(rows, schema=SCHEMA), folder / f"rollouts/step_{step:06d}.parquet")


def run(
    root: Path,
    name: str,
    seed: int,
    settings: Mapping[str, Any],
    accuracies: tuple[float, float] = (0.4, 0.4),
    curves: Mapping[str, Sequence[float]] | None = None,
    benchmarks: Sequence[str] = ("micro",),
) -> Path:
    """Write a run of STEPS steps with an evaluation before and after. settings: dotted keys of config.yaml. A fifth of
    the answers is random, apart in each run."""
    folder = root / f"{name}-{seed}"
    folder.mkdir(parents=True)
    config: dict[str, Any] = {"seed": seed, "evals": {"reward": STRICT, "samples": 1}}
    for key, value in {"choices.algorithm": "ppo", "train.steps": STEPS, **settings}.items():
        *parents, leaf = key.split(".")
        node = config
        for parent in parents:
            node = node.setdefault(parent, {})
        node[leaf] = value
    (folder / "config.yaml").write_text(yaml.safe_dump(config))
    rng = np.random.default_rng([seed, sum(map(ord, name))])
    means = []
    for step, accuracy in zip((0, STEPS), accuracies, strict=True):
        answers = {one: np.arange(ITEMS) < ITEMS * accuracy for one in benchmarks}
        noisy = {one: np.where(rng.random(ITEMS) < 0.2, rng.random(ITEMS) < accuracy, x) for one, x in answers.items()}
        means.append(write_evaluation(folder, step, noisy))
    lines = []
    for step in range(STEPS + 1):
        row: dict[str, Any] = {"step": step, "phase": "rl"}
        if step in (0, STEPS):
            row |= {f"eval/{one}/accuracy": means[step > 0] for one in (*benchmarks, "mean")}
        if step < STEPS:
            row |= {"rollout/responses": 8, "time/step": 2.0}
            row |= {metric: float(values[step]) for metric, values in (curves or {}).items()}
        lines.append(json.dumps(row))
    (folder / "metrics.jsonl").write_text("\n".join(lines) + "\n")
    started = {"started": f"2026-01-01T00:{len(list(root.iterdir())):02}:00+0000"}
    (folder / "environment.json").write_text(json.dumps(micro_runs.ENVIRONMENT | started))
    (folder / "status.json").write_text(json.dumps({"state": "finished", "steps": {"rl": STEPS}}))
    return folder
