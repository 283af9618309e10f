"""Evaluation of a tiny model with the real sampler and grader, and metrics of rows with known results."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import composing
import forked
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from micro_runs import composed
from omegaconf import OmegaConf
from rich.console import Console
from transformers import Qwen2Config, Qwen2ForCausalLM

from simplerl.config import Config, EvalsConfig, PromptConfig, SamplingConfig
from simplerl.config.load import load
from simplerl.data.benchmarks import published_accuracy
from simplerl.data.prompts import PromptFormat
from simplerl.data.task import EvalSets, prepare_evals
from simplerl.errors import ConfigError
from simplerl.evals import evaluate as module
from simplerl.evals.evaluate import evaluate, evaluation_reward, flat_metrics, set_metrics
from simplerl.evals.standalone import compare_prompts, evaluate_model, results_table
from simplerl.experiment import run_experiment
from simplerl.micro.tokenizer import build
from simplerl.micro.world import problems
from simplerl.rewards import FIXED_RULES, WithFixedRules, lenient, strict
from simplerl.rewards.pool import Grader
from simplerl.runs.folder import Run
from simplerl.samplers.local import LocalSampler
from simplerl.types import Problem, Prompt, Rollout, Sampling, Stop

pytestmark = pytest.mark.slow  # trains or starts processes

ROOT = Path(__file__).resolve().parent.parent


def loaded(*overrides: str) -> Config:
    return load(composing.composed(*overrides))


PROMPT = PromptConfig(name="micro", template="{question}\n", stop_strings=["##"])


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    return build()


class CountingSampler(LocalSampler):
    """Records the ids of the problems of each call."""

    asked: list[list[str]]

    def generate(
        self, prompts: Sequence[Prompt], sampling: Sampling, stop: Stop, samples: int, seed: int, step: int
    ) -> Iterator[Rollout]:
        self.asked.append([prompt.problem.id for prompt in prompts])
        return super().generate(prompts, sampling, stop, samples, seed, step)


@pytest.fixture
def sampler(tokenizer: Any) -> CountingSampler:
    torch.manual_seed(0)
    config = Qwen2Config(
        vocab_size=len(tokenizer), hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=2,
        num_key_value_heads=1, max_position_embeddings=128, tie_word_embeddings=True,
    )  # fmt: skip
    made = CountingSampler(Qwen2ForCausalLM(config).eval(), tokenizer, max_rows=4)
    made.asked = []
    return made


@pytest.fixture(scope="module")
def grader() -> Iterator[Grader]:
    with Grader(partial(strict, rule="exact")) as grader:
        yield grader


def two_sets(tokenizer: Any, temperature: float = 1.0) -> EvalSets:
    """Return six questions in two sets; two of them are in both."""
    format = PromptFormat(PROMPT, tokenizer)
    held_out = problems("heldout", 4)
    sets = {"one": format.render_all(held_out), "two": format.render_all(held_out[:2])}
    return EvalSets(sets, format, Sampling(temperature=temperature, max_new_tokens=12))


def run(
    sampler: CountingSampler, grader: Grader, evals: EvalSets, out: Path | None, **keywords: Any
) -> dict[str, float]:
    config = EvalsConfig(samples=2, sampling=SamplingConfig(temperature=1.0))
    return evaluate(sampler, grader, evals, config, seed=3, step=5, out=out, **keywords)


def test_items_without_room_for_a_response_count_as_wrong(
    sampler: CountingSampler, grader: Grader, tokenizer: Any, tmp_path: Path
) -> None:
    evals = two_sets(tokenizer)
    first = evals.prompts["one"][0].problem.id
    evals = replace(evals, too_long={"one": [first], "two": []})
    metrics = run(sampler, grader, evals, tmp_path / "a")
    assert [f"one:{first}" in asked for asked in sampler.asked] == [False]
    rows = pq.read_table(tmp_path / "a/samples.parquet").to_pylist()
    assert [(row["response"], row["correct"], row["finish_reason"]) for row in rows[:2]] == [("", False, "length")] * 2
    one = json.loads((tmp_path / "a/results.json").read_text())["sets"]["one"]
    assert (one["items"], one["too_long"], one["too_long_excluded"]) == (4, [first], False)
    (tmp_path / "b/parts").mkdir(parents=True)  # resumed after the empty responses were written
    pq.write_table(pq.read_table(tmp_path / "a/samples.parquet").slice(0, 3), tmp_path / "b/parts/000000.parquet")
    assert run(sampler, grader, evals, tmp_path / "b") == metrics


def test_files_and_metrics(sampler: CountingSampler, grader: Grader, tokenizer: Any, tmp_path: Path) -> None:
    evals = two_sets(tokenizer)
    metrics = run(sampler, grader, evals, tmp_path)
    rows = pq.read_table(tmp_path / "samples.parquet").to_pylist()
    wanted = [(name, p.problem.id, i) for name, prompts in evals.prompts.items() for p in prompts for i in range(2)]
    assert [(row["set"], row["problem_id"], row["sample"]) for row in rows] == wanted
    assert {row["step"] for row in rows} == {5}
    assert all(row["length"] == len(row["tokens"]) <= 12 for row in rows)
    assert len(sampler.asked) == 1  # a single stream for all sets
    results = json.loads((tmp_path / "results.json").read_text())
    assert results["sets"]["one"]["items"] == 4
    assert results["sets"]["two"]["metrics"] == set_metrics(rows[8:])
    assert metrics == flat_metrics(results)
    assert metrics["eval/mean/response_length"] == pytest.approx(
        (metrics["eval/one/response_length"] + metrics["eval/two/response_length"]) / 2
    )
    assert sorted(path.name for path in tmp_path.iterdir()) == ["results.json", "samples.parquet"]


def test_the_same_question_in_two_sets_is_sampled_for_each(
    sampler: CountingSampler, grader: Grader, tokenizer: Any, tmp_path: Path
) -> None:
    run(sampler, grader, two_sets(tokenizer), tmp_path)
    rows = pq.read_table(tmp_path / "samples.parquet").to_pylist()
    shared = [row for row in rows if row["problem_id"] == rows[-1]["problem_id"] and row["sample"] == 1]
    assert [row["set"] for row in shared] == ["one", "two"]
    assert shared[0]["tokens"] != shared[1]["tokens"]


def test_a_killed_evaluation_resumes(
    sampler: CountingSampler, grader: Grader, tokenizer: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "PART_SECONDS", 0.0)  # write a part after every response
    unbroken, broken = tmp_path / "a", tmp_path / "b"
    run(sampler, grader, two_sets(tokenizer), unbroken)

    def kill_after(count: int, stream: Iterator[Rollout]) -> Iterator[Rollout]:
        for number, rollout in enumerate(stream):
            if number == count:
                raise KeyboardInterrupt
            yield rollout

    for attempt in range(2):
        with pytest.raises(KeyboardInterrupt):
            run(sampler, grader, two_sets(tokenizer), broken, wrap_stream=partial(kill_after, 5))
        assert not (broken / "results.json").exists()
        assert len(list((broken / "parts").glob("*.parquet"))) >= 5 * (attempt + 1) - 2
    run(sampler, grader, two_sets(tokenizer), broken)
    asked = [len(problems) for problems in sampler.asked[1:]]
    assert asked[0] == 6
    assert asked[0] > asked[1] > asked[2] >= 1
    assert (broken / "results.json").read_bytes() == (unbroken / "results.json").read_bytes()
    assert pq.read_table(broken / "samples.parquet").equals(pq.read_table(unbroken / "samples.parquet"))
    assert not (broken / "parts").exists()


def test_a_finished_evaluation_is_not_repeated_unless_its_settings_change(
    sampler: CountingSampler, grader: Grader, tokenizer: Any, tmp_path: Path
) -> None:
    first = run(sampler, grader, two_sets(tokenizer), tmp_path)
    assert run(sampler, grader, two_sets(tokenizer), tmp_path) == first
    assert len(sampler.asked) == 1
    run(sampler, grader, two_sets(tokenizer), tmp_path, weights="another model")
    run(sampler, grader, two_sets(tokenizer, temperature=0.5), tmp_path)
    assert [len(asked) for asked in sampler.asked] == [6, 6, 6]


def test_another_reward_is_graded_again(
    sampler: CountingSampler, grader: Grader, tokenizer: Any, tmp_path: Path
) -> None:
    run(sampler, grader, two_sets(tokenizer), tmp_path)
    with Grader(partial(lenient, rule="exact")) as other:
        run(sampler, other, two_sets(tokenizer), tmp_path)
    assert [len(asked) for asked in sampler.asked] == [6, 6]
    assert set(pq.read_table(tmp_path / "samples.parquet")["reward"].to_pylist()) <= {0.0, 1.0}


def test_nothing_is_written_without_a_folder(sampler: CountingSampler, grader: Grader, tokenizer: Any) -> None:
    assert run(sampler, grader, two_sets(tokenizer), None)["eval/one/accuracy"] >= 0
    assert run(sampler, grader, EvalSets({}, two_sets(tokenizer).format, Sampling()), None) == {}


def test_evaluation_uses_the_training_prompt(tokenizer: Any) -> None:
    """Text, tokens and stop rule are those of training unless evals.prompt is set."""
    sets = {"held": partial(problems, split="heldout", count=8)}
    config = Config(prompt=PROMPT, evals=EvalsConfig(sets=sets, limit=3, sampling=SamplingConfig(0.0, 1.0, 0, 16)))
    evals = prepare_evals(config, tokenizer, context=128)
    training = PromptFormat(PROMPT, tokenizer)
    assert evals.prompts["held"] == training.render_all(problems("heldout", 8)[:3])
    assert evals.format.stop == training.stop
    config.evals.prompt = PromptConfig(name="other", template="Q: {question}\n")
    assert prepare_evals(config, tokenizer, context=128).prompts["held"][0].text.startswith("Q: ")


def test_all_arms_of_a_reward_ablation_are_evaluated_by_one_rule(
    sampler: CountingSampler, tokenizer: Any, tmp_path: Path
) -> None:
    """The same responses have the same accuracies, whatever reward trains; strict and lenient are both reported."""
    found = {}
    for reward in ("strict", "lenient", "binary"):
        rule = evaluation_reward(loaded(f"reward={reward}"))
        with Grader(rule) as grader:
            assert (grader.name, grader.keywords["rule"]) == ("simplerl.rewards.strict", "math_verify")
            metrics = run(sampler, grader, two_sets(tokenizer), tmp_path / reward)
        found[reward] = (metrics, (tmp_path / reward / "results.json").read_text())
    assert found["strict"] == found["lenient"] == found["binary"]
    assert {f"eval/{one}/accuracy{rule}" for one in ("one", "mean") for rule in ("", "_strict", "_lenient")} < set(
        metrics
    )


@pytest.mark.parametrize("evals_reward", ["strict", "lenient"])
def test_both_rules_judge_the_same_responses(evals_reward: str, tokenizer: Any, tmp_path: Path) -> None:
    """A box counts for both rules, an answer without one for the lenient rule alone, and each is asked for once."""

    class Scripted:
        calls = 0

        def generate(self, prompts: Sequence[Prompt], sampling: Sampling, *_: Any) -> Iterator[Rollout]:
            self.calls += 1
            gold = [prompt.problem.answer for prompt in prompts]
            texts = [rf"\boxed{{{gold[0]}}}", f"The answer is {gold[1]}.", r"\boxed{-7}", "No idea"]
            for prompt, text in zip(prompts, texts, strict=True):
                yield Rollout(prompt, 0, text, (5, 0), (0.0, 0.0), "stop")

    format = PromptFormat(PROMPT, tokenizer)
    evals = EvalSets({"one": format.render_all(problems("heldout", 4))}, format, Sampling(max_new_tokens=12))
    sampler = Scripted()
    with Grader(evaluation_reward(loaded(f"reward@evals.reward={evals_reward}"))) as grader:
        metrics = evaluate(sampler, grader, evals, EvalsConfig(), seed=0, step=0, out=tmp_path)  # type: ignore[arg-type]
    table = pq.read_table(tmp_path / "samples.parquet")
    assert table["correct_strict"].to_pylist() == [True, False, False, False]
    assert table["correct_lenient"].to_pylist() == [True, True, False, False]
    assert table["correct"].equals(table[f"correct_{evals_reward}"])
    assert metrics["eval/one/accuracy"] == metrics[f"eval/one/accuracy_{evals_reward}"]
    assert (metrics["eval/one/accuracy_strict"], metrics["eval/one/accuracy_lenient"]) == (0.25, 0.5)
    assert metrics["eval/mean/accuracy_lenient_se"] > 0 and sampler.calls == 1
    assert not any("correct_" in parts for parts in table["parts"].to_pylist())


def test_a_rule_that_raises_does_not_change_the_score(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(FIXED_RULES, "lenient", lambda response, problem: 1 / 0)
    problem = Problem("1", "What is 1 + 1?", "2")
    score = WithFixedRules.of(partial(strict, wrong=-2.0))(r"\boxed{3}", problem)
    assert (score.reward, score.parts["correct_strict"], score.parts["correct_lenient"]) == (-2.0, 0.0, 0.0)


def test_a_run_is_evaluated_by_another_rule_than_its_reward(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    raw = composed(tmp_path, "train.steps=1")
    raw.evals.reward = {"_target_": "simplerl.rewards.strict", "_partial_": True}
    raw.choices = {"reward": "digits"}
    folder = run_experiment(raw, "test")
    assert "graded by strict, not by the training reward: to use that, set reward@evals.reward=digits" in caplog.text
    assert "share" in json.loads(pq.read_table(folder / "rollouts/step_000000.parquet")["parts"][0].as_py())
    for step in (0, 1):
        results = json.loads((folder / f"evals/step_00000{step}/results.json").read_text())
        assert (results["reward"], results["fixed_rules"]) == ("simplerl.rewards.strict", ["strict", "lenient"])
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    assert all("eval/micro/accuracy_lenient" in line for line in lines)


def test_evaluate_leaves_the_folder_of_a_run(tmp_path: Path) -> None:
    """It is locked while in use, and neither a run nor an evaluation is written into a folder of the other kind."""
    raw = composed(tmp_path, "evals.sets.micro.count=2", f"run.dir={tmp_path}/one")
    config, resolved = load(raw.copy()), OmegaConf.to_container(raw, resolve=True, enum_to_str=True)
    other = Run(config, resolved, "test", "evaluation")  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="one is in use by another process"):
        evaluate_model(raw.copy(), "test")
    other.release()
    folder = evaluate_model(raw.copy(), "test")
    assert sorted(path.name for path in folder.iterdir()) == [
        ".lock", "config.yaml", "environment.json", "evals", "metrics.jsonl", "status.json", "summary.json"
    ]  # fmt: skip
    status = json.loads((folder / "status.json").read_text())
    assert (status["state"], status["kind"]) == ("finished", "evaluation")
    written = (folder / "evals/step_000000/results.json").stat().st_mtime_ns
    assert evaluate_model(raw.copy(), "test") == folder
    assert (folder / "evals/step_000000/results.json").stat().st_mtime_ns == written
    with pytest.raises(ConfigError, match=r"holds an evaluation, not a training run: choose another folder"):
        run_experiment(raw.copy(), "test")


def row(item: int, sample: int, correct: bool, length: int, extracted: str | None, **more: Any) -> dict[str, Any]:
    return {
        "problem_id": str(item), "sample": sample, "correct": correct, "reward": 1.0 if correct else -0.5,
        "length": length, "extracted": extracted, "finish_reason": "stop", "response": r"\boxed{1}",
        "status": "equal" if correct else "different", "gold": "1", **more,
    }  # fmt: skip


def test_metrics_by_hand() -> None:
    rows = [
        row(0, 0, True, 10, "1"), row(0, 1, True, 20, "1.0"), row(0, 2, False, 30, "2"), row(0, 3, False, 40, "3"),
        row(1, 0, False, 50, "2"), row(1, 1, False, 60, "2"),
        row(1, 2, False, 12, None, response="?", status="no_answer"),
        row(1, 3, True, 18, "1", finish_reason="length", response="```python\nwait"),
    ]  # fmt: skip
    assert set_metrics(rows) == pytest.approx(
        {
            "accuracy": 3 / 8,
            "reward": (3 - 2.5) / 8,
            "pass@2": (5 / 6 + 1 / 2) / 2,  # 1 - C(2,2)/C(4,2) and 1 - C(3,2)/C(4,2)
            "pass@4": 1.0,
            "maj@4": 0.5,
            "response_length": 30.0,
            "response_length_stopped": 222 / 7,
            "response_length_correct": 16.0,
            "response_length_wrong": 38.4,
            "truncated_share": 1 / 8,
            "box_share": 6 / 8,
            "code_share": 1 / 8,
            "reflection_share": 1 / 8,
            "repetition": 0.0,
            "no_answer_fraction": 1 / 8,
            "timeout_fraction": 0.0,
            "failed_fraction": 0.0,
        }
    )


def test_metrics_without_data_are_left_out() -> None:
    metrics = set_metrics([row(0, 0, False, 10, "2"), row(1, 0, False, 20, "2")])
    assert "response_length_correct" not in metrics
    assert not any("@" in name for name in metrics)


def test_published_accuracies_are_found_by_model_name() -> None:
    assert published_accuracy("Qwen/Qwen2.5-Math-7B")["math500"] == 52.4
    assert published_accuracy("hkust-nlp/Qwen-2.5-Math-7B-SimpleRL-Zero")["mean"] == 48.8
    assert published_accuracy("runs/x/policy") == {}
    for model in ("Qwen2.5-Math-7B", "SimpleRL", "SimpleRL-Zero", "SimpleRL-Zero (table 3)"):
        five = [value for name, value in published_accuracy(model).items() if name != "mean"]
        assert sum(five) / 5 == pytest.approx(published_accuracy(model)["mean"], abs=0.051)


def results_of(rows: dict[str, list[dict[str, Any]]], weights: str) -> dict[str, Any]:
    schema = module.SAMPLES_SCHEMA
    whole = dict.fromkeys(schema.names)
    table = [{**whole, **row, "parts": "{}", "set": name} for name, found in rows.items() for row in found]
    settings = {"weights": weights, "samples": 1, "prompt": "chat", "reward": "strict"} | {
        "reward_keywords": {"rule": "qwen"}
    }
    sampling = {"temperature": 0.0, "max_new_tokens": 3000}
    return {**settings, "sampling": sampling, **module.summarise(pa.Table.from_pylist(table, schema=schema))}


def test_all_wrong_has_intervals_of_positive_width() -> None:
    rows = [row(item, sample, False, 10, "2") for item in range(30) for sample in range(2)]
    results = results_of({"one": rows}, "x")
    # z^2 / (30 + z^2), Wilson's upper limit for 0 of 30
    for name in ("accuracy", "pass@2", "maj@2"):
        interval = results["sets"]["one"]["intervals"][name]
        assert (interval["mean"], interval["low"]) == (0.0, 0.0)
        assert interval["high"] == pytest.approx(0.11351, abs=1e-5)
    flat = flat_metrics(results)
    assert flat["eval/one/accuracy_se"] == flat["eval/mean/accuracy_se"] == pytest.approx(0.11351 / 1.95996, abs=1e-5)


def test_table_shows_the_published_accuracy() -> None:
    rows = {
        "math500": [row(0, 0, True, 10, "1"), row(1, 0, False, 20, "2")],
        "gsm8k": [row(0, 0, True, 9, "1", gold="")],
    }
    console = Console(width=200, file=io.StringIO(), record=True)
    console.print(results_table(results_of(rows, "Qwen/Qwen2.5-Math-7B@main")))
    lines = [line.split("│")[1:-1] for line in console.export_text().splitlines() if line.startswith("│")]
    cells = {line[0].strip(): [cell.strip() for cell in line[1:]] for line in lines}
    assert cells["math500"][:4] == ["2", "50.0", "0.0 to 100.0", "52.4"]
    assert cells["gsm8k"][:4] == ["1 (1 without gold)", "100.0", "-", "-"]
    assert cells["mean"][1:4] == ["75.0", "-", "-"]  # the published mean is over different sets


def test_a_prompt_other_than_in_training_is_logged(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    policy = tmp_path / "checkpoints/step_000001/policy"
    policy.mkdir(parents=True)
    (policy / "config.json").write_text("{}")
    (tmp_path / "status.json").write_text("{}")
    (tmp_path / "config.yaml").write_text("prompt: {name: simplerl_train}")
    config = loaded(f"model.path={policy}")
    compare_prompts(config)
    assert "was trained with prompt=simplerl_train but is evaluated with prompt=micro" in caplog.text
    caplog.clear()
    (tmp_path / "config.yaml").write_text("prompt: {name: micro}")
    compare_prompts(config)
    assert not caplog.text


def test_evaluate_py(tmp_path: Path) -> None:
    """Run the command on the model that ships with the repository."""
    command = ["evaluate.py", f"run.dir={tmp_path}", "run.threads=1"]
    small = ["evals=micro", "evals.limit=4", "evals.samples=2", "evals.sampling.temperature=1.0"]
    done = forked.run(*command, *small)
    assert done.returncode == 0 and "avg@2" in done.stdout, done.stderr
    assert json.loads((tmp_path / "evals/step_000000/results.json").read_text())["sets"]["micro"]["items"] == 4
    for fault, sentence in {
        "evals=none": "evals has no benchmarks: choose some",
        "reward=lenient": "evaluations are graded by evals.reward: write reward@evals.reward=lenient",
        "evals=gsm8k": "evals.path is not set: set it to the folder that holds gsm8k.jsonl",
    }.items():
        refused = forked.run(*command, fault)
        assert refused.returncode == 2
        assert sentence in refused.stderr


@pytest.mark.skipif(find_spec("vllm") is None, reason="vLLM is not installed (extras cpu or gpu)")
def test_vllm_evaluates_the_same_weights(tmp_path: Path) -> None:
    """vLLM loads the weights from disk itself and gives the same greedy responses as the local sampler."""
    greedy = ["evals=micro", "evals.limit=8", "sampler.precision=float32", "run.threads=1"]
    responses = []
    for sampler in ("local", "vllm"):
        done = forked.run("evaluate.py", f"run.dir={tmp_path / sampler}", f"sampler={sampler}", *greedy)
        assert done.returncode == 0, done.stderr
        samples = tmp_path / sampler / "evals/step_000000/samples.parquet"
        responses.append(pq.read_table(samples)["response"].to_pylist())
    assert responses[0] == responses[1]
    assert len(set(responses[0])) > 4
