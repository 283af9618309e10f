"""Messages whose remedy is a command, an option of a tool, or another function: each is provoked and obeyed."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import composing
import numpy as np
import pandas as pd
import pytest
import torch
from omegaconf import OmegaConf
from remedies import ROOT, covers, sites
from test_analysis_tables import write_evaluation

from analysis import compare, diff
from analysis.sources import SourceError
from analysis.wandb_readers import exports
from simplerl import grade
from simplerl.algorithms.shaping import group_rollouts
from simplerl.backends.local import local_device
from simplerl.backends.rehearsal import rehearse
from simplerl.backends.roles import _require_one_optimizer_step
from simplerl.bench import grader_speed, planted_difference, smollm2
from simplerl.cluster.layout import Layout, Shared, check_resources, plan_placement
from simplerl.config import Config
from simplerl.config.load import load
from simplerl.data.readers import read_file
from simplerl.engine.worker import UpdatePlan
from simplerl.errors import ConfigError
from simplerl.evals import standalone
from simplerl.samplers import vllm
from simplerl.sweeps import commands, manifest, slurm
from simplerl.types import Rollout

MICRO = f"model.path={ROOT}/assets/micro_base"


def configured(*overrides: str) -> Config:
    return load(composing.composed(MICRO, *overrides))


def said(error: pytest.ExceptionInfo[BaseException], prefix: str) -> str:
    """Return the message, which must come from the place that the test covers."""
    message = str(error.value)
    assert any(site.startswith(prefix) for site in sites(message)), message
    return message


@covers("analysis/compare.py: {} has no verdicts", "analysis/compare.py: A is graded by")
def test_by_of_compare(tmp_path: Path) -> None:
    def by(rule: str) -> Path:
        settings = {"reward": f"simplerl.rewards.{rule}", "reward_keywords": {"rule": "math_verify"}}
        return write_evaluation(tmp_path / rule, {"x": [True, False]}, **settings)

    first, second = by("strict"), by("lenient")
    with pytest.raises(SourceError) as error:
        compare.compare(first, second)
    rules = re.findall(r"--by (\w+)", said(error, "analysis/compare.py: A is graded"))
    with pytest.raises(SourceError) as error:
        compare.compare(first, first, by=rules[0])
    assert said(error, "analysis/compare.py: {} has no verdicts").endswith("or omit --by.")
    assert compare.compare(first, first).sets
    for folder in (first, second):
        rows = pd.read_parquet(folder / "samples.parquet")
        rows.assign(**{f"correct_{rule}": True for rule in rules}).to_parquet(folder / "samples.parquet")
    assert rules and all(compare.compare(first, second, by=rule).sets for rule in rules)


@covers("analysis/wandb_readers/exports.py: {} is not UTF-8")
def test_an_export_is_converted_by_iconv(tmp_path: Path) -> None:
    file = tmp_path / "chart.csv"
    file.write_bytes('"Step","grün - reward/mean"\n1,0.5\n'.encode("cp1252"))
    with pytest.raises(SourceError) as error:
        exports.read_export(file, [])
    command = re.search("`(.+)`", said(error, "analysis/wandb_readers/exports.py: {} is not"))
    assert command is not None and shutil.which("iconv")
    subprocess.run(command[1], shell=True, check=True, cwd=tmp_path)
    assert exports.read_export(tmp_path / "utf8.csv", [])


@covers("analysis/diff.py: {} is not a run folder")
def test_sides_of_a_difference(tmp_path: Path) -> None:
    with pytest.raises(SourceError) as error:
        diff.side_of_run(tmp_path)
    assert said(error, "analysis/diff.py").endswith("or overrides such as seed=1.")
    assert diff._composed([MICRO, "seed=1"]).seed == 1
    (tmp_path / "config.yaml").write_text("seed: [")
    with pytest.raises(SourceError) as error:
        diff.side_of_run(tmp_path)
    assert "is not a run folder" not in str(error.value)


@covers("backends/local.py: run.device={}")
def test_a_run_without_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(ConfigError) as error:
        local_device(configured("run.device=cuda"))
    assert "set run.device=cpu or auto." in said(error, "backends/local.py")
    assert {local_device(configured(f"run.device={name}")) for name in ("cpu", "auto")} == {"cpu"}


def first_of_each_group(rollouts: list[Rollout]) -> list[Rollout]:
    return [group[0] for group in group_rollouts(rollouts)]


def only_first_trained(rollouts: list[Rollout]) -> list[Rollout]:
    return [replace(one, trained=one.sample == 0) for one in rollouts]


@covers("backends/rehearsal.py: {} must return all rollouts")
def test_a_stage_keeps_all_rollouts() -> None:
    config = configured("algorithm=grpo")
    with pytest.raises(ConfigError) as error:
        rehearse(replace(config, algorithm=replace(config.algorithm, shape={"first": first_of_each_group})))
    assert "replace(rollout, trained=False)" in said(error, "backends/rehearsal.py: {} must return all")
    rehearse(replace(config, algorithm=replace(config.algorithm, shape={"first": only_first_trained})))


@covers("backends/roles.py: algorithm.old_logprobs=skip")
def test_a_batch_of_one_optimizer_step() -> None:
    plan = UpdatePlan(minibatch_size=64, epochs=2, aggregation=configured().algorithm.aggregation)
    with pytest.raises(ConfigError) as error:
        _require_one_optimizer_step(128, plan)
    assert "set train.minibatch_size=128 train.epochs=1" in said(error, "backends/roles.py")
    _require_one_optimizer_step(128, replace(plan, minibatch_size=128, epochs=1))


@covers("cluster/layout.py: backend: {} need")
def test_a_layout_on_a_small_cluster() -> None:
    roles = {"policy": 2, "engine": 1}
    with pytest.raises(ConfigError) as error:
        check_resources(plan_placement(Layout(), roles, on_gpus=True), gpus=2, cpus=64)
    assert "lower the number of ranks or engines, or share devices" in said(error, "cluster/layout.py: backend: {}")
    check_resources(plan_placement(Layout(), {"policy": 1, "engine": 1}, on_gpus=True), gpus=2, cpus=64)
    shared = Layout(shared=Shared.all)
    check_resources(plan_placement(shared, roles, on_gpus=True), gpus=2, cpus=64)


@covers("data/rows.py: {} cannot be read")
def test_chmod_makes_a_file_readable(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "d.jsonl"
    file.write_text('{"question": "?"}')
    file.chmod(0)
    with monkeypatch.context() as patched:  # the superuser can read every file

        def refuse(*_: object, **__: object) -> None:
            raise PermissionError

        patched.setattr(Path, "open", refuse)
        patched.setattr("builtins.open", refuse)
        with pytest.raises(ConfigError) as error:
            list(read_file(file))
    command = re.search(r"run (chmod .+)\.$", said(error, "data/rows.py: {} cannot be read"))
    assert command is not None
    subprocess.run(command[1].split(), check=True)
    assert file.stat().st_mode & 0o400 and list(read_file(file))


@covers("evals/standalone.py: evals has no benchmarks")
def test_an_evaluation_needs_benchmarks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = f"run.root={tmp_path}"
    with pytest.raises(ConfigError) as error:
        standalone.evaluate_model(composing.composed(MICRO, root, "evals=none"), "test")
    assert "evals=suite8 evals.path=FOLDER or evals=micro." in said(error, "evals/standalone.py")

    def reached(config: Config) -> None:
        raise InterruptedError(", ".join(config.evals.sets))

    monkeypatch.setattr(standalone, "_task", reached)
    for remedy in (["evals=suite8", f"evals.path={tmp_path}"], ["evals=micro"]):
        with pytest.raises(InterruptedError, match=r"micro|gsm8k"):
            standalone.evaluate_model(composing.composed(MICRO, root, *remedy), "test")


# The wrong and the right settings of simplerl.grade.
GRADE = {
    "columns is not": ("columns=x", ["columns.response=response", "columns.answer=answer"]),
    "{}={} must be true": ("fbox=1", ["fbox=true", "fbox=false"]),
    "{}={} must be {}": ("wrong=abc", ["wrong=0"]),
    "{}={} must be a name": ("rule=1", ["rule=qwen"]),
    "The settings {}": ("wrong=[1", ["wrong=1"]),
    "{}={} must be greater": ("workers=0", ["workers=1"]),
    "columns.{}={} must be": ("columns.answer=3", ["columns.answer=answer"]),
}


@covers(*(f"grade.py: {start}" for start in GRADE))
@pytest.mark.parametrize("start", GRADE)
def test_settings_of_grade(start: str) -> None:
    def parsed(setting: str) -> None:
        parser = grade.command_parser("grade", "", "", "")
        _, _, keywords = grade.parse_command(parser, ["in.jsonl", setting])
        grade.find_reward(keywords.pop("reward", "strict"), keywords)

    bad, remedies = GRADE[start]
    with pytest.raises(ConfigError) as error:
        parsed(bad)
    said(error, f"grade.py: {start}")
    for remedy in remedies:
        parsed(remedy)


@covers("samplers/vllm.py: sampler=vllm requires")
def test_a_machine_without_vllm(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(vllm, "find_spec", lambda name: None)
    with pytest.raises(ConfigError) as error:
        vllm.prepare_import()
    assert said(error, "samplers/vllm.py").endswith("or set sampler=local.")
    configured("sampler=local")


@covers("samplers/local.py: problem {}: its prompt")
def test_a_prompt_beyond_the_context() -> None:
    from simplerl.samplers.local import LocalSampler
    from simplerl.types import Problem, Prompt, Sampling

    sampler = LocalSampler.__new__(LocalSampler)
    sampler.context = 20
    prompt = Prompt(Problem("a", "?", "1"), "?", (1,) * 15)
    with pytest.raises(ConfigError) as error:
        sampler._check_context([prompt], Sampling(max_new_tokens=8))
    assert "lower sampling.max_new_tokens or prompt.max_tokens" in said(error, "samplers/local.py: problem")
    sampler._check_context([prompt], Sampling(max_new_tokens=5))
    sampler._check_context([replace(prompt, token_ids=(1,) * 12)], Sampling(max_new_tokens=8))


@covers("sweeps/commands.py: {}/sweep.json: the working directory")
def test_a_working_directory_is_created_again(tmp_path: Path) -> None:
    sweep = SimpleNamespace(folder=tmp_path, name="it", cwd=str(tmp_path / "gone" / "away"))
    program = [str(ROOT / "train.py"), "-m"]
    with pytest.raises(ConfigError) as error:
        commands.checked_command(sweep, program)  # type: ignore[arg-type]
    command = re.search(r"\((mkdir -p .+)\)", said(error, "sweeps/commands.py: {}/sweep.json: the working"))
    assert command is not None
    subprocess.run(command[1].split(), check=True)
    assert commands.checked_command(sweep, program) == program  # type: ignore[arg-type]


@covers("sweeps/manifest.py: There is no sweep")
def test_a_sweep_of_another_root(tmp_path: Path) -> None:
    folder = tmp_path / "other" / manifest.FOLDER / "it"
    folder.mkdir(parents=True)
    entry = {"cwd": "/", "created": "now", "name": "it", "runs": []}
    (folder / "sweep.json").write_text(json.dumps(entry))
    with pytest.raises(ConfigError) as error:
        manifest.find("it", tmp_path / "runs")
    assert "Use --root" in said(error, "sweeps/manifest.py")
    assert manifest.find("it", tmp_path / "other").name == "it"


@covers("sweeps/slurm.py: hydra.launcher.nodes={}")
def test_several_nodes_need_a_ray_backend() -> None:
    two = slurm.Resources(nodes=2)
    local, ray = (SimpleNamespace(raw=composing.composed(MICRO, f"backend={name}")) for name in ("local", "ray_6gpu"))
    with pytest.raises(ConfigError) as error:
        slurm.check_backend(local, two)  # type: ignore[arg-type]
    assert "backend=ray_*) or set hydra.launcher.nodes=1" in said(error, "sweeps/slurm.py: hydra.launcher.nodes")
    slurm.check_backend(local, slurm.Resources(nodes=1))  # type: ignore[arg-type]
    slurm.check_backend(ray, two)  # type: ignore[arg-type]


@covers("bench/grader_speed.py: {} is not a setting")
def test_settings_of_the_speed_benchmark(monkeypatch: pytest.MonkeyPatch) -> None:
    timed: list[object] = []
    monkeypatch.setattr(grader_speed, "time_stream", lambda *numbers: timed.append(numbers))
    monkeypatch.setattr(grader_speed, "time_comparison", timed.append)
    with pytest.raises(ConfigError) as error:
        grader_speed.main(["--rows", "8"])
    assert "write key=value with one of" in said(error, "bench/grader_speed.py") and not timed
    grader_speed.main(["rows=8", "batches=1"])
    assert len(timed) == 2


@covers("bench/planted_difference.py: {} seeds per arm")
def test_seeds_of_the_planted_difference() -> None:
    runs = np.random.default_rng(0).random((4, 20)) < 0.8
    with pytest.raises(ConfigError) as error:
        planted_difference.examine(runs * 1.0, None, 3, 10, 4, np.random.default_rng(0))
    assert said(error, "bench/planted_difference.py").endswith("choose a smaller --seeds.")
    assert planted_difference.examine(runs * 1.0, None, 2, 10, 4, np.random.default_rng(0)) is not None


@covers(
    "bench/smollm2.py: package {} is not installed", "bench/smollm2.py: package {} lists no", "bench/rl_step.py: TRL"
)
def test_packages_that_messages_tell_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is installed here: the names must be those of the package and of an extra of this project."""
    extras = (ROOT / "pyproject.toml").read_text().partition("[project.optional-dependencies]")[2]
    assert (
        re.search(r"^bench = ", extras, re.M)
        and "'simplerl[bench]'" in (ROOT / "simplerl/bench/rl_step.py").read_text()
    )
    monkeypatch.setattr(smollm2, "files", lambda package: [])
    with pytest.raises(ConfigError) as error:
        smollm2.packaged_gguf()
    assert said(error, "bench/smollm2.py: package {} lists").endswith(f"--upgrade {smollm2.PACKAGE}.")


