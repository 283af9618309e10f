"""Fixtures shared by the tests."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before torch: small tensors, and sums in one order

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder with real data (MATH, benchmarks, grading cases), which is not part of the repository."""
    path = Path(os.environ.get("SIMPLERL_SHARED", ROOT.parent / "shared"))
    if not (path / "data").is_dir():
        pytest.skip(f"needs the real data sets: {path}/data is absent (set SIMPLERL_SHARED)")
    return path


@pytest.fixture(scope="session")
def small_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of an unbroken small run: warm-up, then three steps of PPO with evaluations. Read only."""
    from micro_runs import WARM_UP, run

    return run(tmp_path_factory.mktemp("small"), *WARM_UP)
