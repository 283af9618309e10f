"""Every file of sweeps/ composes into the runs that it announces, each with its own folder; the states of the runs of a
sweep are reported correctly."""

from __future__ import annotations

import fcntl
import json
import os
import re
import shutil
import signal
import subprocess
import sys
from functools import partial
from pathlib import Path
from typing import Any

import composing
import forked
import pytest
from composing import composed_by_hydra
from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import CompactHydraException
from micro_runs import ROOT, SMALL, model
from omegaconf import DictConfig, OmegaConf

from simplerl.cli import run_label
from simplerl.config.load import load
from simplerl.errors import ConfigError
from simplerl.runs.folder import run_folder
from simplerl.runs.provenance import Usage, reserved_devices, total_slurm_cpus
from simplerl.runs.status import record_refusal
from simplerl.sweeps import commands, manifest
from simplerl.sweeps.launch import follow_runs
from simplerl.sweeps.manifest import Sweep, SweepRun
from simplerl.sweeps.slurm import QueuedJob, SlurmError
from simplerl.sweeps.states import last_row, state_of

SWEEPS = sorted(path.stem for path in (ROOT / "sweeps").glob("*.yaml"))


def composed(*overrides: str, with_hydra: bool = False) -> DictConfig:
    raw = composed_by_hydra(*overrides, with_hydra=True) if with_hydra else composing.composed(*overrides)
    OmegaConf.set_struct(raw, False)
    return raw


def arms(name: str) -> list[list[str]]:
    """Return the overrides of each run as Hydra's sweeper makes them."""
    params = composed(f"sweep={name}", with_hydra=True).hydra.sweeper.params
    overrides = OverridesParser.create().parse_overrides([f"{key}={value}" for key, value in params.items()])
    (batch,) = BasicSweeper.split_arguments(overrides, None)
    return batch


@pytest.mark.slow
@pytest.mark.parametrize("name", SWEEPS)
def test_a_sweep_file_is_documented_and_makes_the_announced_runs(name: str) -> None:
    text = (ROOT / f"sweeps/{name}.yaml").read_text()
    for part in (
        "Question:",
        f"Command:  python train.py -m sweep={name}\n",
        "hydra/launcher=slurm",
        "Cost:",
        "Look at:",
    ):
        assert part in text, part
    assert f".sweeps/{name}\n" in text
    runs = arms(name)
    assert int(re.search(r"Cost: +(\d+) runs", text)[1]) == len(runs)  # type: ignore[index]
    folders: set[Path] = set()
    for overrides in runs:
        raw = composed(f"sweep={name}", *overrides)
        raw.model.path = str(ROOT / "assets/micro_base")  # of a sweep over a published run
        load(raw)
        resolved = OmegaConf.to_container(raw, resolve=True, enum_to_str=True)
        folders.add(run_folder(resolved, ",".join(overrides)))  # type: ignore[arg-type]
    assert len({folder.name[-8:] for folder in folders}) == len(runs), "two arms compute the same"


def test_the_sweep_of_algorithms_has_all_that_run_alone() -> None:
    """gdpo needs a reward with parts, on_policy_distillation a teacher."""
    options = {path.stem for path in (ROOT / "conf/algorithm").glob("*.yaml")}
    params = OmegaConf.load(ROOT / "sweeps/algorithms_all.yaml").hydra.sweeper.params
    assert set(params.algorithm.split(",")) == options - {"none", "gdpo", "on_policy_distillation"}


@pytest.mark.slow
def test_sweeps_are_found_from_any_working_directory(tmp_path: Path) -> None:
    """Without a symbolic link in conf/, which zip archives and Windows do not keep."""
    assert not [path for path in ROOT.rglob("conf/**/*") if path.is_symlink()]

    python = partial(forked.run, cwd=tmp_path)

    assert f"sweep: {', '.join(SWEEPS)}\n" in python(f"{ROOT}/train.py", "--help").stdout
    for script in ("train.py", "evaluate.py"):
        shown = python(f"{ROOT}/{script}", "sweep=kl", "--cfg", "hydra", "--package", "hydra.sweeper.params").stdout
        assert "algorithm.kl.coef: 0,0.001,0.01,0.1" in shown, script
    unknown = python(f"{ROOT}/train.py", "-m", "sweep=other")
    assert unknown.returncode != 0 and "sweep=other" in unknown.stderr and ", ".join(SWEEPS) in unknown.stderr


