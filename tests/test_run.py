"""The run folder: what it is called, that it is always whole, who may write it, and what it says."""

from __future__ import annotations

import errno
import fcntl
import json
import os
import re
import resource
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import forked
import pytest
import torch
import yaml
from micro_runs import SMALL, composed, differences, outcome, rows, run
from omegaconf import OmegaConf
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

import train
from analysis.folders import read_responses
from simplerl.backends.roles import Roles
from simplerl.cli import print_error
from simplerl.config import OptimizerConfig
from simplerl.config.load import load
from simplerl.config.secrets import hide_in_overrides, hide_secrets, is_secret
from simplerl.engine.optimizer import TorchStepper
from simplerl.engine.worker import Worker
from simplerl.errors import ConfigError, RunFailed
from simplerl.evals.standalone import show as show_results
from simplerl.experiment import run_experiment
from simplerl.io.files import read_jsonl, write_text
from simplerl.runs.checkpoints import checkpoints, last_checkpoint, loading_checkpoint, write_checkpoint
from simplerl.runs.folder import Run, run_folder
from simplerl.runs.status import is_locked

pytestmark = pytest.mark.slow  # trains or starts processes


def opened(root: Path, *overrides: str, label: str = "test") -> Run:
    raw = composed(root, *overrides)
    resolved: Any = OmegaConf.to_container(raw, resolve=True, enum_to_str=True)
    return Run(load(raw), resolved, label)


def resolved(**changes: Any) -> dict[str, Any]:
    run = {"dir": None, "root": "runs", "threads": None}
    return {"seed": 0, "train": {"steps": 3}, "run": run, "tracking": {"mode": "disabled"}, "choices": {}, **changes}


# Its name


def test_a_folder_is_named_by_what_is_computed() -> None:
    name = run_folder(resolved(), "reward=strict,seed=0")
    assert name.parent == Path("runs") and name.name.startswith("reward-strict_seed-0-")
    same = [
        resolved(run={"dir": None, "root": "runs", "threads": 4}),
        resolved(tracking={"mode": "offline"}),
        resolved(choices={"reward": "strict"}),
    ]
    assert {run_folder(other, "reward=strict,seed=0") for other in same} == {name}
    assert run_folder(resolved(seed=1), "reward=strict,seed=0") != name
    assert run_folder(resolved(train={"steps": 4}), "reward=strict,seed=0") != name


def test_the_order_of_group_stages_is_part_of_a_run() -> None:
    one, other = {"a": {"x": 1}, "b": {"x": 2}}, {"b": {"x": 2}, "a": {"x": 1}}
    folders = [run_folder(resolved(algorithm={"shape": shape}), "") for shape in (one, other)]
    assert folders[0] != folders[1]
    assert run_folder(resolved(algorithm={"shape": dict(one)}), "") == folders[0]


def test_a_name_is_plain_and_short() -> None:
    assert run_folder(resolved(), "").name.startswith("default-")
    hostile = run_folder(resolved(), "model.path=/a/../b c;$(d)," + "x" * 300).name
    assert len(hostile) <= 105 and not set(hostile) & set("/ ;$()=,")
    assert run_folder(resolved(run={"dir": "/elsewhere/mine", "root": "runs"}), "x") == Path("/elsewhere/mine")


# Always whole


def test_text_is_replaced_or_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "status.json"
    write_text(path, "old")
    with monkeypatch.context() as m:
        m.setattr(os, "fsync", _killed)
        with pytest.raises(KeyboardInterrupt):
            write_text(path, "new, but cut")
    assert path.read_text() == "old"
    write_text(path, "newer")
    assert path.read_text() == "newer" and [p.name for p in tmp_path.iterdir()] == ["status.json"]


def _killed(*_: Any) -> None:
    raise KeyboardInterrupt


def _writer(text: str, cut: bool = False) -> Callable[[Path], None]:
    def write(folder: Path) -> None:
        (folder / "policy").mkdir()
        (folder / "policy/weights").write_text(text)
        if cut:
            raise KeyboardInterrupt

    return write


def test_a_checkpoint_is_whole_or_absent(tmp_path: Path) -> None:
    run, folder = opened(tmp_path), tmp_path / "c"
    assert last_checkpoint(folder) == (None, 0)
    run.save(folder, 1, _writer("one"))
    with pytest.raises(KeyboardInterrupt):
        run.save(folder, 2, _writer("two", cut=True))
    assert last_checkpoint(folder) == (folder / "step_000001", 1)
    run.save(folder, 2, _writer("two"))
    assert last_checkpoint(folder) == (folder / "step_000002", 2)
    assert (folder / "step_000002/policy/weights").read_text() == "two"


