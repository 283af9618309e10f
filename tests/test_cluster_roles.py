"""Roles that only one algorithm has, on Ray: the same numbers as in one process, and no two on one device at once."""

from __future__ import annotations

from pathlib import Path

import pytest
from micro_runs import ROOT, rows, run

ray = pytest.importorskip("ray")

RAY = ["backend=ray_cpu", "backend.policy_ranks=1", "backend.engines=0", "backend.zero_stage=0", "sampler=local"]
ALGORITHMS = {
    "trained before the advantage, on shared devices": [
        "algorithm=prime",
        "algorithm.roles.prm.optimizer.lr=1e-3",
        "backend.shared=all",
    ],
    "with a model of its own": [
        "algorithm=on_policy_distillation",
        f"algorithm.roles.teacher.model={ROOT / 'assets/micro_base'}",
    ],
}


@pytest.mark.slow
@pytest.mark.parametrize("name", ALGORITHMS)
def test_further_roles_on_ray_are_those_of_one_process(name: str, tmp_path: Path, cluster: None) -> None:
    own = ["evals.every=0", "train.steps=2", "run.threads=1", *ALGORITHMS[name]]
    local = [override for override in own if not override.startswith("backend.")]
    here = rows(run(tmp_path / "local", *local, own_reward="chance"))
    there = rows(run(tmp_path / "ray", *RAY, *own, own_reward="chance"))
    assert [row["step"] for row in here] == [row["step"] for row in there]
    for ours, theirs in zip(here, there, strict=True):
        assert ours.keys() == theirs.keys()
        assert ours.pop("phase") == theirs.pop("phase")
        assert theirs == pytest.approx(ours, rel=1e-4, abs=1e-5)
