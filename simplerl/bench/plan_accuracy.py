"""Compares the plan with real runs: peak memory and time of a step, on this machine's CPU, and the published run.

    python -m simplerl.bench.plan_accuracy [SMOLLM2] [--data GSM8K_TRAIN] [--out FOLDER] [--cpu-time]

Each run is a separate process. Memory is resident memory above that before models are loaded. Times are those of all
runs with utilisations that are fitted on the first run alone. SMOLLM2 is the folder of `simplerl.bench.smollm2`,
GSM8K_TRAIN the training file; without them only runs of the micro model are made. On a busy machine, --cpu-time
measures the CPU time of the training process, which is the time of a run with one thread on an idle machine; roles in
other processes are then not measured.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from hydra import compose, initialize_config_dir

from simplerl.cluster.layout import ENGINE
from simplerl.config import register
from simplerl.config.load import load
from simplerl.io.places import CONF
from simplerl.io.tables import Table, text_cells
from simplerl.io.terminal import terminal
from simplerl.planning.calibration import Measured, fitted, measured, setup_of
from simplerl.planning.devices import GIB, find_device, this_cpu
from simplerl.planning.memory import PlaceMemory, plan_memory
from simplerl.planning.roofline import CPU_UTILISATIONS, Utilisations, step_time
from simplerl.planning.setup import Setup, assumed_lengths, describe, without_ray

MICRO = ["train.steps=4", "evals=none", "run.threads=1"]
SMOL = [
    "experiment=smollm2_gsm8k",
    "train.compile=false",
    "train.steps=3",
    "train.prompts_per_step=4",
    "train.samples_per_prompt=4",
    "train.minibatch_size=8",
    "sampling.max_new_tokens=96",
    "evals=none",
    "run.threads=1",
]
IN_RAY = ["backend=ray_cpu", "sampler=local", "backend.engines=0"]
SHORT_SFT = ["warmup.limit=32", "warmup.minibatch_size=8", "warmup.epochs=1", "algorithm=none"]
RUNS = {
    "micro_ppo": MICRO,
    "micro_grpo": [*MICRO, "algorithm=grpo"],
    "micro_ppo_checkpointing": [*MICRO, "train.gradient_checkpointing=true"],
    "micro_sft": [*MICRO, "warmup=micro_corpus", "warmup.limit=320", "algorithm=none"],
    "micro_ppo_ray": [*MICRO, *IN_RAY],
    "smollm2_ppo": [*SMOL, "warmup=none"],
    "smollm2_grpo_checkpointing": [*SMOL, "warmup=none", "algorithm=grpo", "train.gradient_checkpointing=true"],
    "smollm2_sft": [*SMOL, *SHORT_SFT],
    "smollm2_grpo_lora": [*SMOL, "warmup=none", "algorithm=grpo", "train.lora.rank=8"],
}
PUBLISHED_STEPS, PUBLISHED_DAYS = 120, 1.5  # of SimpleRL-Zero on 32 H100
PUBLISHED_RUN = ["experiment=simplerl_zero", "backend=ray_32gpu", "data.path=x", "evals.path=x"]
GUESSED_TOKENS = (400, 600, 1000)  # mean responses of the published run, which are not published


def train(overrides: Sequence[str], folder: Path, cpu_time: bool) -> None:
    """Run one experiment in this process. cpu_time: measure the CPU time of the process instead of wall time."""
    from simplerl.experiment import run_experiment
    from simplerl.runs import progress

    if cpu_time:
        progress.clock = time.process_time
    register()
    with initialize_config_dir(str(CONF), version_base="1.3"):
        raw = compose("config", [*overrides, f"run.dir={folder}"])
    raw.choices = {}
    run_experiment(raw, folder.name)


def run_all(names: Sequence[str], options: argparse.Namespace) -> dict[str, Path]:
    """Run the experiments that are not finished in the folder yet, one after the other. Returns the folders of those
    that finished, by name."""
    folders = {}
    for name in names:
        folder = options.out / name
        if not (folder / "summary.json").exists():
            print(f"running {name} ...", flush=True)
            command = [
                sys.executable,
                "-m",
                "simplerl.bench.plan_accuracy",
                *([options.smollm2] if options.smollm2 else []),
            ]
            command += ["--data", str(options.data), "--out", str(options.out), "--only", name]
            done = subprocess.run(
                [*command, *(["--cpu-time"] if options.cpu_time else [])], check=False, stdout=subprocess.DEVNULL
            )
            if done.returncode:
                print(f"{name} failed with status {done.returncode}")
                continue
        folders[name] = folder
    return folders


def memory_rows(setup: Setup, found: Measured, memory: Sequence[PlaceMemory]) -> list[tuple[str, float, float]]:
    """Return (process, predicted GiB, measured GiB) of each process of a run whose memory was measured."""
    rows = []
    for one in memory:
        roles = one.place.roles
        name = "process" if setup.local or (ENGINE not in roles and "sampler" in roles) else roles[0]
        if (size := found.memory.get(f"{name}_host")) is not None:
            rows.append((name, one.peak()[1] / GIB, size))
    return rows


def tables(folders: dict[str, Path]) -> list[Table]:
    """Return the tables of memory and of time of the runs."""
    device = this_cpu()
    setups = {name: setup_of(folder, device) for name, folder in folders.items()}
    found = {name: measured(folder) for name, folder in folders.items()}
    memory, times = [], []
    first = next(iter(folders))
    using = fitted(setups[first], found[first], CPU_UTILISATIONS)
    for name, setup in setups.items():
        for process, planned, size in memory_rows(setup, found[name], plan_memory(setup)):
            memory.append(text_cells([name, process, f"{planned:.2f}", f"{size:.2f}", f"{planned / size - 1:+.0%}"]))
        if setup.uses_rl:
            estimate = step_time(setup, using)
            total = sum(found[name].stages[stage] for stage in estimate.stages)
            cells = [f"{seconds:.3g} / {found[name].stages[stage]:.3g}" for stage, seconds in estimate.stages.items()]
            times.append(
                text_cells(
                    [name, *cells, f"{estimate.seconds:.3g} / {total:.3g}", f"{estimate.seconds / total - 1:+.0%}"]
                )
            )
    stages = ["sample", "score", "update", "sync"]
    return [
        Table(
            "memory", "Peak memory in GiB", ["run", "process", "planned", "measured", "error"], memory, align="llrrr"
        ),
        Table(
            "time",
            f"Seconds of a step, planned / measured, fitted on {first}",
            ["run", *stages, "step", "error"],
            times,
        ),
    ]


def published_table() -> Table:
    """Return the estimate of the published run for several mean responses, against the published time."""
    register()
    with initialize_config_dir(str(CONF), version_base="1.3"):
        config = load(without_ray(compose("config", PUBLISHED_RUN)))
    rows = []
    for tokens in GUESSED_TOKENS:
        setup = describe(config, find_device("h100"), assumed_lengths(config, (1024, 180.0), tokens))
        seconds = step_time(setup, Utilisations()).seconds
        days = seconds * PUBLISHED_STEPS / 86400
        rows.append(text_cells([tokens, f"{seconds:.0f}", f"{days:.2f}", f"{PUBLISHED_DAYS / days:.1f}"]))
    caption = f"SimpleRL-Zero on 32 H100: {PUBLISHED_STEPS} steps, published {PUBLISHED_DAYS} days"
    return Table("published", caption, ["mean response", "s/step", "days", "published / planned"], rows)


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        prog="python -m simplerl.bench.plan_accuracy", description=str(__doc__).split("\n")[0]
    )
    parser.add_argument("smollm2", nargs="?", help="folder of SmolLM2-135M; without it, only micro runs are made")
    parser.add_argument("--data", type=Path, default=Path("data/gsm8k_train.jsonl"), help="GSM8K's training file")
    parser.add_argument("--out", type=Path, default=Path("runs/plan_accuracy"), help="folder of the runs")
    parser.add_argument("--cpu-time", action="store_true", help="measure CPU time, for a busy machine")
    parser.add_argument("--only", choices=RUNS, help="make this run, in this process")
    options = parser.parse_args(arguments)
    if options.only:
        own = [f"model.path={options.smollm2}", f"data.path={options.data}"] if options.only.startswith("smol") else []
        train([*RUNS[options.only], *own], options.out / options.only, options.cpu_time)
        return
    names = [name for name in RUNS if options.smollm2 or name.startswith("micro")]
    if options.cpu_time:
        names = [name for name in names if not name.endswith("_ray")]
    console = terminal(100)
    for table in [*tables(run_all(names, options)), published_table()]:
        console.print(table)


if __name__ == "__main__":
    main()
