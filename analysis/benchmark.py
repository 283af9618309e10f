"""How long and how much memory reading and drawing take: python -m analysis.benchmark [--runs 200] [--steps 5000]
[--metrics 60]

Writes made-up run folders to a temporary folder (five seeds an arm; so many metrics at every step, and at fifty of the
steps an evaluation's besides), reads them in a fresh process and draws every figure there. At full size the folders
take about 1.8 GB of disk for a while."""

from __future__ import annotations

import argparse
import json
import multiprocessing
import resource
import sys
import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np

SEEDS, EVALUATIONS = 5, 50
_TRAINING = "response_length response_length_correct response_length_wrong truncated_share box_share code_share "
_TRAINING += "reflection_share repetition entropy"
_SETS = ("aime24", "math500", "amc23", "minerva_math", "olympiadbench", "mean")
TRAINING = ["reward/mean", "reward/correct", *(f"rollout/{name}" for name in _TRAINING.split())]
EVALUATION = [f"eval/{name}/{leaf}" for name in _SETS for leaf in ("accuracy", "response_length", "pass@4")]


@dataclass(frozen=True)
class Measured:
    """Seconds; peak memory of the process so far in GB."""

    load: float
    load_memory: float
    draw: float
    draw_memory: float
    figures: int


def write_runs(root: Path, runs: int, steps: int, metrics: int) -> None:
    """Run folders as `simplerl.runs.folder` leaves them, without responses."""
    names = [*TRAINING, *(f"other/{place}" for place in range(metrics))][:metrics] + EVALUATION
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
                facts = {"phase": "rl", "step": step, "attempt": 0}
                logged = zip(names, row if step % every == 0 else row[:metrics], strict=False)
                file.write(json.dumps(facts | dict(logged)) + "\n")


def measure(root: Path, out: Path) -> Measured:
    """Of this process, which has imported nothing yet: imports count."""
    start = time.perf_counter()
    from analysis.sources import load

    frames = load([root])
    loaded, load_memory = time.perf_counter(), _peak()
    from analysis.arms import prepared
    from analysis.plots import draw

    paths = draw(*prepared(frames), out)
    return Measured(loaded - start, load_memory, time.perf_counter() - loaded, _peak(), len(paths) // 2)


def _peak() -> float:
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e9


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m analysis.benchmark", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--runs", type=int, default=200)
    parser.add_argument("--steps", type=int, default=5000)
    parser.add_argument("--metrics", type=int, default=60)
    chosen = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory(prefix="simplerl-benchmark-") as place:
        root, out = Path(place) / "runs", Path(place) / "figures"
        write_runs(root, chosen.runs, chosen.steps, chosen.metrics)
        with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as fresh:
            found = fresh.submit(measure, root, out).result()
    print(f"{chosen.runs} runs x {chosen.steps} steps x {chosen.metrics} metrics:")
    print(f"load: {found.load:.1f} s, peak {found.load_memory:.2f} GB")
    print(f"draw: {found.figures} figures, {found.draw:.1f} s, peak {found.draw_memory:.2f} GB")
    return 0


if __name__ == "__main__":
    sys.exit(main())
