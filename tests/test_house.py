"""The structure of the code is measured: depth of the call stack, rooms, small files. Layers and import circles are
checked by import-linter (`make lint`)."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import LONGEST
from micro_runs import ROOT, SMALL, model

ROOT_MODULES = 9  # besides __init__ and __main__
SHORT = 60  # lines
# Why a file may be shorter.
REASONS = {
    "analysis/commands.py": "the command-line style of all of analysis",
    "analysis/published_tables.py": "the rows of the published tables, apart from the code that renders them",
    "simplerl/algorithms/corrections.py": "a room of its own for what will grow: one function per correction",
    "simplerl/algorithms/kl.py": "advantages and losses both use it",
    "simplerl/algorithms/shaping.py": "one function per group stage",
    "simplerl/backends/__init__.py": "the interface that both backends implement",
    "simplerl/bench/__main__.py": "runs the benchmarks of its room",
    "simplerl/io/terminal.py": "every command prints through it",
    "simplerl/errors.py": "every other module may import it",
    "simplerl/rewards/rules.py": "names and checks the rules without importing a parser",
    "simplerl/runs/rollout_table.py": "the columns of responses, which runs, evaluation and analysis share",
    "simplerl/runs/tracking.py": "the only module that knows W&B",
}

RECORDER = """
import os, sys
from simplerl.algorithms.losses import ppo_clip
def recorded(output, batch):
    frame, names = sys._getframe(1), []
    while frame is not None:
        if frame.f_code.co_filename.startswith({root!r}) and "site-packages" not in frame.f_code.co_filename:
            names.append(frame.f_code.co_name)
        frame = frame.f_back
    open({out!r}, "w").write(" ".join(names))
    return ppo_clip(output, batch)
"""


@pytest.mark.slow
def test_depth_of_the_stack_above_the_policy_loss(tmp_path: Path) -> None:
    """At most 9 functions of this project from the command line, and at most 4 below `rl.train`."""
    out = tmp_path / "stack"
    (tmp_path / "recorder.py").write_text(RECORDER.format(root=str(ROOT), out=str(out)))
    overrides = [*SMALL, "train.steps=1", "evals.every=0", f"model.path={model()}", f"run.root={tmp_path}/runs"]
    overrides += ["algorithm.loss._target_=recorder.recorded", "~algorithm.loss.clip_low", "~algorithm.loss.clip_high"]
    environment = os.environ | {"PYTHONPATH": f"{ROOT}{os.pathsep}{tmp_path}"}
    command = [sys.executable, str(ROOT / "train.py"), *overrides]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    names = [name for name in out.read_text().split() if name != "<module>"]
    print(" < ".join(names))
    assert names.index("train") <= 4 and len(names) <= 9, names


def test_the_longest_files_exist() -> None:
    """A file that is renamed would otherwise lose its place in the order of the tests."""
    assert [name for name in LONGEST if not (ROOT / f"tests/{name}.py").exists()] == []


def test_rooms() -> None:
    """Few modules in the root, no file too long to read in one sitting, and a reason for each short one."""
    assert len(list((ROOT / "simplerl").glob("[!_]*.py"))) <= ROOT_MODULES
    files = [path for room in ("simplerl", "analysis") for path in (ROOT / room).rglob("*.py")]
    lines = {str(path.relative_to(ROOT)): len(path.read_text().splitlines()) for path in files}
    assert {name: count for name, count in lines.items() if count > 350} == {}
    short = {name for name, count in lines.items() if count < SHORT and not name.endswith("__init__.py")}
    assert short - REASONS.keys() == set()
    assert {name for name in REASONS if not (ROOT / name).exists()} == set(), "a reason for a file that is gone"
