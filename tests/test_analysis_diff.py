"""`python -m analysis.diff` names every planted difference, in the order of its effect on results, and nothing else."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import yaml
from composing import composed
from micro_runs import ENVIRONMENT
from omegaconf import OmegaConf

from analysis.diff import NEUTRAL, find_entries, main, side_of_run
from simplerl.config.load import load
from simplerl.data.inputs import input_digests
from simplerl.data.task import prepare_task
from simplerl.runs.provenance import environment, reward_digests


def run_folder(root: Path, config: dict[str, Any], prompt: str = "2 + 2?\n", **recorded: Any) -> Path:
    (root / "rollouts").mkdir(parents=True)
    (root / "config.yaml").write_text(yaml.safe_dump(config, sort_keys=False))
    (root / "environment.json").write_text(json.dumps(ENVIRONMENT | recorded))
    (root / "status.json").write_text(json.dumps({"state": "finished", "kind": ""}))
    table = pd.DataFrame({"problem_id": ["p0", "p1"], "prompt": [prompt, "1 + 1?\n"]})
    table.to_parquet(root / "rollouts/step_000000.parquet")
    return root


@pytest.fixture(scope="module")
def settings() -> dict[str, Any]:
    found: dict[str, Any] = OmegaConf.to_container(composed(), resolve=True, enum_to_str=True)  # type: ignore[assignment]
    return found


def changed(settings: dict[str, Any], key: str, value: Any) -> dict[str, Any]:
    copy: dict[str, Any] = json.loads(json.dumps(settings))
    *path, last = key.split(".")
    node = copy
    for part in path:
        node = node[part]
    node[last] = value
    return copy


def test_a_run_equals_itself(settings: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    one, two = (run_folder(tmp_path / name, settings) for name in "ab")
    assert main([str(one), str(two)]) == 0
    assert "0 differences that can change results, 0 without effect." in capsys.readouterr().out


# what is planted -> (changed setting, changed record, group, what, values)
PLANTED: dict[str, tuple[tuple[str, Any] | None, dict[str, Any], str, str, tuple[str, str]]] = {
    "seed": (("seed", 1), {}, "settings", "seed", ("0", "1")),
    "nested": (("algorithm.kl.coef", 0.5), {}, "settings", "algorithm.kl.coef", ("0.01", "0.5")),
    "template": (("prompt.template", "{question}\n\n"), {}, "settings", "prompt.template",
                 (r"'{question}\n'", r"'{question}\n\n'")),
    "neutral": (("train.tokens_per_micro_batch", 8), {}, NEUTRAL, "train.tokens_per_micro_batch", ("4096", "8")),
    "place": (("run.root", "elsewhere"), {}, NEUTRAL, "run.root", ("runs", "elsewhere")),
    "data": (None, {"inputs": {"data": "d2"}}, "data and weights", "data", ("d1", "d2")),
    "other data": (None, {"inputs": {"data.path=x": "d2"}}, "data and weights", "data.path=x", ("not read", "d2")),
    "grader": (None, {"evaluation_reward": "e2"}, "data and weights", "source of the evaluation's grader",
               ("e1", "e2")),
    "package": (None, {"packages": {"torch": "2.13.0"}}, "code and versions", "vllm", ("0.32.0", "not installed")),
    "code": (None, {"commit": "fedcba9876543210"}, "code and versions", "commit of the code",
             ("0123456789ab", "fedcba987654")),
    "gpus": (None, {"machine": {"cpu": "Xeon", "gpus": []}}, "machine", "GPUs", ("2 x H100", "none")),
    "host": (None, {"host": "b"}, NEUTRAL, "host", ("a", "b")),
}  # fmt: skip


@pytest.mark.parametrize("planted", PLANTED)
def test_a_planted_difference_is_named(planted: str, settings: dict[str, Any], tmp_path: Path) -> None:
    change, recorded, group, what, values = PLANTED[planted]
    one = run_folder(tmp_path / "a", settings)
    two = run_folder(tmp_path / "b", changed(settings, *change) if change else settings, **recorded)
    entries = find_entries(side_of_run(one), side_of_run(two))
    assert (group, what, *values) in [(e.group, e.what, e.first, e.second) for e in entries]
    assert {e.group for e in entries} == {group}
    assert main([str(one), str(two)]) == (group != NEUTRAL)


def test_prompts_are_compared_by_problem(settings: dict[str, Any], tmp_path: Path) -> None:
    one, two = run_folder(tmp_path / "a", settings), run_folder(tmp_path / "b", settings, prompt="Q: 2 + 2?\n")
    [entry] = find_entries(side_of_run(one), side_of_run(two))
    assert (entry.group, entry.what) == ("prompt", "training: 1 of 2 common problems; that of p0")
    assert (entry.first, entry.second) == (r"'2 + 2?\n'", r"'Q: 2 + 2?\n'")


def test_what_changes_results_comes_first(
    settings: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A role that one side lacks is one row; a key of older runs that was not recorded is a note, not a difference."""
    one = run_folder(tmp_path / "a", settings)
    roles = {key: role for key, role in settings["algorithm"]["roles"].items() if key != "critic"}
    two = run_folder(tmp_path / "b", changed(settings, "algorithm.roles", roles), host="b", machine=None)
    assert main([str(one), str(two), "--markdown"]) == 1
    shown = capsys.readouterr()
    lines = [line for line in shown.out.splitlines() if line.startswith(("**", "| "))]
    assert [line.strip("*") for line in lines if line.startswith("**")] == ["Settings", "Without effect on results"]
    [row] = [line for line in lines if line.startswith("| algorithm.roles")]
    assert row.startswith("| algorithm.roles.critic | kind=critic, ") and row.endswith("| not set |")
    assert "1 difference that can change results, 1 without effect." in shown.out
    assert "note: B did not record, so not compared: CPU." in shown.err


@pytest.mark.slow
def test_a_run_against_its_recipe(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The same command gives the same digests and prompts; another seed of the data is named with its prompts."""
    raw = composed()
    config, settings = load(raw), OmegaConf.to_container(raw, resolve=True, enum_to_str=True)
    assert isinstance(settings, dict)
    task = prepare_task(config)
    recorded = environment() | reward_digests(config) | {"inputs": input_digests(config, settings, task)}  # type: ignore[arg-type]
    run = run_folder(tmp_path / "a", settings, **recorded)  # type: ignore[arg-type]
    table = pd.DataFrame({"problem_id": [one.problem.id for one in task.prompts[:4]]})
    table["prompt"] = [one.text for one in task.prompts[:4]]
    table.to_parquet(run / "rollouts/step_000000.parquet")
    assert main([str(run), "run.threads=1"]) == 0
    assert main([str(run), "prompt.template='{question} \\n'", "data.count=64"]) == 1
    shown = capsys.readouterr().out
    assert "data.count" in shown and "prompt.template" in shown and "4 of 4 common problems" in shown


def test_mistakes_are_one_sentence(
    settings: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = run_folder(tmp_path / "a", settings)
    for arguments, words in (
        ([str(tmp_path), str(run)], "is not a run folder"),
        ([str(run), "nowhere"], "nowhere is not a run folder"),
        ([str(run), "experiment=micr"], "did you mean micro"),
        ([str(run), "algorithm.nothing=1"], "algorithm.nothing"),
    ):
        assert main(arguments) == 2
        error = capsys.readouterr().err
        assert words in error and error.count("\n") == 1, error
