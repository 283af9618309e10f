"""Defines rewards that need no grading libraries, so that their worker processes start quickly."""

from __future__ import annotations

import time
import zlib
from pathlib import Path

from simplerl.types import Problem, Response, Score


def digits(response: str, problem: Problem) -> Score:
    """Score the fraction of digits, which differs even between short responses."""
    share = sum(c.isdigit() for c in response) / max(1, len(response))
    return Score(share, share > 0.3, "equal", parts={"share": share})


def patient(response: str, problem: Problem, *, hold: str, rule: str = "") -> Score:
    """Score like `digits`, but slowly while the file `hold` exists, so that a test can interrupt the grading."""
    if Path(hold).exists():
        time.sleep(0.3)
    return digits(response, problem)


def chance(response: str, problem: Problem) -> Score:
    """Calls one response in eight correct, by its checksum: groups with and without spread."""
    correct = zlib.crc32(response.encode()) % 8 == 0
    return Score(float(correct), correct, "equal" if correct else "different")


def generation(response: Response, problem: Problem) -> Score:
    """Report how the response was generated: the reward is the sum of its tokens."""
    parts = {"length": float(len(response.tokens)), "truncated": float(response.truncated)}
    return Score(float(sum(response.tokens)), response.tokens[:1] == (7,), response.finish_reason, response, parts)


def from_column(response: str, problem: Problem, *, column: str) -> Score:
    """Return the problem's value in another column of the data."""
    return Score(float(problem.extra[column]), correct=True, status="equal")