def test_a_complete_checkpoint_is_never_replaced(tmp_path: Path) -> None:
    """Removing it first, as a replacement must, would leave a moment without it."""
    write_checkpoint(tmp_path / "step_000001", 1, _writer("one"))
    write_checkpoint(tmp_path / "step_000001", 1, _writer("another", cut=True))
    assert (tmp_path / "step_000001/policy/weights").read_text() == "one"


def test_old_checkpoints_go_and_so_does_what_kills_left_behind(tmp_path: Path) -> None:
    run, folder = opened(tmp_path, "run.keep=2"), tmp_path / "c"
    run.save(folder, 1, _writer("one"))
    run.save(folder, 2, _writer("two"))
    (folder / "step_000002/state.json").unlink()  # a kill during its removal
    (folder / ".step_000099").mkdir()  # a kill during its writing
    (folder / "step_best").mkdir()  # somebody's own copy
    for step in (3, 10, 100):
        run.save(folder, step, _writer(str(step)))
    assert [p.name for p in checkpoints(folder)] == ["step_000010", "step_000100"]
    assert sorted(p.name for p in folder.iterdir()) == ["step_000010", "step_000100", "step_best"]


# Damaged


def _edit(path: Path, **changes: Any) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def _edit_tensors(path: Path, change: Callable[[dict[str, Any]], Any]) -> None:
    tensors = load_file(path)
    change(tensors)
    save_file(tensors, path)


def _rename(tensors: dict[str, Any]) -> None:
    name = next(iter(tensors))
    tensors["other"] = tensors.pop(name)


# What somebody or a disk may do to the last checkpoint, and what the refusal says.
HARMS: dict[str, tuple[Callable[[Path], Any], str]] = {
    "empty state": (lambda c: (c / "state.json").write_text(""), "state.json is damaged"),
    "cut state": (lambda c: (c / "state.json").write_text('{"step": 1'), "state.json is damaged"),
    "foreign state": (lambda c: (c / "state.json").write_text('{"epoch": 1}'), "step is missing"),
    "state of the future": (lambda c: _edit(c / "state.json", step=60), "state.json has changed"),
    "edited loop state": (
        lambda c: _edit(c / "state.json", state={"rollouts": {"batches": 9}}),
        "state.json has changed",
    ),
    "edited config": (lambda c: _edit(c / "policy/config.json", num_hidden_layers=1), "policy/config.json has changed"),
    "edited optimizer step": (
        lambda c: _edit(c / "policy/optimizer.json", optimizer_step=0),
        "optimizer.json has changed",
    ),
    "another step": (lambda c: c.rename(c.with_name("step_000009")), "state.json belongs to step 2"),
    "no config": (lambda c: (c / "critic/config.json").unlink(), "critic/config.json is missing"),
    "no weights": (lambda c: (c / "policy/model.safetensors").unlink(), "policy/model.safetensors is missing"),
    "cut weights": (
        lambda c: os.truncate(c / "policy/model.safetensors", 5000),
        "policy/model.safetensors has changed",
    ),
    "no moments": (
        lambda c: _edit_tensors(c / "critic/optimizer.safetensors", dict.clear),
        "critic/optimizer.safetensors has changed",
    ),
    "a folder": (lambda c: ((c / "state.json").unlink(), (c / "state.json").mkdir()), "cannot be read"),
}


@pytest.mark.parametrize("harm", HARMS)
def test_a_harmed_checkpoint_is_refused_by_a_sentence(harm: str, small_run: Path, tmp_path: Path) -> None:
    checkpoint = shutil.copytree(small_run / "checkpoints/step_000002", tmp_path / "step_000002")
    assert last_checkpoint(tmp_path, 3) == (checkpoint, 2)
    do, said = HARMS[harm]
    do(checkpoint)
    with pytest.raises(ConfigError, match=said) as refused:
        last_checkpoint(tmp_path, 3)
    message = str(refused.value)
    assert message.startswith(f"{tmp_path}/step_0") and "\n" not in message
    assert message.endswith(": remove it, and the same command resumes from the previous checkpoint.")


