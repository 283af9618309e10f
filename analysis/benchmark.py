"""Measure how long reading runs and drawing figures take, and their memory: python -m analysis.benchmark [--runs 200]

Writes synthetic run folders (five seeds per arm; `metrics` metrics at each step and those of an evaluation at fifty
steps) to a temporary folder, then reads them and draws every figure in a fresh process. The defaults need about 1.8 GB
of disk."""

from __future__ import annotations

import json
import multiprocessing
import resource
import sys
import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import numpy as np

from analysis.commands import make_parser, reports_source_errors

SEEDS, EVALUATIONS = 5, 50
_TRAINING = "response_length response_length_correct response_length_wrong truncated_share box_share code_share "
_TRAINING += "reflection_share repetition entropy"
_SETS = ("aime24", "math500", "amc23", "minerva_math", "olympiadbench", "mean")
TRAINING = ["reward/mean", "reward/correct", *(f"rollout/{name}" for name in _TRAINING.split())]
EVALUATION = [f"eval/{name}/{leaf}" for name in _SETS for leaf in ("accuracy", "response_length", "pass@4")]


def write_synthetic_runs(root: Path, runs: int, steps: int, metrics: int) -> None:
    """Write run folders in the layout of `simplerl.runs.folder`, without responses."""
    names = [*TRAINING, *(f"other/{index}" for index in range(metrics))][:metrics] + EVALUATION
    every = max(steps // EVALUATIONS, 1)
    for run in range(runs):
        folder = root / f"run-{run:03d}"
        folder.mkdir(parents=True)
        arm, seed = divmod(run, SEEDS)
        (folder / "config.yaml").write_text(
            f"choices: {{reward: strict}}\ntrain: {{lr: {1e-6 * (arm + 1)}}}\nseed: {seed}"
        )
        (folder / "environment.json").write_text('{"started": "2026-01-01T00:00:00+0000"}')
        (folder / "status.json").write_text('{"state": "finished", "attempt": 0}')
        values = np.random.default_rng(run).random((steps, len(names))).tolist()
        with (folder / "metrics.jsonl").open("w", encoding="utf-8") as file:
            for step, row in enumerate(values):
                keys = {"phase": "rl", "step": step, "attempt": 0}
                logged = zip(names, row if step % every == 0 else row[:metrics], strict=False)
                file.write(json.dumps(keys | dict(logged)) + "\n")


def measure(root: Path, out: Path) -> str:
    """Read the runs under `root`, draw their figures into `out`, and return the seconds and the peak memory of each.

    Run it in a process that has not imported the readers yet: the time and memory of imports are included."""
    start = time.perf_counter()
    from analysis.sources import load

    frames = load([root])
    loaded = time.perf_counter()
    load_line = f"load: {loaded - start:.1f} s, peak {_peak_memory():.2f} GB"
    from analysis.arms import select_runs
    from analysis.plots import draw_figures

    paths = draw_figures(*select_runs(frames), out)
    drawn = time.perf_counter() - loaded
    return f"{load_line}\ndraw: {len(paths) // 2} figures, {drawn:.1f} s, peak {_peak_memory():.2f} GB"


def _peak_memory() -> float:
    """Return the peak memory of this process in GB; ru_maxrss is in KiB on Linux and in bytes on macOS."""
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e9


@reports_source_errors
def main(arguments: Sequence[str] | None = None) -> int:
    parser = make_parser("benchmark", __doc__)
    parser.add_argument("--runs", type=int, default=200, help="number of runs (default: %(default)s)")
    parser.add_argument("--steps", type=int, default=5000, help="steps per run (default: %(default)s)")
    parser.add_argument("--metrics", type=int, default=60, help="metrics per step (default: %(default)s)")
    chosen = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory(prefix="simplerl-benchmark-") as folder:
        root, out = Path(folder) / "runs", Path(folder) / "figures"
        write_synthetic_runs(root, chosen.runs, chosen.steps, chosen.metrics)
        with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as fresh:
            found = fresh.submit(measure, root, out).result()
    print(f"{chosen.runs} runs x {chosen.steps} steps x {chosen.metrics} metrics:")
    print(found)
    return 0


if __name__ == "__main__":
    sys.exit(main())
