"""Fixtures shared by the tests."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before torch: small tensors, and sums in one order
os.environ.setdefault("RAY_memory_monitor_refresh_ms", "0")  # else Ray ends workers when others fill the machine

ROOT = Path(__file__).resolve().parent.parent

# The files that take longest, in this order: a worker that ends with one of them leaves the others without work.
LONGEST = (
    "test_slurm",
    "test_cluster_failures",
    "test_cluster_weights",
    "test_cluster_ranks",
    "test_experiments",
    "test_cluster_engines",
    "test_cluster_tensor_parallel",
    "test_lora_runs",
    "test_cluster_graders",
    "test_cluster_checkpoints",
    "test_resume",
    "test_cluster_roles",
    "test_evaluate",
    "test_rewards_pool",
    "test_sweeps",
    "test_run",
)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Order the files: the longest, then those with slow tests, then the others. Files stay whole."""
    slow = {item.path for item in items if item.get_closest_marker("slow")}

    def rank(item: pytest.Item) -> int:
        name = item.path.stem
        return LONGEST.index(name) if name in LONGEST else len(LONGEST) + (item.path not in slow)

    items.sort(key=rank)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """Give each worker of pytest-xdist whole files, which share their fixtures, in the order above. The default order
    starts with the files that have most tests and leaves the longest to the end."""
    from xdist.scheduler import LoadFileScheduling

    config.option.loadscopereorder = False
    return LoadFileScheduling(config, log)


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
