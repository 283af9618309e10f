"""Rewards that need no grading libraries, so that their processes start quickly."""

from __future__ import annotations

from simplerl.types import Problem, Score


def digits(response: str, problem: Problem) -> Score:
    """The share of digits: even short responses differ."""
    share = sum(c.isdigit() for c in response) / max(1, len(response))
    return Score(share, share > 0.3, "equal", parts={"share": share})