def test_a_checkpoint_beyond_the_run_is_refused(small_run: Path) -> None:
    with pytest.raises(ConfigError, match="to step 3, but the run has 2 steps"):
        last_checkpoint(small_run / "checkpoints", 2)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (dict.clear, "is absent, not "),
        (_rename, "is absent, not "),
        (
            lambda tensors: tensors.update({name: t[..., :-1].contiguous() for name, t in tensors.items()}),
            "is .*, not ",
        ),
        (lambda tensors: tensors.update(more=torch.zeros(2)), r"more is \(2,\), not absent"),
    ],
)
def test_moments_of_another_model_are_refused(
    change: Callable[[dict[str, Any]], Any], said: str, small_run: Path, tmp_path: Path
) -> None:
    """Fused AdamW would write past the end of moments that are too small."""
    place = shutil.copytree(small_run / "checkpoints/step_000002/policy", tmp_path / "policy")
    _edit_tensors(place / "optimizer.safetensors", change)
    model = AutoModelForCausalLM.from_pretrained(place)
    refused = pytest.raises(ConfigError, match=rf"step_000007 is damaged \(.*optimizer.safetensors: .*{said}")
    with refused, loading_checkpoint(tmp_path / "step_000007"):
        TorchStepper(model, OptimizerConfig(lr=1e-3), 8).load(place)


def _resume(folder: Path) -> None:
    """Open the folder as the next attempt of its run would."""
    run = opened(folder.parent)
    try:
        run.start()
        run.begin("rl", 1)
        assert not run.finished and not run.changed
    finally:
        run.release()


def _in_place(path: Path, content: str | bytes) -> None:
    path.write_bytes(content if isinstance(content, bytes) else content.encode())


