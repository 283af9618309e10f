"""Command-line mistakes that Hydra detects are reported in one line with a remedy."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir
from micro_runs import ROOT

from simplerl.cli import FULL_ERRORS, hydra_command, hydra_error_message
from simplerl.config import all_settings, register
from simplerl.config.hints import FOREIGN, option_keys, options
from simplerl.config.load import load

MISTAKES = {
    "key": (["train.stpes=3"], "train.stpes is unknown: did you mean train.steps?"),
    "group": (["rewrad=lenient"], "rewrad is unknown: did you mean reward?"),
    "key of another group": (
        ["train.lr=1e-6"],
        "train.lr is unknown: did you mean train.policy.lr or train.critic.lr or warmup.optimizer.lr?",
    ),
    "key without a similar one": (
        ["run.xyzzy=1"],
        "run.xyzzy is unknown: valid keys are run.root, run.dir, run.name, run.save_every",
    ),
    "keyword": (
        ["reward.wrng=1"],
        "reward.wrng is unknown: did you mean reward.wrong?",
    ),
    "value in place of a group": (
        ["algorithm.kl=k3_loss"],
        "The parts of an algorithm are groups: write algorithm/kl=k3_loss.",
    ),
    "option": (
        ["reward=lenien"],
        f"reward=lenien is unknown: did you mean lenient? Valid options are {', '.join(options('reward'))}.",
    ),
    "type": (["train.steps=abc"], "train.steps=abc: Value 'abc' of type 'str' could not be converted to Integer"),
    "grammar": (["algorithm=[ppo"], "no viable alternative at input '[ppo'"),
    "true for a group": (["debug=true"], "A group is set to the name of an option"),
    "null for a group": (["reward=null"], "A group is set to the name of an option, such as evals=none"),
    "sweep and --cfg": (
        ["-m", "seed=0,1", "--cfg", "job"],
        "-m starts a sweep and --cfg shows the configuration of one run",
    ),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_mistakes_are_reported_in_one_line(
    mistake: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    overrides, message = MISTAKES[mistake]
    monkeypatch.setattr(sys, "argv", ["train.py", *overrides])
    monkeypatch.setenv(FULL_ERRORS, "")  # so that it is restored
    monkeypatch.delenv(FULL_ERRORS)
    with pytest.raises(SystemExit) as end:
        hydra_command("simplerl.experiment.run_experiment", print)
    assert str(end.value.code).startswith(message) and "\n" not in str(end.value.code)
    assert capsys.readouterr() == ("", "")


def test_a_command_prints_one_line_and_ends_with_status_1() -> None:
    overrides, message = MISTAKES["key"]
    command = [sys.executable, "train.py", *overrides]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 1 and done.stdout == ""
    assert done.stderr.startswith(message) and done.stderr.count("\n") == 1


def test_the_full_traceback_is_available_on_request() -> None:
    environment = os.environ | {"HYDRA_FULL_ERROR": "1"}
    command = [sys.executable, "train.py", "reward=lenien"]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 1 and "Traceback" in done.stderr and "MissingConfigException" in done.stderr


@pytest.mark.parametrize("command", [["train.py"], ["evaluate.py"], ["sweep.py", "status"]])
def test_ctrl_c_during_the_imports_ends_quietly(command: list[str], tmp_path: Path) -> None:
    """The first slow import of each command is replaced by a module during whose import Ctrl-C is pressed."""
    for module in ("hydra", "rich"):
        (tmp_path / f"{module}.py").write_text("import signal\nsignal.raise_signal(signal.SIGINT)\nimport time\n")
    environment = os.environ | {"PYTHONPATH": f"{tmp_path}{os.pathsep}{ROOT}"}
    done = subprocess.run([sys.executable, *command], cwd=ROOT, env=environment, capture_output=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (130, b"", b"")


def composed(*overrides: str, conf: Path = ROOT / "conf") -> str:
    """Return the message about a bad command line, or "" if it is accepted."""
    register()
    try:
        with initialize_config_dir(str(conf), version_base="1.3"):
            load(compose("config", [f"model.path={ROOT}/assets/micro_base", *overrides]))
    except Exception as error:
        return hydra_error_message(error)
    return ""


# bad override -> the override that its message proposes
REMEDIES = {
    "advantage=group": "algorithm/advantage=group",
    "kl=k3_loss": "algorithm/kl=k3_loss",
    "algorithm.kl=k3_loss": "algorithm/kl=k3_loss",
    "loss=clip_higher": "algorithm/loss=clip_higher",
    "correction=truncated_importance": "algorithm/correction=truncated_importance",
    "shape=[kimi_length]": "algorithm/shape=[kimi_length]",
    "algorithm.shape=[kimi_length,soft_overlong]": "algorithm/shape=[kimi_length,soft_overlong]",
    "algorithm.advantage=group": "algorithm/advantage=group",
    "rollouts=refill": "algorithm/rollouts=refill",
    "algorithm/role=critic": "+algorithm/role=critic",
    "evals.reward=strict": "reward@evals.reward=strict",
    "rollout.ahead=1 backend=ray_cpu": "algorithm/correction=truncated_importance",
    "algorithm.kl.place=none": "algorithm/kl=k1_reward",
}


@pytest.mark.parametrize("bad", REMEDIES)
def test_the_override_that_a_message_proposes_is_accepted(bad: str) -> None:
    message, remedy = composed(*bad.split()), REMEDIES[bad]
    assert re.search(rf"(write|with|set|as) {re.escape(remedy)}", message), message
    assert composed(remedy) == ""


NAMES = {
    "beta=0.1": "algorithm.kl.coef",
    "train.learning_rate=1": "train.policy.lr",
    "kl_coef=0.1": "algorithm.kl.coef",
    "micro_batch_size=4": "train.tokens_per_micro_batch",
    "actor_rollout_ref.rollout.n=8": "train.samples_per_prompt",
    "lam=0.9": "algorithm.advantage.lam",
    "clip=0.1": "algorithm.roles.critic.loss.clip",
    "reward.unboxd=1": "reward.unboxed",
    "algorithm.advantage.gama=1": "algorithm.advantage.gamma",
}


@pytest.mark.parametrize("override", NAMES)
def test_names_of_other_libraries_and_typos_lead_to_our_key(override: str) -> None:
    assert re.search(rf"{re.escape(NAMES[override])}[.?]$", composed(override))


def test_a_keyword_of_another_option_names_its_option() -> None:
    assert re.search(r"belongs to .*reward=strict;", composed("reward=lenient", "reward.unboxed=-1"))


def test_our_names_for_those_of_other_libraries_exist() -> None:
    keys = {*all_settings(), *option_keys(), "algorithm/advantage"}
    for ours in set(FOREIGN.values()):
        assert ours in keys or composed(ours) == "", ours


TARGET = "_target_: simplerl.algorithms.advantages.group_relative"
PART = f"# @package algorithm\nadvantage:\n  {TARGET}\n  _partial_: true\n"
STAGE = "_target_: simplerl.algorithms.shaping.kimi_length"
FILES: dict[str, tuple[dict[str, str], str]] = {
    "no package": ({"algorithm/advantage/mine": PART.split("\n", 1)[1]}, "write `# @package algorithm` as the first"),
    "no package nor part": (
        {"algorithm/advantage/mine": f"{TARGET}\nneeds: {{group: true}}"},
        "nest the keys of the func",
    ),
    "no part": ({"algorithm/advantage/mine": f"# @package algorithm\n{TARGET}"}, "nest it below `advantage:`"),
    "no partial": ({"algorithm/advantage/mine": PART.replace("  _partial_: true\n", "")}, "no `_partial_: true`: add"),
    "typo of the target": ({"algorithm/advantage/mine": PART.replace("_target_", "_taget_")}, "write `_target_`"),
    "typo of a need": ({"algorithm/advantage/mine": f"{PART}needs: {{gruop: true}}"}, "did you mean group?"),
    "need without a value": (
        {"algorithm/advantage/mine": f"{PART}needs: group"},
        "with the keys group, sampler_logprobs",
    ),
    "typo of a role": (
        {"algorithm/advantage/mine": f"{PART}defaults: [/algorithm/role/critc]"},
        "did you mean critic?",
    ),
    "role without a slash": (
        {"algorithm/advantage/mine": f"{PART}defaults: [role/critic]"},
        "write /algorithm/role/critic",
    ),
    "stage without a name": (
        {"algorithm/shape/mine": f"# @package algorithm\nshape:\n  {STAGE}"},
        "the shaping function has no name",
    ),
    "stage without a package": ({"algorithm/shape/mine": f"shape:\n  x:\n    {STAGE}"}, "write `# @package algorithm`"),
    "typo of the shape": (
        {"algorithm/shape/mine": f"# @package algorithm\nshap:\n  x:\n    {STAGE}"},
        "did you mean shape?",
    ),
    "reward too deep": ({"reward/mine": "reward:\n  _target_: simplerl.rewards.strict"}, "remove the line `reward:`"),
    "bad indentation": ({"reward/mine": "_target_: a.b\n _partial_: true"}, "correct its syntax"),
}


@pytest.mark.parametrize("mistake", FILES)
def test_a_mistake_in_a_yaml_file_is_named_with_its_remedy(mistake: str, tmp_path: Path) -> None:
    files, words = FILES[mistake]
    shutil.copytree(ROOT / "conf", tmp_path / "conf")
    for name, text in files.items():
        (tmp_path / f"conf/{name}.yaml").write_text(text)
    message = composed(f"{Path(next(iter(files))).parent}=mine", conf=tmp_path / "conf")
    assert words in message and "\n" not in message and re.search(r"\.yaml", message), message


def test_an_unknown_option_in_a_list_of_stages() -> None:
    assert composed("algorithm/shape=[kimi_lenght]").startswith(
        "algorithm/shape=kimi_lenght is unknown: did you mean ki"
    )


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("update: befor", "roles.d.update=befor is unknown: choose one of before, after, such as before."),
        ("kind: 3", "roles.d.kind=3 is unknown: choose one of causal_lm, critic, such as causal_lm."),
    ],
)
def test_a_wrong_value_in_a_yaml_file_is_named_with_its_key(line: str, message: str, tmp_path: Path) -> None:
    shutil.copytree(ROOT / "conf", tmp_path / "conf")
    file = tmp_path / "conf/algorithm/role/mine.yaml"
    file.write_text(f"# @package algorithm\nroles:\n  d:\n    {line}\n")
    said = composed("+algorithm/role=mine", conf=tmp_path / "conf")
    assert said == f"conf/algorithm/role/mine.yaml: algorithm.{message}"
