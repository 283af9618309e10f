"""The code in docs/your_own.md and CONTRIBUTING.md works as written."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import tiny
import torch

from simplerl.rewards.pool import Grader
from simplerl.types import Problem, Response

ROOT = Path(__file__).resolve().parent.parent
YOUR_OWN, CONTRIBUTING = ROOT / "docs/your_own.md", ROOT / "CONTRIBUTING.md"


def module(name: str, code: str, folder: Path, patch: pytest.MonkeyPatch) -> Any:
    (folder / f"{name}.py").write_text(code)
    patch.syspath_prepend(str(folder))
    return __import__(name)


def test_the_reward_of_the_documentation(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (code,) = re.findall(r"```python\n(from dataclasses.*?)```", YOUR_OWN.read_text(), re.DOTALL)
    my_rewards = module("my_rewards", code, tmp_path, monkeypatch)
    problem, short, long = Problem("1", "2 + 2?", "4"), (1,) * 10, (1,) * 400
    responses = [(r"\boxed{4}", short), (r"\boxed{4}", long), (r"\boxed{5}", short), (r"\boxed{5}", long), ("4", long)]
    with Grader(partial(my_rewards.brief, limit=300)) as grader:
        scores = grader.grade_pairs([(Response(text, tokens), problem) for text, tokens in responses])
        assert grader.failure_reward == -0.5
    assert [score.reward for score in scores] == [1.0, 0.5, -0.5, -0.5, -1.0]


def test_the_advantage_of_the_documentation(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (code,) = re.findall(r"```python\n(def batch_baseline.*?)```", YOUR_OWN.read_text(), re.DOTALL)
    my_algorithms = module("my_algorithms", code, tmp_path, monkeypatch)
    batch = tiny.batch()
    rewards = torch.zeros(batch.mask.shape)
    rewards[0, -1] = float(len(batch))
    advantages = my_algorithms.batch_baseline(batch.with_(token_rewards=rewards)).advantages
    expected = torch.full((len(batch), 1), -1.0)
    expected[0] += len(batch)
    assert torch.equal(advantages, expected * batch.mask)


def blocks(text: str) -> list[tuple[str, str]]:
    """Return (path, code) of each code block: the path is the last one that the text before it names."""
    found, position = [], 0
    for match in re.finditer(r"```(?:python|yaml)?\n(.*?)```", text, re.DOTALL):
        paths = re.findall(
            r"`((?:simplerl|conf|analysis)/\S+\.(?:py|yaml)|sums\.yaml|tables\.py)`", text[position : match.start()]
        )
        paths += re.findall(r"data\.path=(sums\.yaml)", text[position : match.start()])
        if paths:
            found.append((paths[-1], match[1]))
        position = match.end()
    return found


IMPORTS = {  # as CONTRIBUTING.md says in words
    "simplerl/rewards/__init__.py": "from simplerl.types import Response",
    "simplerl/algorithms/shaping.py": "from collections import Counter",
    "simplerl/data/readers.py": "import yaml",
}
TABLES = {  # the line after which a row is added
    "simplerl/data/benchmarks.py": "BENCHMARKS: dict[str, Benchmark] = {\n",
}


def inserted(old: str, name: str, code: str) -> str:
    """Return the content of the file `name` with the code where CONTRIBUTING.md says; `old` is "" for a new file."""
    if name in IMPORTS:
        first = "from __future__ import annotations\n"
        old = old.replace(first, f"{first}\n{IMPORTS[name]}\n", 1)
    if name in TABLES:
        return old.replace(TABLES[name], TABLES[name] + code, 1)
    if name.endswith("readers.py"):
        readers = "READERS: dict[str, Reader] = {"
        return old.replace(readers, f'{code}\n\n{readers}".yaml": _yaml, ', 1)
    return f"{old}\n\n{code}" if old else code


def apply_examples(copy: Path) -> list[str]:
    """Write the worked examples of CONTRIBUTING.md into a copy of the repository. Returns the files they are in."""
    _, _, examples = CONTRIBUTING.read_text().partition("## Worked examples")
    names = []
    for name, code in blocks(examples):
        file = copy / name
        old = file.read_text() if file.exists() else ""
        new = inserted(old, name, code)
        assert new != old, name
        file.write_text(new)
        names.append(name)
    return names


@pytest.mark.slow
def test_the_worked_examples_of_contributing(tmp_path: Path) -> None:
    """One run of one step uses all of them."""
    copy = tmp_path / "repository"
    for folder in ("simplerl", "analysis", "hydra_plugins", "conf", "sweeps", "assets"):
        shutil.copytree(ROOT / folder, copy / folder, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "train.py", copy)
    names = apply_examples(copy)
    assert len(names) == len(set(names)) == 18, names
    items = [{"question": f"{i} + 7?", "answer": i + 7} for i in range(300)]
    (copy / "svamp.jsonl").write_text("".join(json.dumps(item) + "\n" for item in items))
    overrides = (
        "debug=default train.steps=1 run.threads=1 reward=strict_ended evals=svamp evals.path=. algorithm=novelty "
        "algorithm/shape=[distinct,soft_overlong] algorithm/rollouts=nearest_half data=jsonl data.path=sums.yaml "
        "sampler=plain"
    )
    environment = os.environ | {"PYTHONPATH": str(copy)}

    def run(*command: str) -> None:
        done = subprocess.run(
            [sys.executable, *command], cwd=copy, env=environment, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stdout + done.stderr

    run("train.py", "debug=default", "train.steps=1", "run.threads=1", "data=times_table", "run.dir=table")
    run("train.py", *overrides.split())
    (metrics,) = copy.glob("runs/debug/*/metrics.jsonl")
    step = json.loads(metrics.read_text().splitlines()[0])
    assert {"density/loss", "density/lr", "reward/repeated", "reward/overlong", "eval/svamp/accuracy"} <= step.keys()
    assert (step["rollout/sampled"], step["rollout/responses"]) == (16, 8)
    assert (metrics.parent / "checkpoints/step_000001/density").is_dir()
    run("-m", "analysis.tables", str(metrics.parent), "--average", "eight", "--out", str(tmp_path / "tables"))
