"""Runs of the whole system in which a random process is killed at a random moment, against one that nobody disturbs:

    python tests/chaos.py --runs 12 --out /tmp/chaos [--root FOLDER of earlier runs] [overrides of train.py ...]

Kinds of process in turn: the policy's ranks, the critic's, the reference's, vLLM engines, graders, the driver, Ray's
head. A driver that was killed is started again with the same command; everything else must look after itself. A kill
that came after the end is tried again. For each run: what was killed and when, how long it took, and which files of its
folder differ from the undisturbed run's. The exit status is 1 if a run did not finish, or differs in anything but the
sampler's own log-probs.
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
LIMIT = 1800.0  # seconds; a run that takes longer hangs


class Drive:
    """One start of train.py, and the processes that it names in its log."""

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


def head_of(driver: int) -> list[int]:
    """Ray's GCS, a child of the driver."""
    return [pid for pid in descendants(driver) if b"gcs_server" in Path(f"/proc/{pid}/cmdline").read_bytes()]


def finish(drive: Drive, root: Path, overrides: Sequence[str]) -> tuple[int | None, int]:
    """Waits for it, and starts it again if it was killed. Its exit status (None: it hangs), and the starts."""
    until, starts = drive.begin + LIMIT, 1
    while (status := drive.wait(until)) == -signal.SIGKILL:
        drive, starts = Drive(root, overrides, drive.log), starts + 1
    if status is None:
        drive.process.kill()
    return status, starts


def disturb(drive: Drive, kind: str, seconds: float, choice: random.Random) -> str | None:
    """Kills one process of that kind, `seconds` after the start of the run, or once there is one. What and when; None
    where the run had ended."""
    time.sleep(max(0.0, drive.begin + seconds - time.monotonic()))
    while drive.process.poll() is None:
        found = head_of(drive.process.pid) if kind == "head" else drive.pids.get(kind, [])
        for pid in choice.sample(found, len(found)):
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                continue
            return f"{kind} at {time.monotonic() - drive.begin:.0f} s"
        time.sleep(0.05)
    return None


def content(root: Path) -> dict[str, object]:
    """As `micro_runs.outcome`, without what names the folder; rollouts without the sampler's log-probs."""
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
    parser.add_argument("--runs", type=int, default=12)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("overrides", nargs="*")
    options = parser.parse_args()
    choice = random.Random(options.seed)
    options.out.mkdir(parents=True)
    quiet = Drive(options.out / "quiet", options.overrides, options.out / "quiet.log")
    status, _ = finish(quiet, options.out / "quiet", options.overrides)
    usual = time.monotonic() - quiet.begin
    if status != 0:
        sys.exit(f"the undisturbed run ended with status {status}: {quiet.log}")
    expected = content(options.out / "quiet")
    print(f"undisturbed: {usual:.0f} s", flush=True)
    bad = 0
    for number in range(options.runs):
        kind, tries = KINDS[number % len(KINDS)], 0
        while True:  # a moment that fell behind the end is no test
            root, tries = options.out / f"run{number}_{tries}", tries + 1
            drive = Drive(root, options.overrides, options.out / f"{root.name}.log")
            what = disturb(drive, kind, choice.uniform(0.1, 0.8) * usual, choice)
            status, starts = finish(drive, root, options.overrides)
            if what is not None:
                break
        differing = differences(expected, content(root)) if status == 0 else []
        bad += status != 0 or bool(differing)
        verdict = "same" if not differing else f"differs: {', '.join(differing)}"
        print(
            f"run {number}: killed {what}; status {status}, {starts} start(s), "
            f"{time.monotonic() - drive.begin:.0f} s; {verdict if status == 0 else 'not finished'}",
            flush=True,
        )
    sys.exit(1 if bad else 0)


if __name__ == "__main__":
    main()
