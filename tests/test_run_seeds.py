"""Two runs with the same seed are bit-identical; a different seed gives different results."""

from __future__ import annotations

from pathlib import Path

import pytest
from micro_runs import WARM_UP, differences, outcome, run

pytestmark = pytest.mark.slow  # trains or starts processes


def test_same_seed_same_run(tmp_path: Path) -> None:
    first, second = outcome(run(tmp_path / "a")), outcome(run(tmp_path / "b"))
    first.pop("config.yaml"), second.pop("config.yaml")  # contains the run folder
    assert differences(first, second) == []
    assert {"rollouts/step_000002.parquet", "checkpoints/step_000003/critic/value_head.safetensors"} <= first.keys()


def test_another_seed_is_another_run(tmp_path: Path, small_run: Path) -> None:
    small = [*WARM_UP, "seed=1", "train.steps=1", "evals.every=0"]
    assert outcome(run(tmp_path, *small))["metrics"][0] != outcome(small_run)["metrics"][0]
