"""Defines rewards that need no grading libraries, so that their worker processes start quickly."""

from __future__ import annotations

import time
import zlib
from pathlib import Path
from typing import Any

from simplerl.types import Problem, Response, Score


def digits(response: str, problem: Problem) -> Score:
    """Score the fraction of digits, which differs even between short responses."""
    share = sum(c.isdigit() for c in response) / max(1, len(response))
    return Score(share, share > 0.3, "equal", parts={"share": share})


def boxed(response: str, problem: Problem) -> bool:
    """Accept a box with the gold answer, letter by letter."""
    return f"boxed{{{problem.answer}}}" in response


def patient(response: str, problem: Problem, *, hold: str, seconds: float = 0.3, rule: str = "") -> Score:
    """Score like `digits`, but slowly while the file `hold` exists, so that a test can interrupt the grading."""
    if Path(hold).exists():
        time.sleep(seconds)
    return digits(response, problem)


def chance(response: str, problem: Problem) -> Score:
    """Calls one response in eight correct, by its checksum: groups with and without spread."""
    correct = zlib.crc32(response.encode()) % 8 == 0
    return Score(float(correct), correct, "equal" if correct else "different")


def generation(response: Response, problem: Problem) -> Score:
    """Report how the response was generated: the reward is the sum of its tokens."""
    parts = {"length": float(len(response.tokens)), "truncated": float(response.truncated)}
    return Score(float(sum(response.tokens)), response.tokens[:1] == (7,), response.finish_reason, response, parts)


def trl_accuracy(completions: list[str], ground_truth: list[str], **kwargs: Any) -> list[float]:
    """A reward in TRL's form, which reads a column of the data."""
    assert kwargs["unit"] == ["cm"] and kwargs["prompts"] == [""]
    return [float(truth in text) for text, truth in zip(completions, ground_truth, strict=True)]


def trl_format(prompts: list[list[dict[str, str]]], completions: list[list[dict[str, str]]]) -> list[float]:
    """A reward in TRL's form for conversations, without further columns."""
    assert prompts[0][0]["role"] == "user"
    return [0.5 * ("boxed" in messages[0]["content"]) for messages in completions]


def trl_any(completions: list[str], **kwargs: Any) -> list[float]:
    return [float("boxed" in text) for text in completions]


def verl_any(data_source: str, solution_str: str, ground_truth: str, extra_info: Any = None) -> float:
    return float(ground_truth in solution_str)


def verl_score(
    data_source: str, solution_str: str, ground_truth: str, extra_info: dict[str, Any] | None = None
) -> bool:
    """A reward in verl's form that returns a number."""
    assert data_source == "math" and extra_info is not None and extra_info["unit"] == "cm"
    return ground_truth in solution_str


def verl_dict(data_source: str, solution_str: str, ground_truth: str, extra_info: Any) -> dict[str, Any]:
    """A reward in verl's form that returns a dict."""
    return {"score": 0.2, "acc": False, "pred": ground_truth, "format": 1.0, "note": "a text"}


def judged(response: str, problem: Problem, *, api_key: str, auth: dict[str, Any], **_: Any) -> Score:
    """Score like `digits`, if the secrets of a remote judge have arrived."""
    assert (api_key, auth["password"]) == ("sk-12345", 98765)
    return digits(response, problem)


def from_column(response: str, problem: Problem, *, column: str) -> Score:
    """Return the problem's value in another column of the data."""
    return Score(float(problem.extra[column]), correct=True, status="equal")


def unreliable(response: str, problem: Problem) -> Score:
    """Do not return for one response without a box in four, and raise for another, by the checksum of the response."""
    kind = 2 if "boxed" in response else zlib.crc32(response.encode()) % 4
    if kind == 0:
        time.sleep(60)
    if kind == 1:
        raise KeyError("planted")
    return digits(response, problem)