OWN = """
def one(response):
    return 1.0
def three(response, problem, more):
    return 1.0
def two(response, problem):
    return 1.0
def with_state(batch, state):
    return batch, state
def counted(*, count):
    return []
def loss(output):
    return output
def right_loss(output, batch):
    return output.logprobs, {}
"""
STATED = {"algorithm.advantage._target_": "own_functions.with_state", "algorithm.state": {}}
# The key and the function, the remedy in the message, and the settings that follow it.
SIGNATURES: dict[str, tuple[str, str, str, dict[str, Any]]] = {
    "too few parameters": (
        "reward", "one", "define own_functions.one with the parameters (response, problem), then keywords",
        {"reward._target_": "own_functions.two"},
    ),
    "too many parameters": (
        "reward", "three", "define own_functions.three with the parameters (response, problem), then keywords",
        {"reward._target_": "own_functions.two"},
    ),
    "a state that is not declared": (
        "algorithm.advantage", "with_state", "needs `state: {}` beside `advantage:`", STATED
    ),
    "a keyword without a default": ("data", "counted", "set +data.count=VALUE", {"data.count": 8}),
    "a loss": (
        "algorithm.loss", "loss", "with the parameters (output, batch), then keywords",
        {"algorithm.loss._target_": "own_functions.right_loss"},
    ),
}  # fmt: skip


@covers("config/load.py: {}: {}: {}")
@pytest.mark.parametrize("mistake", SIGNATURES)
def test_functions_with_other_parameters(mistake: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "own_functions.py").write_text(OWN)
    monkeypatch.syspath_prepend(str(tmp_path))
    key, name, remedy, settings = SIGNATURES[mistake]
    raw = composing.composed(MICRO)
    OmegaConf.set_struct(raw, False)
    OmegaConf.update(raw, key, {"_target_": f"own_functions.{name}", "_partial_": True}, merge=False)
    with pytest.raises(ConfigError) as error:
        load(raw)
    assert remedy in said(error, "config/load.py: {}: {}: {}")
    for setting, value in settings.items():
        OmegaConf.update(raw, setting, value, merge=False)
    load(raw)
