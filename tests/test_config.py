"""Bad configurations: each is refused before a model loads, with a sentence that names the fault."""

from __future__ import annotations

import json
import resource
import shutil
import subprocess
import sys
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import hydra_caches
import pytest
from composing import composed, composed_by_hydra
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf

import simplerl.rewards
from simplerl.config import Config, RoleConfig
from simplerl.config.load import load
from simplerl.data.task import prepare_task
from simplerl.engine import models
from simplerl.errors import ConfigError
from simplerl.types import Problem, Score

ROOT = Path(__file__).resolve().parent.parent
# Small, so that what can only be seen with the data in hand is seen quickly.
SMALL = {
    "data": "data.count=32",
    "evals": "evals.sets.micro.count=8",
    "model": f"model.path={ROOT}/assets/micro_base",
}


def configured(*overrides: str) -> Config:
    small = [override for group, override in SMALL.items() if not any(o.startswith(f"{group}=") for o in overrides)]
    return load(composed(*small, *overrides))


@pytest.fixture(autouse=True)
def no_weights(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing here may get as far as loading a model."""

    def refuse(*_: object) -> None:
        raise AssertionError("a model was loaded")

    monkeypatch.setattr(models, "_load", refuse)


@pytest.mark.parametrize(
    "overrides",
    [
        [],
        ["experiment=simplerl_zero", "algorithm/kl=none", "hydra/launcher=slurm", "seed=3"],
        ["sweep=reward", "algorithm/shape=[kimi_length,soft_overlong]", "+train.new=1"],
    ],
)
def test_the_caches_of_the_tests_compose_as_hydra_does(overrides: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    composed_by_hydra(*overrides, with_hydra=True)  # fills the caches
    cached = composed_by_hydra(*overrides, with_hydra=True)
    hydra_caches.remove(monkeypatch)
    plain = composed_by_hydra(*overrides, with_hydra=True)
    assert nodes(cached) == nodes(plain)


def nodes(node: Any) -> list[Any]:
    """Return the type, flags and value of every node of a configuration, in order."""
    if not isinstance(node, DictConfig) or node._is_none() or node._is_missing() or node._is_interpolation():
        return [(type(node), str(node._value()))]
    inner = [(key, nodes(node._get_node(key))) for key in node]
    return [OmegaConf.get_type(node), dict(node._metadata.flags or {}), *inner]


def test_the_default_is_accepted() -> None:
    task = prepare_task(configured())
    assert task.schedule is not None
    assert "16 prompts x 8 samples = 128 responses a step" in str(task.schedule)
    assert "128 responses / 64 a minibatch x 1 epoch(s) = 2 optimizer steps a step" in str(task.schedule)


# name -> (overrides, what the message says). Hydra's own refusals come first.
BY_HYDRA = {
    "unknown key": (["train.stepz=3"], "Could not override 'train.stepz'", "Key 'stepz' not in 'TrainConfig'"),
    "wrong type": (
        ["train.steps=many"],
        "Error merging override train.steps=many",
        "could not be converted to Integer",
    ),
    "wrong type of a switch": (
        ["train.gradient_checkpointing=2.5"],
        "train.gradient_checkpointing",
        "not a valid bool",
    ),
    "value outside an enum": (["algorithm.kl.place=sometimes"], "algorithm.kl.place=sometimes", "none, reward, loss"),
    "unknown option": (["reward=stric"], "Could not find 'reward/stric'", "lenient\n\t"),
    "unknown group": (["rewards=strict"], "rewards", "Key 'rewards' not in 'Config'"),
    "unknown experiment": (["experiment=simplerl_one"], "Could not find 'experiment/simplerl_one'", "simplerl_zero"),
}


@pytest.mark.parametrize("name", BY_HYDRA)
def test_refused_by_hydra(name: str) -> None:
    overrides, *expected = BY_HYDRA[name]
    with pytest.raises(HydraException) as caught:
        configured(*overrides)  # type: ignore[misc]
    said = f"{caught.value}\n{caught.value.__cause__ or ''}"
    for words in expected:
        assert words in said


REFUSED: dict[str, tuple[list[str], str]] = {
    "keyword of a reward": (
        ["+reward.bonus=1"],
        "reward.bonus is unknown: simplerl.rewards.strict accepts correct, wrong",
    ),
    "type of a reward's keyword": (["reward.correct=high"], "reward.correct=high must be a number"),
    "rule of a reward": (["reward.rule=sympy"], "reward.rule=sympy is unknown: choose one of math_verify, qwen, exact"),
    "keyword of an advantage": (["+algorithm.advantage.gama=0.9"], "did you mean algorithm.advantage.gamma?"),
    "keyword of an evaluation set": (["+evals.sets.micro.level=2"], "evals.sets.micro.level is unknown"),
    "choice of a data source": (["data.split=test"], "data.split=test is unknown: choose one of pretrain, rl, heldout"),
    "choice of the sampler": (["sampler.precision=float16"], "sampler.precision=float16 is unknown"),
    "function that is not there": (["reward._target_=simplerl.rewards.nice"], "reward._target_=simplerl.rewards.nice"),
    "module that is not there": (["data._target_=my_data.load"], "data._target_=my_data.load cannot be imported"),
    "function with other arguments": (
        ["algorithm.loss._target_=simplerl.algorithms.losses.clipped_value"],
        "clip_low is unknown: did you mean algorithm.loss.clip? simplerl.algorithms.losses.clipped_value accepts clip",
    ),
    "value in place of a group": (["algorithm.advantage=group"], "write algorithm/advantage=group."),
    "no advantage, but a loss": (["algorithm/advantage=none"], "choose algorithm=none for a run without"),
    "minibatch that does not divide": (
        ["train.minibatch_size=100"],
        "train.minibatch_size=100 does not divide the 128 responses of a step",
    ),
    "minibatch of nothing": (["train.minibatch_size=0"], "train.minibatch_size=0 must be at least 1"),
    "steps and passes": (["train.passes=1"], "train.steps=60 and train.passes=1.0 both set the length of training"),
    "neither steps nor passes": (["train.steps=null"], "train.steps and train.passes are both null"),
    "no step": (["train.steps=0"], "train.steps=0 must be at least 1"),
    "part of a step": (
        ["train.steps=null", "train.passes=0.1"],
        "train.passes=0.1 is less than one step of 16 prompts",
    ),
    "trained role without a loss": (
        ["algorithm.roles.critic.loss=null"],
        "algorithm.roles.critic.loss and algorithm.roles.critic.optimizer belong together",
    ),
    "critic without a learning rate": (
        ["train.critic.lr=-1"],
        "train.critic.lr=-1.0 must be positive",
    ),
    "kl without a reference": (["algorithm/kl=none", "algorithm.kl.place=reward"], "place=reward needs a reference"),
    "coefficient without kl": (
        ["algorithm.kl.place=none"],
        "algorithm.kl.coef=0.01 has no effect with algorithm.kl.place=none",
    ),
    "negative kl": (["algorithm.kl.coef=-0.1"], "algorithm.kl.coef=-0.1 must be at least 0"),
    "advantage without a loss": (["algorithm/loss=none"], "algorithm.loss is null, but algorithm.advantage is set"),
    "unknown key of kl": (
        ["+algorithm.kl.place_=loss"],
        "algorithm.kl.place_ is unknown: did you mean algorithm.kl.place?",
    ),
    "negative coefficient": (["algorithm.entropy_coef=-0.1"], "algorithm.entropy_coef=-0.1 must be at least 0"),
    "prompt and response over the context": (
        ["sampling.max_new_tokens=200"],
        "prompt.max_tokens=64 + sampling.max_new_tokens=200 = 264 exceeds the context of",
    ),
    "evaluation over the context": (["evals.sampling.max_new_tokens=256"], "evals.sampling.max_new_tokens=256 leaves"),
    "context over the model's": (["model.context=4096"], "model.context=4096 exceeds the 256 positions"),
    "stop token of another model": (["prompt.stop_tokens=['<|eot_id|>']"], "prompt.stop_tokens names '<|eot_id|>'"),
    "prompt without a question": (["prompt.template=Hello"], "prompt.template has no {question}"),
    "model folder that does not exist": (["model.path=./no/model"], "model.path=./no/model does not exist"),
    "folder without a model": (["model.path=conf"], "model.path=conf contains no model (no config.json)"),
    "data file that does not exist": (["data=jsonl", "data.path=no/such.jsonl"], "no/such.jsonl does not exist"),
    "benchmarks that do not exist": (["evals=suite8", "evals.path=/no"], "/no/gsm8k.jsonl does not exist"),
    "benchmarks without a folder": (["evals=suite8"], "evals.path is not set"),
    "temperature 0": (["sampling.temperature=0"], "sampling.temperature=0.0 gives the same response every time"),
    "one sample of a group": (
        ["algorithm=grpo", "train.samples_per_prompt=1", "train.minibatch_size=16"],
        "algorithm=grpo compares several samples of a prompt",
    ),
    "negative learning rate": (["train.policy.lr=-1e-4"], "train.policy.lr=-0.0001 must be positive"),
    "no learning rate": (["train.critic.lr=0"], "train.critic.lr=0.0 must be positive"),
    "no learning rate of another role": (
        ["algorithm=prime", "algorithm.roles.prm.optimizer.lr=0"],
        "algorithm.roles.prm.optimizer.lr=0.0 must be positive",
    ),
    "teacher without a model": (["algorithm=on_policy_distillation"], "algorithm.roles.teacher.model is empty"),
    "keyword of a role's loss": (
        ["algorithm=prime", "+algorithm.roles.prm.loss.betta=1"],
        "algorithm.roles.prm.loss.betta is unknown: did you mean algorithm.roles.prm.loss.beta?",
    ),
    "keyword of a stage of rewards": (
        ["algorithm=dapo", "+algorithm.shape.soft_overlong.cache=1"],
        "algorithm.shape.soft_overlong.cache is unknown",
    ),
    "keyword of a correction": (
        ["algorithm/correction=truncated_importance", "algorithm.correction.cap=0"],
        "algorithm.correction.cap=0 must be at least 0.001",
    ),
    "refill without groups": (
        ["algorithm/rollouts=refill", "train.samples_per_prompt=1", "train.minibatch_size=16"],
        "algorithm=ppo compares several samples of a prompt",
    ),
    "betas": (["train.policy.betas=[0.9,1.0]"], "train.policy.betas=[0.9, 1.0] must be two numbers"),
    "top_p 0": (["sampling.top_p=0"], "sampling.top_p=0.0 must be in (0, 1]"),
    "several greedy samples": (["evals.samples=4"], "evals.samples=4 greedy responses are all the same"),
    "more prompts than data": (["train.prompts_per_step=64"], "train.prompts_per_step=64 exceeds the 32 usable"),
    "more documents than there are": (
        ["warmup=micro_corpus", "warmup.limit=4"],
        "warmup.minibatch_size=64 exceeds the 4 usable documents",
    ),
    "mandatory value": (["data=jsonl"], "data.path has no value: set it on the command line"),
    "mandatory model": (["model=rstar_math_7b"], "model.path has no value"),
    "environment variable": (["model.path=${oc.env:NO_SUCH_VARIABLE}"], "NO_SUCH_VARIABLE"),
    "no checkpoint": (["run.keep=0"], "run.keep=0 must be at least 1"),
    "sampling ahead on one device": (["rollout.ahead=1"], "rollout.ahead=1 samples while the policy trains"),
    "sampling ahead without correction": (
        ["rollout.ahead=1", "backend=ray_cpu"],
        "rollout.ahead=1 trains on responses of older weights: set algorithm/correction=truncated_importance",
    ),
    "added key": (["+rewrad=lenient"], "rewrad is unknown: did you mean reward?"),
    "added key of a group": (["+train.stepz=4"], "train.stepz is unknown: did you mean train.steps?"),
    "kl whose gradient is nothing": (["algorithm.kl.place=loss"], "algorithm.kl.estimator=k1 in the loss has zero"),
    "number that is not finite": (["train.policy.lr=inf"], "train.policy.lr=inf is not finite: set a finite number"),
    "huge seed": (["seed=99999999999"], "seed=99999999999 must be at most 2147483647"),
    "temperature near 0": (["sampling.temperature=1e-9"], "sampling.temperature=1e-09 must be at least 0.01"),
    "clip of nothing": (["algorithm.loss.clip_low=0"], "algorithm.loss.clip_low=0 must be between"),
    "no problems": (["data.count=-3"], "data.count=-3 must be at least 1"),
    "sampler without rows": (["sampler.max_rows=0"], "sampler.max_rows=0 must be at least 1"),
    "reward that pays all alike": (["reward.unboxed=1"], "reward.unboxed=1 is not less than reward.correct=1"),
    "run that does nothing": (["algorithm=none", "evals.every=0"], "does nothing"),
    "warm-up of no tokens": (["warmup=micro_corpus", "warmup.max_tokens=0"], "warmup.max_tokens=0 must be at least 2"),
    "log-probs of the sampler at another temperature": (
        ["algorithm.old_logprobs=sampler", "algorithm.logprobs_at_temperature_1=true", "sampling.temperature=0.6"],
        "algorithm.old_logprobs=sampler compares log-probs at temperature 1",
    ),
    "skipped log-probs of two optimizer steps": (
        ["algorithm=dr_grpo", "algorithm.old_logprobs=skip"],
        "train.minibatch_size=64 and train.epochs=1 give 2: set train.minibatch_size=128 train.epochs=1",
    ),
    "skipped log-probs and a penalty": (
        ["algorithm.old_logprobs=skip", "train.minibatch_size=128"],
        "the KL penalty in the reward needs log-probs before the update: set algorithm.old_logprobs=trainer",
    ),
    "skipped log-probs and dropout": (
        [
            "algorithm=dr_grpo",
            "algorithm.old_logprobs=skip",
            "train.minibatch_size=128",
            "train.lora.rank=4",
            "train.lora.dropout=0.1",
        ],
        "set train.lora.dropout=0, or algorithm.old_logprobs=trainer",
    ),
    "skipped log-probs and a correction": (
        [
            "algorithm=dr_grpo",
            "algorithm/correction=icepop",
            "algorithm.old_logprobs=skip",
            "train.minibatch_size=128",
        ],
        "algorithm.correction needs log-probs before the update: set algorithm.old_logprobs=trainer",
    ),
    "value head of a reference": (
        ["algorithm.roles.reference.head=zero"],
        "algorithm.roles.reference.head=zero initializes a value head",
    ),
    "gradient in the reward": (["algorithm.kl.estimator=k3_ratio"], "algorithm.kl.estimator=k3_ratio differs from k3"),
    "adaptive loss": (
        ["algorithm=grpo", "algorithm.kl.target=6"],
        "algorithm.kl.target=6.0 adapts the coefficient of a KL penalty in the reward",
    ),
    "sampling two steps ahead": (["rollout.ahead=2"], "rollout.ahead=2 is unknown: choose 0 or 1"),
    "importance weights of another temperature": (
        [
            "algorithm/correction=truncated_importance",
            "algorithm.logprobs_at_temperature_1=true",
            "sampling.temperature=0.8",
        ],
        "algorithm.correction compares log-probs at temperature 1 with those sampled at sampling.temperature=0.8",
    ),
    "importance weights of a nucleus": (
        ["algorithm/correction=truncated_importance", "sampling.top_p=0.95"],
        "sampling.top_p=0.95 truncates the sampler's distribution: set sampling.top_p=1",
    ),
    "importance weights of the likeliest tokens": (
        ["algorithm/correction=truncated_importance", "sampling.top_k=50"],
        "sampling.top_k=50 truncates the sampler's distribution: set sampling.top_k=0",
    ),
    "lambda over 1": (["algorithm.advantage.lam=2"], "algorithm.advantage.lam=2 must be between 0 and 1"),
    "negative discount": (["algorithm.advantage.gamma=-1"], "algorithm.advantage.gamma=-1 must be between 0 and 1"),
    "negative clip": (
        ["algorithm.loss.clip_low=-0.2"],
        "algorithm.loss.clip_low=-0.2 must be between 0.001 and 1",
    ),
    "clip below a ratio of 0": (
        ["algorithm.loss.clip_low=2"],
        "algorithm.loss.clip_low=2 must be between 0.001 and 1",
    ),
    "negative upper clip": (
        ["algorithm=grpo", "algorithm.loss.clip_high=-0.1"],
        "algorithm.loss.clip_high=-0.1 must be at least 0",
    ),
    "negative clip of values": (
        ["algorithm.roles.critic.loss.clip=-1"],
        "algorithm.roles.critic.loss.clip=-1 must be at least 0",
    ),
    "no context": (["model.context=0"], "model.context=0 must be at least 1"),
    "nothing to do": (["algorithm=none", "evals=none"], "algorithm=none without a warm-up and without evaluations"),
    "wrong answers worth more": (
        ["reward.wrong=1.5"],
        "reward.wrong=1.5 is not less than reward.correct=1.0, so correct answers are not rewarded",
    ),
    "answers without a box worth more": (
        ["~reward.correct", "reward.unboxed=2"],
        "reward.unboxed=2 is not less than reward.correct=1.0",
    ),
    "workers without memory": (["grading.memory_gib=0.01"], "grading.memory_gib=0.01 must be at least 0.25"),
    "no time to grade": (
        ["grading.seconds_per_answer=0.0001"],
        "grading.seconds_per_answer=0.0001 must be at least 0.1",
    ),
    "function that Hydra refuses": (
        ["reward._target_=os.system"],
        "reward._target_=os.system is refused: Target 'os.system' is blocklisted because it allows config data to "
        "control executable behavior or belongs to an execution-capable target family; name another function.",
    ),
    "device": (["run.device=gpu"], "run.device=gpu is unknown: choose auto, cpu or cuda"),
    "a word for a limit": (
        ["data=jsonl", "data.path=x.jsonl", "data.limit=all"],
        "data.limit=all must be a whole number",
    ),
    "held-out file": (
        ["evals=heldout"],
        "evals.path is not set: name the file or folder that evals.sets.heldout reads",
    ),
    "precision of an engine": (["sampler=vllm", "sampler.precision=float16"], "choose one of float32, bfloat16"),
    "seed": (["seed=-1"], "seed=-1 must be at least 0"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_refused_with_a_sentence(name: str) -> None:
    overrides, sentence = REFUSED[name]
    with pytest.raises(ConfigError) as caught:
        prepare_task(configured(*overrides))
    said = str(caught.value)
    assert sentence in said
    assert "\n" not in said
    assert said.endswith((".", ")", "?"))


def same_id() -> list[Problem]:
    return [Problem("one", f"What is {i} + 1?", str(i + 1)) for i in range(64)]


@pytest.mark.parametrize(
    ("made", "message"),
    [
        ([], "data.path: there are no problems"),
        ([{"question": "?"}], "data._target_ must give a list of simplerl.types.Problem"),
        ([Problem("1", "?", 2)], "data._target_ must give a list of simplerl.types.Problem"),  # type: ignore[arg-type]
    ],
)
def test_a_data_function_that_gives_no_problems_is_refused(made: list[Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        prepare_task(replace(configured(), data=lambda: made))


def test_a_misspelt_function_is_named_with_its_neighbour() -> None:
    with pytest.raises(ConfigError, match=r"simplerl.rewards has no strickt: did you mean simplerl.rewards.strict\?$"):
        configured("reward._target_=simplerl.rewards.strickt")


def test_a_role_may_not_give_a_column_that_is_set_later() -> None:
    with pytest.raises(ConfigError, match=r"algorithm.roles.critic.column=advantages is a column that"):
        configured("algorithm.roles.critic.column=advantages")


def test_problems_that_share_an_id_are_refused() -> None:
    config = replace(configured(), data=partial(same_id))
    with pytest.raises(ConfigError, match="64 problems have the id 'one', by which samples are grouped"):
        prepare_task(config)


@pytest.mark.parametrize("key", ["reward", "evals.reward"])
def test_a_reward_is_called_before_a_model_is_loaded(key: str) -> None:
    """On a made-up response to the first problem, so that a bad return is seen before anything is sampled."""
    bad = ["bad_rewards.returning_none", "true"]
    overrides = [f"{key}.{name}={value}" for name, value in zip(("_target_", "_partial_"), bad, strict=True)]
    overrides += [f"~{key}.{keyword}" for keyword in ("correct", "wrong", "unboxed", "rule", "fbox")]
    with pytest.raises(ConfigError) as caught:
        prepare_task(configured(*overrides))
    said = str(caught.value)
    assert said.startswith("The reward bad_rewards.returning_none fails on a made-up response to the problem ")
    assert said.endswith(
        "the reward returned None: return a simplerl.types.Score, a number, (number, bool), or a dict "
        "with the keys of Score; correct the function."
    )


@pytest.mark.parametrize("adapter", ["trl", "verl"])
def test_a_reward_of_another_library_is_configured_by_name(adapter: str) -> None:
    with pytest.raises(ConfigError, match=r"^reward.function has no value: set it"):
        configured(f"reward={adapter}")
    config = configured(f"reward={adapter}", f"reward.function=light_rewards.{adapter}_any")
    prepare_task(config)


def test_functions_of_others_have_their_own_ranges(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "my_advantages.py").write_text("def tempered(batch, *, gamma, lam, whiten):\n    return batch\n")
    monkeypatch.syspath_prepend(tmp_path)
    mine = ["algorithm.advantage._target_=my_advantages.tempered", "algorithm.advantage.lam=2"]
    assert configured(*mine).algorithm.advantage.keywords["lam"] == 2


def test_run_folder_that_cannot_be_made(tmp_path: Path) -> None:
    from simplerl.runs.folder import Run

    (tmp_path / "file").write_text("")
    config = configured(f"run.root={tmp_path}/file/runs")
    resolved = {"run": {"dir": None, "root": config.run.root}}
    with pytest.raises(ConfigError, match=r"/file/runs/x-\w+ cannot be written \(Not a directory\): set run.root or"):
        Run(config, resolved, "x")
    Run(config, {"run": {"dir": None, "root": str(tmp_path / "runs")}}, "x").release()
    Run(config, {"run": {"dir": str(tmp_path / "one"), "root": f"{tmp_path}/file/runs"}}, "x").release()
    with pytest.raises(ConfigError, match=r"^/proc/x/x-\w+ cannot be written \(No such file or directory\): set run"):
        Run(config, {"run": {"dir": None, "root": "/proc/x"}}, "x")


def test_no_chat_template(tmp_path: Path) -> None:
    folder = tmp_path / "plain"
    shutil.copytree(ROOT / "assets/micro_base", folder)
    (folder / "chat_template.jinja").unlink()
    with pytest.raises(ConfigError, match=r"prompt=chat uses the model's chat template, but .* has none"):
        prepare_task(configured("prompt=chat", f"model.path={folder}", "prompt.max_tokens=100"))


def test_malformed_row(tmp_path: Path) -> None:
    file = tmp_path / "rows.jsonl"
    rows = [{"question": "1 + 1?", "answer": "2"}, {"question": "2 + 2?"}]
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    with pytest.raises(
        ConfigError, match=r"rows.jsonl, line 2: data.columns.answer=answer names a column that this row does"
    ):
        prepare_task(configured("data=jsonl", f"data.path={file}"))


def test_model_that_is_nowhere(monkeypatch: pytest.MonkeyPatch) -> None:
    """A hub id that is not cached is refused at once where there is no hub to ask."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(
        ConfigError, match=r"owner/model is neither a local folder .* nor in the Hugging Face cache.*HF_HUB_OFFLINE"
    ):
        prepare_task(configured("model.path=owner/model"))


