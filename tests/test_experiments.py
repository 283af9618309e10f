"""Every recipe composes, says what it needs, and runs for one step with the micro model in the place of its own;
SimpleRL-Zero is held against the published numbers; sweeps keep what works."""

from __future__ import annotations

import csv
import json
import re
import shutil
import subprocess
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import forked
import pyarrow.parquet as pq
import pytest
from composing import composed
from omegaconf import DictConfig, OmegaConf

from analysis import tables
from analysis.published_tables import ROW_OF_EXPERIMENT, ROWS, TABLE_1, TABLE_3, ZOO, ZOO_SETS, row_in_table
from simplerl.config import (
    Aggregation,
    Config,
    KLConfig,
    KLEstimator,
    KLPlace,
    OldLogprobs,
    OverLong,
    Precision,
    Schedule,
)
from simplerl.config.load import load
from simplerl.data.benchmarks import BENCHMARKS, SUITE5
from simplerl.data.prompts import PromptFormat
from simplerl.data.task import make_schedule
from simplerl.distillation.command import distill
from simplerl.evals.standalone import evaluate_model
from simplerl.experiment import run_experiment
from simplerl.runs.alarms import read_alarms
from simplerl.types import Problem

ROOT = Path(__file__).resolve().parent.parent
EXPERIMENTS = sorted(path.stem for path in (ROOT / "conf/experiment").glob("*.yaml"))
EVALUATIONS = [name for name in EXPERIMENTS if name.startswith("eval_")]
DISTILLATIONS = [name for name in EXPERIMENTS if name.startswith("distill_")]
SYSTEM = "<|im_start|>system\nPlease reason step by step, and put your final answer within \\boxed{}.<|im_end|>\n"
QWEN_PROMPT = SYSTEM + "<|im_start|>user\nWhat is 1 + 1?<|im_end|>\n<|im_start|>assistant"
ROUND_0 = (
    "[Round 0] USER:\nWhat is 1 + 1?\nPlease reason step by step, and put your final answer within \\boxed{}. "
    "ASSISTANT:\n"
)
EURUS_SYSTEM = (
    "\nWhen tackling complex reasoning tasks, you have access to the following actions. Use them as needed to progress "
    "through your thought process.\n\n[ASSESS]\n\n[ADVANCE]\n\n[VERIFY]\n\n[SIMPLIFY]\n\n[SYNTHESIZE]\n\n[PIVOT]\n\n"
    "[OUTPUT]\n\nYou should strictly follow the format below:\n\n[ACTION NAME]\n\n# Your action step 1\n\n"
    "# Your action step 2\n\n# Your action step 3\n\n...\n\nNext action: [NEXT ACTION NAME]\n"
)
ONE_STEP = [
    "train.steps=1",
    "train.passes=null",
    "train.prompts_per_step=2",
    "train.samples_per_prompt=2",
    "train.minibatch_size=4",
    "warmup.limit=2",
    "warmup.epochs=1",
    "warmup.minibatch_size=2",
    "sampling.max_new_tokens=8",
    "evals.sampling.max_new_tokens=8",
    "evals.limit=1",
    "evals.every=1",
    "sampler=local",
    "algorithm.policy_start=0",
    "run.threads=1",
    "run.device=cpu",
]


def loaded(*overrides: str) -> Config:
    raw = composed(*overrides)
    raw.model.path = str(ROOT / "assets/micro_base")  # of checks that look for it
    return load(raw)


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_composes_and_says_what_it_is(name: str) -> None:
    lines = (ROOT / f"conf/experiment/{name}.yaml").read_text().splitlines()
    comment = "\n".join(line for line in lines if line.startswith("#"))
    assert lines[0] == "# @package _global_"
    for label in ("Command:", "Hardware:", "Expected:", "Source:"):
        assert f"# {label}" in comment
    assert f"experiment={name}" in comment
    loaded(f"experiment={name}")


LABELS = {"gsm8k": "GSM8K", "aime24": "AIME24", "math500": "MATH500", "amc23": "AMC", "minerva_math": "Minerva"}
LABELS |= {"olympiadbench": "OlympiadBench", "mean": "mean", "aime24_avg32": "avg@32"}


