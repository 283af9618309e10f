"""Command-line mistakes that Hydra detects are reported in one line with a remedy."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from micro_runs import ROOT

MISTAKES = {
    "key": (["train.stpes=3"], "train.stpes is unknown: did you mean train.steps?"),
    "group": (["rewrad=lenient"], "rewrad is unknown: did you mean reward?"),
    "key of another group": (
        ["train.lr=1e-6"],
        "train.lr is unknown: did you mean train.policy.lr or train.critic.lr or warmup.optimizer.lr?",
    ),
    "key without a similar one": (
        ["run.xyzzy=1"],
        "run.xyzzy is unknown: valid keys are run.root, run.dir, run.save_every",
    ),
    "keyword": (
        ["reward.wrng=1"],
        "reward.wrng is unknown: python train.py --cfg job shows all keys; "
        "to pass an extra keyword to a function write",
    ),
    "value in place of a group": (
        ["algorithm.kl=k3_loss"],
        "The parts of an algorithm are groups: write algorithm/kl=k3_loss.",
    ),
    "option": (
        ["reward=lenien"],
        "reward=lenien is unknown: did you mean lenient? Valid options are binary, lenient, strict.",
    ),
    "type": (["train.steps=abc"], "train.steps=abc: Value 'abc' of type 'str' could not be converted to Integer"),
    "grammar": (["algorithm=[ppo"], "no viable alternative at input '[ppo'"),
    "true for a group": (["debug=true"], "A group takes the name of an option"),
    "null for a group": (["reward=null"], "A group takes the name of an option, such as evals=none"),
    "sweep and --cfg": (
        ["-m", "seed=0,1", "--cfg", "job"],
        "-m starts a sweep and --cfg shows the configuration of one run",
    ),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_mistakes_are_reported_in_one_line(mistake: str) -> None:
    overrides, message = MISTAKES[mistake]
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
