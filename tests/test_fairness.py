"""A planted unfairness is marked in table and report with what differs, and equal budgets are cut exactly."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import micro_runs
import pytest
from test_analysis_frames import write_run

from analysis.arms import select_runs
from analysis.budgets import at_equal_budget
from analysis.fairness import _unusual, find_differences
from analysis.frames import assemble
from analysis.report import main as report
from analysis.run_data import RunData, SourceError
from analysis.sources import load
from analysis.tables import main as tables

ENVIRONMENT: dict[str, Any] = {
    **micro_runs.ENVIRONMENT,
    "inputs": {"data": "d1", "evals.sets.micro": "m1", "the weights of model.path=base": "w1"},
}
STRICT = {"_target_": "simplerl.rewards.strict", "rule": "math_verify"}


def metrics(steps: int, tokens: float = 100.0, seconds: float = 2.0) -> list[dict[str, Any]]:
    """Evaluated at steps 0, 2, 4, ... and after the last step; accuracy is step / 10."""
    rows: list[dict[str, Any]] = []
    for step in range(steps + 1):
        row: dict[str, Any] = {"step": step}
        if step % 2 == 0 or step == steps:
            row["eval/micro/accuracy"] = step / 10
        if step < steps:
            row |= {"rollout/responses": 8, "rollout/tokens": tokens, "time/step": seconds, "reward/mean": float(step)}
        rows.append(row)
    return rows


def arm(
    root: Path,
    reward: str,
    *,
    seed: int = 0,
    rows: list[dict[str, Any]] | None = None,
    environment: dict[str, Any] | None = None,
    status: dict[str, Any] | None = None,
    **config: Any,
) -> Path:
    settings = {"choices": {"reward": reward}, "reward": {"_target_": f"simplerl.rewards.{reward}"}, "seed": seed}
    settings |= {"evals": {"reward": STRICT, "samples": 1}, "model": {"path": "base"}, "train": {"steps": 4}}
    folder = write_run(root, f"{reward}-{seed}", metrics(4) if rows is None else rows, **(settings | config))
    started = {"started": f"2026-01-0{2 if reward == 'lenient' else 1}T00:00:0{seed}+0000"}  # the order of the arms
    (folder / "environment.json").write_text(json.dumps(ENVIRONMENT | started | (environment or {})))
    known = {"state": "finished", "attempt": 0, "steps": {"rl": 4}, "gpu_hours": 2.0} | (status or {})
    (folder / "status.json").write_text(json.dumps(known))
    return folder


def found(root: Path) -> list[tuple[str, str, list[str]]]:
    frames, arms = select_runs(load([root]), unfinished=True)
    return [(one.kind, one.text, one.marked) for one in find_differences(frames, arms)]


def test_the_arm_with_an_unusual_budget_is_marked() -> None:
    """It may have used more or less than the others; of two arms, the one that used less is marked."""
    assert _unusual({"a": 100, "b": 101, "c": 300}) == ["c"]
    assert _unusual({"a": 100, "b": 50, "c": 100, "d": 300}) == ["b", "d"]
    assert _unusual({"a": 100, "b": 90}) == ["b"]


def test_many_arms_are_counted_not_listed(tmp_path: Path) -> None:
    for number in range(8):
        rows = metrics(4, tokens=100.0 * (1 + number))
        arm(tmp_path, f"r{number}", rows=rows, environment={"commit": str(min(number, 1)) * 16})
    texts = {kind: text for kind, text, _ in found(tmp_path)}
    assert "400 in reward=r0; 3,200 in reward=r7; the other 6 arms lie between" in texts["unequal budget"]
    assert "reward=r4 and 3 other arms" in texts["code version"] and "reward=r5" not in texts["code version"]


def test_a_fair_comparison_has_no_mark(tmp_path: Path) -> None:
    for seed in (0, 1):
        for reward in ("strict", "lenient"):
            arm(tmp_path, reward, seed=seed)
    assert found(tmp_path) == []
    assert tables([str(tmp_path), "--out", str(tmp_path / "t")]) == 0
    assert "marks" not in (tmp_path / "t/runs.csv").read_text()


LENIENT = "reward=lenient"
INPUTS: dict[str, str] = ENVIRONMENT["inputs"]
# what is planted in the second arm -> (kind, words of the sentence, whether the arm is marked)
PLANTED: dict[str, tuple[dict[str, Any], str, list[str], bool]] = {
    "rule": (
        {"evals": {"reward": {"_target_": "simplerl.rewards.lenient", "rule": "qwen"}, "samples": 1}},
        "evaluation rule",
        ["strict (math_verify) in reward=strict", "lenient (qwen) in reward=lenient"],
        True,
    ),
    "samples": (
        {"evals": {"reward": STRICT, "samples": 4}},
        "evaluation settings",
        ["evals.samples: 1 in reward=strict; 4 in reward=lenient."],
        True,
    ),
    "training data": (
        {"environment": {"inputs": INPUTS | {"data": "d2"}}},
        "data and weights",
        ["data: d1 in reward=strict; d2 in reward=lenient."],
        True,
    ),
    "evaluation data": (
        {"environment": {"inputs": INPUTS | {"evals.sets.micro": "m2"}}},
        "data and weights",
        ["evals.sets.micro: m1 in reward=strict; m2"],
        True,
    ),
    "weights": (
        {"environment": {"inputs": INPUTS | {"the weights of model.path=base": "w2"}}},
        "data and weights",
        ["the weights of model.path=base: w1"],
        True,
    ),
    "grader": (
        {"environment": {"evaluation_reward": "e2"}},
        "grader version",
        ["source of the evaluation's grader: e1 in reward=strict; e2"],
        True,
    ),
    "package": (
        {"environment": {"packages": {"torch": "2.13.0", "vllm": "0.33.0"}}},
        "versions",
        ["vllm: 0.32.0 in reward=strict; 0.33.0 in reward=lenient."],
        True,
    ),
    "code": (
        {"environment": {"commit": "fedcba9876543210", "modified": True}},
        "code version",
        ["commit 01234567 in reward=strict; commit fedcba98 with uncommitted changes"],
        True,
    ),
    "machine": (
        {"environment": {"machine": {"cpu": "Xeon", "gpus": ["A100"]}}},
        "machine",
        ["Xeon, 2 x H100 in reward=strict; Xeon, 1 x A100 in reward=lenient."],
        True,
    ),
    "stopped": (
        {"rows": metrics(4)[:3], "status": {"state": "interrupted"}},
        "stopped early",
        ["reward=lenient ended at step 2 of 4 (state: interrupted)."],
        True,
    ),
    "fewer steps": (
        {"rows": metrics(2), "status": {"steps": {"rl": 2}}, "train": {"steps": 2}},
        "more than the axis",
        ["train.steps also differs: 4 in reward=strict; 2 in reward=lenient."],
        True,
    ),
    "fewer responses": (
        {"rows": metrics(2), "status": {"steps": {"rl": 2}}},
        "unequal budget",
        ["responses per run: 32 in reward=strict; 16 in reward=lenient", "--equal=responses"],
        True,
    ),
    "more tokens": (
        {"rows": metrics(4, tokens=200.0)},
        "unequal budget",
        ["sampled tokens per run: 400 in reward=strict; 800"],
        False,
    ),
    "slower": (
        {"rows": metrics(4, seconds=3.0)},
        "unequal budget",
        ["seconds per run: 8 in", "--equal=seconds"],
        False,
    ),
    "more hours": ({"status": {"gpu_hours": 3.0}}, "unequal budget", ["GPU-hours per run: 2 in"], False),
}


@pytest.mark.parametrize("planted", PLANTED)
def test_a_planted_unfairness_is_said(planted: str, tmp_path: Path) -> None:
    changes, kind, words, marks = PLANTED[planted]
    arm(tmp_path, "strict")
    arm(tmp_path, "lenient", **changes)
    [(_, text, marked)] = [one for one in found(tmp_path) if one[0] == kind and all(word in one[1] for word in words)]
    assert (LENIENT in marked) == marks and "reward=strict" not in marked, text


def test_marks_in_table_and_report(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arm(tmp_path / "runs", "strict")
    folder = arm(tmp_path / "runs", "lenient", environment={"inputs": INPUTS | {"data": "d2"}})
    alarm = {"kind": "no_box", "step": 0, "text": "0 of 8 responses have a box: choose a prompt."}
    (folder / "alarms.json").write_text(json.dumps({"alarms": [alarm]}))
    assert tables([str(tmp_path / "runs"), "--out", str(tmp_path)]) == 0
    shown = capsys.readouterr().out
    note = "data and weights: data: d1 in reward=strict; d2 in reward=lenient."
    assert f"[a] {note}".replace("[a]", r"\[a\]") in shown
    rows = {line.split("|")[1].strip(): line.split("|")[-2].strip() for line in shown.splitlines() if "|" in line}
    assert (rows["reward"], rows["strict"], rows["lenient"]) == ("marks", "-", "a")
    assert "Alarm: reward=lenient: step 0: 0 of 8 responses" in shown
    assert report([str(tmp_path / "runs"), "--out", str(tmp_path / "r.html")]) == 0
    page = (tmp_path / "r.html").read_text()
    assert "Is the comparison fair?" in page and "d2 in reward=lenient" in page and "0 of 8 responses" in page


def test_data_that_is_the_axis_is_not_marked_but_a_changed_file_of_one_seed_is(tmp_path: Path) -> None:
    for name, digest in (("easy", "d1"), ("hard", "d2")):
        for seed in (0, 1, 2):
            own = digest if (name, seed) != ("hard", 2) else "d3"
            folder = arm(tmp_path / name, "strict", seed=seed, environment={"inputs": INPUTS | {"data": own}})
            config = (folder / "config.yaml").read_text().replace("choices:\n", f"choices:\n  data: {name}\n")
            (folder / "config.yaml").write_text(config)
            folder.rename(tmp_path / f"{name}-{seed}")
    texts = [text for kind, text, _ in found(tmp_path) if kind == "data and weights"]
    assert texts == ["data: d2 in data=hard (2 of 3 runs); d3 in data=hard (1 of 3 runs)."]


def test_two_axes_without_a_common_neighbour(tmp_path: Path) -> None:
    """A full grid is fair: each arm has neighbours that differ in one axis. A lone corner is not."""
    for reward in ("strict", "lenient"):
        for lr in (1, 2):
            arm(tmp_path / str(lr), reward, optimizer={"lr": lr}).rename(tmp_path / f"{reward}-{lr}")
    assert found(tmp_path) == []
    arm(tmp_path / "3", "binary", optimizer={"lr": 3}).rename(tmp_path / "corner")
    [(kind, text, marked)] = found(tmp_path)
    assert (kind, marked) == ("more than the axis", ["reward=binary, optimizer.lr=3"])
    assert "at least 2 settings (reward and optimizer.lr)" in text


@pytest.mark.parametrize("last", [False, True])
def test_an_intermediate_checkpoint_that_the_test_set_may_have_chosen(tmp_path: Path, last: bool) -> None:
    trained = arm(tmp_path / "trained", "strict")
    for step in (0, 2, 4):
        (trained / f"evals/step_{step:06d}").mkdir(parents=True)
        (trained / f"evals/step_{step:06d}/results.json").write_text("{}")
    path = f"{trained}/checkpoints/step_{4 if last else 2:06d}/policy"
    arm(tmp_path / "runs", "strict", model={"path": path})
    texts = [text for kind, text, _ in found(tmp_path / "runs") if kind == "chosen by its test set"]
    assert len(texts) == (not last)
    if not last:
        assert "step 2 of 4 of strict-0" in texts[0] and "(evals.sets.micro) at 3 steps" in texts[0]


def test_exports_are_marked_by_what_they_hold() -> None:
    config = {"choices.reward": "strict", "evals.samples": 1, "seed": 0}
    other = config | {"choices.reward": "lenient", "evals.samples": 2}
    runs = [RunData(str(i), "", "finished", "wandb table", "", own) for i, own in enumerate((config, other))]
    frames, arms = select_runs(assemble(runs))
    differences = {one.kind: one.text for one in find_differences(frames, arms)}
    assert "evals.samples: 1 in reward=strict; 2 in" in differences["evaluation settings"]
    assert "are unknown, so not compared" in differences["not recorded"]


# Equal budgets


def test_equal_budget_ends_with_the_last_evaluation_within_it(tmp_path: Path) -> None:
    """lenient spends 500 tokens in all; strict has spent 400 before its evaluation at step 4, and 600 at step 6."""
    arm(tmp_path, "strict", rows=metrics(8))
    arm(tmp_path, "lenient", rows=metrics(2, tokens=250.0))
    frames, arms = select_runs(load([tmp_path]))
    cut, caption = at_equal_budget(frames, arms, "tokens")
    assert cut.last_value("strict-0", "eval/micro/accuracy") == 0.4
    assert cut.last_value("lenient-0", "eval/micro/accuracy") == 0.2
    assert cut.last_value("strict-0", "reward/mean") == 3.0, "the update of step 4 is beyond the budget"
    assert "at most 500 sampled tokens per run, the least of all runs (reward=lenient)" in caption
    assert "step 4 of reward=strict; step 2 of reward=lenient" in caption
    assert at_equal_budget(frames, arms, None) == (frames, "")
    by_unit = {unit: at_equal_budget(frames, arms, unit)[0] for unit in ("responses", "seconds", "gpu_hours")}
    accuracy = {unit: one.last_value("strict-0", "eval/micro/accuracy") for unit, one in by_unit.items()}
    assert accuracy == {"responses": 0.2, "seconds": 0.2, "gpu_hours": 0.8}


def test_discarded_responses_and_warm_up_are_spent(tmp_path: Path) -> None:
    more = [row | ({"rollout/sampled": 16} if "reward/mean" in row else {}) for row in metrics(8)]
    warm = [{"step": step, "phase": "warmup", "time/step": 2.0} for step in range(2)]
    arm(tmp_path, "strict", rows=[*warm, *more])
    arm(tmp_path, "lenient", rows=metrics(4))
    frames, arms = select_runs(load([tmp_path]))
    accuracy = {
        unit: at_equal_budget(frames, arms, unit)[0].last_value("strict-0", "eval/micro/accuracy")
        for unit in ("responses", "tokens", "seconds")
    }
    assert accuracy == {"responses": 0.2, "tokens": 0.2, "seconds": 0.2}


def test_equal_budget_on_the_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arm(tmp_path / "runs", "strict")
    arm(tmp_path / "runs", "lenient", rows=metrics(2), status={"gpu_hours": 0.0})
    assert tables([str(tmp_path / "runs"), "--out", str(tmp_path), "--equal", "responses"]) == 0
    assert "At equal budget: at most 16 responses per run" in (tmp_path / "runs.md").read_text()
    assert tables([str(tmp_path / "runs"), "--out", str(tmp_path), "--equal", "gpu_hours"]) == 2
    assert "lenient-0 does not record its GPU-hours: use --equal=responses" in capsys.readouterr().err


def test_a_run_without_an_evaluation_within_the_budget_is_named(tmp_path: Path) -> None:
    arm(tmp_path, "strict", rows=metrics(4)[1:])
    arm(
        tmp_path,
        "lenient",
        rows=[row | ({"rollout/responses": 1} if "reward/mean" in row else {}) for row in metrics(4)],
    )
    frames, arms = select_runs(load([tmp_path]))
    with pytest.raises(SourceError, match="strict-0 was not evaluated within 4 responses"):
        at_equal_budget(frames, arms, "responses")


def test_an_algorithm_stands_for_its_parts(tmp_path: Path) -> None:
    """Its advantage, loss and KL are what the axis changes."""
    for name, kl in (("ppo", "k1_reward"), ("grpo", "k3_loss")):
        choices = {"algorithm": name, "algorithm/kl": kl, "algorithm/advantage": f"of_{name}"}
        arm(tmp_path / name, "strict", choices=choices).rename(tmp_path / f"{name}-0")
    _, arms = select_runs(load([tmp_path]))
    assert arms.axes == ["choices.algorithm"] and arms.notes == [] and found(tmp_path) == []