@pytest.mark.parametrize("name", ROW_OF_EXPERIMENT)
def test_expected_numbers_are_the_published_row(name: str) -> None:
    """A recipe of SimpleRL-Zoo also states its base model's row."""
    text = (ROOT / f"conf/experiment/{name}.yaml").read_text()
    trained = ROW_OF_EXPERIMENT[name]
    for row in (trained, trained.removesuffix(" + SimpleRL-Zoo")):
        for benchmark, value in ROWS[row].items():
            assert f"{LABELS[benchmark]} {value}" in text
    assert re.search(r"Not run\s+(#\s+)?by us", text)


@pytest.mark.parametrize("name", [name for name in EXPERIMENTS if name.startswith("zoo_")])
def test_a_recipe_of_the_zoo_is_as_published(name: str) -> None:
    config = loaded(f"experiment={name}")
    train, algorithm = config.train, config.algorithm
    assert train.prompts_per_step * train.samples_per_prompt == 4 * train.minibatch_size == 8192
    assert (algorithm.loss.func.__name__, algorithm.advantage.func.__name__) == ("ppo_clip", "group_relative")
    large = name in ("zoo_mistral_small_24b", "zoo_qwen2_5_32b")  # more than 14B parameters
    assert algorithm.kl == KLConfig(KLPlace.loss, KLEstimator.k3, 1e-3 if large else 1e-4)
    assert (algorithm.entropy_coef, config.sampling.temperature, train.policy.lr) == (0.001, 1.0, 5e-7)
    short = name in ("zoo_qwen2_5_math_7b", "zoo_deepseek_math_7b")  # a context of 4,096 tokens
    assert (config.sampling.max_new_tokens, config.evals.sampling.max_new_tokens) == (
        (3072, 3072) if short else (8192, 16000)
    )
    weak = name in ("zoo_llama3_1_8b", "zoo_mistral_7b", "zoo_qwen2_5_0_5b", "zoo_qwen2_5_1_5b")
    assert config.prompt.name == ("zoo_simple" if weak else "zoo_complex")
    easy = name in ("zoo_llama3_1_8b", "zoo_mistral_7b", "zoo_deepseek_math_7b")
    level = "gsm8k_level1" if easy else "level1to4" if name == "zoo_qwen2_5_0_5b" else "level3to5"
    assert level in composed(f"experiment={name}").data.hub.data_files.train
    assert sorted(config.evals.sets) == sorted(ZOO_SETS) and config.evals.prompt is None
    assert (config.evals.reward.func.__name__, config.evals.reward.keywords) == ("lenient", {"rule": "qwen"})


def test_every_system_of_the_published_tables_has_a_recipe() -> None:
    trained = {key for key in ROWS if key not in ZOO or key.endswith("SimpleRL-Zoo")}
    assert {row_in_table(key, TABLE_1) for key in ROW_OF_EXPERIMENT.values()} >= set(TABLE_1.values())
    assert {row_in_table(key, TABLE_3) for key in ROW_OF_EXPERIMENT.values()} >= set(TABLE_3.values())
    assert trained - set(ROW_OF_EXPERIMENT.values()) == {"SimpleRL-Zero (table 3)"}
    assert set(ROW_OF_EXPERIMENT) <= set(EXPERIMENTS)


