"""Fits the utilisations of the time estimate from a finished run, and reads and writes them as a small JSON file."""

from __future__ import annotations

import json
import statistics
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from simplerl.config import Config
from simplerl.config.load import load
from simplerl.errors import ConfigError
from simplerl.io.files import read_json, read_jsonl, read_yaml, write_text
from simplerl.planning.devices import GIB, Device
from simplerl.planning.memory import plan_memory
from simplerl.planning.roofline import STAGES, StepTime, Utilisations, step_time
from simplerl.planning.setup import Lengths, Setup, describe, without_ray

FIRST_STEPS = 1  # left out: they allocate, compile and fill caches
FITTED = {"update": ("update",), "score": ("score",), "sample": ("decode",)}
KINDS = {"utilisations": dict, "device": str, "run": str, "memory": dict}


@dataclass(frozen=True)
class Measured:
    """Holds what a run measured: median seconds of each stage, peak GiB of each process, mean and longest lengths in
    tokens, and the number of steps."""

    stages: Mapping[str, float]
    memory: Mapping[str, float]
    lengths: Lengths
    steps: int


def measured(run: Path) -> Measured:
    """Return the measurements of a run's folder. Raises ConfigError if it has no finished step."""
    rows = list(read_jsonl(run / "metrics.jsonl", "name another run", {"phase": str, "step": int}))
    steps = [row for row in rows if row["phase"] == "rl" and "time/update" in row] or [
        row for row in rows if "time/update" in row
    ]
    if not steps:
        raise ConfigError(f"{run} has no finished step in metrics.jsonl: name a run that has trained.")
    later = steps[FIRST_STEPS:] or steps
    names = (*STAGES, "write", "step")
    stages = {name: statistics.median(row.get(f"time/{name}", 0.0) for row in later) for name in names}
    memory = {
        key.removeprefix("memory/").removesuffix("_gib"): max(row.get(key, 0.0) for row in rows)
        for key in sorted({key for row in rows for key in row if key.startswith("memory/")})
    }
    return Measured(stages, memory, _lengths(run, later), len(steps))


def _lengths(run: Path, steps: list[dict[str, Any]]) -> Lengths:
    """Return the lengths of the sampled sequences; for supervised fine-tuning, those of the settings."""
    import pyarrow.parquet as pq

    files = sorted((run / "rollouts").glob("step_*.parquet"))
    if not files:
        config = read_yaml(run / "config.yaml")
        longest = int(config["warmup"]["max_tokens"])
        tokens = (
            statistics.mean(row.get("warmup/tokens", longest) for row in steps) / config["warmup"]["minibatch_size"]
        )
        return Lengths(0, 0.0, longest, float(tokens), f"of {run.name}")
    tables = [pq.read_table(file, columns=["prompt", "length"]) for file in files]
    responses = [length for table in tables for length in table["length"].to_pylist()]
    characters = [len(prompt) for table in tables for prompt in table["prompt"].to_pylist()]
    mean = sum(row["train/prompt_tokens"] for row in steps) / sum(row["rollout/responses"] for row in steps)
    longest = round(mean * max(characters) / statistics.mean(characters))  # the table has the text of prompts only
    return Lengths(longest, mean, max(responses), statistics.mean(responses), f"of {run.name}")


def config_of(run: Path) -> Config:
    """Return the configuration of a run's folder, for planning. Raises ConfigError if the folder has no config.yaml."""
    if not (run / "config.yaml").is_file():
        raise ConfigError(f"{run} is not a run's folder, because it has no config.yaml: name one under runs/.")
    raw = OmegaConf.merge(OmegaConf.structured(Config), OmegaConf.create(read_yaml(run / "config.yaml")))
    return load(without_ray(raw))


def setup_of(run: Path, device: Device) -> Setup:
    """Return the setup of a finished run, with the lengths of the sequences that it sampled."""
    config, found = config_of(run), measured(run)
    return describe(config, device, found.lengths)


def fitted(setup: Setup, found: Measured, using: Utilisations) -> Utilisations:
    """Return utilisations with which the estimated time of each stage equals the measured time. Fixed costs of a stage
    are scaled by the same factor."""
    estimate = step_time(setup, using)
    factors = {
        stage: found.stages[stage] / estimate.stages[stage]
        for stage in FITTED
        if found.stages[stage] > 0 and estimate.stages[stage] > 0
    }
    values = {
        name: getattr(using, name) / factors[stage]
        for stage, names in FITTED.items()
        if stage in factors
        for name in names
    }
    values |= {
        name: getattr(using, name) * factors.get(stage, 1.0)
        for name, stage in (
            ("seconds_per_token", "sample"),
            ("seconds_per_response", "sample"),
            ("seconds_per_micro_batch", "update"),
            ("seconds_per_scored_micro_batch", "score"),
        )
    }
    return replace(using, **values, source=f"fitted from {found.lengths.source.removeprefix('of ')}")


def calibrate(run: Path, device: Device, using: Utilisations, out: Path) -> tuple[Setup, Measured, StepTime]:
    """Fit the utilisations from a run and write them to `out`. Returns the run's setup, what it measured and the
    estimate with the fitted utilisations."""
    found = measured(run)
    setup = describe(config_of(run), device, found.lengths)
    new = fitted(setup, found, using)
    planned = {one.place.name: one.peak()[1] / GIB for one in plan_memory(setup)}
    content = {
        "run": str(run),
        "device": device.name,
        "utilisations": asdict(new),
        "memory": {"planned_gib": planned, "measured_gib": dict(found.memory)},
    }
    write_text(out, json.dumps(content, indent=1) + "\n")
    return setup, found, step_time(setup, new)


def read_calibration(path: Path) -> Utilisations:
    """Return the utilisations in a file that `calibrate` wrote. Raises ConfigError if it is not such a file."""
    values = read_json(path, "write it again with plan.py --calibrate RUN", KINDS)["utilisations"]
    names = {one.name for one in fields(Utilisations)}
    if set(values) != names or not all(
        isinstance(value, (int, float)) and value > 0 for name, value in values.items() if name != "source"
    ):
        raise ConfigError(f"{path} does not hold positive utilisations: write it again with plan.py --calibrate RUN.")
    return Utilisations(**values)
