"""The same responses give the same numbers, whether one process trains on them or several ranks do."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from micro_runs import ROOT, rows, run

RAY = ["backend=ray_cpu", "backend.engines=0", "sampler=local"]
BASE = [f"model.path={ROOT / 'assets/micro_base'}", "train.precision=float32", "sampling.max_new_tokens=48"]
LESS = [*BASE, "evals.every=0", "run.save_every=10", "run.device=cpu"]
OF_THE_LAYOUT = ("policy/padding_share", "critic/padding_share")  # shorter micro-batches pad otherwise


@pytest.fixture(scope="module")
def local_run(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Runs `algorithm` once on the local backend."""
    made: dict[str, Path] = {}

    def make(algorithm: str) -> Path:
        if algorithm not in made:
            made[algorithm] = run(tmp_path_factory.mktemp(algorithm), *LESS, f"algorithm={algorithm}", own_reward=False)
        return made[algorithm]

    return make


def on_ranks(root: Path, responses: Path, *overrides: str) -> Path:
    """The same run on the cluster, with the responses of another."""
    replay = [
        "sampler._target_=replay.replay",
        "~sampler.precision",
        "~sampler.max_rows",
        "~sampler.max_cache_gib",
        f"+sampler.folder={responses / 'rollouts'}",
    ]
    return run(root, *RAY, *LESS, *replay, *overrides, own_reward=False)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("algorithm", "overrides"),
    [
        ("ppo", ["backend.zero_stage=3", "backend.critic_ranks=2", "train.tokens_per_micro_batch=192"]),
        ("ppo", ["backend.zero_stage=2", "backend.offload_optimizer=true"]),
        ("grpo", ["backend.zero_stage=3", "train.gradient_checkpointing=true", "train.shared_prompts=true"]),
    ],
    ids=["ppo-zero3", "ppo-zero2", "grpo-zero3"],
)
def test_ranks_agree_with_one_process(
    algorithm: str, overrides: list[str], local_run: Any, tmp_path: Path, cluster: None
) -> None:
    alone = local_run(algorithm)
    expected, found = rows(alone), rows(on_ranks(tmp_path, alone, f"algorithm={algorithm}", *overrides))
    assert len(found) == len(expected) == 3 + 1
    compared = 0
    for mine, theirs in zip(expected, found, strict=True):
        assert mine.keys() == theirs.keys()
        for name in mine.keys() - set(OF_THE_LAYOUT):
            assert theirs[name] == pytest.approx(mine[name], abs=1e-4), (mine["step"], name)
            compared += 1
    assert compared > 60
    assert expected[-2]["policy/grad_norm"] > 1e-3 and expected[0] != expected[1]
