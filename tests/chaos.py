"""Runs the whole system while random processes are killed at random moments, and compares with an undisturbed run:

    python tests/chaos.py --runs 12 --out /tmp/chaos [overrides of train.py ...]

The kinds of processes are taken in turn: ranks of the policy, the critic and the reference, vLLM engines, graders, the
driver, Ray's head. A driver that was killed is restarted with the same command; everything else must recover by itself.
If a run ended before the kill, it is repeated. Prints for each run what was killed and when, how long the run took, and
which files of its folder differ from the undisturbed run's. The exit status is 1 if a run did not finish, or differs in
anything but the sampler's own log-probabilities.
"""

from __future__ import annotations

import argparse
import io
import os
import random
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from pathlib import Path

import pyarrow.parquet as pq
from micro_runs import ROOT, SMALL, descendants, differences, outcome

RUN = [*SMALL, "train.steps=5", "backend=ray_cpu", "evals.every=2", "algorithm=ppo"]
KINDS = ("policy", "critic", "reference", "vLLM engine", "grader", "driver", "head")
LIMIT = 1800.0  # seconds; a run that takes longer counts as hanging


class TrainProcess:
    """One start of train.py, with the process ids that its log names."""

    def __init__(self, root: Path, overrides: Sequence[str], log: Path) -> None:
        command = [sys.executable, "train.py", *RUN, *overrides, f"run.root={root}"]
        self.begin = time.monotonic()
        self.process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        self.pids: dict[str, list[int]] = {"driver": [self.process.pid]}
        self.log = log
        self.reader = threading.Thread(target=self._read, daemon=True)
        self.reader.start()

    def _read(self) -> None:
        assert self.process.stdout is not None
        with self.log.open("a") as log:
            for line in self.process.stdout:
                log.write(f"{time.monotonic() - self.begin:6.1f} {line}")
                log.flush()
                if found := re.match(r"(policy|critic|reference|vLLM engine|grader)[ \d]*: process (.*)", line):
                    self.pids[found[1]] = [int(pid) for pid in re.findall(r"(\d+) on ", found[2])]

    def wait(self, until: float) -> int | None:
        try:
            status = self.process.wait(max(0.0, until - time.monotonic()))
        except subprocess.TimeoutExpired:
            return None
        self.reader.join()
        return status


def head_pids(driver: int) -> list[int]:
    """Return the ids of Ray's GCS processes among the driver's descendants."""
    return [pid for pid in descendants(driver) if b"gcs_server" in Path(f"/proc/{pid}/cmdline").read_bytes()]


def finish(training: TrainProcess, root: Path, overrides: Sequence[str]) -> tuple[int | None, int]:
    """Wait for the run to end, restarting its driver if that was killed. Returns the exit status (None: the run
    hangs) and the number of starts."""
    until, starts = training.begin + LIMIT, 1
    while (status := training.wait(until)) == -signal.SIGKILL:
        training, starts = TrainProcess(root, overrides, training.log), starts + 1
    if status is None:
        training.process.kill()
    return status, starts


def kill_one(training: TrainProcess, kind: str, seconds: float, choice: random.Random) -> str | None:
    """Kill one process of that kind, `seconds` after the start of the run or as soon as there is one. Returns what was
    killed and when, or None if the run had ended before."""
    time.sleep(max(0.0, training.begin + seconds - time.monotonic()))
    while training.process.poll() is None:
        found = head_pids(training.process.pid) if kind == "head" else training.pids.get(kind, [])
        for pid in choice.sample(found, len(found)):
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                continue
            return f"{kind} at {time.monotonic() - training.begin:.0f} s"
        time.sleep(0.05)
    return None


def content(root: Path) -> dict[str, object]:
    """Return `micro_runs.outcome` without the configuration, which contains the folder's name, and without the
    sampler's log-probabilities."""
    (folder,) = (path for path in root.iterdir() if path.is_dir())
    found: dict[str, object] = outcome(folder)
    del found["config.yaml"]
    for name, value in found.items():
        if name.endswith(".parquet") and isinstance(value, bytes):
            table = pq.read_table(io.BytesIO(value))
            found[name] = table.drop_columns([c for c in table.column_names if "logprob" in c]).to_pylist()
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=12, help="number of runs with a kill (default: 12)")
    parser.add_argument("--seed", type=int, default=0, help="seed of the random kills")
    parser.add_argument("--out", type=Path, required=True, help="new folder for runs and logs")
    parser.add_argument("overrides", nargs="*", help="overrides of train.py")
    options = parser.parse_args()
    choice = random.Random(options.seed)
    options.out.mkdir(parents=True)
    undisturbed = TrainProcess(options.out / "undisturbed", options.overrides, options.out / "undisturbed.log")
    status, _ = finish(undisturbed, options.out / "undisturbed", options.overrides)
    usual = time.monotonic() - undisturbed.begin
    if status != 0:
        sys.exit(f"the undisturbed run ended with status {status}: {undisturbed.log}")
    expected = content(options.out / "undisturbed")
    print(f"undisturbed: {usual:.0f} s", flush=True)
    bad = 0
    for number in range(options.runs):
        kind, tries = KINDS[number % len(KINDS)], 0
        while True:  # until the kill came before the end of the run
            root, tries = options.out / f"run{number}_{tries}", tries + 1
            training = TrainProcess(root, options.overrides, options.out / f"{root.name}.log")
            what = kill_one(training, kind, choice.uniform(0.1, 0.8) * usual, choice)
            status, starts = finish(training, root, options.overrides)
            if what is not None:
                break
        differing = differences(expected, content(root)) if status == 0 else []
        bad += status != 0 or bool(differing)
        verdict = "same" if not differing else f"differs: {', '.join(differing)}"
        print(
            f"run {number}: killed {what}; status {status}, {starts} start(s), "
            f"{time.monotonic() - training.begin:.0f} s; {verdict if status == 0 else 'not finished'}",
            flush=True,
        )
    sys.exit(1 if bad else 0)


if __name__ == "__main__":
    main()