def test_names_of_functions_and_numbers_arrive_as_written() -> None:
    config = configured("reward.wrong=-0.25", "algorithm.advantage.lam=1")
    assert config.reward.keywords["wrong"] == -0.25
    assert config.algorithm.advantage.keywords == {"gamma": 1.0, "lam": 1, "whiten": True}


def test_a_role_may_not_be_called_policy() -> None:
    raw = composed(*SMALL.values())
    OmegaConf.update(raw, "algorithm.roles.policy", RoleConfig(column="logprobs"), force_add=True)
    with pytest.raises(ConfigError, match=r"algorithm.roles.policy: the policy is not declared as a role"):
        load(raw)


def test_a_reward_need_not_know_every_score(monkeypatch: pytest.MonkeyPatch) -> None:
    """`correct` is compared with the scores that the function has: one without `unboxed` is no fault."""

    def plain(response: str, problem: Problem, *, correct: float = 1.0, wrong: float = 0.0) -> Score:
        return Score(wrong, False, "different")

    plain.__module__, plain.__qualname__ = "simplerl.rewards", "plain"
    monkeypatch.setattr(simplerl.rewards, "plain", plain, raising=False)
    mine = ["reward._target_=simplerl.rewards.plain", "~reward.unboxed", "~reward.rule", "~reward.fbox"]
    assert configured(*mine).reward.keywords["correct"] == 1.0
    with pytest.raises(ConfigError, match=r"reward.wrong=2 is not less than reward.correct=1.0"):
        configured(*mine, "reward.wrong=2")


