"""Every alarm fires on a run made to show it, once, and none on recorded steps of healthy runs."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterable, Iterator
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from composing import composed
from micro_runs import ROOT, model, run
from transformers import AutoModelForCausalLM, AutoTokenizer

from simplerl.config import Config
from simplerl.config.load import load
from simplerl.errors import ConfigError, RunFailed
from simplerl.runs.alarms import ALWAYS, FIRST_STEPS, START, Alarms, find_alarms, read_alarms
from simplerl.samplers import Sampler
from simplerl.samplers.local import local_sampler
from simplerl.types import Rollout

# Metrics of steps 0, 1, 25 and 59 of the default run, and the extremes of other algorithms.
NAMES = [
    *("rollout/truncated_share", "rollout/box_share", "reward/mean", "reward/correct", "reward/no_answer_fraction"),
    *("rollout/logprob_gap", "rollout/entropy", "rollout/kl", "policy/approx_kl"),
]
HEALTHY = [
    (0.0, 0.594, -0.164, 0.359, 0.406, 4.5e-7, 0.1049, 0.0, 4.2e-5),
    (0.0, 0.461, -0.523, 0.164, 0.539, 4.6e-7, 0.1194, -1.0e-4, 1.4e-4),
    (0.0, 0.992, 0.574, 0.719, 0.008, 3.6e-7, 0.0716, 0.0278, 2.5e-5),
    (0.0, 0.992, 0.879, 0.922, 0.008, 3.5e-7, 0.0532, 0.0299, 1.7e-6),
    (0.0156, 1.0, 0.93, 0.96, 0.0, 4.6e-7, 0.0279, 0.107, 9.7e-3),
]
FIXED = {"rollout/responses": 128.0, "reward/std": 0.7, "rollout/lag": 0.0, "rollout/end_token_share": 0.0}
FIXED |= {"reward/timeout_fraction": 0.0, "reward/failed_fraction": 0.0}


@cache
def config(*overrides: str) -> Config:
    return load(composed(*overrides))


def row(index: int = 0, **changes: float) -> dict[str, float]:
    return FIXED | dict(zip(NAMES, HEALTHY[index], strict=True)) | {k.replace("__", "/"): v for k, v in changes.items()}


def kinds(metrics: dict[str, float], step: int = 0, *overrides: str) -> list[str]:
    return [alarm.kind for alarm in find_alarms(step, metrics, config(*overrides))]


def test_none_on_healthy_steps() -> None:
    for index in range(len(HEALTHY)):
        assert kinds(row(index)) == []
    assert kinds({"eval/micro/accuracy": 0.0}) == []  # the evaluation after the last step


FALL = [("first__", "", 0.354), ("first__", "_se", 0.021), ("", "", 0.25), ("", "_se", 0.019)]
# kind -> the metrics that show it, and what the sentence must name: the number and the setting.
PLANTED: dict[str, tuple[dict[str, float], list[str]]] = {
    "truncated": ({"rollout__truncated_share": 0.51}, ["51%", "raise sampling.max_new_tokens", "=160"]),
    "no_stop": ({"rollout__truncated_share": 1.0}, ["none of 128", "prompt.stop_tokens", "=160"]),
    "rewards_equal": (
        {"reward__std": 0.0, "reward__mean": -1.0},
        ["all 128 rewards are -1", "data=", "another reward"],
    ),
    "no_box": ({"rollout__box_share": 0.0, "reward__no_answer_fraction": 1.0}, ["0 of 128", "\\boxed{}", "prompt="]),
    "end_tokens": ({"rollout__end_token_share": 0.06}, ["6%", "prompt.stop_tokens"]),
    "logprobs_apart": ({"rollout__logprob_gap": 0.11}, ["0.11 nats", "sampler=local"]),
    "entropy_gone": ({"rollout__entropy": 0.009}, ["0.009 nats", "train.policy.lr (now 0.00015)"]),
    "kl_exploding": ({"policy__approx_kl": 0.11}, ["0.11 nats", "train.policy.lr", "algorithm.kl.coef"]),
    "grader_timeout": ({"reward__timeout_fraction": 0.06}, ["6%", "grading.seconds_per_answer (now 8)"]),
    "grader_failed": ({"reward__failed_fraction": 0.06}, ["6%", "another reward"]),
    "accuracy_lost": (
        {f"{prefix}eval__mean__accuracy{leaf}": value for prefix, leaf, value in FALL},
        ["35.4% at the first evaluation to 25.0%", "train.policy.lr (now 0.00015)", "another reward"],
    ),
}


def test_every_check_is_planted() -> None:
    assert [check.__name__ for check in (*START, *ALWAYS)] == list(PLANTED)


@pytest.mark.parametrize("kind", PLANTED)
def test_one_sentence_with_number_and_setting(kind: str) -> None:
    changes, named = PLANTED[kind]
    [alarm] = find_alarms(0, row(**changes), config())
    assert alarm.kind == kind and "\n" not in alarm.text
    assert alarm.text[-1] == "." and ": " in alarm.text
    for part in named:
        assert part in alarm.text
    later = [] if kind in {check.__name__ for check in START} else [kind]
    assert kinds(row(**changes), FIRST_STEPS) == later


def test_distance_from_the_reference() -> None:
    assert kinds(row(rollout__kl=1.1)) == ["kl_exploding"]


def test_a_box_that_only_the_prompt_asks_for() -> None:
    unboxed = row(rollout__box_share=0.0)  # the reward finds answers elsewhere
    assert kinds(unboxed) == []
    assert kinds(unboxed, 0, "prompt.template='{question} Use \\\\boxed.'") == ["no_box"]


@pytest.mark.parametrize("override", ["sampling.top_p=0.9", "sampling.top_k=5", "lag", "temperature"])
def test_logprobs_of_different_distributions_are_not_compared(override: str) -> None:
    apart, overrides = row(rollout__logprob_gap=0.5), [override] if "." in override else []
    if override == "lag":
        apart["rollout/lag"] = 1.0
    if override == "temperature":
        overrides = ["sampling.temperature=0.6", "algorithm.logprobs_at_temperature_1=true"]
    assert kinds(apart, 0, *overrides) == []


def test_recorded_once_per_kind(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    alarms = Alarms(tmp_path, config())
    alarms.check("rl", 4, row())
    assert not list(tmp_path.iterdir())
    alarms.check("warmup", 0, row(rollout__entropy=0.0))
    for step in (5, 6):
        alarms.check("rl", step, row(rollout__entropy=0.0))
    alarms.check("rl", 7, row(rollout__entropy=0.0, rollout__kl=2.0))
    resumed = Alarms(tmp_path, config())
    resumed.check("rl", 7, row(rollout__kl=2.0))
    assert [(one.kind, one.step) for one in read_alarms(tmp_path)] == [("entropy_gone", 5), ("kl_exploding", 7)]
    assert [one.getMessage().split(":")[0] for one in caplog.records] == ["Alarm at step 5", "Alarm at step 7"]
    assert resumed.stop is None
    strict = Alarms(tmp_path, config("run.strict=true")).stop
    assert strict is not None and strict.startswith("alarm at step 5: the policy's entropy is 0 nats")
    assert "run.strict=false" in strict


@pytest.mark.parametrize(("last", "fallen"), [(0.28, False), (0.26, True), (0.6, False)])
def test_accuracy_is_compared_with_the_first_evaluation(tmp_path: Path, last: float, fallen: bool) -> None:
    """The limit is 3 sqrt(0.02^2 + 0.02^2) = 0.085 below 0.35, also after a resume; a warm-up does not count."""
    written = [("warmup", 0, 0.9), ("rl", 0, 0.35), ("rl", 5, 0.5), ("rl", 10, last)]
    for phase, step, accuracy in written:
        metrics = {"eval/mean/accuracy": accuracy, "eval/mean/accuracy_se": 0.02}
        with (tmp_path / "metrics.jsonl").open("a") as file:
            file.write(json.dumps({"phase": phase, "step": step, **metrics}) + "\n")
        Alarms(tmp_path, config()).check(phase, step, metrics)
    assert [(one.kind, one.step) for one in read_alarms(tmp_path)] == [("accuracy_lost", 10)] * fallen


def test_a_damaged_file_is_named(tmp_path: Path) -> None:
    (tmp_path / "alarms.json").write_text("{")
    with pytest.raises(ConfigError, match=r"alarms\.json"):
        read_alarms(tmp_path)


# Runs made to show them

ONE = ["train.steps=1", "evals.every=0"]


def fired(folder: Path) -> set[str]:
    return {alarm.kind for alarm in read_alarms(folder)}


@pytest.mark.slow
def test_strict_stops_a_run_that_cuts_its_responses(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """The run stops after its first step, with a checkpoint; it stops again before anything is trained, and continues
    with run.strict=false."""
    settings = ["train.steps=2", "evals.every=0", "model.path=assets/micro_base", "sampling.max_new_tokens=8"]
    with pytest.raises(RunFailed, match=r"alarm at step 0: none of 16 responses ended") as stopped:
        run(tmp_path, *settings, "run.strict=true", own_reward=False)
    [folder] = tmp_path.iterdir()
    assert fired(folder) == {"no_stop", "no_box", "rewards_equal"}
    assert [path.name for path in (folder / "checkpoints").iterdir()] == ["step_000001"]
    status = json.loads((folder / "status.json").read_text())
    assert status["state"] == "failed" and status["reason"] in str(stopped.value)
    before = (folder / "metrics.jsonl").read_text()
    with pytest.raises(RunFailed, match=r"run\.strict=false the same command resumes it"):
        run(tmp_path, *settings, "run.strict=true", own_reward=False)
    assert (folder / "metrics.jsonl").read_text() == before
    caplog.clear()
    assert run(tmp_path, *settings, own_reward=False) == folder
    assert json.loads((folder / "status.json").read_text())["state"] == "finished"
    assert not [one for one in caplog.records if "Alarm" in one.getMessage()], "reported again"


@pytest.mark.slow
def test_strict_fails_a_run_whose_last_step_alarms(tmp_path: Path) -> None:
    settings = ["model.path=assets/micro_base", "sampling.max_new_tokens=30", "run.strict=true"]
    with pytest.raises(RunFailed, match=r"of the responses reached sampling\.max_new_tokens=30"):
        run(tmp_path, *ONE, *settings, own_reward=False)
    [folder] = tmp_path.iterdir()
    assert fired(folder) == {"truncated"} and (folder / "checkpoints/step_000001").is_dir()


@pytest.mark.slow
def test_a_learning_rate_that_is_too_high(tmp_path: Path) -> None:
    assert "kl_exploding" in fired(run(tmp_path, *ONE, "train.policy.lr=0.3"))


@pytest.mark.slow
def test_a_policy_that_forgets_to_answer(tmp_path: Path) -> None:
    """One update with a rate of 0.3 ruins the shipped base model, which solves a third of the problems before."""
    settings = ["model.path=assets/micro_base", "evals.every=1", "evals.sets.micro.count=64", "train.steps=1"]
    settings += ["train.policy.lr=0.3", "sampling.max_new_tokens=100"]
    assert "accuracy_lost" in fired(run(tmp_path, *settings, own_reward=False))


@pytest.mark.slow
def test_a_policy_without_entropy(tmp_path: Path) -> None:
    """The last normalisation of the tiny model is scaled, so that one token has all the probability."""
    shutil.copytree(model(), tmp_path / "model")
    policy = AutoModelForCausalLM.from_pretrained(tmp_path / "model")
    policy.model.norm.weight.data *= 300
    policy.save_pretrained(tmp_path / "model")
    assert "entropy_gone" in fired(run(tmp_path / "runs", *ONE, f"model.path={tmp_path}/model"))


class ShiftedSampler:
    """A local sampler that reports other log-probs than those of its samples."""

    def __init__(self, *arguments: Any) -> None:
        self._sampler = local_sampler(*arguments)

    def load_weights(self, weights: Any) -> None:
        self._sampler.load_weights(weights)

    def generate(self, *arguments: Any) -> Iterator[Rollout]:
        stream: Iterable[Rollout] = self._sampler.generate(*arguments)
        return (replace(one, logprobs=tuple(value - 0.5 for value in one.logprobs)) for one in stream)


def shifted_sampler(*arguments: Any) -> Sampler:
    return ShiftedSampler(*arguments)


@pytest.mark.slow
def test_an_unreliable_reward_and_a_sampler_of_other_weights(tmp_path: Path) -> None:
    sampler = ["sampler._target_=test_alarms.shifted_sampler", "~sampler.precision", "~sampler.max_rows"]
    sampler += ["~sampler.max_cache_gib", "grading.seconds_per_answer=0.1", "grading.workers=2"]
    folder = run(tmp_path, *ONE, *sampler, own_reward="unreliable")
    assert fired(folder) >= {"logprobs_apart", "grader_timeout", "grader_failed"}
    [apart] = [one for one in read_alarms(folder) if one.kind == "logprobs_apart"]
    assert "differ by 0.5 nats" in apart.text


@pytest.mark.slow
def test_an_end_token_that_does_not_stop(tmp_path: Path) -> None:
    """The base model ends with <|endoftext|>, but its files declare <|im_end|>."""
    base = tmp_path / "model"
    shutil.copytree(ROOT / "assets/micro_base", base)
    other = AutoTokenizer.from_pretrained(base).convert_tokens_to_ids("<|im_end|>")
    changes = {"tokenizer_config.json": {"eos_token": "<|im_end|>"}}
    changes |= {name: {"eos_token_id": other} for name in ("config.json", "generation_config.json")}
    for name, values in changes.items():
        (base / name).write_text(json.dumps(json.loads((base / name).read_text()) | values))
    folder = run(tmp_path / "runs", *ONE, f"model.path={base}", "sampling.max_new_tokens=120", own_reward=False)
    assert {"end_tokens", "no_stop"} <= fired(folder)


@pytest.mark.slow
def test_none_on_the_default_run(tmp_path: Path) -> None:
    from simplerl.experiment import run_experiment

    raw = composed("train.steps=2", "evals=none", f"run.root={tmp_path}", "run.threads=1", "run.strict=true")
    folder = run_experiment(raw, "default")
    assert not (folder / "alarms.json").exists()
