"""Fixtures shared by the tests."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder with real data (MATH, benchmarks, grading cases), which is not part of the repository."""
    path = Path(os.environ.get("SIMPLERL_SHARED", ROOT.parent / "shared"))
    if not (path / "data").is_dir():
        pytest.skip(f"needs the real data sets: {path}/data is absent (set SIMPLERL_SHARED)")
    return path
