# ruff: noqa: E501 - tables read best with a row per message
"""What the message of an error proposes is typed, and works. A new message with a remedy needs a row here."""

from __future__ import annotations

import ast
import json
import re
import shutil
from collections.abc import Iterable
from functools import cache
from pathlib import Path

import pytest
import test_remedies_commands  # noqa: F401 - fills COVERED
from composing import ROOT, composed, composed_by_hydra
from remedies import COVERED, messages, sites, with_remedy

from simplerl.cluster.layout import Layout, Sharding, Shared, check_layout
from simplerl.config import Config
from simplerl.config.load import load
from simplerl.data.task import prepare_task
from simplerl.errors import ConfigError

MICRO = str(ROOT / "assets/micro_base")
SMALL = ["data.count=32", "evals.sets.micro.count=8", f"model.path={MICRO}"]


SUMS = ["data.count=32", "prompt.max_tokens=240", "sampling.max_new_tokens=16", "evals=none"]


class Described(str):
    """A remedy whose value is described ("a positive number"), not written, in the message."""


class Kept(Described):
    """A described remedy with which what it replaces may stay."""


class Next(str):
    """A remedy that gets past the message to another one with a row of its own."""


# Start of a message -> overrides that stay, overrides that the remedies replace, and the alternatives.
Row = tuple[list[str], list[str], list[list[str]]]
CONFIGURED: dict[str, Row] = {
    "config/checks.py: {}{} is unknown": ([], ["+rewrad=lenient"], [[Described("reward=lenient")]]),
    "config/checks.py: {}={} is not finite": ([], ["train.policy.lr=inf"], [[Described("train.policy.lr=1e-5")]]),
    "config/checks.py: {}={} must be at least": ([], ["train.steps=0"], [["train.steps=1"]]),
    "config/checks.py: seed={}": ([], ["seed=99999999999"], [["seed=2147483647"]]),
    "config/checks.py: sampling.temperature={} gives": (
        [], ["sampling.temperature=0"], [[Described("sampling.temperature=0.5")]]
    ),
    "config/checks.py: algorithm=none without": (
        ["algorithm=none", "evals.every=0"], [],
        [[Described("warmup=micro_corpus")], [Described("evals.every=5")], [Described("algorithm=grpo")]],
    ),
    "config/checks.py: run.device={}": ([], ["run.device=gpu"], [["run.device=auto"], ["run.device=cpu"]]),
    "config/checks.py: {}={} does not exist": ([], ["model.path=./no/model"], [[Described(f"model.path={MICRO}")]]),
    "config/checks.py: {}={} contains no model": (
        [], ["model.path={tmp}/run"], [["model.path={tmp}/run/checkpoints/step_000001/policy"]]
    ),
    "config/checks.py: train.minibatch_size={}": (
        [], ["train.minibatch_size=100"], [[Described("train.minibatch_size=32")]]
    ),
    "config/checks.py: train.steps={} and train.passes={}": (
        ["train.passes=1"], [], [["train.steps=null"], ["train.passes=null"]]
    ),
    "config/checks.py: train.steps and train.passes": (
        ["train.steps=null"], [], [[Described("train.steps=3")], [Described("train.passes=1")]]
    ),
    "config/checks.py: train.passes={} must": (
        ["train.steps=null"], ["train.passes=0"], [[Described("train.passes=1")]]
    ),
    "config/checks.py: {}.column={}": (
        [], ["algorithm.roles.critic.column=advantages"], [[Described("algorithm.roles.critic.column=values")]]
    ),
    "config/checks.py: {}.model is empty": (
        ["algorithm=on_policy_distillation"], [], [[Described(f"algorithm.roles.teacher.model={MICRO}")]]
    ),
    "config/checks.py: {}.loss and {}.optimizer": (
        ["algorithm.roles.critic.loss=null"], [], [[Described("algorithm.roles.critic.optimizer=null")]]
    ),
    "config/checks.py: {}.{}={} must be": ([], ["train.policy.lr=-1"], [[Described("train.policy.lr=1e-5")]]),
    "config/checks.py: algorithm.kl.coef={}": ([], ["algorithm.kl.place=none"], [["algorithm/kl=k1_reward"], [Kept("algorithm.kl.coef=0")]]),
    "config/checks.py: algorithm.kl.place={}": (
        ["algorithm.kl.place=reward"], ["algorithm/kl=none"], [["algorithm/kl=k1_reward"]]
    ),
    "config/checks.py: algorithm.kl.estimator={} differs": (
        ["algorithm.kl.estimator=k3_ratio"], [], [["algorithm.kl.place=loss"], ["algorithm.kl.estimator=k3"]]
    ),
    "config/checks.py: algorithm.kl.target={}": (
        ["algorithm=grpo", "algorithm.kl.target=6"], [],
        [["algorithm/kl=adaptive_reward"], ["algorithm.kl.target=null"]],
    ),
    "config/checks.py: algorithm.kl.estimator=k1": (
        ["algorithm.kl.place=loss"], [], [["algorithm.kl.estimator=k2"], ["algorithm.kl.estimator=k3"]]
    ),
    "config/checks.py: {}.temperature={}": (
        [], ["sampling.temperature=1e-9"], [["sampling.temperature=0.01"]]
    ),
    "config/checks.py: {}.top_p={}": ([], ["sampling.top_p=0"], [["sampling.top_p=1"]]),
    "config/checks.py: evals.samples={}": (
        ["evals.samples=4"], [], [[Described("evals.sampling.temperature=1")], ["evals.samples=1"]]
    ),
    "config/checks.py: rollout.ahead={} is unknown": (
        [], ["rollout.ahead=2"], [["rollout.ahead=0"], [Next("rollout.ahead=1")]]
    ),
    "config/checks.py: rollout.ahead={} samples": (
        ["rollout.ahead=1"], [], [["rollout.ahead=0"], [Next("backend=ray_cpu")]]
    ),
    "config/checks.py: rollout.ahead={} trains": (
        ["rollout.ahead=1", "backend=ray_cpu"], [],
        [["algorithm/correction=truncated_importance"], ["rollout.ahead=0"]],
    ),
    "config/checks.py: {} compares log-probs at temperature 1": (
        ["algorithm.old_logprobs=sampler", "algorithm.logprobs_at_temperature_1=true", "sampling.temperature=0.6"],
        [], [["algorithm.logprobs_at_temperature_1=false"]],
    ),
    "config/checks.py: {} compares the log-probs of": (
        ["algorithm/correction=truncated_importance", "sampling.top_k=50"], [],
        [["sampling.top_k=0"], ["algorithm/correction=none", "algorithm.old_logprobs=trainer"]],
    ),
    "config/checks.py: algorithm.advantage is null": (
        ["algorithm/advantage=none"], [], [["algorithm=none"], [Described("algorithm/advantage=gae")]]
    ),
    "config/checks.py: algorithm.{} is null": (["algorithm/loss=none"], [], [[Described("algorithm/loss=ppo_clip")]]),
    "config/checks.py: algorithm={} compares": (
        ["algorithm=grpo", "train.samples_per_prompt=1", "train.minibatch_size=16"], [],
        [["train.samples_per_prompt=2"]],
    ),
    "config/load.py: {} has no value": (["data=jsonl"], [], [[Described("data.path={tmp}/d.jsonl")]]),
    "config/load.py: {} cannot be resolved": (
        [], ["model.path=${{oc.env:NO_SUCH_VARIABLE}}"], [[Described(f"model.path={MICRO}")]]
    ),
    "config/load.py: {}={} is a value, but the parts": (
        [], ["algorithm.advantage=group"], [["algorithm/advantage=group"]]
    ),
    "config/load.py: {}={} is a value, but {}": ([], ["evals.reward=strict"], [["reward@evals.reward=strict"]]),
    "config/load.py: {}.{} is unknown": (
        [], ["+algorithm.advantage.gama=0.9"], [[Described("algorithm.advantage.gamma=0.9")]]
    ),
    "config/load.py: {}.{}={} is not less": ([], ["reward.wrong=1.5"], [[Described("reward.wrong=0")]]),
    "config/load.py: {}={} is unknown: choose": ([], ["reward.rule=sympy"], [["reward.rule=qwen"]]),
    "config/load.py: {}={} must be true or false": (
        [], ["reward.fbox=maybe"], [["reward.fbox=true"], ["reward.fbox=false"]]
    ),
    "config/load.py: {}={} must be {}.": (
        [], ["algorithm.loss.clip_low=0"], [["algorithm.loss.clip_low=0.001"], ["algorithm.loss.clip_low=1"]]
    ),
    "config/load.py: evals.path is not set": (["evals=heldout"], [], [[Described("evals.path={tmp}/d.jsonl")]]),
    "config/load.py: {}={} must be a string": (
        ["data=jsonl"], ["data.path=5"], [[Described("data.path={tmp}/d.jsonl")]]
    ),
    "data/prompts.py: {} uses the model's": (
        ["model.path={tmp}/plain", "prompt.max_tokens=96"], ["prompt=chat"], [["prompt=question_answer"]]
    ),
    "data/prompts.py: {}: {}.variables": (
        ["+prompt.variables.enable_thinking=false"], [],
        [[Next("prompt=chat")], [Described("~prompt.variables.enable_thinking")]],
    ),
    "data/prompts.py: {}: {}.final_newline": (
        ["prompt=chat", "prompt.final_newline=true", "prompt.max_tokens=96"], [],
        [["prompt.final_newline=null"], [Described("prompt=question_answer")]],
    ),
    "data/prompts.py: {}: the rendered prompt": (
        ["model.path={tmp}/parts", "prompt.max_tokens=96"], ["prompt=chat"], [["prompt=question_answer"]]
    ),
    "data/prompts.py: {}: the chat template of {} drops": (
        ["model.path={tmp}/no_system", "prompt=chat", "prompt.max_tokens=96"], ["prompt.system=Hello"], [["prompt.system=null"]]
    ),
    "data/prompts.py: {}: the chat template of {} does not read": (
        ["prompt=chat", "+prompt.variables.enable_thinking=false", "prompt.max_tokens=96"], [], [["~prompt.variables.enable_thinking"]]
    ),
    "data/prompts.py: {}, for which {}.template": (
        ["data=jsonl", "data.path={tmp}/system.jsonl", "prompt.max_tokens=96"], [], [["prompt=chat"], ["data.system=drop"]]
    ),
    "data/prompts.py: {}, but {}.system": (
        ["data=jsonl", "data.path={tmp}/system.jsonl", "prompt=chat", "prompt.system=Hello", "prompt.max_tokens=96"], [],
        [["prompt.system=null"], ["data.system=drop"]],
    ),
    "data/prompts.py: problem {} has no solution": (
        ["warmup=qwq_distill", "warmup.data.path={tmp}/d.jsonl", "warmup.minibatch_size=1",
         "warmup.data.columns.solution=null"], [],
        [["warmup.data.columns.solution=solution"], [Described("warmup.prompt.response='{{answer}}'")]],
    ),
    "data/prompts.py: {}.date={}": ([], ["prompt.date=today"], [["prompt.date=2024-07-26"]]),
    "data/task.py: warmup.minibatch_size={}": (
        ["warmup=micro_corpus", "warmup.limit=4"], [], [["warmup.minibatch_size=4"]]
    ),
    "data/task.py: train.passes={}": (
        ["train.steps=null"], ["train.passes=0.1"], [["train.passes=1"]]
    ),
    "config/checks.py: train.lora.alpha={}": (
        ["train.lora.rank=4"], ["train.lora.alpha=0"], [[Described("train.lora.alpha=32")]]
    ),
    "config/checks.py: train.lora.dropout={}": (
        ["train.lora.rank=4"], ["train.lora.dropout=1"], [["train.lora.dropout=0"]]
    ),
    "config/checks.py: train.lora.roles={}": (
        ["train.lora.rank=4"], ["train.lora.roles=[teacher]"], [[Described("train.lora.roles=[policy]")], [Described("train.lora.roles=[critic]")]]
    ),
    "config/checks.py: algorithm.old_logprobs=skip: with": (
        ["algorithm=grpo", "train.minibatch_size=128", "algorithm.old_logprobs=skip", "train.lora.rank=4", "train.lora.dropout=0.1"],
        [], [["train.lora.dropout=0"], ["algorithm.old_logprobs=trainer"]],
    ),
    "micro/world.py: data.levels={}": ([], ["data.levels=[9]"], [[Described("data.levels=[2]")], ["data.levels=null"]]),
    "data/sums.py: {}={} must list": (["data=sums", *SUMS], ["data.steps=[0]"], [["data.steps=[2,3]"]]),
    "data/sums.py: {}={} leaves": (["data=sums", *SUMS], ["data.largest=3"], [["data.largest=9"]]),
    "config/checks.py: {}.head={}": (
        ["algorithm=prime"], ["algorithm.roles.prm.head=zero"], [[Described("algorithm.roles.prm.head=normal")]]
    ),
    "config/checks.py: algorithm.old_logprobs=skip is": (
        ["algorithm=grpo", "algorithm.old_logprobs=skip"], [],
        [["train.minibatch_size=128", "train.epochs=1"], ["algorithm.old_logprobs=trainer"]],
    ),
    "config/checks.py: algorithm.old_logprobs=skip: the KL": (
        ["algorithm.old_logprobs=skip", "train.minibatch_size=128"], [], [["algorithm.old_logprobs=trainer"]]
    ),
    "config/checks.py: algorithm.old_logprobs=skip: algorithm.correction": (
        ["algorithm=grpo", "algorithm.old_logprobs=skip", "train.minibatch_size=128",
         "algorithm/correction=truncated_importance"], [], [["algorithm.old_logprobs=trainer"]],
    ),
    "data/sources.py: {} is unknown": (
        ["data=jsonl", "data.path={tmp}/d.jsonl"], ["+data.columns.anwser=answer"], [["data.columns.answer=answer"]]
    ),
    "data/sources.py: {}={} must be a column": (
        ["data=jsonl", "data.path={tmp}/d.jsonl"], ["data.columns.answer=[a]"], [[Described("data.columns.answer=answer")]]
    ),
    "data/task.py: No solution": (
        ["warmup=qwq_distill", "warmup.data.path={tmp}/wrong.jsonl", "warmup.minibatch_size=1",
         "warmup.correct_only=true"], [], [["warmup.correct_only=false"]]
    ),
}  # fmt: skip