def test_samples_per_prompt_keeps_the_responses_of_a_step() -> None:
    for overrides in arms("samples_per_prompt"):
        train = load(composed("sweep=samples_per_prompt", *overrides)).train
        assert train.prompts_per_step * train.samples_per_prompt == 128


# The states of runs


def entry(folder: Path, job: str | None = None, log: Path | None = None) -> SweepRun:
    return SweepRun(["seed=0"], str(folder), ["train.py"], "slurm", job, str(log) if log else None)


def waiting(restarts: int = 0) -> dict[str, QueuedJob]:
    return {"7_0": QueuedJob("7_0", "PENDING", "Priority", restarts)}


def test_states_without_a_job(small_run: Path, tmp_path: Path) -> None:
    done = state_of(entry(small_run), None)
    assert (done.state, done.phase, done.step, done.steps, done.attempts) == ("finished", "rl", 3, 3, 1)
    assert done.reward is not None and done.accuracy is not None and done.cpu_hours > 0 and done.note.startswith("rl 3")
    assert not done.needs_start

    new = state_of(entry(tmp_path / "new"), None)
    assert (new.state, new.note, new.needs_start) == ("pending", "not started", True)

    folder = shutil.copytree(small_run, tmp_path / "run")
    status = json.loads((folder / "status.json").read_text())

    def left(state: str, **more: str) -> None:
        (folder / "status.json").write_text(json.dumps({**status, "state": state, **more}))

    left("running")  # as kill -9 does
    killed = state_of(entry(folder), None)
    assert killed.state == "interrupted" and "ended without a message" in killed.note and killed.needs_start
    with open(folder / ".lock") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        assert state_of(entry(folder), None).state == "running"
    left("failed", reason="NonFinite: the loss")
    assert (state_of(entry(folder), None).state, state_of(entry(folder), None).note) == (
        "failed",
        "NonFinite: the loss",
    )
    left("interrupted", reason="SIGTERM")
    assert state_of(entry(folder), None).note.startswith("SIGTERM; rl 3")


def test_states_with_a_job(small_run: Path, tmp_path: Path) -> None:
    folder, log = tmp_path / "run", tmp_path / "log"
    log.write_text("rl 1/3  reward +0.1\nsubmitit INFO - Exiting\n\n")
    assert state_of(entry(folder, "7_0"), waiting()).state == "pending"
    assert state_of(entry(folder, "7_0"), waiting()).note == "Priority"
    assert state_of(entry(folder, "7_0"), waiting(restarts=2)).state == "requeued"
    other = state_of(entry(folder), waiting(), known_jobs=["6", "7_0"])  # submitted by another sweep
    assert (other.state, other.job, other.needs_start) == ("pending", "7_0", False)
    running = state_of(entry(folder, "7_0", log), {"7_0": QueuedJob("7_0", "RUNNING", "None", 0)})
    assert (running.state, running.note) == ("running", "rl 1/3  reward +0.1")
    gone = state_of(entry(folder, "7_0"), {})  # it ended before it could write anything
    assert gone.state == "interrupted" and gone.needs_start
    assert (
        state_of(entry(small_run, "7_0"), waiting()).state == "finished"
    )  # SLURM starts it once more, which does no harm


