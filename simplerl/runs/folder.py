"""The folder of one run: its settings, metrics, responses and checkpoints.

    <root>/<label>-<hash>/
      config.yaml environment.json status.json summary.json
      metrics.jsonl                  a line per step
      rollouts/step_000003.parquet   every response of that step
      evals/step_000010/             results.json, samples.parquet
      checkpoints/step_000010/       policy/ (a Hugging Face folder), critic/, state.json
      warmup/checkpoints/, warmup/model/

Files and checkpoints are complete or absent: each is written beside its final name and renamed.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import re
import shutil
import signal
import socket
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TypeVar

import pyarrow.parquet as pq
import yaml

from simplerl.config import Config
from simplerl.config.schema import without_effect
from simplerl.errors import ConfigError
from simplerl.io.files import atomic_file, read_json, read_jsonl, read_yaml, write_text
from simplerl.rewards.pool import source_digest
from simplerl.runs.checkpoints import CHECKPOINT, STATE, checkpoints, write_checkpoint
from simplerl.runs.provenance import Usage, differ, environment
from simplerl.runs.rollout_table import rollout_table
from simplerl.runs.tracking import Tracker
from simplerl.types import Rollout

logger = logging.getLogger(__name__)
T = TypeVar("T")

LABEL = 90  # characters of a folder's name that say what was overridden
INTERRUPTED = 75  # exit status after saving on a stop signal (EX_TEMPFAIL: try again)
STOP_SIGNALS = (signal.SIGTERM, signal.SIGUSR2, signal.SIGINT)
# Groups of settings that say where a run is and how it is watched, not what it computes.
NOT_HASHED = ("run", "tracking", "choices")
MOVABLE = ("backend", "sampler")  # a run that is named by run.dir may be resumed with another one of these


class Interrupted(Exception):
    """A stop signal arrived, and the run stops at a point from which it can be resumed."""


def run_folder(resolved: dict[str, Any], label: str, kind: str = "") -> Path:
    """Return the folder that belongs to a configuration. An existing one is found by the hash of the settings that can
    change its numbers, whatever it was labelled when it was first started. `kind` distinguishes other
    folders of the same configuration, such as evaluations."""
    if resolved["run"]["dir"]:
        return Path(resolved["run"]["dir"])
    root, what = Path(resolved["run"]["root"]), comparable(resolved)
    digest = hashlib.sha256(json.dumps([what, kind] if kind else what, sort_keys=True).encode()).hexdigest()[:8]
    if found := sorted(root.glob(f"*-{digest}")):
        return found[0]
    plain = re.sub(r"[^A-Za-z0-9.-]+", "_", label.replace("=", "-")).strip("_")
    if len(plain) > LABEL:  # the end often says what a sweep varies, such as the seed
        plain = f"{plain[: LABEL // 2]}..{plain[-LABEL // 2 :]}"
    return root / f"{plain or 'default'}-{digest}"


def comparable(resolved: dict[str, Any]) -> dict[str, Any]:
    """Return the settings that can change the numbers of a run."""
    return _without({key: value for key, value in resolved.items() if key not in NOT_HASHED}, without_effect())


def _without(node: dict[str, Any], keys: set[str], prefix: str = "") -> dict[str, Any]:
    return {
        name: _without(value, keys, f"{prefix}{name}.") if isinstance(value, dict) else value
        for name, value in node.items()
        if f"{prefix}{name}" not in keys
    }


class Run:
    """A folder that only this process may write. A run whose folder exists is resumed."""

    def __init__(self, config: Config, resolved: dict[str, Any], label: str) -> None:
        self.config, self.resolved = config, resolved
        self.dir = run_folder(resolved, label)
        try:
            self.dir.mkdir(parents=True, exist_ok=True)
            self._claim()
        except OSError as error:
            raise ConfigError(f"{self.dir} cannot be written ({error.strerror}): set run.root or run.dir.") from error
        known = self.dir / "config.yaml"
        if known.exists():
            _check_same_run(read_yaml(known), resolved, self.dir)
        self.attempt = self.status().get("attempt", -1) + 1
        self.usage = Usage.after(self.status())
        self.stop_signal: int | None = None
        self.tracker: Tracker | None = None

    def start(self) -> None:
        """Begin a new attempt: write its settings and environment, and open the tracker."""
        write_text(self.dir / "config.yaml", yaml.safe_dump(self.resolved, sort_keys=False, allow_unicode=True))
        self._write_environment()
        self.tracker = Tracker(self.config.tracking, self.dir, self.resolved)

    def _write_environment(self) -> None:
        """Write the environment of this attempt; that of earlier attempts with other code or packages is kept under
        "earlier"."""
        path, now = self.dir / "environment.json", self._environment()
        before = read_json(path) if path.exists() else now
        earlier = before.pop("earlier", [])
        if differ(before, now):
            logger.warning("resumed with other code, packages or reward function than before: see %s", path)
            earlier.append(before)
        write_text(path, json.dumps({**now, "earlier": earlier}, indent=1))

    def _environment(self) -> dict[str, Any]:
        return environment() | {"reward": source_digest(self.config.reward)}

    @property
    def changed(self) -> bool:
        """Whether code, packages or reward function differ from those of the last attempt."""
        path = self.dir / "environment.json"
        return path.exists() and differ(read_json(path), self._environment())

    def _claim(self) -> None:
        """Lock the folder: two processes that write it would mix their lines."""
        import fcntl

        self._lock = open(self.dir / ".lock", "w")  # noqa: SIM115 (held as long as the run)
        for _ in range(4):  # `is_held` takes the lock for an instant
            try:
                fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                return
            except BlockingIOError:
                time.sleep(0.2)
        raise ConfigError(f"{self.dir} is being written by another process: wait for it or set run.dir.")

    # State

    def status(self) -> dict[str, Any]:
        path = self.dir / "status.json"
        return read_json(path) if path.exists() else {}

    @property
    def finished(self) -> bool:
        return self.status().get("state") == "finished"

    def set_status(self, state: str, **more: Any) -> None:
        now = datetime.now(UTC).isoformat(timespec="seconds")
        known = {key: value for key, value in self.status().items() if key != "reason"}
        status = {**known, "state": state, "attempt": self.attempt, "updated": now, **more}
        status |= {"pid": os.getpid(), "host": socket.gethostname(), **self.usage.hours()}
        write_text(self.dir / "status.json", json.dumps(status, indent=1))

    def close(self, state: str, **more: Any) -> None:
        self.set_status(state, **more)
        if self.tracker is not None:
            self.tracker.close(exit_code={"finished": 0, "interrupted": INTERRUPTED}.get(state, 1))
        self.release()

    def release(self) -> None:
        """Unlock the folder for other processes."""
        self._lock.close()

    @contextmanager
    def catching_signals(self) -> Iterator[None]:
        """Within the block, SIGTERM, SIGUSR2 and Ctrl-C only set `stop_signal`; `interruptible` and `check_stop` act on
        it at safe points. A second Ctrl-C does not wait."""

        def note(number: int, _: Any) -> None:
            if number == self.stop_signal == signal.SIGINT:
                raise KeyboardInterrupt
            if self.stop_signal != signal.SIGUSR2:  # "save and come back" stays so when SIGTERM follows
                self.stop_signal = number
            logger.warning("%s: saving at the next safe point", signal.Signals(number).name)

        before = {number: signal.signal(number, note) for number in STOP_SIGNALS}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def check_stop(self) -> None:
        if self.stop_signal is not None:
            raise Interrupted(signal.Signals(self.stop_signal).name)

    def interruptible(self, stream: Iterable[T]) -> Iterator[T]:
        for item in stream:
            self.check_stop()
            yield item

    # Metrics and responses

    def begin(self, phase: str, step: int) -> None:
        """Remove the metrics of `phase` from `step` on, and the evaluations of later policies: this attempt writes them
        again."""
        path = self.dir / "metrics.jsonl"
        if path.exists():
            kept = [json.dumps(row) + "\n" for row in read_jsonl(path) if row["phase"] != phase or row["step"] < step]
            write_text(path, "".join(kept))
        if phase == "rl":
            for folder in (self.dir / "evals").glob("step_*"):
                if folder > self.eval_folder(step):
                    shutil.rmtree(folder)
        if step:
            logger.info("resuming from step %d", step)
        self.set_status("running", phase=phase, step=step)

    def log(self, phase: str, step: int, metrics: dict[str, float]) -> None:
        row = {"step": step, "phase": phase, "attempt": self.attempt, **metrics}
        with open(self.dir / "metrics.jsonl", "a", encoding="utf-8") as file:
            file.write(json.dumps(row) + "\n")
        if self.tracker is not None:
            self.tracker.log(phase, step, metrics)
        self.set_status("running", phase=phase, step=step)

    def metrics(self) -> list[dict[str, Any]]:
        return read_jsonl(self.dir / "metrics.jsonl")

    def write_summary(self, model: str) -> None:
        """Write summary.json: the first and the last evaluation, the last training step, and the time it took."""
        rows = self.metrics()
        evals = [row for row in rows if "eval/mean/accuracy" in row]
        steps = [row for row in rows if "reward/mean" in row]
        summary = {
            "choices": self.config.choices,
            "seed": self.config.seed,
            "model": model,
            "steps": len(steps),
            "seconds": sum(row.get(f"time/{part}", 0.0) for row in rows for part in ("step", "evaluate", "save")),
            "first_evaluation": _only(evals[:1], "eval/"),
            "last_evaluation": _only(evals[-1:], "eval/"),
            "last_step": _only(steps[-1:], ""),
        }
        write_text(self.dir / "summary.json", json.dumps(summary, indent=1))

    def write_rollouts(self, step: int, rollouts: Sequence[Rollout]) -> None:
        folder = self.dir / "rollouts"
        folder.mkdir(exist_ok=True)
        with atomic_file(folder / f"step_{step:06d}.parquet") as temporary:
            pq.write_table(rollout_table(rollouts, step), temporary)

    def eval_folder(self, step: int) -> Path:
        return self.dir / "evals" / f"step_{step:06d}"

    # Checkpoints

    def checkpoint_is_due(self, step: int) -> bool:
        """Whether the policy after `step` updates is to be saved: every run.save_every updates."""
        return step > 0 and step % self.config.run.save_every == 0

    def save(self, folder: Path, step: int, write: Callable[[Path], None], state: dict[str, Any] | None = None) -> Path:
        """Write the checkpoint <folder>/step_<step> by `write(place)`, with the loop's `state`; checkpoints beyond the
        newest run.keep are removed."""
        place = write_checkpoint(folder / f"step_{step:06d}", step, write, state)
        kept = checkpoints(folder)[-self.config.run.keep :]
        for path in folder.iterdir():  # also what a kill left half written or removed
            if CHECKPOINT.fullmatch(path.name) and path not in kept:
                (path / STATE).unlink(missing_ok=True)
                shutil.rmtree(path)
        return place

    def save_nonfinite(self, what: str, tensors: dict[str, Any]) -> Path:
        """Save the batch on which a loss or gradient stopped being finite, for torch.load(..., weights_only=True)."""
        import torch

        path = self.dir / "nonfinite.pt"
        torch.save({"what": what, **tensors}, path)
        return path


def is_held(folder: Path) -> bool:
    """Return whether a process is writing the run's folder, on this machine or any that shares its file locks."""
    import fcntl

    if not (folder / ".lock").exists():
        return False
    with open(folder / ".lock") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
    return False