def qwen_tokenizer() -> Any:
    """The special tokens of Qwen2.5 under their own numbers."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    vocabulary = {"<unk>": 0, "<|endoftext|>": 151643, "<|im_start|>": 151644, "<|im_end|>": 151645}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<|endoftext|>", unk_token="<unk>")


def test_simplerl_zero_is_the_published_run() -> None:
    raw = composed("experiment=simplerl_zero")
    assert raw.model.path == "Qwen/Qwen2.5-Math-7B"
    assert raw.data.path.endswith("math_lvl3to5_8k.json")
    config = loaded("experiment=simplerl_zero")

    stop = PromptFormat(config.prompt, qwen_tokenizer(), eos_ids=[151643])
    assert stop.text(Problem("1", "What is 1 + 1?", "2")) == QWEN_PROMPT  # no newline at the end
    assert set(stop.stop.ids) == {151645, 151643}
    assert stop.stop.strings == ("</s>", "<|im_end|>", "<|endoftext|>")
    sampling = config.sampling
    assert (sampling.temperature, sampling.top_p, sampling.top_k) == (0.6, 1.0, 0)
    assert (config.prompt.max_tokens, sampling.max_new_tokens) == (1024, 3000)
    assert config.sampler.func.__module__ == "simplerl.samplers.vllm"

    train = config.train
    schedule = make_schedule(config, 8523)
    assert (train.prompts_per_step, train.samples_per_prompt, schedule.rollouts) == (1024, 8, 8192)
    assert (train.minibatch_size, schedule.updates_per_step, train.epochs) == (128, 64, 1)
    assert (train.passes, schedule.steps_per_pass, schedule.steps) == (20, 8, 160)
    assert schedule.optimizer_steps == 10_240
    for optimizer, lr in ((train.policy, 5e-7), (train.critic, 9e-6)):
        assert optimizer.lr == lr
        assert (optimizer.betas, optimizer.eps, optimizer.weight_decay) == ([0.9, 0.95], 1e-8, 0.0)
        assert (optimizer.schedule, optimizer.min_lr_ratio) == (Schedule.cosine, 0.1)
        assert (optimizer.warmup_fraction, optimizer.grad_clip) == (0.03, 1.0)
    assert (train.precision, train.gradient_checkpointing) == (Precision.bfloat16, True)

    algorithm = config.algorithm
    assert algorithm.loss.func.__name__ == "ppo_clip"
    assert algorithm.loss.keywords == {"clip_low": 0.2, "clip_high": 0.2}
    assert set(algorithm.roles) == {"critic", "reference"}
    critic, reference = algorithm.roles["critic"], algorithm.roles["reference"]
    assert critic.loss.func.__name__ == "clipped_value"
    assert critic.loss.keywords == {"clip": 0.2}
    assert critic.optimizer == train.critic and (reference.loss, reference.optimizer, reference.model) == (None,) * 3
    assert algorithm.rollouts.func.__name__ == "on_time" and algorithm.correction is None and not algorithm.shape
    assert algorithm.advantage.func.__name__ == "gae"
    assert algorithm.advantage.keywords == {"gamma": 1.0, "lam": 0.95, "whiten": True}
    assert algorithm.aggregation is Aggregation.sequence_mean
    assert algorithm.kl == KLConfig(KLPlace.reward, KLEstimator.k1, 0.01)
    assert algorithm.entropy_coef == 0
    assert algorithm.logprobs_at_temperature_1
    assert config.warmup.data is None

    assert config.reward.func.__name__ == "strict"
    assert config.reward.keywords == {
        "correct": 1.0, "wrong": -0.5, "unboxed": -1.0, "rule": "qwen_train", "fbox": False
    }  # fmt: skip
    evals = config.evals
    assert sorted(evals.sets) == sorted((*SUITE5, "gsm8k", "gaokao2023en", "college_math"))
    assert (evals.samples, evals.sampling.temperature, evals.sampling.max_new_tokens) == (1, 0.0, 3000)
    assert evals.prompt is not None
    asked = PromptFormat(evals.prompt, qwen_tokenizer(), eos_ids=[151643])
    assert asked.text(Problem("1", "What is 1 + 1?", "2")) == QWEN_PROMPT + "\n"
    assert asked.stop == stop.stop
    assert evals.reward.func.__name__ == "lenient"
    assert evals.reward.keywords["rule"] == "qwen"


ODDITIES = sorted({path.stem.rsplit("_", 1)[0] for path in (ROOT / "conf/oddity").glob("*_published.yaml")})
# Where each of the seven oddities of the published run shows in the configuration: its value as published, and without.
SWITCHES: dict[str, tuple[str, Any, Any]] = {
    "temperature": ("algorithm.logprobs_at_temperature_1", True, False),
    "bfloat16": ("train.column_precision", Precision.bfloat16, Precision.float32),
    "forced_eos": ("algorithm.shape.forced_eos", True, False),
    "gold": ("reward.keywords.rule", "qwen_train", "math_verify"),
    "over_long": ("prompt.over_long", OverLong.truncate, OverLong.drop),
    "newline": ("prompt.final_newline", False, True),
    "old_logprobs": ("algorithm.old_logprobs", OldLogprobs.trainer, OldLogprobs.sampler),
}


def switch(config: Config, oddity: str) -> Any:
    value: Any = config
    *keys, last = SWITCHES[oddity][0].split(".")
    for key in keys:
        value = value[key] if isinstance(value, dict) else getattr(value, key)
    if oddity == "forced_eos":
        return last in value
    return value[last] if isinstance(value, dict) else getattr(value, last)


@pytest.mark.parametrize("oddity", SWITCHES)
@pytest.mark.parametrize("experiment", ["micro", "simplerl_zero_as_published"])
def test_each_oddity_flips_both_ways(oddity: str, experiment: str) -> None:
    assert sorted(SWITCHES) == ODDITIES
    with_temperature = ["temperature_fixed"] if oddity == "old_logprobs" else []
    for index, way in enumerate(("published", "fixed"), start=1):
        chosen = [*with_temperature, f"{oddity}_{way}"]
        config = loaded(f"experiment={experiment}", f"oddity=[{','.join(chosen)}]")
        assert switch(config, oddity) == SWITCHES[oddity][index]
        if oddity == "newline":
            assert config.evals.prompt is not None and config.evals.prompt.final_newline


def test_the_published_run_has_every_oddity_and_the_fixed_one_none() -> None:
    published, fixed = loaded("experiment=simplerl_zero_as_published"), loaded("experiment=simplerl_zero_fixed")
    for oddity, (_, as_published, without) in SWITCHES.items():
        if oddity != "newline":  # the published template has no newline at its end
            assert switch(published, oddity) == as_published, oddity
        if oddity != "old_logprobs":  # the trainer's own are no worse
            assert switch(fixed, oddity) == without, oddity
    assert published.prompt.template is not None and not published.prompt.template.endswith("\n")
    assert published.train.logits_precision is published.algorithm.advantage_precision is Precision.bfloat16
    # The rate falls over 20 x floor(8523 x 8 / 128) optimizer steps, of which 160 x 64 are taken.
    schedule = make_schedule(published, 8523)
    assert (schedule.scheduled_steps, schedule.optimizer_steps) == (10_640, 10_240)
    assert make_schedule(fixed, 8523).scheduled_steps == 10_240


def test_simplerl_adds_the_warm_up_alone() -> None:
    zero, simplerl = (loaded(f"experiment={name}") for name in ("simplerl_zero", "simplerl"))
    assert (simplerl.train, simplerl.sampling) == (zero.train, zero.sampling)
    assert simplerl.algorithm.advantage.keywords == zero.algorithm.advantage.keywords
    assert simplerl.reward.keywords == zero.reward.keywords
    assert simplerl.evals.prompt is None  # that of the training
    for prompt in (simplerl.prompt, simplerl.warmup.prompt):
        assert prompt is not None
        assert prompt.template is not None
        assert prompt.template.replace("{question}", "What is 1 + 1?") == ROUND_0
    assert simplerl.warmup.data is not None


@pytest.mark.parametrize("experiment", ["simplerl_zero", "simplerl"])
@pytest.mark.parametrize("evals", ["none", "math500", "suite8"])
def test_published_runs_take_other_evaluations(experiment: str, evals: str) -> None:
    config = loaded(f"experiment={experiment}", f"evals={evals}", "evals.path=data/benchmarks")
    assert (config.evals.reward.func.__name__, config.evals.reward.keywords["rule"]) == ("strict", "math_verify")
    assert config.evals.prompt is None


def test_models_of_table_1_are_asked_in_their_own_words() -> None:
    assert loaded("experiment=eval_base").prompt.template == loaded("prompt=qwen25_math_cot").prompt.template
    for name in ("eval_instruct", "eval_llama_70b", "eval_rstar", "eval_eurus"):
        config = loaded(f"experiment={name}")
        assert config.prompt.template is None  # the model's chat template
        assert config.evals.prompt is None
        assert (config.evals.reward.func.__name__, config.evals.reward.keywords) == ("lenient", {"rule": "qwen"})
        assert config.algorithm.advantage is None
        assert config.warmup.data is None
    assert loaded("experiment=eval_eurus").prompt.system == EURUS_SYSTEM
    assert loaded("experiment=eval_eurus").prompt.user.endswith(
        "\n\nPresent the answer in LaTex format: \\boxed{Your answer}"
    )
    assert loaded("experiment=eval_instruct").prompt.user == "{question}"


# One step of each with the micro model


@pytest.fixture(scope="module")
def long_micro(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The micro base with 4,096 positions instead of 256, so that every prompt and response fits."""
    folder = tmp_path_factory.mktemp("model") / "micro"
    shutil.copytree(ROOT / "assets/micro_base", folder)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"max_position_embeddings": 4096}))
    return folder


