"""The core needs neither Ray nor vLLM nor DeepSpeed nor W&B; settings need no torch."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from micro_runs import ROOT, SMALL

pytestmark = pytest.mark.slow  # trains or starts processes

# None in sys.modules is what an absent package looks like to `import` and to importlib.util.find_spec.
EXTRAS = ("ray", "vllm", "deepspeed", "wandb", "trl", "submitit", "reasoning_gym")
BLOCKED = f"import sys; sys.modules.update(dict.fromkeys({EXTRAS}))\n"
ALLOWED_TO_NEED_MORE = ("simplerl.samplers.vllm", "simplerl.bench", "simplerl.cluster.")


def python(code: str, *arguments: str) -> str:
    environment = os.environ | {"PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'tests'}"}
    command = [sys.executable, "-c", code, *arguments]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_core_modules_import_without_the_extras() -> None:
    code = BLOCKED + (
        "import importlib, pkgutil, simplerl\n"
        "for module in pkgutil.walk_packages(simplerl.__path__, 'simplerl.'):\n"
        f"    if not module.name.startswith({ALLOWED_TO_NEED_MORE!r}):\n"
        "        importlib.import_module(module.name); print(module.name)\n"
    )
    imported = python(code).split()
    assert {"simplerl.rl", "simplerl.engine.worker", "simplerl.runs.tracking", "simplerl.samplers.local"} <= set(
        imported
    )


def test_blocking_blocks() -> None:
    code = BLOCKED + "import importlib.util as u; print(u.find_spec('vllm'), u.find_spec('ray'))\nimport vllm"
    with pytest.raises(AssertionError, match="ModuleNotFoundError"):
        python(code)


def test_settings_and_the_command_line_need_no_torch() -> None:
    code = "import sys, simplerl.config, train\nprint(*sorted({'torch', 'transformers', 'pandas'} & set(sys.modules)))"
    assert python(code).split() == []


def test_a_grading_actor_needs_no_torch() -> None:
    pytest.importorskip("ray")
    code = "import sys, simplerl.cluster.graders\nprint(*sorted({'torch', 'transformers'} & set(sys.modules)))"
    assert python(code).split() == []


@pytest.mark.slow
def test_training_needs_none_of_the_extras(tmp_path: Path) -> None:
    code = BLOCKED + "import runpy; sys.argv[0] = 'train.py'; runpy.run_path('train.py', run_name='__main__')"
    output = python(code, *SMALL, "train.steps=1", f"run.root={tmp_path}")
    assert "rl 1/1" in output
    assert list(tmp_path.glob("*/checkpoints/step_000001/policy/model.safetensors"))