def _only(rows: list[dict[str, Any]], prefix: str) -> dict[str, Any]:
    return {key: value for row in rows for key, value in row.items() if key.startswith(prefix) or key == "step"}


def _check_same_run(known: dict[str, Any], resolved: dict[str, Any], folder: Path) -> None:
    """Refuse to resume a run under settings that change its numbers; those of MOVABLE are only reported."""
    known, resolved = comparable(known), comparable(resolved)
    other = {key for key in known.keys() | resolved.keys() if known.get(key) != resolved.get(key)}
    for key in sorted(other.difference(MOVABLE)):
        where, was, now = _difference(key, known.get(key), resolved.get(key))
        raise ConfigError(
            f"run.dir={folder} holds a run with {where}={was}, not {now}: choose another folder, or remove this one."
        )
    for key in sorted(other.intersection(MOVABLE)):
        logger.warning("%s is resumed with another `%s` than before.", folder, key)


def _difference(key: str, was: Any, now: Any) -> tuple[str, Any, Any]:
    """Return the first setting at or below `key` that differs, and its two values."""
    if isinstance(was, dict) and isinstance(now, dict):
        for name in sorted(was.keys() | now.keys()):
            if was.get(name) != now.get(name):
                return _difference(f"{key}.{name}", was.get(name), now.get(name))
    return key, was, now
