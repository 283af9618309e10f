"""Rewards that need no grading libraries, so that their processes start quickly."""

from __future__ import annotations

import time
import zlib
from pathlib import Path

from simplerl.types import Problem, Score


def digits(response: str, problem: Problem) -> Score:
    """The share of digits: even short responses differ."""
    share = sum(c.isdigit() for c in response) / max(1, len(response))
    return Score(share, share > 0.3, "equal", parts={"share": share})


def patient(response: str, problem: Problem, *, hold: str, rule: str = "") -> Score:
    """As `digits`, but slowly as long as there is a file `hold`: to be interrupted in the middle."""
    if Path(hold).exists():
        time.sleep(0.3)
    return digits(response, problem)


def chance(response: str, problem: Problem) -> Score:
    """Calls one response in eight correct, by its checksum: groups with and without spread."""
    correct = zlib.crc32(response.encode()) % 8 == 0
    return Score(float(correct), correct, "equal" if correct else "different")