@pytest.fixture(scope="module")
def benchmarks(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("benchmarks")
    for name, rule in BENCHMARKS.items():
        columns = {"question": rule.question, "answer": rule.answer}
        columns |= {"level": rule.level} if rule.level else {}
        columns |= {"solution": rule.solution} if rule.solution else {}
        write_rows(folder / f"{name}.jsonl", columns, rule.answer_from, 2)
    return folder


def write_rows(file: Path, columns: Mapping[str, str], answer_from: str, count: int) -> None:
    """Sums in the columns that a recipe's data has, with the answer where its rule looks for it."""
    forms = {
        "text": "{}",
        "final": "{}",
        "after_hashes": "The sum is {0}.\n#### {0}",
        "last_box": "So \\boxed{{{}}}.",
        "without_dollars": "${}$",
        "first_without_dollars": ["${}$"],
    }
    rows = []
    for i in range(count):
        form = forms[answer_from]
        answer: Any = form.format(i + 1) if isinstance(form, str) else [form[0].format(i + 1)]
        values = {
            "question": f"What is {i} + 1?",
            "solution": f"{i} + 1 = {i + 1}\n\\boxed{{{i + 1}}}",
            "answer": answer,
        }
        values |= {"level": "Level 3", "id": f"row {i}"}
        rows.append(
            {columns[key]: values[key] for key in ("level", "id", "question", "solution", "answer") if key in columns}
        )
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))