def test_following_survives_a_busy_controller_and_jobs_that_have_ended(
    small_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """One run is finished; the other is a job of another sweep, which first waits and is then cancelled."""
    answers: list[Any] = [SlurmError("squeue failed: Socket timed out."), waiting(), waiting(), waiting(), waiting()]

    def query() -> dict[str, QueuedJob]:
        answer = answers.pop(0) if answers else {}
        if isinstance(answer, SlurmError):
            raise answer
        return answer

    runs = [entry(small_run, "6"), entry(tmp_path / "other")]
    with pytest.raises(CompactHydraException, match="1 of 2 runs did not finish"):
        follow_runs(runs, 0.0, {str(tmp_path / "other"): ["7_0"]}, query)
    assert not answers
    said = capsys.readouterr().out
    assert "squeue failed: Socket timed out. Trying again." in said and "pending" in said


# Damaged and foreign folders


def written(root: Path, name: str, *runs: SweepRun, cwd: Path = ROOT) -> Sweep:
    sweep = Sweep(root / ".sweeps" / name, str(cwd), runs=list(runs))
    sweep.folder.mkdir(parents=True)
    sweep.write()
    return sweep


@pytest.mark.parametrize("status", ["", '{"state": "runn', "[]", '{"id": 3}', '{"state": 5}', None])
def test_one_damaged_run_does_not_hide_the_others(
    status: str | None,
    small_run: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    damaged = tmp_path / "damaged"
    damaged.mkdir()
    if status is None:
        (damaged / "status.json").mkdir()
    else:
        (damaged / "status.json").write_text(status)
    sweep = written(tmp_path, "it", entry(small_run), entry(damaged))
    state = state_of(sweep.runs[1], None)
    assert state.state == "damaged" and state.note.startswith(f"{damaged}/status.json ") and not state.needs_start
    assert commands.show_all(tmp_path) == 0 == commands.show(sweep, as_json=True)
    printed = capsys.readouterr().out
    assert "1 finished, 1 damaged" in printed and '"state": "finished"' in printed
    assert commands.show(sweep) == 0 and "1 finished, 1 damaged" in capsys.readouterr().out
    with monkeypatch.context() as patch:
        patch.setattr(signal, "signal", lambda *_: None)
        assert commands.resume(sweep) == 0
    printed = capsys.readouterr().out
    assert f"Left out: {damaged}/status.json " in printed and "Nothing to resume" in printed


@pytest.mark.parametrize(
    "content",
    [
        "",
        "{",
        "[]",
        '{"runs": []}',
        '{"cwd": "/", "created": "now", "runs": [{"folder": "x"}]}',
        '{"cwd": "/", "created": "now", "runs": [3]}',
        '{"cwd": 3, "created": "now", "runs": []}',
    ],
)
def test_a_damaged_sweep_is_named_and_left_out(content: str, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    written(tmp_path, "good", entry(tmp_path / "run"))
    bad = written(tmp_path, "bad", entry(tmp_path / "run")).folder / "sweep.json"
    bad.write_text(content)
    assert [sweep.name for sweep in manifest.all_sweeps(tmp_path)] == ["good"]
    assert f"Left out: {bad} " in caplog.text and manifest.find("good", tmp_path).name == "good"
    with pytest.raises(ConfigError, match=r"bad/sweep.json is damaged \(.*\): remove it"):
        manifest.find("bad", tmp_path)


def test_a_name_labels_the_run_folder_and_changes_no_result(tmp_path: Path) -> None:
    assert run_label("first", "seed=1", in_sweep=False) == "first"
    assert run_label("first", "seed=1", in_sweep=True) == "first,seed=1"
    assert run_label(None, "seed=1", in_sweep=True) == run_label("", "seed=1", in_sweep=False) == "seed=1"
    plain, named = (
        run_folder(OmegaConf.to_container(composed(f"run.root={tmp_path}", *more), enum_to_str=True), "first")  # type: ignore[arg-type]
        for more in ([], ["run.name=first"])
    )
    assert plain == named and plain.name.startswith("first-")


def test_only_our_own_program_is_resumed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    started: list[list[str]] = []

    def start(command: list[str], **_: Any) -> Any:
        started.append(command)
        return subprocess.CompletedProcess(command, 0)

    monkeypatch.setattr("simplerl.sweeps.commands.subprocess.run", start)
    before = signal.getsignal(signal.SIGINT)
    evil = tmp_path / "train.py"
    evil.write_text("raise SystemExit('stolen')")
    strangers = {
        "another program": (["-c", "print(1)"], ROOT, "is not"),
        "a file of that name": (
            ["train.py", "-m"],
            tmp_path,
            "is not .*/train.py: run its command yourself",
        ),
        "its full path": ([str(evil)], ROOT, "is not"),
        "a folder that is gone": ([str(ROOT / "train.py")], tmp_path / "gone", "gone, no longer exists"),
        "a secret": (["train.py", "-m", "+reward.api_key=sk-1"], ROOT, "the value of .reward.api_key was not stored"),
    }
    for name, (command, cwd, said) in strangers.items():
        run = SweepRun(["seed=0"], str(tmp_path / "run"), command, "local")
        with pytest.raises(ConfigError, match=said):
            commands.resume(written(tmp_path, name, run, cwd=cwd))
    assert started == [] and "sk-1" not in (tmp_path / ".sweeps/a secret/sweep.json").read_text()
    assert commands.resume(written(tmp_path, "ours", entry(tmp_path / "run"))) == 0
    assert started == [[sys.executable, str(ROOT / "train.py"), f"hydra.sweep.dir='{tmp_path}/.sweeps/ours'"]]
    signal.signal(signal.SIGINT, before)


HOLD = "import fcntl, sys; f = open(sys.argv[1], 'w'); fcntl.flock(f, 2); print('held', flush=True); input()"


@pytest.mark.parametrize("named", ["itself", "another of ours", "another program", "nobody", "everybody", "init"])
def test_only_the_process_of_the_run_is_cancelled(
    named: str, small_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A status.json copied from another machine may name any process."""
    folder = shutil.copytree(small_run, tmp_path / "run")
    other = tmp_path / "other.lock"

    def hold(lock: Path, *arguments: str) -> subprocess.Popen[str]:
        command = [sys.executable, "-c", HOLD, str(lock), *arguments]
        process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=ROOT)
        assert process.stdout is not None and process.stdout.readline() == "held\n"
        return process

    ours, elsewhere, stranger = hold(folder / ".lock", "train.py"), hold(other, "train.py"), hold(other.with_suffix(""))
    pids = {"itself": ours.pid, "another of ours": elsewhere.pid, "another program": stranger.pid, "nobody": 0}
    pid = (pids | {"everybody": -1, "init": 1})[named]
    status = {**json.loads((folder / "status.json").read_text()), "state": "running", "pid": pid}
    (folder / "status.json").write_text(json.dumps(status))
    commands.cancel(written(tmp_path, "it", entry(folder)))
    said = capsys.readouterr().out
    for process in (elsewhere, stranger, *([] if named == "itself" else [ours])):
        assert process.poll() is None
        process.kill()
    if named == "itself":
        assert ours.wait(10) == -signal.SIGTERM and "will save and exit" in said
    else:
        assert f"process {pid} is not the train.py that holds its .lock: not stopped." in said


def test_a_refused_run_is_reported_as_refused(small_run: Path, tmp_path: Path) -> None:
    new, old = tmp_path / "new", shutil.copytree(small_run, tmp_path / "old")
    for folder in (new, old):
        record_refusal(folder, {"api_key": "sk-1"}, ConfigError("data.path=a?key=sk-1 does not exist: correct it."))
        state = state_of(entry(folder), None)
        assert (state.state, state.needs_start) == ("refused", True)
        assert state.note == "data.path=a?key=(hidden) does not exist: correct it."
    assert state_of(entry(old), None).attempts == 1
    with open(old / ".lock") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        record_refusal(old, {}, ConfigError("is in use by another process"))
    assert state_of(entry(old), None).note.startswith("data.path=")


def test_metrics_are_read_from_the_end(tmp_path: Path) -> None:
    """Even if the file is too large to be read."""
    path = tmp_path / "metrics.jsonl"
    with path.open("wb") as file:
        file.truncate(1 << 40)
        file.seek(0, 2)
        for step in range(3000):
            row = {"step": step, "phase": "rl", "reward/mean": step / 10}
            row |= {"eval/mean/accuracy": 0.5} if step == 0 else {}
            file.write(b"\n" + json.dumps(row).encode())
        file.write(b'\n{"step": 3000, "reward/mean"')
    assert last_row(path, "reward/mean")["step"] == 2999 and last_row(path, "eval/mean/accuracy")["step"] == 0


def test_hours_of_a_slurm_job(monkeypatch: pytest.MonkeyPatch) -> None:
    assert [total_slurm_cpus(text) for text in ("8", "8(x2)", "8(x2),4", "128(x16)")] == [8, 16, 20, 2048]
    for name, value in {
        "JOB_ID": "1",
        "JOB_NUM_NODES": "4",
        "GPUS_ON_NODE": "8",
        "JOB_CPUS_PER_NODE": "96(x4)",
    }.items():
        monkeypatch.setenv(f"SLURM_{name}", value)
    assert reserved_devices() == (32, 384)
    monkeypatch.setattr("time.monotonic", lambda: 7200.0)
    assert Usage(1.0, 2.0, 32, 384, began=3600.0).hours() == {"gpu_hours": 33.0, "cpu_hours": 386.0}


@pytest.mark.slow
def test_a_local_sweep_is_recorded_and_can_be_resumed(tmp_path: Path) -> None:
    """The second run of this sweep fails: the table shows both, and `resume` restarts the failed one."""
    sweep = ["-m", *SMALL, f"model.path={model()}", f"run.root={tmp_path}", "train.steps=1", "evals.every=0"]
    sweep += ["train.policy.lr=0.0001,1e+30", "train.policy.grad_clip=1e9", "train.policy.warmup_fraction=0"]

    environment = os.environ | {"PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'tests'}"}
    python = partial(forked.run, env=environment)
    refused = python("train.py", *sweep, "train.minibatch_size=8,7")
    assert refused.returncode == 1 and not list(tmp_path.glob(".sweeps/*"))
    assert "Nothing was started: " in refused.stderr and "train.minibatch_size=7" in refused.stderr
    assert "Traceback" not in refused.stderr
    first = python("train.py", *sweep, f"hydra.sweep.dir={tmp_path}/.sweeps/lr")
    assert first.returncode == 1 and "Sweep lr: 2 runs" in first.stdout and first.stdout.count(": new") == 2
    assert "Sweep lr: 1 finished, 1 failed\nEach run: python sweep.py status lr" in first.stdout
    written = tmp_path / ".sweeps/lr/report.html"
    assert f"\nReport: {written}\n" in first.stdout and "<html" in written.read_text()
    report = python("-m", "analysis.report", f"{tmp_path}/.sweeps/lr", "--out", str(tmp_path / "report.html"))
    assert report.returncode == 0 and (tmp_path / "report.html").exists(), report.stderr
    table = python("sweep.py", "status", "lr", "--root", str(tmp_path)).stdout
    assert "lr  (1 finished, 1 failed)" in table and "train.policy.lr=1e+30" in table and "NonFinite: " in table
    assert "lr" in python("sweep.py", "status", "--root", str(tmp_path)).stdout
    again = python("sweep.py", "resume", "lr", "--root", str(tmp_path))
    assert again.returncode == 1 and "train.policy.lr=0.0001: already finished" in again.stdout
    assert "train.policy.lr=1e+30: failed, resumes" in again.stdout
    judge = ["reward._target_=light_rewards.judged", "+reward.api_key=sk-123", "+reward.auth={password: pw-123}"]
    context = ["prompt.max_tokens=400,500", f"hydra.sweep.dir={tmp_path}/.sweeps/long"]
    bad = python("train.py", *sweep[:-3], *judge, *context)
    assert bad.returncode == 1 and "Sweep long: 2 refused" in bad.stdout, bad.stdout + bad.stderr
    table = python("sweep.py", "status", "long", "--root", str(tmp_path)).stdout
    assert "long  (2 refused)" in table and "prompt.max_tokens=400 + sampling" in table
    assert not [path for path in tmp_path.rglob("*") if path.is_file() and b"-123" in path.read_bytes()]
    assert list(tmp_path.rglob("*-123*")) == []
    resumed = python("sweep.py", "resume", "long", "--root", str(tmp_path))
    assert resumed.returncode == 2 and resumed.stderr == (
        "long: the value of +reward.api_key was not stored, because it is a secret: start the same command again with "
        "it.\n"
    )
    nothing = python("sweep.py", "cancel", "lr", "--root", str(tmp_path))
    assert nothing.stdout.strip() == "SLURM jobs cancelled: none"
    unknown = python("sweep.py", "status", "other", "--root", str(tmp_path))
    assert unknown.returncode == 2 and "Sweeps there: lr, long." in unknown.stderr
