"""The commands of the worked studies in examples/ run as written, with few steps and one seed."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from micro_runs import ROOT, SMALL

from simplerl.io.places import COMMANDS

EXAMPLES = ROOT / "examples"
STUDIES = sorted(path.parent.name for path in EXAMPLES.glob("*/README.md"))
FEW = [*SMALL, "train.steps=1", "run.threads=1"]


def commands(study: str) -> Iterator[list[str]]:
    """Yield the words of each command in the code blocks of a study's README."""
    for block in re.findall(r"```\n(.*?)```", (EXAMPLES / study / "README.md").read_text(), re.DOTALL):
        yield from (shlex.split(line) for line in block.splitlines())


def small(words: list[str]) -> list[str]:
    """Return a command with one seed and few steps, in place of the installed programs."""
    program, *rest = words
    if program == "python":
        return [sys.executable, *rest]
    if program != "simplerl":
        return words
    rest = ["seed=0" if word.startswith("seed=") else word for word in rest]
    if rest[0] == "train":
        rest += [*FEW, "seed=0"] if "seed=0" not in rest else FEW
    return [sys.executable, "-m", "simplerl", *rest]


def test_the_studies_are_listed_and_use_public_commands() -> None:
    listed = re.findall(r"\((\w+)/README\.md\)", (EXAMPLES / "README.md").read_text())
    assert sorted(listed) == STUDIES and len(STUDIES) == 3
    for study in STUDIES:
        words = list(commands(study))
        assert {word[0] for word in words} <= {"simplerl", "python", "pdflatex"} and words
        assert {word[1] for word in words if word[0] == "simplerl"} <= set(COMMANDS)
        for path in (EXAMPLES / study).rglob("*.*"):
            assert "../" not in path.read_text() and str(ROOT) not in path.read_text(), path
        for target in re.findall(r"\]\(([^)#\s]+)", (EXAMPLES / study / "README.md").read_text()):
            assert (EXAMPLES / study / target).is_file(), target


@pytest.mark.slow
@pytest.mark.parametrize("study", STUDIES)
def test_a_study_runs_as_written(study: str, tmp_path: Path) -> None:
    here = tmp_path / study
    shutil.copytree(EXAMPLES / study, here, ignore=shutil.ignore_patterns("__pycache__"))
    environment = os.environ | {"PYTHONPATH": str(ROOT), "COLUMNS": "160"}
    said = {}
    for words in commands(study):
        if shutil.which(words[0]) is None and words[0] == "pdflatex":
            continue
        command = small(words)
        done = subprocess.run(command, cwd=here, env=environment, capture_output=True, text=True, check=False)
        assert done.returncode == 0, (command, done.stdout[-3000:], done.stderr[-3000:])
        said[" ".join(words[:2])] = done.stdout
    assert len(list(here.glob("runs/*/checkpoints/step_000001"))) == 2
    assert "baseline" in (here / "tables/differences.md").read_text()
    if study == "own_reward":
        graded = (here / "graded.jsonl").read_text()
        assert re.findall(r'"reward": (\S+),', graded) == ["1.0", "0.5", "-0.5"]
        assert "brief" in (here / "tables/runs.md").read_text()
    if study == "own_algorithm":
        assert re.findall(r"-?\d\.", said["python median_advantage.py"]) == ["1.", "1.", "0.", "0.", "0.", "0."]
    if study == "question_to_table":
        assert "2 arms x 3 seeds" in said["simplerl plan"] and "2 finished" in said["simplerl sweep"]
        assert shutil.which("pdflatex") is None or (here / "paper.pdf").is_file()