FAULTS: dict[str, Callable[[Path], Any]] = {
    "empty": lambda path: _in_place(path, ""),
    "cut": lambda path: _in_place(path, path.read_bytes()[: path.stat().st_size // 2]),
    "binary": lambda path: _in_place(path, b"\x89PNG\r\n\x1a\n\x00\xff" * 40),
    "a list": lambda path: _in_place(path, "[1, 2]\n[3]\n"),
    "foreign": lambda path: _in_place(path, '{"id": 12, "step": "3", "state": 1, "seed": "x"}\n{"id": 13}\n'),
    "a folder": lambda path: (path.unlink(), path.mkdir()),
    "a loop of links": lambda path: (path.unlink(), path.symlink_to(path)),
}
FILES: dict[str, Callable[[Path], Any]] = {
    "config.yaml": _resume,
    "environment.json": _resume,
    "status.json": _resume,
    "metrics.jsonl": _resume,
    "summary.json": train.show,
    "evals/step_000000/results.json": show_results,
    "rollouts/step_000000.parquet": lambda folder: read_responses(folder / "rollouts/step_000000.parquet"),
}


@pytest.fixture(scope="module")
def stopped(small_run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The root of a run that has logged two steps and was killed."""
    run = opened(tmp_path_factory.mktemp("stopped"))
    run.start()
    for step in range(2):
        run.log("rl", step, {"reward/mean": 0.5})
    run.write_summary("policy")
    run.release()
    shutil.copytree(small_run / "rollouts", run.dir / "rollouts")
    (run.dir / "evals/step_000000").mkdir(parents=True)
    shutil.copy(small_run / "evals/step_000000/results.json", run.dir / "evals/step_000000")
    return run.dir


@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize("name", FILES)
def test_a_damaged_file_of_a_run_is_one_sentence(
    name: str, fault: str, stopped: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("analysis.report.write_report", lambda folders, out: out)  # the report has tests of its own
    folder = shutil.copytree(stopped, tmp_path / stopped.name)
    FAULTS[fault](folder / name)
    if name == "metrics.jsonl" and fault in ("empty", "cut"):  # appending stopped there
        FILES[name](folder)
        assert len(list(read_jsonl(folder / name))) == (fault == "cut")
        return
    with pytest.raises(ConfigError) as refused:
        FILES[name](folder)
    message = str(refused.value)
    assert message.startswith(f"{folder / name} ") and "remove" in message and "\n" not in message, message
    if name in ("config.yaml", "environment.json", "status.json") and fault != "a folder":
        (folder / name).unlink()  # the remedy
        _resume(folder)


def test_a_removal_that_is_killed_leaves_no_false_checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run, folder = opened(tmp_path, "run.keep=1"), tmp_path / "c"
    run.save(folder, 1, _writer("one"))
    with monkeypatch.context() as m:
        m.setattr(
            "simplerl.runs.folder.shutil.rmtree", lambda path, **_: _killed() if path.name == "step_000001" else None
        )
        with pytest.raises(KeyboardInterrupt):
            run.save(folder, 2, _writer("two"))
    assert (folder / "step_000001").exists() and [p.name for p in checkpoints(folder)] == ["step_000002"]


# Metrics


def test_metrics_are_repaired_after_a_cut_line(tmp_path: Path) -> None:
    run = opened(tmp_path)
    for step in range(3):
        run.log("warmup", step, {"warmup/loss": step / 3})
    for step in range(4):
        run.log("rl", step, {"reward/mean": 0.1 * step})
    path = run.dir / "metrics.jsonl"
    whole = path.read_text()
    path.write_text(whole + '{"step": 4, "phase": "rl", "rew')
    run.begin("rl", 3)
    assert path.read_text() == "".join(whole.splitlines(keepends=True)[:-1])  # step 3 will come again
    run.log("rl", 3, {"reward/mean": 0.5})
    assert [(m["phase"], m["step"]) for m in read_jsonl(run.dir / "metrics.jsonl")] == [
        ("warmup", s) for s in range(3)
    ] + [("rl", s) for s in range(4)]
    path.write_text(whole[:-9])  # a kill within the last line
    run.begin("rl", 4)
    assert len(list(read_jsonl(run.dir / "metrics.jsonl"))) == 6


def test_begin_forgets_evaluations_of_later_weights(tmp_path: Path) -> None:
    run = opened(tmp_path)
    for step in (0, 2, 4):
        run.eval_folder(step).mkdir(parents=True)
    run.begin("warmup", 0)
    assert len(list((run.dir / "evals").iterdir())) == 3
    run.begin("rl", 2)
    assert sorted(path.name for path in (run.dir / "evals").iterdir()) == ["step_000000", "step_000002"]


def test_begin_without_metrics(tmp_path: Path) -> None:
    run = opened(tmp_path)
    run.begin("rl", 0)
    assert list(read_jsonl(run.dir / "metrics.jsonl")) == [] and run.status()["state"] == "running"


# Who may write


def test_another_configuration_is_refused(tmp_path: Path) -> None:
    place = f"run.dir={tmp_path}/mine"
    first = opened(tmp_path, place)
    first.start()
    first.release()
    with pytest.raises(ConfigError, match="holds a run with seed=0, not "):
        opened(tmp_path, place, "seed=1")
    with pytest.raises(ConfigError, match="holds a run with train"):
        opened(tmp_path, place, "train.policy.lr=1e-3")
    opened(tmp_path, place, "run.save_every=7", "run.keep=5", "tracking.project=other").release()


def test_a_run_moves_to_another_layout(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    place = f"run.dir={tmp_path}/mine"
    first = opened(tmp_path, place)
    first.start()
    first.release()
    moved = opened(tmp_path, place, "backend=ray_cpu")
    assert "is resumed with another backend" in caplog.text and "is resumed with another sampler" in caplog.text
    moved.start()
    moved.release()
    assert "ray_backend" in (tmp_path / "mine" / "config.yaml").read_text()


def test_two_processes_cannot_write_one_folder(tmp_path: Path) -> None:
    first = opened(tmp_path)
    first.release()
    hold = "import fcntl, sys; f = open(sys.argv[1], 'w'); fcntl.flock(f, 2); print('held', flush=True); input()"
    command = [sys.executable, "-c", hold, str(first.dir / ".lock")]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout is not None and other.stdout.readline() == "held\n"
        with pytest.raises(ConfigError, match="is in use by another process"):
            opened(tmp_path)
        opened(tmp_path / "another").release()
        other.kill()
    opened(tmp_path).release()


def test_a_run_holds_its_folder_until_it_closes(tmp_path: Path) -> None:
    run = opened(tmp_path)
    with open(run.dir / ".lock", "w") as file, pytest.raises(BlockingIOError):
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    run.close("finished")
    with open(run.dir / ".lock", "w") as file:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)


# What it says


def test_status_follows_the_run(tmp_path: Path) -> None:
    run = opened(tmp_path)
    run.begin("rl", 0)
    run.log("rl", 0, {})
    assert {k: run.status()[k] for k in ("state", "phase", "step", "attempt", "pid")} == {
        "state": "running",
        "phase": "rl",
        "step": 0,
        "attempt": 0,
        "pid": os.getpid(),
    }
    run.close("failed", reason="a fault")
    assert run.status()["state"] == "failed" and run.status()["reason"] == "a fault"
    again = opened(tmp_path)
    again.begin("rl", 0)
    assert again.status()["attempt"] == 1 and "reason" not in again.status()
    again.close("finished")
    assert again.finished and "reason" not in again.status()


def test_environment_remembers_other_code(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def attempt() -> dict[str, Any]:
        run = opened(tmp_path)
        run.start()
        run.release()
        found: dict[str, Any] = json.loads((run.dir / "environment.json").read_text())
        return found

    first = attempt()
    assert first["earlier"] == [] and first["packages"]["torch"].split("+")[0] == torch.__version__.split("+")[0]
    assert attempt()["earlier"] == []
    real = sys.modules["simplerl.runs.folder"].environment
    monkeypatch.setattr("simplerl.runs.folder.environment", lambda: {**real(), "commit": "0123abcd"})
    third = attempt()
    assert third["commit"] == "0123abcd" and [e["commit"] for e in third["earlier"]] == [first["commit"]]


def test_a_finished_run_is_left_as_it_is(small_run: Path) -> None:
    def state() -> dict[str, tuple[int, int]]:
        return {str(p): (p.stat().st_mtime_ns, p.stat().st_size) for p in small_run.rglob("*") if p.name != ".lock"}

    from micro_runs import WARM_UP

    before = state()
    assert run(small_run.parent, *WARM_UP) == small_run
    assert state() == before


def test_a_finished_run_says_that_its_reward_has_changed(
    small_run: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    from micro_runs import WARM_UP

    run(small_run.parent, *WARM_UP)
    assert "remove it to run it again" not in caplog.text
    monkeypatch.setattr("simplerl.runs.provenance.source_digest", lambda reward: "edited")
    run(small_run.parent, *WARM_UP)
    assert "Code, packages or reward function have changed since: remove the folder to run it again." in caplog.text


def test_what_a_run_leaves(small_run: Path) -> None:
    lines = [json.loads(line) for line in (small_run / "metrics.jsonl").read_text().splitlines()]
    assert [(m["phase"], m["step"]) for m in lines] == [("warmup", s) for s in range(4)] + [("rl", s) for s in range(4)]
    for name in ("reward/mean", "reward/correct", "reward/share", "rollout/response_length", "rollout/box_share",
                 "rollout/entropy", "rollout/kl", "rollout/logprob_gap", "policy/loss", "policy/clip_fraction",
                 "policy/grad_norm", "policy/lr", "policy/padding_share", "critic/loss", "critic/explained_variance",
                 "time/step", "time/sample", "time/rollouts", "rollout/lag", "rollout/sampled",
                 "time/sample_tokens_per_second"):  # fmt: skip
        assert all(name in m for m in lines[4:7]), name
    for m in lines[4:7]:  # evaluating and saving are beside time/step, everything else is in it
        inside = sum(m[f"time/{stage}"] for stage in ("sample", "score", "update", "sync", "write"))
        assert 0.5 * m["time/step"] < inside <= m["time/step"]
    assert lines[5]["time/save"] > 0 and "time/save" not in lines[4]
    for step, name in ((0, "eval/micro/accuracy"), (2, "eval/mean/accuracy"), (3, "eval/mean/response_length")):
        assert name in lines[4 + step]
    assert "eval/mean/accuracy" not in lines[5]
    assert sorted(p.name for p in (small_run / "rollouts").iterdir()) == [f"step_00000{s}.parquet" for s in range(3)]
    assert sorted(p.name for p in (small_run / "evals").iterdir()) == [f"step_00000{s}" for s in (0, 2, 3)]
    assert sorted(p.name for p in (small_run / "checkpoints").iterdir()) == ["step_000002", "step_000003"]
    assert json.loads((small_run / "status.json").read_text())["state"] == "finished"
    assert not [p for p in small_run.rglob(".*") if p.name != ".lock"]
    summary = json.loads((small_run / "summary.json").read_text())
    assert (
        summary["steps"] == 3 and summary["last_evaluation"]["step"] == 3 and summary["first_evaluation"]["step"] == 0
    )
    assert Path(summary["model"]) == small_run / "checkpoints/step_000003/policy"


def test_the_rollouts_hold_every_response(small_run: Path) -> None:
    import pandas as pd

    table = pd.read_parquet(small_run / "rollouts/step_000001.parquet")
    assert (
        len(table) == 16 and table.groupby("problem_id")["sample"].apply(sorted).map(lambda s: s == [0, 1, 2, 3]).all()
    )
    assert (table["length"] == table["tokens"].map(len)).all() and (table["length"] == table["logprobs"].map(len)).all()
    line = next(m for m in rows(small_run) if m["phase"] == "rl" and m["step"] == 1)
    assert line["reward/mean"] == pytest.approx(table["reward"].mean(), abs=1e-6)
    assert line["rollout/response_length"] == table["length"].mean()


def test_checkpoints_are_the_models_that_the_numbers_speak_of(small_run: Path) -> None:
    """They load with their tokenizer; the sampler's log-probs of the next step are those of the policy, and the KL is
    from the model that the warm-up made, all by plain Hugging Face calls."""
    import pandas as pd
    from transformers import AutoTokenizer

    folder = small_run / "checkpoints/step_000002/policy"
    tokenizer = AutoTokenizer.from_pretrained(folder)
    policy, reference = (AutoModelForCausalLM.from_pretrained(f) for f in (folder, small_run / "warmup/model/policy"))
    log_ratios = []
    for row in pd.read_parquet(small_run / "rollouts/step_000002.parquet").itertuples():
        prompt = tokenizer(row.prompt, add_special_tokens=False)["input_ids"]
        response = torch.tensor(list(row.tokens))
        tokens = torch.cat([torch.tensor(prompt), response])[None]
        with torch.no_grad():
            ours, theirs = (
                torch.log_softmax(model(tokens).logits[0, len(prompt) - 1 : -1], -1).gather(-1, response[:, None])[:, 0]
                for model in (policy, reference)
            )
        torch.testing.assert_close(ours, torch.tensor(list(row.logprobs)), atol=1e-4, rtol=0)
        log_ratios += (ours - theirs).tolist()
    line = next(m for m in rows(small_run) if m["phase"] == "rl" and m["step"] == 2)
    assert line["rollout/kl"] == pytest.approx(sum(log_ratios) / len(log_ratios), abs=1e-5)
    assert abs(line["rollout/kl"]) > 1e-4


DIVERGING = ["train.policy.lr=1e30", "train.policy.grad_clip=1e9", "train.policy.warmup_fraction=0", "evals.every=0"]


def _diverge(root: Path, *overrides: str) -> tuple[str, Path]:
    with pytest.raises(RunFailed) as failed:
        run(root, *DIVERGING, *overrides)
    (folder,) = root.iterdir()
    message, status = str(failed.value), json.loads((folder / "status.json").read_text())
    assert message.startswith(f"{folder}: ") and "\n" not in message
    assert message.endswith("start another run with a lower train.policy.lr (now 1e+30).")
    assert status["state"] == "failed" and status["reason"].startswith("NonFinite: ")
    assert not list(folder.glob("checkpoints/*"))
    return message, folder


def test_a_run_that_stops_being_finite_leaves_its_batch(tmp_path: Path) -> None:
    message, folder = _diverge(tmp_path)
    saved = torch.load(folder / "nonfinite.pt", weights_only=True)
    assert "is not finite at rl step 0 (its batch: " in message and "is not finite" in saved["what"]
    assert saved["tokens"].shape == saved["mask"].shape == saved["advantages"].shape


def test_weights_that_are_not_finite_are_not_saved(tmp_path: Path) -> None:
    """The only update makes them absurd, and no later loss shows it."""
    message, folder = _diverge(tmp_path, "train.steps=1", "train.minibatch_size=16")
    assert "weight model.embed_tokens.weight of policy is not finite at rl step 1, " in message
    assert not (folder / "nonfinite.pt").exists() and not (folder / "summary.json").exists()


def test_a_model_that_diverges_while_sampling_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = Roles.sync

    def sync(self: Roles) -> None:
        real(self)
        for _, weight in self.models["policy"].named_weights():
            weight.fill_(float("nan"))
        real(self)

    monkeypatch.setattr(Roles, "sync", sync)
    with pytest.raises(RunFailed, match="a logit of the sampled model is not finite at rl step 0, "):
        run(tmp_path)


# A disk that fills


@pytest.mark.parametrize("name", ["rollouts", "evals", "checkpoints"])
def test_a_file_in_place_of_a_folder_is_named(name: str, tmp_path: Path) -> None:
    stopped = opened(tmp_path)
    stopped.release()
    (stopped.dir / name).write_text("")
    with pytest.raises(RunFailed) as failed:
        run(tmp_path)
    said = rf"{stopped.dir}: {stopped.dir}/{name}\S* cannot be written \(\w[\w ]+\): move it away, and run the same .*"
    assert re.fullmatch(said, str(failed.value))


def test_a_full_disk_leaves_the_last_checkpoint(tmp_path: Path) -> None:
    """The limit on the size of a file acts like a full disk: the weights of step 2 do not fit, after those of step 1.
    Then the same command completes the run."""
    real, limits = Worker.save, resource.getrlimit(resource.RLIMIT_FSIZE)

    def save(self: Worker, folder: Path) -> None:
        if "step_000002" in str(folder):
            resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 15, limits[1]))
        real(self, folder)

    try:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(Worker, "save", save)
            with pytest.raises(RunFailed) as failed:
                run(tmp_path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    (folder,) = tmp_path.iterdir()
    assert str(failed.value) == (
        f"{folder}: a file is too large: free some space or set run.root to another disk, and the same command resumes "
        "from step_000001."
    )
    assert print_error(failed.value) == 1
    assert [path.name for path in (folder / "checkpoints").iterdir()] == ["step_000001"]  # no half checkpoint
    assert not is_locked(folder)
    assert run(tmp_path) == folder and json.loads((folder / "status.json").read_text())["state"] == "finished"


def test_a_disk_that_takes_not_even_the_status(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    def write_rollouts(*_: Any) -> None:
        monkeypatch.setattr("simplerl.runs.folder.write_text", full)
        full()

    monkeypatch.setattr(Run, "write_rollouts", write_rollouts)
    with pytest.raises(RunFailed, match=r"the disk is full: free some space .* and the same command starts again"):
        run(tmp_path)


def test_a_run_whose_last_status_cannot_be_written_is_not_finished(tmp_path: Path) -> None:
    stopped = opened(tmp_path)
    stopped.set_status("running")
    (stopped.dir / "status.json").unlink()
    (stopped.dir / "status.json").mkdir()
    with pytest.raises(ConfigError, match=r"status\.json cannot be read"):
        stopped.close("finished")
    stopped.close("failed")
    assert not is_locked(stopped.dir)


# Secrets


def test_secrets_reach_the_function_but_no_file(tmp_path: Path) -> None:
    raw = composed(tmp_path, "tracking=wandb", "tracking.mode=offline", "train.steps=1", "evals.every=0")
    raw.reward = {
        "_target_": "light_rewards.judged",
        "_partial_": True,
        "api_key": "sk-12345",
        "eos_token": "<e>",
        "auth": {"password": 98765, "user": "me"},
    }
    folder = run_experiment(raw, "reward.api_key=sk-12345,+reward.auth.password=98765,+reward.eos_token=<e>,seed=0")
    assert folder.name.startswith("reward.eos_token-_e_seed-0-")
    config = yaml.safe_load((folder / "config.yaml").read_text())["reward"]
    assert config["api_key"] == "(hidden)" == config["auth"]["password"]
    assert config["eos_token"] == "<e>" and config["auth"]["user"] == "me"
    files = [path for path in folder.rglob("*") if path.is_file()]
    assert len(files) > 10
    assert [path for path in files if b"sk-12345" in path.read_bytes() or b"98765" in path.read_bytes()] == []
    assert run_experiment(raw, "other") == folder  # resumed: hidden values are not compared


def test_no_shipped_setting_is_taken_for_a_secret() -> None:
    settings: Any = OmegaConf.to_container(composed(Path("runs")), resolve=True)
    assert hide_secrets(settings) == settings


SECRETS = """token key api_key apiKey API_KEY OPENAI_KEY hf_token access_token auth-token password db_password passwd
secret client_secret secret_key judge.credentials a.b.private_key wandb_api_key"""


@pytest.mark.parametrize("key", SECRETS.split())
def test_a_secret_is_recognized_by_its_key(key: str) -> None:
    assert is_secret(f"reward.{key}")
    assert hide_in_overrides([f"+reward.{key}='a=b,c'", "seed=1"]) == [f"+reward.{key}=(hidden)", "seed=1"]
    last = key.rpartition(".")[2]
    nested = "+judge={{url: 'http://a:1', {0}: {1}, limit: 3, more: [{{{0}: {1}}}]}}"
    assert hide_in_overrides([nested.format(last, "'a, b'")]) == [nested.format(last, "(hidden)")]
    assert hide_secrets({"reward": [{last: "abc", "limit": 3}]}) == {"reward": [{last: "(hidden)", "limit": 3}]}


def test_other_keys_are_shown() -> None:
    keys = "max_new_tokens eos_token stop_tokens tokens_per_micro_batch keys monkey tokenizer stop_token keep keyword"
    assert not [key for key in keys.split() if is_secret(f"sampling.{key}")]


# Signals, to the real command


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR2])
def test_a_signal_saves_and_leaves(number: signal.Signals, tmp_path: Path) -> None:
    """To the whole process group, as a cluster's scheduler sends it."""
    settings = [f"run.root={tmp_path}", "train.steps=400", "run.save_every=1000"]
    command = forked.Command("train.py", *SMALL, *settings, merged=True)
    try:
        _wait_for_step(tmp_path, 2, command)
        os.killpg(command.pid, number)
        status, output = command.wait(60), command.stdout.read_text()
    finally:
        command.kill()
    assert status == 75, output
    assert f"Stopped by {number.name} after saving: the same command resumes the run." in output
    assert "Traceback" not in output
    (folder,) = tmp_path.iterdir()
    status = json.loads((folder / "status.json").read_text())
    assert status["state"] == "interrupted" and status["reason"] == number.name
    checkpoint, step = last_checkpoint(folder / "checkpoints")
    assert checkpoint is not None and step >= 3
    assert [m["step"] for m in rows(folder) if m["phase"] == "rl"] == list(range(step))
    assert all(m["reward/failed_fraction"] == 0 for m in rows(folder))


def _wait_for_step(root: Path, step: int, command: forked.Command) -> None:
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline and command.poll() is None:
        for path in root.glob("*/metrics.jsonl"):
            if path.read_text().count("\n") > step:
                return
        time.sleep(0.05)
    raise AssertionError(f"step {step} was not reached: {command.stdout.read_text()}")


# Weights & Biases


def test_wandb_offline_holds_the_metrics_by_step(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("wandb")
    monkeypatch.setenv("WANDB_SILENT", "true")
    folder = run(tmp_path, "tracking=wandb", "tracking.mode=offline", "train.steps=2", "evals.every=1")
    (file,) = folder.glob("wandb/offline-run-*/*.wandb")
    history = _wandb_history(file)
    expected = [m for m in rows(folder) if "reward/mean" in m]
    found = [h for h in history if "reward/mean" in h]
    assert [h["rl/step"] for h in found] == [0, 1] == [m["step"] for m in expected]
    for h, m in zip(found, expected, strict=True):
        assert {k: v for k, v in m.items() if k not in ("step", "phase")}.items() <= h.items()
    assert "eval/mean/accuracy" in history[-1] and history[-1]["rl/step"] == 2


def _wandb_history(file: Path) -> list[dict[str, Any]]:
    command = [Path(sys.executable).with_name("wandb"), "leet", "inspect", "--json", str(file)]
    printed = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    return [r["history"]["item"] for r in map(json.loads, printed.splitlines()) if r["type"] == "history"]


def test_outcomes_can_differ(small_run: Path) -> None:
    """The comparison that other tests rely on sees a changed byte, a changed number and a missing file."""
    a = outcome(small_run)
    assert differences(a, dict(a)) == []
    weights = bytearray(a["warmup/model/policy/model.safetensors"])
    weights[-1] ^= 1
    other = a | {"warmup/model/policy/model.safetensors": bytes(weights)}
    other["metrics"] = [*a["metrics"][:-1], a["metrics"][-1] | {"step": -1}]
    del other["rollouts/step_000001.parquet"]
    assert differences(a, other) == [
        "metrics", "rollouts/step_000001.parquet", "warmup/model/policy/model.safetensors"
    ]  # fmt: skip
    assert (
        len(a) > 20 and {"metrics", "rollouts/step_000001.parquet", "warmup/model/policy/model.safetensors"} <= a.keys()
    )
