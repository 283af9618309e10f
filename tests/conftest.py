"""Fixtures shared by the tests."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before torch: small tensors, and sums in one order
os.environ.setdefault("RAY_memory_monitor_refresh_ms", "0")  # else Ray ends workers when others fill the machine

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


@pytest.fixture(scope="session")
def cluster() -> Iterator[None]:
    """One Ray for all tests that do not break it. Actors import what the tests import."""
    pytest.importorskip("ray", reason="needs the extra `cpu` or `gpu`")
    from simplerl.cluster.ray_session import ray_session

    with ray_session(cpus=16):
        yield
