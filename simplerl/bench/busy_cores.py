"""Measures how much slower an update becomes beside busy processes, by the way in which OpenMP's threads wait:

    python -m simplerl.bench.busy_cores assets/micro_base --busy 2

libgomp reads its settings when torch is first imported, so each setting has a process of its own; they all stay alive
and take turns, so that other load on the machine meets them alike. `spin 2000` is what importing simplerl sets. A
machine of N cores that N other processes use leaves half of it: 2x is then the least that fair scheduling allows.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from rich.console import Console

from simplerl.io.tables import Table, text_cells

CORES = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
VARIABLES = ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY", "OMP_DYNAMIC", "OMP_NUM_THREADS")
SETTINGS: dict[str, dict[str, str]] = {
    "spin 300000 (libgomp's default)": {"GOMP_SPINCOUNT": "300000"},
    "spin 2000": {"GOMP_SPINCOUNT": "2000"},
    "spin 200": {"GOMP_SPINCOUNT": "200"},
    "passive": {"OMP_WAIT_POLICY": "passive"},
    "spin 2000, dynamic": {"GOMP_SPINCOUNT": "2000", "OMP_DYNAMIC": "true"},
    "spin 2000, one thread fewer": {"GOMP_SPINCOUNT": "2000", "OMP_NUM_THREADS": str(max(1, CORES - 1))},
    "passive, twice the threads": {"OMP_WAIT_POLICY": "passive", "OMP_NUM_THREADS": str(2 * CORES)},
}
REFERENCE = "spin 2000"


def serve(options: argparse.Namespace) -> None:
    """Time an update for each line of the standard input, and print wall and CPU seconds as JSON."""
    from simplerl.algorithms.losses import ppo_clip
    from simplerl.bench.device_checks import Inputs
    from simplerl.config import Aggregation, Precision
    from simplerl.engine.worker import UpdatePlan

    inputs = Inputs("", options.model, "cpu", (options.responses // 8, 8, options.tokens, options.tokens), 1)
    worker = inputs.worker(Precision[options.precision])
    batch = inputs.batch(worker)
    plan = UpdatePlan(len(batch), 1, Aggregation.token_mean)
    worker.update(batch, [ppo_clip], plan, [0])
    print("ready", flush=True)
    for _ in sys.stdin:
        start, cpu = time.perf_counter(), time.process_time()
        worker.update(batch, [ppo_clip], plan, [0])
        print(json.dumps([time.perf_counter() - start, time.process_time() - cpu]), flush=True)


def started(options: argparse.Namespace, setting: Mapping[str, str]) -> Any:
    """Start the process of one setting and wait until it is ready."""
    own = {key: value for key, value in os.environ.items() if key not in VARIABLES}
    command = [sys.executable, "-m", "simplerl.bench.busy_cores", options.model, "--serve"]
    for key in ("responses", "tokens", "precision"):
        command += [f"--{key}", str(getattr(options, key))]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True, "env": {**own, **setting}}
    process = subprocess.Popen(command, **pipes)  # type: ignore[call-overload]
    process.stdout.readline()
    return process


def asked(process: Any) -> tuple[float, float]:
    """Return the wall and CPU seconds of one update of a process."""
    print("go", file=process.stdin, flush=True)
    wall, cpu = json.loads(process.stdout.readline())
    return float(wall), float(cpu)


@contextmanager
def busy(count: int) -> Iterator[None]:
    """Keep `count` processes busy within the block."""
    loops = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(count)]
    try:
        yield
    finally:
        for loop in loops:
            loop.kill()
            loop.wait()


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        prog="python -m simplerl.bench.busy_cores", description="Measure an update beside busy processes."
    )
    parser.add_argument("model", help="Hugging Face folder")
    parser.add_argument("--busy", type=int, default=2, help="busy processes")
    parser.add_argument("--responses", type=int, default=256, help="a multiple of 8")
    parser.add_argument("--tokens", type=int, default=64, help="mean tokens of prompts and of responses")
    parser.add_argument("--precision", choices=["float32", "bfloat16"], default="float32")
    parser.add_argument("--repeats", type=int, default=7, help="turns of each setting, quiet and busy")
    parser.add_argument("--settings", nargs="+", choices=SETTINGS, default=list(SETTINGS))
    parser.add_argument("--serve", action="store_true", help="measure in this process, for the command itself")
    options = parser.parse_args(arguments)
    if options.serve:
        serve(options)
        return
    processes = {name: started(options, SETTINGS[name]) for name in options.settings}
    found: dict[tuple[str, int], list[tuple[float, float]]] = {}
    for count in (0, options.busy):
        with busy(count):
            for _ in range(options.repeats):
                for name, process in processes.items():
                    found.setdefault((name, count), []).append(asked(process))
    for process in processes.values():
        process.stdin.close()
        process.wait()
    middle = {key: [statistics.median(column) for column in zip(*values, strict=True)] for key, values in found.items()}
    reference = middle.get((REFERENCE, 0), [float("nan")])[0]
    rows = []
    for name in processes:
        quiet, loaded = middle[name, 0], middle[name, options.busy]
        cells = [f"{quiet[0]:.3f}", f"{quiet[0] / reference - 1:+.1%}", f"{loaded[0]:.3f}"]
        rows.append(text_cells([name, *cells, f"{loaded[0] / reference:.2f}x", f"{loaded[1] / quiet[1]:.2f}x"]))
    columns = ["setting", "quiet (s)", f"against {REFERENCE}", "busy (s)", f"against quiet {REFERENCE}", "CPU time"]
    caption = f"One update on {CORES} cores, alone and beside {options.busy} busy processes"
    Console(width=120).print(Table("busy", caption, columns, rows))


if __name__ == "__main__":
    main()
