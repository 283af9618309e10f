"""`python train.py --describe` says what a recipe is, what it costs and how SLURM would run it, and starts nothing."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from simplerl.cli import hydra_error_message
from simplerl.io.places import CONF
from simplerl.sweeps.describe import header, headers, main


def test_a_header_is_the_leading_comment(tmp_path: Path) -> None:
    file = tmp_path / "a.yaml"
    file.write_text("# @package _global_\n# First.\n#   indented\n#\na: 1  # not this\n# nor this\n")
    assert header(file) == ["First.", "  indented", ""]


@pytest.mark.parametrize("path", sorted((CONF / "experiment").glob("*.yaml")), ids=lambda path: path.stem)
def test_every_experiment_has_a_header_with_its_command(path: Path) -> None:
    assert headers([f"experiment={path.stem}", "seed=0"])[0] == f"experiment={path.stem}"
    assert any(line.startswith("Command:") for line in header(path))


@pytest.mark.slow
def test_a_sweep_on_slurm_is_described(capsys: Any) -> None:
    words = ["--describe", "-m", "sweep=reward", "seed=0,1", "data.count=64", "hydra/launcher=slurm"]
    assert main([*words, "hydra.launcher.partition=gpu", "price=2"], hydra_error_message) == 0
    shown = capsys.readouterr().out
    assert (
        shown.index("sweep=reward\nQuestion: how much") < shown.index("Peak memory") < shown.index("3 arms x 2 seeds")
    )
    assert shown.index("3 arms x 2 seeds") < shown.index("#!/bin/bash") < shown.index("#SBATCH --array=0-5%6")
    assert "#SBATCH --partition=gpu" in shown and "--output=FOLDER/%A_%a/" in shown


@pytest.mark.slow
def test_one_run_is_described_without_a_script(capsys: Any) -> None:
    assert main(["--describe", "experiment=micro_fast", "data.count=64"], hydra_error_message) == 0
    shown = capsys.readouterr().out
    assert "The first minute of the default run" in shown and "run: 12 steps in" in shown and "#SBATCH" not in shown


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["experiment=nope"], "experiment=nope is unknown: "),
        (["train.stpes=3"], "train.stpes is unknown: did you mean train.steps?"),
        (["price=x"], "price=x must be a positive number."),
    ],
)
def test_a_mistake_is_one_line(words: list[str], message: str, capsys: Any) -> None:
    assert main(words, hydra_error_message) == 2
    printed = capsys.readouterr()
    assert message in printed.err and printed.err.count("\n") == 1 and printed.out == ""
