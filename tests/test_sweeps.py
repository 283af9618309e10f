"""Every file of sweeps/ composes into the runs that it promises, each with a folder of its own."""

from __future__ import annotations

import math
import re
from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir
from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra.core.override_parser.overrides_parser import OverridesParser
from micro_runs import ROOT
from omegaconf import DictConfig, OmegaConf

from simplerl.config import load, register
from simplerl.run import run_folder

SWEEPS = sorted(path.stem for path in (ROOT / "sweeps").glob("*.yaml"))
RUNS = {"reward": 9, "algorithm": 6, "warmup": 6, "data_size": 12, "kl": 12, "samples_per_prompt": 12, "oddities": 12}


def composed(*overrides: str, with_hydra: bool = False) -> DictConfig:
    register()
    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        raw = compose("config", overrides=list(overrides), return_hydra_config=with_hydra)
    OmegaConf.set_struct(raw, False)
    return raw


def arms(name: str) -> list[list[str]]:
    """The overrides of each run, as Hydra's sweeper makes them."""
    params = composed(f"sweep={name}", with_hydra=True).hydra.sweeper.params
    overrides = OverridesParser.create().parse_overrides([f"{key}={value}" for key, value in params.items()])
    (batch,) = BasicSweeper.split_arguments(overrides, None)
    return batch


@pytest.mark.slow
@pytest.mark.parametrize("name", SWEEPS)
def test_a_sweep_is_what_it_says(name: str) -> None:
    text = (ROOT / f"sweeps/{name}.yaml").read_text()
    for part in (
        "Question:",
        f"Command:  python train.py -m sweep={name}\n",
        "hydra/launcher=slurm",
        "Cost:",
        "Look at:",
    ):
        assert part in text, part
    assert f".sweeps/{name}\n" in text
    runs = arms(name)
    assert len(runs) == RUNS[name] and int(re.search(r"Cost: +(\d+) runs", text)[1]) == len(runs)  # type: ignore[index]
    folders: set[Path] = set()
    for overrides in runs:
        raw = composed(f"sweep={name}", *overrides)
        config = load(raw)
        assert config.model.path.endswith("assets/micro_base")  # the micro world unless one says otherwise
        resolved = OmegaConf.to_container(raw, resolve=True, enum_to_str=True)
        folders.add(run_folder(resolved, ",".join(overrides)))  # type: ignore[arg-type]
    assert len({folder.name[-8:] for folder in folders}) == len(runs), "two arms compute the same"


def test_the_sweeps_are_those_listed() -> None:
    assert set(SWEEPS) == set(RUNS) and (ROOT / "conf/sweep").resolve() == ROOT / "sweeps"


def test_samples_per_prompt_keeps_the_responses_of_a_step() -> None:
    for overrides in arms("samples_per_prompt"):
        train = load(composed("sweep=samples_per_prompt", *overrides)).train
        assert train.prompts_per_step * train.samples_per_prompt == 128


def test_an_oddity_flips_one_thing() -> None:
    def flat(node: object, prefix: str = "") -> dict[str, object]:
        if not isinstance(node, dict):
            return {prefix: node}
        return {k: v for key, value in node.items() for k, v in flat(value, f"{prefix}.{key}").items()}

    def values(oddity: str) -> dict[str, object]:
        return flat(OmegaConf.to_container(composed("sweep=oddities", f"oddity={oddity}"), resolve=True))

    plain = values("none")
    options = {path.stem for path in (ROOT / "conf/oddity").glob("*.yaml")}
    assert {o.split("=")[1] for arm in arms("oddities") for o in arm if o.startswith("oddity=")} == options
    for oddity in options - {"none", "newline"}:
        changed = [key for key, value in values(oddity).items() if plain.get(key) != value]
        assert len(changed) == 1, (oddity, changed)
    newline = values("newline")
    assert (
        newline[".prompt.template"] == "{question}" and newline[".evals.prompt.template"] == plain[".prompt.template"]
    )
    assert math.isclose(float(str(plain[".sampling.temperature"])), 0.6)
