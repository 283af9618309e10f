"""What a run reads is part of what it is: a change is refused by name, when it is resumed and when it is finished."""

from __future__ import annotations

import json
import os
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import composing
import micro_runs
import numpy as np
import pytest
import torch
from micro_runs import SMALL
from omegaconf import DictConfig, OmegaConf
from safetensors.torch import load_file, save_file

from simplerl.config import ModelConfig
from simplerl.config.load import load
from simplerl.data import inputs as module
from simplerl.data.inputs import input_digests, weights_digest
from simplerl.data.task import prepare_task
from simplerl.errors import ConfigError
from simplerl.evals.standalone import evaluate_model
from simplerl.experiment import run_experiment
from simplerl.runs.folder import Run

pytestmark = pytest.mark.slow  # trains or starts processes

Change = Callable[[Path], None]
OWN = "def estimate(batch, **keywords):\n    return batch.with_(advantages=batch.token_rewards)\n"


def write_sums(file: Path, first: int = 0) -> None:
    rows = [{"question": f"What is {i} + 1?", "answer": str(i + 1)} for i in range(first, first + 8)]
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))


def change_weights(root: Path) -> None:
    tensors = load_file(root / "model/model.safetensors")
    name = sorted(tensors)[0]
    save_file(tensors | {name: tensors[name] * 1.01}, root / "model/model.safetensors", {"format": "pt"})


def change_tokenizer(root: Path) -> None:
    file = root / "model/tokenizer.json"
    tokenizer = json.loads(file.read_text())
    first, second = list(tokenizer["model"]["vocab"])[-2:]
    vocab = tokenizer["model"]["vocab"]
    vocab[first], vocab[second] = vocab[second], vocab[first]
    file.write_text(json.dumps(tokenizer))


def append(name: str, text: str) -> Change:
    return lambda root: (root / name).write_text((root / name).read_text() + text) and None


# What changes, and how the message calls it.
CHANGES: dict[str, tuple[Change, str]] = {
    "data": (lambda root: write_sums(root / "train.jsonl", 1), "data.path={root}/train.jsonl"),
    "evaluation file": (lambda root: write_sums(root / "test.jsonl", 1), "evals.sets.heldout.path={root}/test.jsonl"),
    "warm-up": (lambda root: write_sums(root / "warm.jsonl", 1), "warmup.data.path={root}/warm.jsonl"),
    "weights": (change_weights, "the weights of model.path={root}/model"),
    "chat template": (append("model/chat_template.jinja", "!"), "the chat template of model.path={root}/model"),
    "tokenizer": (change_tokenizer, "the tokenizer of model.path={root}/model"),
    "own reward": (append("own_reward_file.py", "# edited\n"), "own_reward_file.py (reward=own_reward_file.digits)"),
    "own advantage": (
        append("own_advantage.py", "# edited\n"),
        "own_advantage.py (algorithm.advantage=own_advantage.estimate)",
    ),
}


@pytest.fixture
def settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """A run that reads files of every kind."""
    shutil.copytree(micro_runs.model(), tmp_path / "model")
    for name, first in (("train", 0), ("test", 20), ("warm", 40)):
        write_sums(tmp_path / f"{name}.jsonl", first)
    (tmp_path / "own_advantage.py").write_text(OWN)
    shutil.copy(Path(__file__).parent / "light_rewards.py", tmp_path / "own_reward_file.py")
    monkeypatch.syspath_prepend(str(tmp_path))
    for name in ("own_advantage", "own_reward_file"):  # those of another test
        monkeypatch.delitem(sys.modules, name, raising=False)
    return [
        f"model.path={tmp_path}/model", "prompt=chat", "prompt.max_tokens=100", "prompt.response='{answer}'",
        f"data.path={tmp_path}/train.jsonl", f"evals.path={tmp_path}/test.jsonl", "warmup=own_solutions",
        "warmup.minibatch_size=4", "algorithm.advantage._target_=own_advantage.estimate",
    ]  # fmt: skip


def composed(root: Path, *overrides: str) -> DictConfig:
    small = [one for one in SMALL if not one.startswith(("data.", "evals.sets."))]
    files = ["data=jsonl", "evals=heldout", "evals.sampling.max_new_tokens=8", f"run.root={root}/runs"]
    raw = composing.composed(*small, *files, f"model.path={micro_runs.model()}", *overrides)
    OmegaConf.set_struct(raw, False)
    raw.reward = {"_target_": "light_rewards.digits", "_partial_": True}
    raw.evals.reward = None
    return raw


def opened(root: Path, settings: list[str], *more: str) -> Run:
    """Open the run as `run_experiment` does, with an own reward and a warm-up from a file of its own."""
    raw = composed(root, *settings, *more)
    raw.reward._target_ = "own_reward_file.digits"
    raw.warmup.data = {**raw.data, "path": f"{root}/warm.jsonl"}
    resolved: Any = OmegaConf.to_container(raw, resolve=True, enum_to_str=True)
    config = load(raw)
    return Run(config, resolved, "test", inputs=input_digests(config, resolved, prepare_task(config)))