def swapped(name: str, root: Path, model: Path, benchmarks: Path, *overrides: str) -> DictConfig:
    """A recipe with another model, tiny files in the columns of its data, and one step of work."""
    raw = composed(f"experiment={name}", *overrides, *ONE_STEP, f"model.path={model}", f"run.root={root}")
    OmegaConf.set_struct(raw, False)
    for key in ("data", "warmup.data"):
        node = OmegaConf.select(raw, key)
        if node is not None and node._target_ == "simplerl.data.sources.load_problems":
            file = root / f"{key}.jsonl"
            write_rows(file, node.columns, node.get("answer_from", "text"), 4)
            node.path, node.hub, node.split = str(file), None, None
    if raw.algorithm.rollouts._target_ == "simplerl.rollouts.refill":  # needs groups with correct and wrong responses
        raw.reward = {"_target_": "light_rewards.chance", "_partial_": True}
    raw.choices = {"experiment": name}
    if "path" in raw.evals:
        raw.evals.path = str(benchmarks)
    return raw


def alarms_of_short_responses(table: list[dict[str, Any]]) -> set[str]:
    """The alarms that 8 tokens of the stand-in explain: nothing ends, boxes or is correct so early. Any other alarm, of
    end tokens, log-probs, entropy, KL or the grader, would be a fault of the recipe."""
    ended = sum(row["finish_reason"] == "stop" for row in table) / len(table)
    shown = {"no_stop": ended == 0, "truncated": 0 < ended < 0.5}
    shown["rewards_equal"] = len({row["reward"] for row in table}) == 1
    expected = "\\boxed" in table[0]["prompt"] or all(row["status"] == "no_answer" for row in table)
    shown["no_box"] = expected and not any("boxed" in row["response"] for row in table)
    return {kind for kind, is_shown in shown.items() if is_shown}


def test_small_files_hold_what_they_should(tmp_path: Path) -> None:
    write_rows(tmp_path / "x.jsonl", {"question": "q", "answer": "a", "solution": "a"}, "after_hashes", 1)
    assert json.loads((tmp_path / "x.jsonl").read_text()) == {"q": "What is 0 + 1?", "a": "The sum is 1.\n#### 1"}


@pytest.mark.slow
@pytest.mark.parametrize(
    "name", [one for one in EXPERIMENTS if one not in {*EVALUATIONS, *DISTILLATIONS} - {"eval_base"}]
)
def test_runs_for_one_step(name: str, tmp_path: Path, long_micro: Path, benchmarks: Path) -> None:
    from transformers import AutoModelForCausalLM

    if name.startswith("smollm2_gym"):
        pytest.importorskip("reasoning_gym", reason="needs pip install 'simplerl[gym]'")
    raw = swapped(name, tmp_path, long_micro, benchmarks)
    folder = run_experiment(raw, name)
    assert json.loads((folder / "status.json").read_text())["state"] == "finished"
    config = load(raw)
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    trained = [row for row in rows if "policy/loss" in row]
    assert len(trained) == (config.algorithm.advantage is not None)
    assert ("critic/loss" in trained[0] if trained else True) == ("critic" in config.algorithm.roles or not trained)
    assert len([row for row in rows if "warmup/loss" in row]) == (config.warmup.data is not None)
    evaluated = [row for row in rows if "eval/mean/accuracy" in row]
    assert len(evaluated) == (2 if trained else 1)
    for row in evaluated:
        assert {f"eval/{one}/accuracy" for one in config.evals.sets} <= row.keys()
    summary = json.loads((folder / "summary.json").read_text())
    AutoModelForCausalLM.from_pretrained(summary["model"])
    if trained:
        table = pq.read_table(folder / "rollouts/step_000000.parquet").to_pylist()
        assert len(table) == 4
        assert {alarm.kind for alarm in read_alarms(folder)} == alarms_of_short_responses(table)
        for row in table:
            if config.prompt.template is None:  # the model's chat template
                assert row["question"] in row["prompt"]
                continue
            expected = config.prompt.template.split("{question}")[-1]
            expected += "\n" if config.prompt.final_newline else ""
            assert row["prompt"].endswith(row["question"] + expected)


