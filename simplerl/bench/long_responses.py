"""Measures time and peak memory of a policy update against response length, group size and vocabulary:

    python -m simplerl.bench.long_responses [FOLDER] [--device cuda] [--layers 30]

Without FOLDER it uses random weights of SmolLM2-135M's shape, with which time and memory are the same. Every row of the
table is a separate process, because a process does not return its memory. Peak memory is that of the update alone: what
it needs above weights, gradients and optimizer states. The fraction of the plan (`plan.py`) is that of its formula for
activations and logits.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from simplerl.algorithms.losses import ppo_clip
from simplerl.bench.shapes import random_model, sync
from simplerl.config import Aggregation, ModelConfig, OptimizerConfig, Precision
from simplerl.engine.batching import collate
from simplerl.engine.models import load_policy
from simplerl.engine.worker import UpdatePlan, Worker
from simplerl.io.tables import Table, text_cells
from simplerl.io.terminal import terminal

PROMPT = 64  # tokens
MIB = 2**20
LENGTHS = (64, 128, 256, 512, 1024, 2048, 4096)
STATUS = Path("/proc/self/status")


def resident_mib(key: str) -> float:
    """Return VmRSS or VmHWM, the resident memory of this process now or at its peak, in MiB."""
    line = next(line for line in STATUS.read_text().splitlines() if line.startswith(f"{key}:"))
    return float(line.split()[1]) / 1024


class PeakMemory:
    """Measures the peak of memory within its block above that at its start: of the GPU, or of this process."""

    def __init__(self, device: str) -> None:
        self.on_gpu, self.mib = device != "cpu", 0.0

    def __enter__(self) -> PeakMemory:
        if self.on_gpu:
            torch.cuda.reset_peak_memory_stats()
            self.start = torch.cuda.memory_allocated() / MIB
        else:
            Path("/proc/self/clear_refs").write_text("5")  # resets VmHWM
            self.start = resident_mib("VmRSS")
        return self

    def __exit__(self, *_: object) -> None:
        peak = torch.cuda.max_memory_allocated() / MIB if self.on_gpu else resident_mib("VmHWM")
        self.mib = peak - self.start


def measure(options: argparse.Namespace) -> dict[str, float]:
    """Return seconds, CPU seconds and peak MiB of one update on `samples` responses of `length` tokens to one prompt,
    one response a micro-batch. The first update, which allocates gradients and optimizer states, is not counted."""
    precision = Precision[options.precision]
    model = load_policy(ModelConfig(options.folder), precision, options.device)
    worker = Worker(
        model,
        precision=precision,
        tokens_per_micro_batch=PROMPT + options.length,
        gradient_checkpointing=options.checkpointing,
        shared_prompts=False,
        optimizer=OptimizerConfig(lr=1e-9),
    )
    plan = UpdatePlan(options.samples, 1, Aggregation.token_mean, options.length)

    def update(length: int) -> None:
        rows = [([5] * PROMPT, [7 + i] * length) for i in range(options.samples)]
        batch = collate(rows, [0] * len(rows))
        noise = torch.randn(batch.mask.shape, generator=torch.Generator().manual_seed(0)) * batch.mask
        batch = batch.with_(logprobs=torch.zeros(batch.mask.shape), advantages=noise)
        worker.update(batch, [ppo_clip], plan, [0])
        sync(options.device)

    update(16)
    with PeakMemory(options.device) as memory:
        start, cpu = time.perf_counter(), time.process_time()
        update(options.length)
        seconds, cpu = time.perf_counter() - start, time.process_time() - cpu
    return {"seconds": seconds, "cpu": cpu, "mib": memory.mib}


def in_process(options: argparse.Namespace, **changes: Any) -> dict[str, float]:
    """Return the measurement of a new process."""
    given = {**vars(options), **changes}
    command = [sys.executable, "-m", "simplerl.bench.long_responses", str(given["folder"]), "--one"]
    for key in ("device", "precision", "length", "samples"):
        command += [f"--{key}", str(given[key])]
    command += ["--checkpointing"] if given["checkpointing"] else []
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    if done.returncode:
        return {}
    found: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return found


def row(label: Sequence[object], found: dict[str, float], tokens: int) -> Any:
    if not found:
        return text_cells([*label, "failed", "", "", ""])
    each = [f"{found['mib'] * 1024 / tokens:.1f}"]
    return text_cells([*label, f"{found['seconds']:.2f}", f"{found['cpu']:.2f}", f"{found['mib']:.0f}", *each])


def tables(options: argparse.Namespace, wide: str | None) -> list[Table]:
    """Return the tables of response length, of group size and, given a model of four times the vocabulary, of
    vocabulary."""
    measured = ["seconds", "CPU seconds", "peak MiB", "KiB per token of a response"]
    lengths = [row([n], in_process(options, length=n), n) for n in options.lengths]
    groups = [row([n], in_process(options, samples=n), options.length) for n in options.groups]
    found = [
        Table("lengths", f"Update of {options.samples} responses, by length", ["tokens", *measured], lengths),
        Table("groups", f"Update of responses of {options.length} tokens", ["responses", *measured], groups),
    ]
    if wide is not None:
        rows = [row(["its own"], in_process(options), options.length)]
        rows.append(row(["4 x"], in_process(options, folder=wide), options.length))
        found.append(Table("vocabulary", f"Responses of {options.length} tokens", ["vocabulary", *measured], rows))
    return found


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        prog="python -m simplerl.bench.long_responses", description="Measure an update against response length."
    )
    parser.add_argument("folder", nargs="?", help="Hugging Face folder; default: random weights of SmolLM2's shape")
    parser.add_argument("--device", default="cpu", help="cpu or cuda")
    parser.add_argument("--precision", choices=[p.name for p in Precision], default="bfloat16")
    parser.add_argument("--lengths", type=int, nargs="+", default=list(LENGTHS), help="tokens of a response")
    parser.add_argument("--groups", type=int, nargs="+", default=[1, 2, 4, 8], help="numbers of responses")
    parser.add_argument("--length", type=int, default=512, help="tokens of a response in the other tables")
    parser.add_argument("--samples", type=int, default=1, help="responses in the other tables")
    parser.add_argument("--layers", type=int, default=30, help="layers of the random model")
    parser.add_argument("--checkpointing", action="store_true", help="with train.gradient_checkpointing=true")
    parser.add_argument("--one", action="store_true", help="measure --length and --samples in this process")
    options = parser.parse_args(arguments)
    if options.one:
        print(json.dumps(measure(options)))
        return
    with tempfile.TemporaryDirectory() as temporary:
        wide = None
        if options.folder is None:
            options.folder = random_model(Path(temporary) / "model", layers=options.layers)
            wide = random_model(Path(temporary) / "wide", layers=options.layers, vocabulary=4)
        console = terminal(100)
        for table in tables(options, wide):
            console.print(table)


if __name__ == "__main__":
    main()
