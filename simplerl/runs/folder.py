"""Writes the folder of a run: settings, environment, status, metrics, rollouts, evaluations and checkpoints.

    <root>/<label>-<hash>/
      config.yaml environment.json status.json summary.json alarms.json
      metrics.jsonl                  a line per step
      rollouts/step_000003.parquet   every response of that step
      evals/step_000010/             results.json, samples.parquet
      checkpoints/step_000010/       policy/ (a Hugging Face folder), critic/, state.json
      warmup/checkpoints/, warmup/model/

Files and checkpoints are written to a temporary name and renamed, so they are complete or absent.
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
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TypeVar

import pyarrow.parquet as pq
import yaml

from simplerl.config import Config
from simplerl.config.secrets import hide_in_label, hide_secrets
from simplerl.errors import ConfigError, RunFailed
from simplerl.io.files import atomic_file, read_json, read_jsonl, read_yaml, write_text
from simplerl.runs.alarms import Alarms
from simplerl.runs.checkpoints import CHECKPOINT, STATE, checkpoints, write_checkpoint
from simplerl.runs.identity import check_same_inputs, check_same_kind, check_same_settings, result_settings
from simplerl.runs.provenance import MemoryMeter, Usage, code_differs, differ, environment, reward_digests
from simplerl.runs.rollout_table import rollout_table
from simplerl.runs.status import AGAIN, AGAIN_ALLOWED, read_status
from simplerl.runs.tracking import Tracker
from simplerl.types import Batch, Rollout

logger = logging.getLogger(__name__)
T = TypeVar("T")

MAX_LABEL = 90  # characters of the label in a folder name
INTERRUPTED = 75  # exit status after saving on a stop signal (EX_TEMPFAIL: try again)
STOP_SIGNALS = (signal.SIGTERM, signal.SIGUSR2, signal.SIGINT)
CUT = "remove that line, or the file"
_CONFIG_KINDS = {"seed": int, "run": dict, "choices": dict}  # the first and the last of the settings
METRICS_KINDS = {"phase": str, "step": int}
_ENVIRONMENT_KINDS = {"python": str, "packages": dict, "earlier": list | None}


class Interrupted(Exception):
    """A stop signal arrived, or an alarm stops a run with run.strict=true; the run can be resumed."""


def run_folder(resolved: dict[str, Any], label: str, kind: str = "") -> Path:
    """Return the folder of a configuration: `run.dir` or <run.root>/<label>-<hash of the settings that change results>.
    An existing folder with this hash is reused even if its label differs. `kind` distinguishes other folders of the
    same configuration, such as evaluations."""
    if resolved["run"]["dir"]:
        return Path(resolved["run"]["dir"])
    root, settings = Path(resolved["run"]["root"]), result_settings(resolved, kind)
    digest = hashlib.sha256(json.dumps([settings, kind] if kind else settings, sort_keys=True).encode()).hexdigest()[:8]
    if found := sorted(root.glob(f"*-{digest}")):
        return found[0]
    label = re.sub(r"[^A-Za-z0-9.-]+", "_", hide_in_label(label, resolved).replace("=", "-")).strip("_")
    if len(label) > MAX_LABEL:  # keep the end, where sweeps put what they vary, such as the seed
        label = f"{label[: MAX_LABEL // 2]}..{label[-MAX_LABEL // 2 :]}"
    return root / f"{label or 'default'}-{digest}"


class Run:
    """Locks a run folder for this process and writes its files. If the folder exists, the run in it is resumed.

    kind: a key of `identity.KINDS`. inputs: digests of what the run reads, by name (`simplerl.data.inputs`).
    Raises ConfigError if the folder cannot be written, is in use, or holds a run with other settings or inputs."""

    def __init__(
        self,
        config: Config,
        resolved: dict[str, Any],
        label: str,
        kind: str = "",
        inputs: Mapping[str, str] | None = None,
    ) -> None:
        self.config, self.resolved, self.kind, self.inputs = config, resolved, kind, dict(inputs or {})
        self.dir = run_folder(resolved, label, kind)
        try:
            self.dir.mkdir(parents=True, exist_ok=True)
            self._lock_folder()
        except OSError as error:
            raise ConfigError(f"{self.dir} cannot be written ({error.strerror}): set run.root or run.dir.") from error
        try:
            self._check_same_run()
            status = self.status()
        except ConfigError:
            self.release()
            raise
        self.attempt = status.get("attempt", -1) + 1
        self.usage, self.alarms, self.memory = Usage.after(status), Alarms(self.dir, config), MemoryMeter.begin()
        self.phase, self.step = "rl", 0  # of the next line of metrics.jsonl
        self.stop_signal: int | None = None
        self.tracker: Tracker | None = None

    def start(self) -> None:
        """Start a new attempt: write environment.json and config.yaml, and open the tracker."""
        written = hide_secrets(self.resolved)
        self._write_environment()
        write_text(self.dir / "config.yaml", yaml.safe_dump(written, sort_keys=False, allow_unicode=True))
        self.memory = MemoryMeter.begin()
        self.tracker = Tracker(self.config.tracking, self.dir, written)

    def _check_same_run(self) -> None:
        """Raise ConfigError if the folder holds a run of another kind, with other settings or with other inputs."""
        settings, environment_file = self.dir / "config.yaml", self.dir / "environment.json"
        if os.path.lexists(settings):
            check_same_kind(self.status().get("kind", self.kind), self.kind, self.dir)
            known_settings = read_yaml(settings, AGAIN, _CONFIG_KINDS)
            check_same_settings(known_settings, hide_secrets(self.resolved), self.dir, self.kind)
        stored = os.path.lexists(environment_file)
        known = read_json(environment_file, AGAIN_ALLOWED, _ENVIRONMENT_KINDS).get("inputs") if stored else None
        if known or (self.inputs and os.path.lexists(settings)):
            allowed = self.config.run.allow_changed
            check_same_inputs(known or {}, self.inputs, self.dir, finished=self.finished, allowed=allowed)

    def _write_environment(self) -> None:
        """Write environment.json. Environments of earlier attempts that differ are kept under the key "earlier"."""
        path, now = self.dir / "environment.json", self._environment()
        before = read_json(path, AGAIN_ALLOWED, _ENVIRONMENT_KINDS) if os.path.lexists(path) else now
        earlier = before.pop("earlier", None) or []
        if code_differs(before, now):
            logger.warning("code, packages or reward function have changed since the last attempt: see %s", path)
        if differ(before, now):
            earlier.append(before)
        write_text(path, json.dumps({**now, "earlier": earlier}, indent=1))

    def _environment(self) -> dict[str, Any]:
        return environment() | reward_digests(self.config) | {"inputs": self.inputs}

    @property
    def changed(self) -> bool:
        """Return whether code, Python, packages or the training reward have changed since the last attempt."""
        path = self.dir / "environment.json"
        return path.exists() and code_differs(read_json(path, AGAIN_ALLOWED, _ENVIRONMENT_KINDS), self._environment())

    def _lock_folder(self) -> None:
        """Lock the folder. Raises ConfigError if another process holds the lock."""
        import fcntl

        self._lock = open(self.dir / ".lock", "w")  # noqa: SIM115 (held as long as the run)
        for _ in range(4):  # retried because `is_locked` takes the lock for an instant
            try:
                fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                return
            except BlockingIOError:
                time.sleep(0.2)
        raise ConfigError(f"{self.dir} is in use by another process: wait until it ends, or set run.dir.")

    # State

    def status(self) -> dict[str, Any]:
        """Return the content of status.json, or {} if there is none."""
        return read_status(self.dir)

    @property
    def finished(self) -> bool:
        return self.status().get("state") == "finished"

    def set_status(self, state: str, **more: Any) -> None:
        """Update status.json. `state` is running, finished, interrupted or failed."""
        now = datetime.now(UTC).isoformat(timespec="seconds")
        known = {key: value for key, value in self.status().items() if key != "reason"}
        status = {**known, "state": state, "attempt": self.attempt, "updated": now, **more}
        status |= {"kind": self.kind, "pid": os.getpid(), "host": socket.gethostname(), **self.usage.hours()}
        write_text(self.dir / "status.json", json.dumps(status, indent=1))

    def close(self, state: str, **more: Any) -> None:
        """Write the final status with the fields `more`, close the tracker and unlock the folder. Unless the run has
        finished, a failure to write the status (full disk) is ignored, because it would hide why the run ended."""
        with suppress(*(() if state == "finished" else (OSError, ConfigError))):
            self.set_status(state, **more)
        if self.tracker is not None:
            self.tracker.close(exit_code={"finished": 0, "interrupted": INTERRUPTED}.get(state, 1))
        self.release()

    def release(self) -> None:
        """Unlock the folder for other processes."""
        self._lock.close()

    @contextmanager
    def recorded(self, explain: Callable[[BaseException], str] = lambda _: "") -> Iterator[None]:
        """Start an attempt, and record in status.json how the block ends. Stop signals are caught within it. An error
        for which `explain` returns a sentence (reason and remedy) is raised as RunFailed with that sentence."""
        try:
            with self.catching_signals():
                self.start()
                self.check_alarms()
                yield
                self.check_alarms()
        except Interrupted as signal:
            if self.alarms.stop is not None:
                self.close("failed", reason=self.alarms.stop)
                raise RunFailed(f"{self.dir}: {self.alarms.stop}") from signal
            self.close("interrupted", reason=str(signal))
            raise
        except KeyboardInterrupt:
            self.close("interrupted", reason="second Ctrl-C")
            raise
        except BaseException as error:
            explained = explain(error)
            self.close("failed", reason=f"{type(error).__name__}: {explained or error}")
            if explained:
                raise RunFailed(f"{self.dir}: {explained}") from error
            raise
        self.close("finished")

    def already_finished(self) -> bool:
        """Return whether the run is finished. If so, also log that and unlock the folder."""
        if not self.finished:
            return False
        logger.info("%s is already finished: nothing to do.", self.dir)
        if self.changed:
            logger.warning("Code, packages or reward function have changed since: remove the folder to run it again.")
        self.release()
        return True

    @contextmanager
    def catching_signals(self) -> Iterator[None]:
        """Make SIGTERM, SIGUSR2 and Ctrl-C only set `stop_signal` within the block, where `check_stop` and
        `interruptible` raise `Interrupted` at safe points. A second Ctrl-C raises KeyboardInterrupt at once."""

        def handle(number: int, _: Any) -> None:
            if number == self.stop_signal == signal.SIGINT:
                raise KeyboardInterrupt
            if self.stop_signal != signal.SIGUSR2:  # SIGUSR2 (save and requeue) is not replaced by a later SIGTERM
                self.stop_signal = number
            logger.warning("%s received: saving at the next safe point", signal.Signals(number).name)

        previous = {number: signal.signal(number, handle) for number in STOP_SIGNALS}
        try:
            yield
        finally:
            for number, handler in previous.items():
                signal.signal(number, handler)

    def check_stop(self) -> None:
        """Raise `Interrupted` if a stop signal has arrived or an alarm stops the run."""
        if self.stop_signal is not None:
            raise Interrupted(signal.Signals(self.stop_signal).name)
        self.check_alarms()

    def check_alarms(self) -> None:
        """Raise `Interrupted` if an alarm stops the run."""
        if self.alarms.stop is not None:
            raise Interrupted(self.alarms.stop)

    def interruptible(self, stream: Iterable[T]) -> Iterator[T]:
        """Yield the items of `stream`; raise `Interrupted` once a stop signal has arrived or an alarm stops the run."""
        for item in stream:
            self.check_stop()
            yield item

    # Metrics and responses

    def begin(self, phase: str, step: int) -> None:
        """Start or resume a phase at `step`: remove its metrics from `step` on, and later evaluations, which this
        attempt writes again."""
        path = self.dir / "metrics.jsonl"
        if os.path.lexists(path):
            with atomic_file(path) as temporary, temporary.open("w", encoding="utf-8") as kept:
                for row in read_jsonl(path, CUT, METRICS_KINDS):
                    if row["phase"] != phase or row["step"] < step:
                        kept.write(json.dumps(row) + "\n")
        if phase == "rl":
            for folder in (self.dir / "evals").glob("step_*"):
                if folder > self.eval_folder(step):
                    shutil.rmtree(folder)
        if step:
            logger.info("resuming from step %d", step)
        self.phase, self.step = phase, step
        self.set_status("running", phase=phase, step=step)

    def log(self, phase: str, step: int, metrics: dict[str, float]) -> None:
        """Append a line to metrics.jsonl with the peak memory so far, pass the metrics on, and record alarms."""
        metrics = metrics | {f"memory/process_{place}_gib": size for place, size in self.memory.peak().items()}
        row = {"step": step, "phase": phase, "attempt": self.attempt, **metrics}
        with open(self.dir / "metrics.jsonl", "a", encoding="utf-8") as file:
            file.write(json.dumps(row) + "\n")
        if self.tracker is not None:
            self.tracker.log(phase, step, metrics)
        self.alarms.check(phase, step, metrics)
        self.step = step + 1
        self.set_status("running", phase=phase, step=step)

    def write_summary(self, model: str) -> None:
        """Write summary.json: first and last evaluation, last training step, and total time."""
        first_evaluation, last_evaluation, last_step = dict[str, Any](), dict[str, Any](), dict[str, Any]()
        steps, seconds = 0, 0.0
        for row in read_jsonl(self.dir / "metrics.jsonl", CUT, METRICS_KINDS):
            seconds += sum(row.get(f"time/{part}", 0.0) for part in ("step", "evaluate", "save"))
            if "eval/mean/accuracy" in row:
                last_evaluation = {key: value for key, value in row.items() if key.startswith("eval/") or key == "step"}
                first_evaluation = first_evaluation or last_evaluation
            if "reward/mean" in row:
                last_step, steps = row, steps + 1
        summary = {
            "choices": self.config.choices,
            "seed": self.config.seed,
            "model": model,
            "steps": steps,
            "seconds": seconds,
            "first_evaluation": first_evaluation,
            "last_evaluation": last_evaluation,
            "last_step": last_step,
        }
        write_text(self.dir / "summary.json", json.dumps(summary, indent=1))

    def write_rollouts(self, step: int, rollouts: Sequence[Rollout], batch: Batch) -> None:
        """Write rollouts/step_<step>.parquet. batch: the same rollouts after scoring."""
        folder, saved = self.dir / "rollouts", batch if self.config.run.trainer_logprobs else None
        folder.mkdir(exist_ok=True)
        with atomic_file(folder / f"step_{step:06d}.parquet") as temporary:
            pq.write_table(rollout_table(rollouts, step, saved), temporary)

    def eval_folder(self, step: int) -> Path:
        return self.dir / "evals" / f"step_{step:06d}"

    # Checkpoints

    def checkpoint_is_due(self, step: int) -> bool:
        """Return whether to save a checkpoint after `step` updates: every run.save_every updates."""
        return step > 0 and step % self.config.run.save_every == 0

    def save(self, folder: Path, step: int, write: Callable[[Path], None], state: dict[str, Any] | None = None) -> Path:
        """Save the checkpoint <folder>/step_<step>: `write(path)` writes the models, `state` is the loop's state. All
        but the newest run.keep checkpoints are removed. Returns the path."""
        place = write_checkpoint(folder / f"step_{step:06d}", step, write, state)
        kept = checkpoints(folder)[-self.config.run.keep :]
        for path in folder.iterdir():  # includes incomplete checkpoints of a killed process
            if CHECKPOINT.fullmatch(path.name) and path not in kept:
                (path / STATE).unlink(missing_ok=True)
                shutil.rmtree(path)
        return place
