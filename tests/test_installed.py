"""A wheel works outside of a checkout: commands, options of one's own, sweeps, and the record of the code."""

from __future__ import annotations

import importlib.util
import json
import os
import re
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest
import yaml
from composing import ROOT, composed

import simplerl
from simplerl import __main__ as program
from simplerl.errors import ConfigError, import_optional
from simplerl.io import places
from simplerl.io.places import COMMANDS, CONF, options_in, shipped, spelled
from simplerl.runs.provenance import code_version

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
SMALL = ["debug=default", "train.steps=1", "run.threads=1"]


def test_one_version() -> None:
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert "version" in PROJECT["dynamic"] and str(citation["version"]) == simplerl.__version__
    assert f"\n## {simplerl.__version__} " in (ROOT / "CHANGELOG.md").read_text()


def test_the_core_pins_no_version() -> None:
    """Exact versions are only in the extras of vLLM, so that an environment of other packages can be extended."""
    assert [one for one in PROJECT["dependencies"] if "==" in one or ">=" not in one] == []
    pinned = {name for name, extra in PROJECT["optional-dependencies"].items() if any("==" in one for one in extra)}
    assert pinned == {"gpu", "cpu", "bench", "gym"}


def test_every_command_exists_and_is_documented() -> None:
    page = (ROOT / "docs/commands.md").read_text()
    for name, target in COMMANDS.items():
        assert (ROOT / target).is_file() if target.endswith(".py") else importlib.util.find_spec(target), name
        assert f"  simplerl {name} " in program.USAGE and f"`simplerl {name}`" in page, name
    modules = {
        f"analysis.{path.stem}" for path in (ROOT / "analysis").glob("*.py") if "\ndef main(" in path.read_text()
    }
    assert modules - {"analysis.report_benchmark"} <= set(COMMANDS.values())
    assert {f"{path.stem}.py" for path in ROOT.glob("*.py")} - {"hatch_build.py"} == {
        target for target in COMMANDS.values() if target.endswith(".py")
    }


def test_the_program_names_its_commands(capsys: pytest.CaptureFixture[str]) -> None:
    assert program.main(["trian"]) == 2 and "trian is not a command: choose train, evaluate" in capsys.readouterr().err
    assert program.main(["--version"]) == 0 and capsys.readouterr().out == f"{simplerl.__version__}\n"
    assert program.main([]) == 0 and capsys.readouterr().out == program.USAGE