# One recipe for each set of roles, which is placed on processes of its own.
LAYOUTS = {
    "simplerl_zero": {"critic", "reference"},
    "zoo_qwen2_5_0_5b": {"reference"},
    "maxrl": set(),
    "vapo": {"critic"},
    "prime": {"prm", "reference"},
}


def test_every_set_of_roles_runs_on_ray() -> None:
    found = {name: set(composed(f"experiment={name}").algorithm.roles) for name in EXPERIMENTS}
    assert {name: found[name] for name in LAYOUTS} == LAYOUTS
    assert [name for name, roles in found.items() if roles not in LAYOUTS.values()] == []


@pytest.mark.slow
@pytest.mark.parametrize("name", LAYOUTS)
def test_runs_for_one_step_on_ray(name: str, tmp_path: Path, long_micro: Path, benchmarks: Path, cluster: None) -> None:
    layout = ["backend.policy_ranks=1", "backend.engines=0", "backend.zero_stage=0"]
    raw = swapped(name, tmp_path, long_micro, benchmarks, "backend=ray_cpu", *layout, "evals=none")
    folder = run_experiment(raw, name)
    assert json.loads((folder / "status.json").read_text())["state"] == "finished"
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    trained = {key.partition("/")[0] for row in rows for key in row if key.endswith("/lr")}
    assert trained == {"policy"} | (LAYOUTS[name] - {"reference"})


@pytest.mark.slow
@pytest.mark.parametrize("name", DISTILLATIONS)
def test_distils(name: str, tmp_path: Path, long_micro: Path, benchmarks: Path) -> None:
    raw = swapped(name, tmp_path, long_micro, benchmarks)
    raw.run.dir, raw.teacher.samples = str(tmp_path / "run"), 2
    raw.teacher.keep._target_ = "simplerl.distillation.selection.everything"
    raw.teacher.update({"drop_truncated": False, "near_duplicates": None, "per_problem": 1})
    if raw.data._target_ == "simplerl.micro.world.problems":
        raw.data.count = 4
    folder = distill(raw, name)
    rows = pq.read_table(folder / "data/train.parquet").to_pylist()
    assert len(rows) == len({row["problem_id"] for row in rows}) == 4
    assert all(row["tokens"] <= 8 and row["teacher"] == str(long_micro) for row in rows)


@pytest.mark.slow
@pytest.mark.parametrize("name", EVALUATIONS)
def test_evaluates(name: str, tmp_path: Path, long_micro: Path, benchmarks: Path) -> None:
    raw = swapped(name, tmp_path, long_micro, benchmarks)
    folder = evaluate_model(raw, name)
    results = json.loads((folder / "evals/step_000000/results.json").read_text())
    assert sorted(results["sets"]) == ["aime24", "amc23", "math500", "minerva_math", "olympiadbench"]
    assert all(one["items"] == 1 for one in results["sets"].values())
    assert (results["reward"], results["reward_keywords"]) == ("simplerl.rewards.lenient", {"rule": "qwen"})
    for row in pq.read_table(folder / "evals/step_000000/samples.parquet").to_pylist():
        assert row["question"] in row["prompt"]
        assert row["prompt"].startswith(raw.prompt.get("system") or "")