def key_of(override: str) -> str:
    return override.lstrip("+~").partition("=")[0]


def names(override: str) -> Iterable[str]:
    """Return the key and the groups above it, any of which a message may name."""
    parts = re.split(r"[.]", key_of(override))
    return [".".join(parts[: i + 1]) for i in range(len(parts))][::-1]


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The models and data that the rows name."""
    tmp = tmp_path_factory.mktemp("remedies")
    policy = tmp / "run/checkpoints/step_000001/policy"
    policy.parent.mkdir(parents=True)
    policy.symlink_to(MICRO)
    for name, template in (
        ("plain", None),
        ("parts", "{{ 5 }}"),
        ("no_system", "{% for m in messages %}{% if m.role == 'user' %}{{ m.content }}{% endif %}{% endfor %}"),
    ):
        shutil.copytree(MICRO, tmp / name)
        (tmp / name / "chat_template.jinja").unlink()
        if template is not None:
            (tmp / name / "chat_template.jinja").write_text(template)
    rows = [{"question": f"What is {i} + 1?", "answer": str(i + 1), "solution": str(i + 1)} for i in range(32)]
    wrong = {"question": "What is 1 + 1?", "answer": "2", "solution": "It is \\boxed{3}."}
    (tmp / "wrong.jsonl").write_text(json.dumps(wrong))
    (tmp / "d.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    chats = [
        {
            "question": [{"role": "system", "content": "Be brief."}, {"role": "user", "content": row["question"]}],
            "answer": row["answer"],
        }
        for row in rows
    ]
    (tmp / "system.jsonl").write_text("".join(json.dumps(row) + "\n" for row in chats))
    return tmp


def refused(overrides: list[str], files: Path) -> str:
    """Return the message about a configuration, or "" if its task can be prepared."""
    given = [one.format(tmp=files) for one in overrides]
    groups = {key_of(one) for one in given}
    small = [one for one in SMALL if key_of(one) not in groups and key_of(one).partition(".")[0] not in groups]
    try:
        prepare_task(load(composed(*small, *given)))
    except ConfigError as error:
        return str(error)
    return ""


def check(prefix: str, message: str) -> None:
    """Assert that a message comes from the place of its row."""
    assert any(site.startswith(prefix) for site in sites(message)), f"{prefix} is not the origin of: {message}"


@pytest.mark.slow
@pytest.mark.parametrize("prefix", CONFIGURED)
def test_every_alternative_of_a_message_about_settings_works(prefix: str, files: Path) -> None:
    kept, bad, alternatives = CONFIGURED[prefix]
    message = refused([*kept, *bad], files)
    check(prefix, message)
    for remedy in alternatives:
        for override in remedy:
            key, _, value = override.format(tmp=files).partition("=")
            assert any(name in message for name in names(override)), f"{key} is not in: {message}"
            assert isinstance(override, Described | Next) or value in message, f"{value} is not in: {message}"
        replaced = {key_of(one) for one in remedy if not one.startswith("~") and not isinstance(one, Kept)}
        stay = [*kept, *bad] if any(isinstance(one, Kept) for one in remedy) else kept
        after = refused([*(one for one in stay if key_of(one) not in replaced), *remedy], files)
        if any(isinstance(one, Next) for one in remedy):
            assert not any(site.startswith(prefix) for site in sites(after)), after
            assert any(site.startswith(tuple(CONFIGURED)) for site in sites(after)), after
        else:
            assert after == "", f"{remedy}: {after}"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("key", "kept"),
    [
        ("evals.prompt", ["+prompt@evals.prompt=chat"]),
        ("warmup.prompt", ["prompt@warmup.prompt=chat", "warmup=qwq_distill", "warmup.data.path={tmp}/d.jsonl"]),
    ],
)
def test_the_remedy_of_a_message_about_another_prompt_names_its_key(key: str, kept: list[str], files: Path) -> None:
    kept = [*kept, f"{key}.max_tokens=96", "warmup.minibatch_size=1"]
    message = refused([*kept, f"{key}.final_newline=true"], files)
    assert message.startswith(f"prompt@{key}=chat") and f"set {key}.final_newline=null, or" in message
    assert refused([*kept, f"{key}.final_newline=null"], files) == ""


# The layout of processes: start of a message -> the layout and overrides, and the alternatives.
LAYOUTS: dict[str, tuple[Layout, list[str], list[Layout]]] = {
    "{} must be at least": (Layout(policy_ranks=0), [], [Layout(policy_ranks=1)]),
    "backend.cpus_per_rank={}": (Layout(cpus_per_rank=0), [], [Layout(cpus_per_rank=1)]),
    "backend.zero_stage={}": (
        Layout(sharding=Sharding(zero_stage=5)), [], [Layout(sharding=Sharding(zero_stage=i)) for i in range(4)]
    ),
    "backend.offload_optimizer": (
        Layout(sharding=Sharding(offload_optimizer=True)), [],
        [Layout(sharding=Sharding(zero_stage=i, offload_optimizer=True)) for i in (1, 2, 3)],
    ),
    "backend.engines=0": (Layout(engines=0), [], [Layout(engines=1)]),
    "The configured sampler": (Layout(), ["in the driver"], [Layout(engines=0)]),
    "backend.tensor_parallel={}": (
        Layout(tensor_parallel=2, shared=Shared.all), [],
        [Layout(shared=Shared.all), *(Layout(tensor_parallel=2, shared=Shared(s)) for s in ("none", "reference"))],
    ),
    "rollout.ahead={}": (
        Layout(shared=Shared.all),
        ["rollout.ahead=1", "backend=ray_cpu", "algorithm/correction=truncated_importance"],
        [Layout(shared=Shared.none), Layout(shared=Shared.reference)],
    ),
    "backend.weight_sync={}": (
        Layout(weight_sync="disk"), [], [Layout(weight_sync="store"), Layout(weight_sync="nccl")]
    ),
    "backend.weight_sync=nccl": (
        Layout(weight_sync="nccl", shared=Shared.all), [], [Layout(weight_sync="store", shared=Shared.all)]
    ),
    "backend.{}_ranks={}": (Layout(policy_ranks=65), [], [Layout(policy_ranks=64)]),
}  # fmt: skip


@cache
def layout_config(*overrides: str) -> Config:
    return load(composed(f"model.path={MICRO}", *overrides))


@pytest.mark.parametrize("start", LAYOUTS)
def test_every_alternative_of_a_message_about_the_layout_works(start: str) -> None:
    layout, given, alternatives = LAYOUTS[start]
    in_driver = given == ["in the driver"]
    config = layout_config(*([] if in_driver else given))
    with pytest.raises(ConfigError) as error:
        check_layout(layout, config, in_driver)
    check(f"cluster/layout.py: {start}" if start[0] != "{" else "cluster/layout.py: backend.{}={}", str(error.value))
    for remedy in alternatives:
        check_layout(remedy, config, in_driver)
    if in_driver:
        check_layout(layout, config, in_driver=False)  # sampler=vllm


# A file of conf/ with a mistake -> what its message says to write, and the file after that.
TARGET = "_target_: simplerl.algorithms.advantages.group_relative"
STAGE = "_target_: simplerl.algorithms.shaping.kimi_length"
PART = f"# @package algorithm\nadvantage:\n  {TARGET}\n  _partial_: true\n"
STAGED = f"# @package algorithm\nshape:\n  NAME:\n    {STAGE}\n    _partial_: true\n"
YAML: dict[str, tuple[str, str, str, str]] = {
    "config/load.py: {}: {} has no `_partial_": (
        "algorithm/advantage", PART.replace("  _partial_: true\n", ""), "add this line below `_target_`", PART
    ),
    "config/load.py: {}: the shaping function": (
        "algorithm/shape", f"# @package algorithm\nshape:\n  {STAGE}\n  _partial_: true\n",
        "nest `_target_` below `shape:` and `NAME:`", STAGED,
    ),
    "config/load.py: {}: {} is in the wrong place: write": (
        "algorithm/advantage", f"{TARGET}\n_partial_: true\nneeds: {{group: true}}",
        "write `# @package algorithm` as the first line of the file and nest the keys of the function below "
        "`advantage:`", f"{PART}needs: {{group: true}}",
    ),
    "config/checks.py: {}: the policy is not": (
        "algorithm/role", "# @package algorithm\nroles:\n  policy:\n    column: x\n",
        "set algorithm.loss and train.policy instead", "# @package algorithm\nloss:\n  clip_low: 0.1\n",
    ),
    "config/load.py: {}: {}.": (
        "algorithm/advantage", PART.split("\n", 1)[1], "write `# @package algorithm` as the first line", PART
    ),
}  # fmt: skip


@pytest.mark.parametrize("prefix", YAML)
def test_the_remedy_of_a_mistake_in_a_file_works(prefix: str, tmp_path: Path) -> None:
    group, bad, said, good = YAML[prefix]
    shutil.copytree(ROOT / "conf", tmp_path / "conf")

    def loaded(name: str, text: str) -> None:
        (tmp_path / f"conf/{group}/{name}.yaml").write_text(text)
        option = {"algorithm/shape": f"algorithm/shape=[{name}]", "algorithm/role": f"+algorithm/role={name}"}
        load(composed_by_hydra(f"model.path={MICRO}", option.get(group, f"{group}={name}"), conf=tmp_path / "conf"))

    with pytest.raises(ConfigError) as error:
        loaded("wrong", bad)
    check(prefix, str(error.value))
    assert said in str(error.value)
    loaded("right", good)


# Start of a message -> the test elsewhere that provokes it and types its remedy.
PASTED = "test_data.py::test_the_remedy_of_a_message_works_when_pasted"
FOLLOWED = "test_data.py::test_what_messages_propose_leads_to_the_whole_problem"
EXAMPLES = "test_prompts.py::test_remedies_of_messages_about_examples_and_end_tokens"
GYM = "test_gym.py::test_mistakes_get_one_sentence_with_a_remedy"
LENGTHS = "test_data.py::test_remedies_of_lengths_and_counts"
ELSEWHERE: dict[str, str] = {
    "micro/world.py: data.count={}": "test_micro.py::test_more_problems_than_there_are_end_with_their_number",
    "bench/gpu.py: --device {}": "test_bench_device.py::test_the_report_of_a_cpu",
    "data/gym.py: {} is empty": "test_gym.py::test_tasks_must_be_named",
    "data/gym.py: {}.{} is none": "test_gym.py::test_tasks_must_be_named",
    "data/gym.py: {}={} needs": GYM,
    "data/sums.py: {}={} is more than": "test_sums.py::test_a_count_that_is_too_large_names_one_that_works",
    "rewards/gym.py: {}={} is unknown": GYM,
    "data/lengths.py: {}: every prompt": LENGTHS,
    "data/prompts.py: All prompts are too long": LENGTHS,
    "data/paths.py: {} is {}, which has no splits": PASTED,
    "data/paths.py: {} holds {} of {} shards": PASTED,
    "data/paths.py: {} has no splits": PASTED,
    "data/paths.py: {} holds files": PASTED,
    "data/readers.py: {} does not exist: run": "test_fetch.py::test_a_missing_file_names_the_command_that_brings_it",
    "data/readers.py: {}={} is unknown": PASTED,
    "data/sources.py: {} needs the column": PASTED,
    "data/sources.py: {}={} keeps no problem": PASTED,
    "data/sources.py: {}={} is unknown": PASTED,
    "data/sources.py: {}={} matches no row": PASTED,
    "data/parsing.py: {}: {} of {} answers": PASTED,
    "data/parsing.py: {}: the answer is empty": FOLLOWED,
    "data/sources.py: evals.path={}": "test_data.py::test_remedies_of_evaluation_sets_and_of_the_warm_up",
    "data/difficulty.py: No problem has a solve rate": "test_distillation.py::test_problems_are_filtered_by_solve_rate",
    "distillation/command.py: teacher.": "test_distillation.py::test_remedies_of_the_teachers_settings",
    "distillation/duplicates.py: teacher.near_duplicates": "test_distillation.py::test_remedies_of_the_teachers_settings",
    "data/prompts.py: {}: {}.shots has examples": EXAMPLES,
    "data/prompts.py: {}: the tokenizer {} has no end": EXAMPLES,
    "data/prompts.py: sampling.max_new_tokens={} leaves": "test_prompts.py::test_too_long_prompts_are_dropped_and_counted",
    "distillation/dataset.py: {} holds a selection": "test_distillation.py::test_other_selections_use_the_same_responses",
    "planning/calibration.py: {} does not hold": "test_planning_time.py::test_a_finished_run_is_measured_and_calibrates",
    "planning/command.py: {}={} must be": "test_planning_time.py::test_a_positive_number_is_accepted_after_the_message",
    "planning/geometry.py: {}={} has no config.json": "test_planning_memory.py::test_a_local_folder_comes_before_recorded",
    "planning/guard.py: The run does not fit": "test_planning_memory.py::test_a_model_that_cannot_fit_this_machine",
    "planning/setup.py: backend._target_={}": "test_planning_memory.py::test_a_backend_without_a_known_layout_is_planned",
    "rewards/pool.py: The reward {} graded only": "test_rewards_pool.py::test_a_budget_for_the_whole_step",
    "runs/folder.py: {} is in use": "test_run.py::test_two_processes_cannot_write_one_folder",
    "runs/folder.py: {} cannot be written": "test_config.py::test_run_folder_that_cannot_be_made",
    "errors.py: {} needs the package {}": "test_installed.py::test_an_optional_package",
    "runs/identity.py: {} holds {} run, but": "test_inputs.py::test_a_change_is_refused_by_name",
    "runs/identity.py: {} holds {} run whose": "test_inputs.py::test_a_run_whose_inputs_are_not_recorded_is_refused",
}


NOT_TYPED = {  # start of a message -> why its remedy cannot be tried here
    "rewards/gym.py: {}={} needs reasoning-gym": "installs a package",
    "engine/worker.py: train.shared_prompts": "seen only with models that read positions otherwise than supported ones",
    "distillation/dataset.py: No answer": "whether another selection or a longer limit helps depends on the teacher",
    "rewards/worker.py: No grading process": "the process that ends prints the cause",
    "bench/sampling.py: --samples": "states the condition and proposes no value",
    "sweeps/slurm.py: sbatch is not installed": "names another machine, or the command without the launcher",
}


def rows() -> list[str]:
    layouts = [f"cluster/layout.py: {one}" if one[0] != "{" else "cluster/layout.py: backend.{}={}" for one in LAYOUTS]
    return [*CONFIGURED, *layouts, *YAML, *ELSEWHERE, *COVERED, *NOT_TYPED]


def test_every_message_with_a_remedy_has_a_row() -> None:
    absent = [one for one in with_remedy() if not one.startswith(tuple(rows()))]
    assert absent == [], "add a row to this file"


def test_every_row_has_a_message() -> None:
    assert [one for one in rows() if not any(message.startswith(one) for message in messages())] == []
    for place in set(ELSEWHERE.values()):
        file, _, name = place.partition("::")
        tree = ast.parse((ROOT / "tests" / file).read_text())
        assert any(isinstance(node, ast.FunctionDef) and node.name.startswith(name or "test_") for node in tree.body), (
            place
        )