@pytest.mark.parametrize("kind", CHANGES)
def test_a_change_is_refused_by_name(kind: str, settings: list[str], tmp_path: Path) -> None:
    run = opened(tmp_path, settings)
    run.start()
    run.close("interrupted")
    os.utime(tmp_path / "train.jsonl", (0, 0))  # the same content
    opened(tmp_path, settings).close("interrupted")

    change, name = CHANGES[kind]
    change(tmp_path)
    for state, remedy in (("interrupted", "resume with the change"), ("finished", "keep its results")):
        status = json.loads((run.dir / "status.json").read_text())
        (run.dir / "status.json").write_text(json.dumps(status | {"state": state}))
        with pytest.raises(ConfigError) as refused:
            opened(tmp_path, settings)
        sentence = str(refused.value)
        assert name.format(root=tmp_path) in sentence and str(run.dir) in sentence
        assert f"set run.allow_changed=true to {remedy}." in sentence and "rendered prompts" not in sentence

    before = json.loads((run.dir / "environment.json").read_text())["inputs"]
    allowed = opened(tmp_path, settings, "run.allow_changed=true")
    assert allowed.dir == run.dir
    allowed.start()
    allowed.close("interrupted")
    found = json.loads((run.dir / "environment.json").read_text())
    assert [earlier["inputs"] for earlier in found["earlier"]] == [before] and found["inputs"] != before
    opened(tmp_path, settings).close("interrupted")  # what was allowed once is what the run now reads