def test_commands_are_spelled_as_they_were_started(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(sys, "orig_argv", ["python", "train.py", "seed=1"])
    assert (spelled("sweep"), spelled("report")) == ("python sweep.py", "python -m analysis.report")
    for started in (["python", "/bin/simplerl", "train"], ["python", "-m", "simplerl", "train"]):
        monkeypatch.setattr(sys, "orig_argv", started)
        assert (spelled("sweep"), spelled("report")) == ("simplerl sweep", "simplerl report")
    monkeypatch.setattr(sys, "orig_argv", ["python", "job"])
    monkeypatch.setattr(places, "SHARE", tmp_path)
    assert spelled("sweep") == "simplerl sweep"


def test_the_shipped_model_is_found_from_any_folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(ROOT)
    assert composed("model=micro").model.path == shipped("assets/micro_base") == "assets/micro_base"
    monkeypatch.chdir(tmp_path)
    assert shipped("assets/micro_base") == str(ROOT / "assets/micro_base") and shipped("assets/none") == "assets/none"


def test_options_of_a_folder(tmp_path: Path) -> None:
    assert options_in(None) == [] and options_in(tmp_path) == [f"hydra.searchpath=['file://{tmp_path}']"]
    with pytest.raises(ConfigError, match=rf"--config-dir {tmp_path}/no is not a folder: name one with .*{CONF}"):
        options_in(tmp_path / "no")


def test_code_without_a_commit_is_known_by_its_source(tmp_path: Path) -> None:
    """The environment of a wheel may be inside of another project's repository, whose commit is not ours."""
    subprocess.run(["git", "init", "-q", str(tmp_path)], check=True)
    root = tmp_path / "site-packages"
    (root / "simplerl").mkdir(parents=True)
    file = root / "simplerl/a.py"
    file.write_text("1")
    first = code_version(root)
    file.write_text("2")
    assert first["commit"] is None and first["source"] != code_version(root)["source"]


def test_an_optional_package(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "wandb", None)
    with pytest.raises(ConfigError, match=r"tracking=wandb needs the package wandb: run pip install wandb\."):
        import_optional("wandb", "tracking=wandb")
    assert import_optional("json", "") is json
    extras = " ".join(one for extra in PROJECT["optional-dependencies"].values() for one in extra)
    used = [re.findall(r'import_optional\("(\w+)"', path.read_text()) for path in ROOT.glob("[sa]*/**/*.py")]
    assert {name for names in used for name in names} <= set(re.findall(r"\w+", extras))


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel of this checkout, built in an environment of its own unless the build backend is installed."""
    folder = tmp_path_factory.mktemp("wheel")
    here = ["--no-build-isolation"] if importlib.util.find_spec("hatchling") else []
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", *here, "-w", str(folder), str(ROOT)]
    subprocess.run(command, check=True, capture_output=True)
    (file,) = folder.glob("*.whl")
    return file


@pytest.mark.slow
def test_the_content_of_the_wheel(wheel: Path) -> None:
    names = set(zipfile.ZipFile(wheel).namelist())
    for folder in ("conf", "sweeps", "assets"):
        files = [path for path in (ROOT / folder).rglob("*") if path.is_file() and "local" not in path.parts]
        assert {f"simplerl/share/{path.relative_to(ROOT)}" for path in files} <= names
    assert {f"simplerl/share/{target}" for target in COMMANDS.values() if target.endswith(".py")} <= names
    assert {"hydra_plugins/simplerl_launchers.py", "analysis/page/page.html"} <= names
    assert not any(name.startswith(("tests/", "docs/", "conf/")) or "conf/local" in name for name in names)


@pytest.mark.slow
def test_a_wheel_trains_evaluates_and_reports(wheel: Path, tmp_path: Path) -> None:
    """From a folder with a reward and options of its own: a sweep, its state, an evaluation, a report and a plan."""
    site, here = tmp_path / "site", tmp_path / "project"
    (here / "conf/reward").mkdir(parents=True)
    (here / "conf/reward/digits.yaml").write_text("_target_: my_rewards.digits\n_partial_: true\n")
    (here / "my_rewards.py").write_text("def digits(response, problem):\n    return float(response[-1:].isdigit())\n")
    install = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target", str(site), str(wheel)]
    subprocess.run(install, check=True, capture_output=True)

    def run(*words: str) -> str:
        environment = os.environ | {"PYTHONPATH": str(site), "COLUMNS": "200"}
        command = [sys.executable, str(site / "bin/simplerl"), *words]
        done = subprocess.run(command, cwd=here, env=environment, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    own, place = ["--config-dir", "conf"], ["run.name=mine", "hydra.sweep.dir=runs/.sweeps/s"]
    said = run("train", *own, "-m", "reward=digits", "seed=0", *SMALL, *place)
    assert "Status: simplerl sweep status" in said
    (folder,) = (here / "runs/debug").glob("mine_*")
    recorded = json.loads((folder / "environment.json").read_text())
    assert (recorded["version"], recorded["commit"], len(recorded["source"])) == (simplerl.__version__, None, 64)
    assert yaml.safe_load((folder / "config.yaml").read_text())["model"]["path"].startswith(str(site))
    assert "1 finished" in run("sweep", "status", "s") and "Nothing to resume" in run("sweep", "resume", "s")
    policy = folder / "checkpoints/step_000001/policy"
    run("evaluate", f"model.path={policy}", *SMALL, "run.name=again")
    assert list((here / "runs/debug").glob("eval_again-*/evals/step_000000/results.json"))
    run("report", "runs/debug", "--out", "report.html")
    assert "mine" in (here / "report.html").read_text(encoding="utf-8")
    assert "Sweep: 2 arms" in run("plan", *own, "reward=strict,digits", *SMALL)