@pytest.mark.slow
def test_a_baseline_stands_beside_a_trained_run_in_table_1(tmp_path: Path, long_micro: Path, benchmarks: Path) -> None:
    """`evaluate.py experiment=eval_base` and `train.py experiment=simplerl_zero`, read by one command; a third row is
    graded by another rule, which is not mixed with theirs."""
    runs = tmp_path / "runs"
    evaluate_model(swapped("eval_base", runs, long_micro, benchmarks), "eval_base")
    run_experiment(swapped("simplerl_zero", runs, long_micro, benchmarks), "zero")
    assert tables.main([str(runs), "--out", str(tmp_path)]) == 0
    rows = read_table(tmp_path / "table1.csv")
    own = {row["model"]: row for row in rows[len(TABLE_1) :]}
    assert len(own) == 2 and "evaluation of eval_base" in own
    for row in own.values():
        assert row["graded by"] == rows[0]["graded by"] == "lenient (qwen)"
        assert row["n"] == "1" and row["MATH 500"] and row["Avg."] and row["Δ published"]

    other = swapped("eval_base", runs, long_micro, benchmarks)
    other.evals.reward = {"_target_": "simplerl.rewards.strict", "_partial_": True, "rule": "math_verify"}
    evaluate_model(other, "strict")
    assert tables.main([str(runs), "--out", str(tmp_path)]) == 0
    own = {row["graded by"]: row for row in read_table(tmp_path / "table1.csv")[len(TABLE_1) :]}
    assert own["strict (math_verify)"]["Avg."] and not own["strict (math_verify)"]["Δ published"]
    assert "graded by different rules" in (tmp_path / "table1.md").read_text()
    assert "Runs are evaluated by different rules" in (tmp_path / "runs.md").read_text()


def read_table(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8") as file:
        return list(csv.DictReader(file))


@pytest.mark.slow
def test_debug_cuts_a_recipe_down(tmp_path: Path) -> None:
    raw = composed("experiment=simplerl_zero", "debug=numbers")
    assert (raw.train.steps, raw.train.passes, raw.train.prompts_per_step) == (2, None, 2)
    assert (raw.train.precision, raw.run.device, raw.run.threads) == (Precision.float32, "cpu", 1)
    folder = run_experiment(composed("debug=default", f"run.root={tmp_path}", "run.threads=1"), "debug")
    assert json.loads((folder / "summary.json").read_text())["steps"] == 2


# Sweeps


def sweep(root: Path, *overrides: str) -> subprocess.CompletedProcess[str]:
    small = [
        "train.steps=2", "train.prompts_per_step=2", "train.samples_per_prompt=4", "train.minibatch_size=8",
        "sampling.max_new_tokens=8", "data.count=8", "evals=none", "run.threads=1", f"run.root={root}",
    ]  # fmt: skip
    return forked.run("train.py", "-m", *small, *overrides)


def states(root: Path) -> Iterator[tuple[dict[str, Any], str]]:
    """The configuration and the state of each run below a folder."""
    for status in sorted(root.glob("*/status.json")):
        config = OmegaConf.to_container(OmegaConf.load(status.with_name("config.yaml")))
        assert isinstance(config, dict)
        yield config, json.loads(status.read_text())["state"]  # type: ignore[misc]


@pytest.mark.slow
def test_sweep_has_a_folder_for_each_run(tmp_path: Path) -> None:
    done = sweep(tmp_path, "reward=strict,lenient", "seed=0,1")
    assert done.returncode == 0, done.stderr
    runs = {(config["choices"]["reward"], config["seed"]): state for config, state in states(tmp_path)}
    assert runs == {(reward, seed): "finished" for reward in ("strict", "lenient") for seed in (0, 1)}
    assert sum(line.startswith("run ") and "of the sweep" in line for line in done.stdout.splitlines()) == 4


@pytest.mark.slow
def test_a_failed_run_does_not_lose_the_others(tmp_path: Path) -> None:
    """A refused one stops all before they begin; of the others the first breaks while it runs, the second finishes."""
    refused = sweep(tmp_path, "train.policy.lr=-1,1e30,1e-4")
    assert refused.returncode == 1 and refused.stderr.startswith("Nothing was started: ")
    assert "train.policy.lr=-1.0 must be positive" in refused.stderr and not list(states(tmp_path))
    done = sweep(tmp_path, "train.policy.lr=1e30,1e-4")
    assert done.returncode == 1
    assert done.stderr.strip().splitlines()[-1] == ("A run of the sweep failed (see above); the others were run.")
    runs = {config["train"]["policy"]["lr"]: state for config, state in states(tmp_path)}
    assert runs == {1e30: "failed", 1e-4: "finished"}