def options() -> dict[str, list[str]]:
    """Return the options of every group but experiment, which tests/test_experiments.py composes."""
    groups: dict[str, list[str]] = {}
    for path in sorted((ROOT / "conf").glob("*/*.yaml")):
        if path.parent.name not in ("experiment", "local"):
            groups.setdefault(path.parent.name, []).append(path.stem)
    return groups


@pytest.mark.parametrize("turn", range(max(map(len, options().values()))))
def test_every_option_fits_the_schema(turn: int) -> None:
    """The options of all groups in turn, as many at once as there are groups."""
    raw = composed(*(f"{group}={names[turn % len(names)]}" for group, names in options().items()))
    for key in OmegaConf.missing_keys(raw):
        OmegaConf.update(raw, key, "given")
    assert isinstance(OmegaConf.to_object(raw), Config)


def command(*overrides: str) -> tuple[subprocess.CompletedProcess[str], float]:
    """train.py as a user calls it, and the seconds of processor time that it took."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = subprocess.run(
        [sys.executable, "train.py", *overrides], cwd=ROOT, capture_output=True, text=True, check=False, timeout=120
    )
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return done, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


# override -> (exit status, the first line on standard error, seconds of processor time, plenty on a busy machine)
COMMANDS = {
    "train.minibatch_size=100": (2, "Configuration: train.minibatch_size=100 does not divide the 128 responses", 2),
    "+reward.bonus=1": (2, "Configuration: reward.bonus is unknown: simplerl.rewards.strict accepts correct,", 2),
    "model.path=./no/model": (2, "Configuration: model.path=./no/model does not exist", 2),
    "prompt.stop_tokens=[stop]": (2, "Configuration: prompt.stop_tokens names 'stop', which the tokenizer", 10),
    "train.stepz=3": (1, "train.stepz is unknown: did you mean train.steps?", 2),
    "reward=stric": (1, "reward=stric is unknown: did you mean strict?", 2),
}


@pytest.mark.slow
@pytest.mark.parametrize("override", COMMANDS)
def test_refused_on_the_command_line(override: str) -> None:
    status, line, seconds = COMMANDS[override]
    done, used = command(override)
    assert done.returncode == status
    assert done.stderr.startswith(line)
    assert "Traceback" not in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1
    assert done.stdout == ""
    assert used < seconds


@pytest.mark.slow
def test_help_is_quick_and_lists_every_option() -> None:
    done, used = command("--help")
    assert done.returncode == 0
    assert used < 5, "torch and transformers are imported"
    for group in sorted(
        path for path in (ROOT / "conf").iterdir() if path.is_dir() and path.name not in ("local", "hydra")
    ):
        options = ", ".join(sorted(path.stem for path in group.glob("*.yaml")))
        assert f"{group.name}: {options}" in done.stdout


@pytest.mark.slow
def test_settings_of_this_machine(tmp_path: Path) -> None:
    """conf/local/default.yaml is read where it exists, after everything but the command line; git does not see it."""
    shutil.copytree(ROOT / "conf", tmp_path / "conf")
    (tmp_path / "conf/local").mkdir(exist_ok=True)
    (tmp_path / "conf/local/default.yaml").write_text("# @package _global_\nrun:\n  root: elsewhere\n")
    arguments = ["--config-dir", str(tmp_path / "conf"), "--cfg", "job", "--package", "run.root"]
    assert "elsewhere" in command(*arguments)[0].stdout
    ignored = subprocess.run(
        ["git", "check-ignore", "conf/local/default.yaml"], cwd=ROOT, check=False, capture_output=True
    )
    assert ignored.returncode == 0