def test_a_finished_run_and_a_finished_evaluation_notice_a_change(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """The commands themselves: training, and evaluate.py."""
    caplog.set_level("INFO")
    write_sums(tmp_path / "train.jsonl")
    settings = [
        "data=jsonl",
        f"data.path={tmp_path}/train.jsonl",
        "evals=heldout",
        f"evals.path={tmp_path}/train.jsonl",
    ]
    settings += ["train.steps=1", "evals.every=0", "evals.sampling.max_new_tokens=8"]
    commands = (run_experiment, evaluate_model)
    folders = [command(composed(tmp_path, *settings), "test") for command in commands]
    assert folders == [command(composed(tmp_path, *settings), "test") for command in commands]
    assert folders[0] != folders[1]
    write_sums(tmp_path / "train.jsonl", 1)
    for command, key in zip(commands, ("data.path", "evals.sets.heldout.path"), strict=True):
        with pytest.raises(ConfigError, match=rf"{key}={tmp_path}/train.jsonl.* changed: restore"):
            command(composed(tmp_path, *settings), "test")
        caplog.clear()
        command(composed(tmp_path, *settings, "run.allow_changed=true"), "test")
        assert "already finished" in caplog.text and "reward function have changed" not in caplog.text


def test_rows_that_the_run_does_not_read_may_change(settings: list[str], tmp_path: Path) -> None:
    limited = [*settings, "evals.limit=4"]
    first = opened(tmp_path, limited)
    first.start()
    first.close("interrupted")
    rows = (tmp_path / "test.jsonl").read_text().splitlines()
    (tmp_path / "test.jsonl").write_text("\n".join([*rows[:4], *reversed(rows[4:])]) + "\n")
    opened(tmp_path, limited).close("interrupted")


def test_files_that_are_too_large_to_hash_are_sampled(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A change of any one tensor is noticed, and little is read."""
    monkeypatch.setattr(module, "WHOLE", 0)
    tensors = {f"layer.{i}.weight": torch.full((64, 1024), float(i)) for i in range(8)}
    file, model = tmp_path / "model.safetensors", ModelConfig(path=str(tmp_path))
    save_file(tensors, file)
    before = weights_digest(model)
    assert sum(map(len, module._blocks(file))) < file.stat().st_size / 20
    for name, tensor in tensors.items():
        save_file(tensors | {name: tensor + 1}, file)
        assert weights_digest(model) != before, name
    save_file(tensors, file)
    assert weights_digest(model) == before
    (tmp_path / "config.json").write_text("{}")
    assert weights_digest(model) != before


def test_the_code_of_a_model_is_an_input_if_it_is_run(tmp_path: Path) -> None:
    own, trusted = ModelConfig(path=str(tmp_path)), ModelConfig(path=str(tmp_path), trust_remote_code=True)
    found = []
    for text in ("X = 1\n", "X = 2\n"):
        (tmp_path / "modeling_own.py").write_text(text)
        found.append((weights_digest(own), weights_digest(trusted)))
    assert found[0][0] == found[1][0] and found[0][1] != found[1][1]


def test_all_elements_of_large_arrays_are_inputs() -> None:
    arrays = [np.zeros(5000), np.zeros(5000)]
    arrays[1][2500] = 1
    assert module._digest([arrays[0]]) != module._digest([arrays[1]])
    assert module._digest([[{"a": one}] for one in arrays[:1]]) == module._digest([[{"a": arrays[0].copy()}]])


@pytest.mark.parametrize("known", [None, {"python": "3.11", "packages": {}}])
def test_a_run_whose_inputs_are_not_recorded_is_refused(
    known: dict[str, Any] | None, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    write_sums(tmp_path / "d.jsonl")
    raw = composed(tmp_path, f"data.path={tmp_path}/d.jsonl", f"evals.path={tmp_path}/d.jsonl")
    resolved: Any = OmegaConf.to_container(raw, resolve=True, enum_to_str=True)
    run = Run(load(raw), resolved, "test", inputs={"data": "1"})
    run.start()
    run.close("interrupted")
    file = run.dir / "environment.json"
    file.unlink() if known is None else file.write_text(json.dumps(known))
    with pytest.raises(
        ConfigError, match=r"is absent or names no inputs, .* set run.allow_changed=true to resume with"
    ):
        Run(load(raw), resolved, "test", inputs={"data": "1"})
    raw.run.allow_changed = True
    allowed = Run(load(raw), resolved, "test", inputs={"data": "1"})
    assert allowed.dir == run.dir and "the inputs of the run are not recorded" in caplog.text
    allowed.start()
    allowed.close("interrupted")
    raw.run.allow_changed = False
    Run(load(raw), resolved, "test", inputs={"data": "1"}).close("interrupted")


def test_a_hub_model_is_known_by_its_commit(tmp_path: Path) -> None:
    model = tmp_path / "models--some--model"
    for commit in ("a" * 40, "b" * 40):
        (model / "snapshots" / commit).mkdir(parents=True)
        (model / "snapshots" / commit / "config.json").write_text("{}")
        (model / "refs").mkdir(exist_ok=True)
        (model / "refs/main").write_text(commit)
        assert module._hub_commit(ModelConfig(path="some/model"), str(tmp_path)) == commit


def test_functions_that_are_keywords_are_inputs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Functions that an adapter is given by name, at any depth; a text that only looks like one is not imported."""
    (tmp_path / "theirs").mkdir()
    (tmp_path / "theirs/__init__.py").write_text("from theirs.inner import score as shown\n")
    (tmp_path / "theirs/inner.py").write_text("def score(completions):\n    return [1.0]\n")
    (tmp_path / "a_script.py").write_text("raise RuntimeError\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    resolved = {
        "reward": {"_target_": "simplerl.rewards.trl", "function": "theirs.inner.score"},
        "evals": {
            "reward": {
                "_target_": "simplerl.rewards.weighted",
                "functions": {"one": {"_target_": "simplerl.rewards.verl", "function": "theirs.shown"}},
                "more": ["theirs.inner.score", "simplerl.rewards.strict", "a_script.jsonl", "theirs.absent", "3.5", ""],
            },
        },
        "run": {"root": "theirs.inner.score"},  # not a keyword of a function
    }
    found = module._function_digests(resolved)
    assert set(found) == {
        "inner.py (reward.function=theirs.inner.score)",
        "inner.py (evals.reward.functions.one.function=theirs.shown)",
        "inner.py (evals.reward.more.0=theirs.inner.score)",
    }
    (tmp_path / "theirs/inner.py").write_text("def score(completions):\n    return [2.0]\n")
    assert not found.items() & module._function_digests(resolved).items()


def test_modules_that_a_function_imports_are_inputs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Directly, through others, from a package and relatively; not those of Python, of packages and of this project."""
    (tmp_path / "kit/inner").mkdir(parents=True)
    files = {
        "kit/__init__.py": "",
        "kit/inner/__init__.py": "from . import deep\n",
        "kit/inner/deep.py": "from ..unit import X\n",
        "kit/unit.py": "X = 1\n",
        "kit/unused.py": "",
        "beside.py": "import json\nimport own_importing_function\n",
        "own_importing_function.py": (
            "import beside\nimport numpy, simplerl.types\n\ndef score(response, problem):\n"
            "    from kit.inner import deep\n    return deep.X\n"
        ),
    }
    for name, text in files.items():
        (tmp_path / name).write_text(text)
    monkeypatch.syspath_prepend(str(tmp_path))
    resolved = {"reward": {"_target_": "own_importing_function.score", "_partial_": True}}
    found = module._function_digests(resolved)
    imported = {name.partition(" (imported by reward=own_importing_function.score)")[0] for name in found}
    assert imported - {"own_importing_function.py (reward=own_importing_function.score)"} == {
        "beside.py", "__init__.py", "deep.py", "unit.py"
    }  # fmt: skip
    (tmp_path / "kit/unit.py").write_text("X = 2\n")
    changed = module._function_digests(resolved)
    assert [name.split()[0] for name in found if found[name] != changed[name]] == ["unit.py"]
    (tmp_path / "own_importing_function.py").write_text("import (")
    assert module.imported_files(tmp_path / "own_importing_function.py") == []
