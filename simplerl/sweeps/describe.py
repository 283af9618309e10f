"""Implements `python train.py --describe ...`: what a recipe or sweep is, what it costs, and its sbatch script."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf

from simplerl.config import register
from simplerl.io.places import CONF, SWEEPS, options_in
from simplerl.io.terminal import terminal
from simplerl.planning.command import WIDTH, exit_status, parse, show_plan
from simplerl.planning.sweep_plan import expand
from simplerl.sweeps.slurm import Resources, sbatch_script

OPTION = "--describe"
FOLDERS = {"experiment": CONF / "experiment", "sweep": SWEEPS, "oddity": CONF / "oddity"}
LAUNCHER = ("hydra/launcher=", "hydra.launcher.")


def main(words: Sequence[str], explain: Callable[[Exception], str]) -> int:
    """Print the description of the run or sweep that the words of the command line ask for. explain: shortens an error
    of Hydra to a sentence. Returns the exit status."""
    parser = argparse.ArgumentParser(add_help=False)
    parser.add_argument("--config-dir", type=Path)
    chosen, rest = parser.parse_known_args(words)
    console = terminal(WIDTH)
    register()

    def run() -> None:
        options, overrides = parse([word for word in rest if not word.startswith("-")])
        overrides = [*options_in(chosen.config_dir), *overrides]
        own = [word for word in overrides if not word.startswith(LAUNCHER)]
        with initialize_config_dir(str(CONF), version_base="1.3"):
            runs = expand(own).runs  # refuses an unknown option before anything is printed
            for line in headers(own):
                console.print(line, markup=False)
            show_plan(own, options, console)
            if any(word.startswith(LAUNCHER[0]) and word.endswith("=slurm") for word in overrides):
                launcher = compose("config", _single(overrides), return_hydra_config=True).hydra.launcher
                console.print("\nsbatch script", style="bold")
                print(script(launcher, runs))

    return exit_status(run, explain)


def headers(overrides: Sequence[str]) -> list[str]:
    """Return the leading comments of the files of conf/experiment/, sweeps/ and conf/oddity/ that the overrides choose,
    each after the name of its option."""
    lines = []
    for group, _, name in (word.partition("=") for word in overrides):
        path = FOLDERS.get(group, Path()) / f"{name}.yaml"
        if group in FOLDERS and path.is_file():
            lines += [f"{group}={name}", *header(path), ""]
    return lines


def header(path: Path) -> list[str]:
    """Return the comment lines at the start of a YAML file, without `#` and without Hydra's package directive."""
    lines = []
    for line in path.read_text(encoding="utf-8").splitlines():
        if not line.startswith("#"):
            break
        if not line.startswith("# @package"):
            lines.append(line.removeprefix("#").removeprefix(" "))
    return lines


def script(launcher: Any, runs: int) -> str:
    """Return the sbatch script that hydra/launcher=slurm submits for `runs` runs. launcher: its composed settings."""
    settings: dict[str, Any] = OmegaConf.to_container(launcher, resolve=True)  # type: ignore[assignment]
    known = {key: value for key, value in settings.items() if key in Resources.__dataclass_fields__}
    return sbatch_script(Resources(**known), runs)


def _single(overrides: Sequence[str]) -> list[str]:
    """Return the overrides without those of several values, which only a sweep may have."""
    return [word for word in overrides if "," not in word.partition("=")[2] or word.startswith(LAUNCHER)]
