"""Small real runs of the whole engine: a tiny random model with the shipped tokenizer, a few short responses a step."""

from __future__ import annotations

import atexit
import json
import shutil
import subprocess
import tempfile
from functools import cache
from pathlib import Path
from typing import Any

import composing
import tiny
from omegaconf import DictConfig, OmegaConf
from transformers import AutoTokenizer

from simplerl.experiment import run_experiment

# A made-up environment.json
ENVIRONMENT: dict[str, Any] = {
    "commit": "0123456789abcdef",
    "modified": False,
    "python": "3.11.7",
    "packages": {"torch": "2.13.0", "vllm": "0.32.0"},
    "host": "a",
    "machine": {"cpu": "Xeon", "gpus": ["H100", "H100"]},
    "reward": "r1",
    "evaluation_reward": "e1",
    "inputs": {"data": "d1"},
}

ROOT = Path(__file__).resolve().parent.parent
SMALL = [
    "train.steps=3",
    "train.prompts_per_step=4",
    "train.samples_per_prompt=4",
    "train.minibatch_size=8",
    "sampling.max_new_tokens=20",
    "data.count=64",
    "evals.sets.micro.count=4",
    "evals.every=2",
    "run.save_every=1",
]
WARM_UP = [
    "warmup=micro_corpus",
    "warmup.data.count=32",
    "warmup.minibatch_size=8",
    "warmup.save_every=2",
    "warmup.optimizer.lr=1e-4",
]


@cache
def model() -> Path:
    """The folder of the tiny model; one for all tests of a session, because a run's name depends on it."""
    folder = Path(tempfile.mkdtemp(prefix="simplerl_tiny_"))
    tokenizer = AutoTokenizer.from_pretrained(ROOT / "assets/micro_base")
    tokenizer.save_pretrained(folder)
    tiny.policy(vocab_size=len(tokenizer), max_position_embeddings=256).save_pretrained(folder)
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return folder


def composed(root: Path, *overrides: str, own_reward: bool | str = True) -> DictConfig:
    raw = composing.composed(*SMALL, f"model.path={model()}", f"run.root={root}", *overrides)
    OmegaConf.set_struct(raw, False)
    if own_reward:
        name = own_reward if isinstance(own_reward, str) else "digits"
        raw.reward = {"_target_": f"light_rewards.{name}", "_partial_": True}
        raw.evals.reward = None  # evaluated by the same reward, which starts faster
    return raw


def run(root: Path, *overrides: str, own_reward: bool | str = True) -> Path:
    """Runs, or goes on with, the run that these overrides describe. Returns its folder."""
    return run_experiment(composed(root, *overrides, own_reward=own_reward), "test")


def rows(folder: Path) -> list[dict[str, Any]]:
    """The lines of metrics.jsonl, without what differs between any two runs: times, memory and the attempt."""
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [
        {k: v for k, v in line.items() if k != "attempt" and not k.startswith(("time/", "memory/"))} for line in lines
    ]


def outcome(folder: Path) -> dict[str, Any]:
    """Everything in a run's folder that must not depend on where it was interrupted, as bytes by name."""
    kept = ("warmup/model/*/*", "checkpoints/*/*/*", "rollouts/*", "evals/*/*", "config.yaml")
    files = {
        str(p.relative_to(folder)): p.read_bytes() for pattern in kept for p in folder.glob(pattern) if p.is_file()
    }
    return {"metrics": rows(folder), **files}


def differences(a: dict[str, Any], b: dict[str, Any]) -> list[str]:
    """Names whose content differs, for a readable failure."""
    return sorted(name for name in a.keys() | b.keys() if a.get(name) != b.get(name))


def descendants(root: int) -> set[int]:
    """The processes of the tree below that one."""
    listed = subprocess.run(["ps", "-eo", "pid,ppid"], capture_output=True, text=True, check=True).stdout
    parents = {int(pid): int(parent) for pid, parent in (line.split() for line in listed.splitlines()[1:])}
    found, frontier = set(), {root}
    while frontier:
        frontier = {pid for pid, parent in parents.items() if parent in frontier}
        found |= frontier
    return found
